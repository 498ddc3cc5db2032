"""What users call data, as tensors of numbers: what has another meaning is refused, by column."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["column_names", "numbers_of"]

Array = np.ndarray[Any, Any]

REMEDIES = {
    "M": "Subtract a start and divide by a unit, as in (t - t[0]) / np.timedelta64(1, 'D')",
    "m": "Divide by a unit, as in t / np.timedelta64(1, 'D')",
    "U": "Encode words as numbers, such as class numbers or one-hot columns",
    "S": "Encode words as numbers, such as class numbers or one-hot columns",
    "V": "Stack its fields as columns of one numeric array",
    "c": "Pass real and imaginary part as two columns",
}
"""By NumPy's kind of a type that holds no real numbers."""

WIDER = {"uint16": "int64", "uint32": "int64", "uint64": "int64", "longdouble": "float64"}
"""Types that torch knows little or nothing of."""


def numbers_of(name: str, value: object) -> Tensor:
    """Numbers as a tensor, without gradients.

    Args:
        name: what the message calls them.
        value: a tensor, an array of NumPy, pandas, xarray or the like, or nested sequences.

    Returns:
        A dense tensor of real numbers, of the type that they have.

    Raises:
        ValueError: some are masked, missing, words, dates or no numbers at all, rows are of unequal
            length, or the array is sparse.

    Example:
        >>> numbers_of("x", [[1, 2], [3, 4]])
        tensor([[1, 2],
                [3, 4]])
        >>> numbers_of("x", np.ma.masked_values([1.0, -999.0], -999.0))
        Traceback (most recent call last):
        ValueError: x must have no masked entries; got 1 of 2, the first at index (1,). Drop those \
data points, or impute them with filled().
    """
    if isinstance(value, Tensor):
        return _of_tensor(name, value)
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
        return _of_tensors(name, value)
    if _is_pandas(value):
        return _as_torch(name, _of_pandas(name, value))
    return _as_torch(name, _of_array(name, value))


def column_names(value: object) -> tuple[str, ...]:
    """The names of a table's columns; none where there are none."""
    columns = getattr(value, "columns", ())
    return tuple(map(str, columns)) if getattr(value, "ndim", 0) == 2 else ()


def _of_tensor(name: str, value: Tensor) -> Tensor:
    if value.is_nested:
        raise ValueError(
            f"{name} must have rows of one shape; got a nested tensor of {value.size(0)} rows. Pad "
            f"them, and let the net know the padding."
        )
    if value.layout != torch.strided:
        raise ValueError(
            f"{name} must be dense; got a tensor of layout {value.layout}. Pass {name}.to_dense()."
        )
    if value.is_meta:
        raise ValueError(f"{name} must hold numbers; got a tensor on the meta device, without any.")
    if value.is_complex():
        raise ValueError(f"{name} must be real; got {value.dtype}. {REMEDIES['c']}.")
    return (value.dequantize() if value.is_quantized else value).detach()


def _of_tensors(name: str, values: Sequence[object]) -> Tensor:
    rows = [numbers_of(name, value) for value in values]
    _same_shapes(name, [tuple(row.shape) for row in rows])
    return torch.stack([row.to(rows[0].device) for row in rows])


def _is_pandas(value: object) -> bool:
    """Whether it is of pandas, without importing it."""
    return type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "dtype") | hasattr(
        value, "dtypes"
    )


def _of_pandas(name: str, value: Any) -> Array:
    pandas: Any = sys.modules["pandas"]
    if not isinstance(value, pandas.DataFrame):
        return _of_column(name, pandas.Series(value))
    columns = [value.iloc[:, k] for k in range(value.shape[1])]
    arrays = [_of_column(f"column {c.name!r} of {name}", c) for c in columns]
    return np.stack(arrays, axis=1) if arrays else np.zeros(value.shape)


def _of_column(name: str, column: Any) -> Array:
    """A column of pandas, nullable or not, of numbers or truth values."""
    pandas: Any = sys.modules["pandas"]
    kind, missing = column.dtype, np.asarray(column.isna())
    if missing.any():
        raise ValueError(
            f"{name} must have no missing values; got {missing.sum()} of {len(missing)}, the first "
            f"in row {missing.argmax()}. Drop those data points, or impute them with fillna()."
        )
    if isinstance(kind, pandas.CategoricalDtype):
        raise ValueError(
            f"{name} must hold numbers; got categories. Take pandas.get_dummies of inputs, "
            f".cat.codes of labels."
        )
    if isinstance(kind, pandas.PeriodDtype | pandas.IntervalDtype):
        raise ValueError(f"{name} must hold numbers; got {kind}. Take a number for each, first.")
    if pandas.api.types.is_datetime64_any_dtype(kind):
        raise ValueError(f"{name} must hold numbers; got {kind}. {REMEDIES['M']}.")
    numeric = pandas.api.types.is_numeric_dtype(kind) or pandas.api.types.is_bool_dtype(kind)
    return _of_array(name, column.to_numpy() if numeric else column.to_numpy(dtype=object))


def _of_array(name: str, value: Any) -> Array:
    """Anything that NumPy makes an array of, if it is one of real numbers."""
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray):
        raise ValueError(
            f"{name} must be dense; got a {type(value).__name__}. Pass {name}.toarray()."
        )
    if isinstance(value, list | tuple) and any(np.ma.isMaskedArray(v) for v in value):
        value = np.ma.stack(value)
    if np.ma.isMaskedArray(value):
        masked = np.ma.getmaskarray(value)
        if masked.any():
            first = tuple(np.argwhere(masked)[0].tolist())
            raise ValueError(
                f"{name} must have no masked entries; got {masked.sum()} of {masked.size}, the "
                f"first at index {first}. Drop those data points, or impute them with filled()."
            )
        value = value.data
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(value, list | tuple):
            _same_shapes(name, [_shape_of(row) for row in value])
        if "inhomogeneous" in str(error):
            raise ValueError(
                f"{name} must have rows of one shape; got nested sequences of unequal lengths. Pad "
                f"or cut them to one length."
            ) from None
        raise ValueError(
            f"{name} must be a numeric array or tensor; got {type(value).__name__} ({error})."
        ) from error
    if array.dtype.kind == "O":
        return _of_objects(name, value, array)
    if remedy := REMEDIES.get(array.dtype.kind):
        raise ValueError(f"{name} must hold real numbers; got type {array.dtype}. {remedy}.")
    return array


def _of_objects(name: str, value: object, array: Array) -> Array:
    """Python objects: numbers all of them, or none of ours."""
    if array.ndim == 0:
        raise ValueError(
            f"{name} must be an array or a tensor of numbers; got a {type(value).__name__}. Stack "
            f"what it holds, one row for each data point."
        )
    for index, entry in np.ndenumerate(array):
        if isinstance(entry, Real | Decimal):
            continue
        if np.ndim(entry) or isinstance(entry, list | tuple):
            _same_shapes(name, [_shape_of(row) for row in array])
        missing = entry is None or type(entry).__name__ in ("NAType", "NaTType")
        kind = "M" if hasattr(entry, "year") else "m" if hasattr(entry, "total_seconds") else "U"
        remedy = "Drop those data points, or impute them" if missing else REMEDIES[kind]
        raise ValueError(
            f"{name} must hold numbers; got {entry!r} ({type(entry).__name__}) at index {index}. "
            f"{remedy}."
        )
    return array.astype(np.float64)


def _as_torch(name: str, array: Array) -> Tensor:
    wider = WIDER.get("longdouble" if array.dtype == np.longdouble else array.dtype.name)
    if wider == "float64" and array.dtype == np.float64:
        wider = None
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"{name} must hold integers below 2**63; got {array.max()}. Pass floating-point "
            f"numbers."
        )
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=wider or native, order="C"))


def _shape_of(row: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(row))
    except ValueError:  # ragged itself
        return (len(row),)


def _same_shapes(name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    for k, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"{name} must have rows of one shape; got {shapes[0]} in row 0 and {shape} in row "
                f"{k}. Pad or cut them to one length."
            )
