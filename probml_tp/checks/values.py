"""Single values that users pass in, checked: numbers in a range, seeds, pairs of data, vectors."""

from __future__ import annotations

import math
from collections.abc import Sized
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.checks.data import numbers_of

__all__ = [
    "as_tensor",
    "data_pair",
    "finite",
    "finite_vector",
    "flag_vector",
    "is_integer",
    "is_number",
    "non_negative",
    "non_negative_integer",
    "paired",
    "plain",
    "positive",
    "positive_integer",
    "probability",
    "share",
    "shown",
    "strictly_between_0_and_1",
    "valid_seed",
]


def plain(value: Any) -> Any:
    """The number in a tensor or an array of one element; anything else as it is.

    Example:
        >>> plain(torch.tensor([0.5])), plain(np.float64(2.0)), plain("a")
        (0.5, 2.0, 'a')
    """
    single = isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1
    return value.item() if single else value


def is_number(value: object) -> bool:
    """Whether a value is a finite number; a truth value is none.

    Example:
        >>> is_number(0.5), is_number(float("nan")), is_number(True)
        (True, False, False)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_integer(value: object) -> bool:
    """Whether a value is a whole number that fits 64 bits; a truth value is none."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and -(2**63) <= value < 2**63  # type: ignore[operator]


def positive(name: str, value: float) -> float:
    """Return ``value`` if it is a positive finite number.

    Raises:
        ValueError: it is not.

    Example:
        >>> positive("scale", 0.5)
        0.5
    """
    value = plain(value)
    if not (is_number(value) and value > 0):
        raise ValueError(
            f"{name} must be a positive finite number; got {value!r}. Pass a value above 0."
        )
    return float(value)


def non_negative(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number of at least 0.

    Raises:
        ValueError: it is not.
    """
    if not (is_number(value) and value >= 0):
        raise ValueError(
            f"{name} must be a finite number of at least 0; got {value!r}. Pass 0 or more."
        )
    return float(value)


def positive_integer(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    value = plain(value)
    if not is_integer(value) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}. Pass 1 or more.")
    return int(value)


def non_negative_integer(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 0.

    Raises:
        ValueError: it is not.
    """
    value = plain(value)
    if not is_integer(value) or value < 0:
        raise ValueError(f"{name} must be an integer of at least 0; got {value!r}. Pass 0 or more.")
    return int(value)


def valid_seed(seed: int) -> int:
    """Return ``seed`` if it is an integer from 0 to 2**63 - 1.

    Raises:
        ValueError: it is not.
    """
    if not is_integer(seed) or seed < 0:
        raise ValueError(f"seed must be an integer from 0 to 2**63 - 1; got {seed!r}. Pass 0.")
    return int(seed)


def probability(name: str, value: float) -> float:
    """Return ``value`` if it lies in the half-open interval [0, 1).

    Raises:
        ValueError: it does not.
    """
    value = plain(value)
    if not (is_number(value) and 0 <= value < 1):
        raise ValueError(f"{name} must lie in [0, 1); got {value!r}. Pass for example 0.5.")
    return float(value)


def share(name: str, value: float) -> float:
    """Return ``value`` if it lies in the closed interval [0, 1].

    Raises:
        ValueError: it does not.
    """
    if not (is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must lie in [0, 1]; got {value!r}. Pass for example 0.5.")
    return float(value)


def strictly_between_0_and_1(name: str, value: float) -> float:
    """Return ``value`` if it lies strictly between 0 and 1.

    Raises:
        ValueError: it does not.
    """
    value = plain(value)
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(
            f"{name} must lie strictly between 0 and 1; got {value!r}. Pass 0.95, say."
        )
    return float(value)


def as_tensor(name: str, value: object) -> Tensor:
    """Turn an array, a list, a table or a tensor into a tensor; see :func:`numbers_of`.

    Raises:
        ValueError: it cannot be turned into a numeric tensor, or is empty.

    Example:
        >>> as_tensor("x", [1, 2])
        tensor([1, 2])
    """
    numbers = numbers_of(name, value)
    if numbers.ndim == 0 or len(numbers) == 0:
        raise ValueError(
            f"{name} must hold at least one data point along its first dimension; "
            f"got shape {tuple(numbers.shape)}."
        )
    return numbers


def finite(name: str, value: Tensor) -> Tensor:
    """Return ``value`` if all its entries are finite.

    Raises:
        ValueError: some entry is NaN or infinite; the message gives their number and the first.
    """
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = (~torch.isfinite(value)).nonzero()
        first = tuple(bad[0].tolist())
        raise ValueError(
            f"{name} must be finite; {len(bad)} of {value.numel()} entries are NaN or infinite, "
            f"the first at index {first}. Drop or impute those data points."
        )
    return value


def data_pair(name: str, value: object) -> tuple[object, object]:
    """Return ``value`` if it is a pair of inputs and targets.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(
            f"{name} must be a pair of inputs and targets; got {type(value).__name__}"
            f"{f' of length {len(value)}' if isinstance(value, tuple | list) else ''}. Pass (x, y)."
        )
    return value[0], value[1]


def paired(x: Tensor, y: Tensor) -> None:
    """Check that inputs and targets have the same number of data points.

    Raises:
        ValueError: they do not.
    """
    if len(x) != len(y):
        raise ValueError(
            f"x and y must have the same number of data points; got {len(x)} and {len(y)} "
            f"(shapes {tuple(x.shape)} and {tuple(y.shape)})."
        )


def finite_vector(name: str, value: object) -> np.ndarray[Any, Any]:
    """Return ``value`` as a float64 array of one finite number per point, on the CPU.

    Raises:
        ValueError: it is not one-dimensional, is empty, or some entry is not finite.

    Example:
        >>> finite_vector("confidence", torch.tensor([0.5, 1.0]))
        array([0.5, 1. ])
    """
    tensor = finite(name, as_tensor(name, value))
    if tensor.ndim != 1:
        raise ValueError(
            f"{name} must hold one number for each point; got shape {tuple(tensor.shape)}. "
            f"Pass a one-dimensional array."
        )
    array: np.ndarray[Any, Any] = tensor.double().cpu().numpy()
    return array


def flag_vector(name: str, value: object, length: int) -> np.ndarray[Any, Any]:
    """Return ``value`` as an array of one true or false per point; 1 and 0 count as such.

    Raises:
        ValueError: it is not of that length, or holds anything else.

    Example:
        >>> flag_vector("correct", [1, 0], 2)
        array([ True, False])
    """
    array = finite_vector(name, value)
    if len(array) != length or not np.isin(array, (0.0, 1.0)).all():
        raise ValueError(
            f"{name} must hold true or false for each of the {length} points; got {len(array)} "
            f"values from {array.min():g} to {array.max():g}. Pass a boolean array such as "
            f"predicted == y."
        )
    return array.astype(bool)


def shown(value: object) -> str:
    """A value in one short line of a message: what it is, where it is too long to print.

    Example:
        >>> shown("fast"), shown(torch.zeros(3, 2)), shown([0] * 100)
        ("'fast'", 'a Tensor of shape (3, 2)', 'a list of length 100')
    """
    text = repr(value)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape != ():
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if len(text) <= 60 and "\n" not in text and " object at 0x" not in text:
        return text
    length = f" of length {len(value)}" if isinstance(value, Sized) else ""
    return f"a {type(value).__name__}{length}"
