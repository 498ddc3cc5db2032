"""A report survives being taken apart into arrays and saved."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch

from probml_tp import BayesianModel, Delta, Exact, Gaussian, MeanFieldNormal, NormalPrior, fit
from probml_tp.gap import GapReport, compare, recommend
from probml_tp.gap.arrays import report_from_arrays, report_to_arrays

X = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(-1)
DATA = X, 2 * X.squeeze(-1)


@pytest.fixture(scope="module")
def report() -> GapReport:
    model = BayesianModel(torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1))
    guides = {"exact": Exact, "map": Delta, "mean-field": MeanFieldNormal}
    fits = {name: fit(model, guide, DATA, epochs=50, lr=0.1) for name, guide in guides.items()}
    regions = {"right": X.squeeze(-1) > 0, "left": X.squeeze(-1) < 0}
    return compare(fits, "exact", X, data=DATA, regions=regions, num_samples=200, resamples=20)


def test_every_table_comes_back(report, tmp_path):
    np.savez(tmp_path / "report.npz", allow_pickle=False, **report_to_arrays(report))
    with np.load(tmp_path / "report.npz", allow_pickle=False) as stored:
        again = report_from_arrays(stored)
    assert (again.reference, again.level) == (report.reference, report.level)
    for table in fields(GapReport):
        expected = getattr(report, table.name)
        if isinstance(expected, pd.DataFrame):
            assert len(expected)
            pd.testing.assert_frame_equal(getattr(again, table.name), expected)
    assert str(recommend(again)) == str(recommend(report))


def test_tables_that_were_not_made_stay_empty(report):
    bare = GapReport(
        "exact", 0.95, report.weights[:0], report.functions, report.points, report.costs
    )
    again = report_from_arrays(report_to_arrays(bare))
    assert again.evidence.empty and again.layers.empty and again.weights.empty
    assert again.table().equals(report.table())
