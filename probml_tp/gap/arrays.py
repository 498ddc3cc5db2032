"""A gap report as plain arrays, and back: what a results folder keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from probml_tp.gap.report import GapReport

__all__ = ["report_from_arrays", "report_to_arrays"]

Array = np.ndarray[Any, Any]

INDEX = "posterior"
TABLES = tuple(f.name for f in fields(GapReport) if f.name not in ("reference", "level"))
NAMED_ROWS = ("costs", "evidence", "layers", "layer_errors")
"""The tables with a row for each posterior; the others have a column of that name."""


def report_to_arrays(report: GapReport) -> dict[str, Array]:
    """Take a report apart.

    Args:
        report: of :func:`probml_tp.gap.compare`.

    Returns:
        One array for each column of each table, ``"<table>.<column>"``, without Python objects, so
        that ``numpy.savez`` keeps them; and ``reference`` and ``level``.

    Example:
        See :func:`report_from_arrays`.
    """
    arrays = {"reference": np.array(report.reference), "level": np.array(report.level)}
    for name in TABLES:
        table: pd.DataFrame = getattr(report, name)
        if name in NAMED_ROWS:
            table = table.reset_index(names=INDEX)
        for column in table.columns if len(table) else ():
            values = table[column].to_numpy()
            arrays[f"{name}.{column}"] = values.astype(str) if values.dtype == object else values
    return arrays


def report_from_arrays(arrays: Mapping[str, Array]) -> GapReport:
    """Put a report together again.

    Args:
        arrays: of :func:`report_to_arrays`.

    Returns:
        The report; where a table was empty it has no columns.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Exact, Gaussian, Laplace, NormalPrior, fit
        >>> from probml_tp.gap import compare
        >>> net = torch.nn.Linear(1, 1).double()
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(0, 1, 20).unsqueeze(-1)
        >>> fits = {"exact": fit(model, Exact, (x, x)), "laplace": fit(model, Laplace, (x, x))}
        >>> report = compare(fits, "exact", x, num_samples=200, resamples=20)
        >>> again = report_from_arrays(report_to_arrays(report))
        >>> again.functions.equals(report.functions), again.costs.equals(report.costs)
        (True, True)
    """
    tables = {name: _table(name, arrays) for name in TABLES}
    return GapReport(str(arrays["reference"]), float(arrays["level"]), **tables)


def _table(name: str, arrays: Mapping[str, Array]) -> pd.DataFrame:
    prefix = f"{name}."
    columns = {
        key.removeprefix(prefix): values.astype(object) if values.dtype.kind == "U" else values
        for key, values in arrays.items()
        if key.startswith(prefix)
    }
    table = pd.DataFrame(columns)
    return table.set_index(INDEX) if name in NAMED_ROWS and columns else table
