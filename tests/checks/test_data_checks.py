"""Data of every kind: taken with their meaning, or refused by column with a remedy."""

from __future__ import annotations

import datetime
import decimal
import fractions
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import sparse
from torch import Tensor, nn

from probml_tp import BayesianModel, Delta, Gaussian, NormalPrior, fit
from probml_tp.checks.values import as_tensor

VALUES = [[1.0, 2.0], [3.0, 4.0]]


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": [1.0, 2.0], **columns})


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.tensor(VALUES), 0.5, 0, torch.qint8)


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


TAKEN: dict[str, Callable[[], object]] = {
    "array": lambda: np.array(VALUES),
    "masked without masks": lambda: np.ma.masked_values(VALUES, -999.0),
    "frame": lambda: pd.DataFrame(VALUES),
    "nullable": lambda: pd.DataFrame(VALUES).convert_dtypes(),
    "nullable floats": lambda: pd.DataFrame(VALUES).astype("Float64"),
    "objects": lambda: pd.DataFrame(VALUES).astype(object),
    "array of objects": lambda: np.array(VALUES, dtype=object),
    "sparse columns": lambda: pd.DataFrame(VALUES).astype(pd.SparseDtype(float, 0.0)),
    "xarray": lambda: xr.DataArray(np.array(VALUES), dims=["row", "column"]),
    "list of tensors": lambda: [torch.tensor(row, requires_grad=True) for row in VALUES],
    "list of arrays": lambda: [np.array(row) for row in VALUES],
    "numbers of tensors": lambda: [[torch.tensor(v) for v in row] for row in VALUES],
    "parameter": lambda: nn.Parameter(torch.tensor(VALUES)),
    "quantized": quantized,
    "big-endian": lambda: np.array(VALUES, dtype=">f8"),
    "unsigned": lambda: np.array(VALUES, dtype=np.uint16),
    "long double": lambda: np.array(VALUES, dtype=np.longdouble),
    "decimals": lambda: [[decimal.Decimal(int(v)) for v in row] for row in VALUES],
    "fractions": lambda: [[fractions.Fraction(v) for v in row] for row in VALUES],
    "backwards": lambda: np.array(VALUES)[::-1][::-1],
}


@pytest.mark.parametrize("kind", TAKEN)
def test_numbers_are_taken_whatever_holds_them(kind: str) -> None:
    found = as_tensor("x", TAKEN[kind]())
    assert found.double().tolist() == VALUES
    assert not found.requires_grad
    assert not found.is_quantized


@pytest.mark.parametrize(
    "truth",
    [
        [True, False],
        np.array([True, False]),
        pd.array([True, False], dtype="boolean"),
        pd.Series([True, False]),
    ],
    ids=["list", "array", "nullable", "series"],
)
def test_truth_values_are_ones_and_zeros(truth: object) -> None:
    assert as_tensor("y", truth).long().tolist() == [1, 0]


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "masked": (lambda: np.ma.masked_values([[1.0, -999]], -999), r"masked.*1 of 2.*\(0, 1\).*Drop"),
    "list of masked": (lambda: [np.ma.masked_values([1.0, -999], -999)] * 2, "masked.*2 of 4"),
    "NaN in a table": (lambda: table(b=[1.0, math.nan]), "column 'b' of x.*1 of 2.*row 1.*fillna"),
    "NA": (lambda: table(b=pd.array([None, 1], dtype="Int64")), "column 'b' of x.*row 0"),
    "NA truth": (lambda: pd.array([True, None], dtype="boolean"), "x must have no missing"),
    "categories": (lambda: table(b=pd.Categorical(["u", "v"])), "column 'b'.*get_dummies"),
    "words": (lambda: table(b=["u", "v"]), "column 'b'.*'u' .str. at index .0,.. Encode"),
    "words and numbers": (lambda: table(b=[1, "v"]), r"column 'b'.*'v' \(str\) at index \(1,\)"),
    "two columns of a name": (lambda: pd.DataFrame([[1, "u"]], columns=["a", "a"]), "column 'a'"),
    "dates": (lambda: table(b=pd.to_datetime(["2020", "2021"])), "column 'b'.*Subtract a start"),
    "date objects": (lambda: [datetime.date(2020, 1, 1)], "Subtract a start"),
    "durations": (lambda: table(b=pd.to_timedelta([1, 2])), "column 'b'.*Divide by a unit"),
    "periods": (lambda: pd.Series(pd.period_range("2020", periods=2)), "period"),
    "complex column": (lambda: table(b=[1j, 2]), "column 'b'.*real and imaginary"),
    "lists in a column": (lambda: table(b=[[1, 2], [3]]), r"column 'b'.*\(1,\) in row 1"),
    "sparse matrix": (lambda: sparse.csr_matrix(np.eye(2)), r"csr_matrix. Pass x.toarray\(\)"),
    "sparse tensor": (lambda: torch.eye(2).to_sparse(), r"sparse_coo. Pass x.to_dense\(\)"),
    "nested": (nested, "nested tensor of 2 rows. Pad"),
    "meta": (lambda: torch.zeros(2, device="meta"), "meta device"),
    "complex": (lambda: torch.zeros(2, dtype=torch.complex64), "complex64"),
    "complex array": (lambda: np.zeros(2, complex), "complex128"),
    "ragged": (lambda: [[1, 2], [3]], r"\(2,\) in row 0 and \(1,\) in row 1. Pad"),
    "ragged inside": (lambda: [[1, 2], [3, [4]]], "unequal lengths. Pad"),
    "ragged tensors": (lambda: [torch.zeros(2), torch.zeros(3)], r"\(3,\) in row 1"),
    "text": (lambda: "abc", "Encode words"),
    "texts": (lambda: ["a", "b"], "Encode words"),
    "mixed": (lambda: [1, "a"], "Encode words"),
    "bytes": (lambda: b"abc", "Encode words"),
    "None in a list": (lambda: [1, None], r"None .NoneType. at index \(1,\). Drop"),
    "None": (lambda: None, "NoneType"),
    "dict": (lambda: {"a": [1, 2]}, "got a dict. Stack"),
    "loader": (lambda: torch.utils.data.DataLoader([1, 2]), "DataLoader. Stack"),
    "date array": (lambda: np.array(["2020"], dtype="M8[D]"), "Subtract a start"),
    "fields": (lambda: np.zeros(2, dtype=[("a", float)]), "Stack its fields"),
    "beyond 64 bits": (lambda: np.array([2**64 - 1], dtype=np.uint64), r"below 2\*\*63"),
    "a number": (lambda: 3.0, "at least one data point"),
    "no rows": (lambda: pd.DataFrame({"a": []}), "at least one data point"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_of_numbers_is_refused_with_its_place(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message) as caught:
        as_tensor("x", make())
    assert type(caught.value) is ValueError


def test_a_fit_to_a_table_is_that_to_its_numbers() -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.normal(size=20), "b": pd.array([0, 1] * 10, "Int64")})
    y = pd.Series(generator.normal(size=20), index=range(100, 120))
    model = BayesianModel(nn.Linear(2, 1), NormalPrior(1.0), Gaussian(scale=0.1))
    posterior = fit(model, Delta, (frame, y), epochs=3, progress=False)
    numbers = (frame.to_numpy(dtype=float), y.to_numpy())
    expected = fit(model, Delta, numbers, epochs=3, progress=False)
    assert torch.equal(posterior.guide.loc, expected.guide.loc)
    assert torch.equal(posterior.predict(frame).mean, posterior.predict(numbers[0]).mean)


def test_columns_in_another_order_are_refused() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 1.0, 0.0]})
    model = BayesianModel(nn.Linear(2, 1), NormalPrior(1.0), Gaussian(scale=0.1))
    posterior = fit(model, Delta, (frame, frame["a"]), epochs=1, progress=False)
    posterior.predict(frame[:2])
    with pytest.raises(ValueError, match="in their order: a, b; got b, a"):
        posterior.predict(frame[["b", "a"]])
    with pytest.raises(ValueError, match="a, b; got a, c"):
        posterior.predict(frame.rename(columns={"b": "c"}))
