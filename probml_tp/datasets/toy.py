r"""Toy data of two dimensions or fewer, the ones on which uncertainty can be seen.

Each generator is a pure function of its arguments: it draws from its own random generator, in
double precision, and leaves torch's and NumPy's global random states alone. The same seed gives
the same data in every ``dtype``, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from sklearn.datasets import make_moons
from torch import Tensor

from probml_tp.checks.values import is_number, positive, positive_integer
from probml_tp.datasets.checks import checked_seed

__all__ = ["blobs", "linear_data", "linear_data_with_hole", "sine_data", "two_moons"]


def linear_data(
    *, n: int = 25, seed: int = 0, noise: float = 0.2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    r"""A noisy line: :math:`y = -0.3 + 0.5 x + \varepsilon`, :math:`x \sim U(0, 2)`.

    The noise is :math:`\varepsilon \sim \mathcal N(0, \sigma^2)`. The line is the one of Bishop
    2006, figure 3.7.

    Args:
        n: number of data points.
        seed: seed of the data.
        noise: standard deviation :math:`\sigma`, in units of ``y``; 0 for points on the line.
        dtype: floating-point type of ``x`` and ``y``.

    Returns:
        ``x`` of shape ``(n, 1)`` and ``y`` of shape ``(n,)``.

    Raises:
        ValueError: ``n``, ``seed``, ``noise`` or ``dtype`` is out of range.

    Example:
        >>> x, y = linear_data(n=5, noise=0.0)
        >>> x.shape, y.shape
        (torch.Size([5, 1]), torch.Size([5]))
        >>> bool(torch.allclose(y, -0.3 + 0.5 * x[:, 0]))
        True
    """
    generator = _generator(seed)
    x = _uniform(generator, positive_integer("n", n), 0.0, 2.0)
    return _regression(generator, x, _line, noise, dtype)


def linear_data_with_hole(
    *, n_per_side: int = 10, seed: int = 0, noise: float = 0.2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    r"""The line of :func:`linear_data` seen on two intervals, with nothing between them.

    Half of the points have :math:`x \sim U(-3, -1)`, the other half :math:`x \sim U(1, 3)`. In
    the hole a useful posterior is less certain than beside it.

    Args:
        n_per_side: number of data points on each side of the hole.
        seed: seed of the data.
        noise: standard deviation of ``y`` about the line, in units of ``y``.
        dtype: floating-point type of ``x`` and ``y``.

    Returns:
        ``x`` of shape ``(2 * n_per_side, 1)``, left side first, and ``y`` of shape
        ``(2 * n_per_side,)``.

    Raises:
        ValueError: ``n_per_side``, ``seed``, ``noise`` or ``dtype`` is out of range.

    Example:
        >>> x, y = linear_data_with_hole()
        >>> len(x), bool((x.abs() >= 1).all())
        (20, True)
    """
    generator = _generator(seed)
    n = positive_integer("n_per_side", n_per_side)
    left = _uniform(generator, n, -3.0, -1.0)
    right = _uniform(generator, n, 1.0, 3.0)
    return _regression(generator, torch.cat([left, right]), _line, noise, dtype)


def sine_data(
    *, n: int = 50, seed: int = 0, noise: float = 0.2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    r"""A rising sine: :math:`y = \sin(2 \pi x) + x + \varepsilon`, :math:`x \sim U(0, 1)`.

    The noise is :math:`\varepsilon \sim \mathcal N(0, \sigma^2)`.

    Args:
        n: number of data points.
        seed: seed of the data.
        noise: standard deviation :math:`\sigma`, in units of ``y``; 0 for points on the curve.
        dtype: floating-point type of ``x`` and ``y``.

    Returns:
        ``x`` of shape ``(n, 1)`` and ``y`` of shape ``(n,)``.

    Raises:
        ValueError: ``n``, ``seed``, ``noise`` or ``dtype`` is out of range.

    Example:
        >>> x, y = sine_data(n=3)
        >>> x.shape, y.shape, y.dtype
        (torch.Size([3, 1]), torch.Size([3]), torch.float32)
    """
    generator = _generator(seed)
    x = _uniform(generator, positive_integer("n", n), 0.0, 1.0)
    return _regression(generator, x, _rising_sine, noise, dtype)


def blobs(
    *, n: int = 400, seed: int = 0, std: float = 0.8, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    r"""Two Gaussian blobs: class 0 about :math:`(2, 2)`, class 1 about :math:`(-2, -2)`.

    Classes alternate along the data, so they differ in size by one at most, and any prefix is
    balanced as well. With equal spherical covariances the true log odds are linear,
    :math:`\log p(y{=}1 \mid x) / p(y{=}0 \mid x) = -4 (x_1 + x_2) / s^2`.

    Args:
        n: number of data points, both classes together.
        seed: seed of the data.
        std: standard deviation :math:`s` of a blob along each axis.
        dtype: floating-point type of ``x``.

    Returns:
        ``x`` of shape ``(n, 2)`` and the labels ``y`` of shape ``(n,)``, 0 or 1, ``int64``.

    Raises:
        ValueError: ``n``, ``seed``, ``std`` or ``dtype`` is out of range.

    Example:
        >>> x, y = blobs(n=4)
        >>> x.shape, y
        (torch.Size([4, 2]), tensor([0, 1, 0, 1]))
    """
    generator = _generator(seed)
    y = torch.arange(positive_integer("n", n), device="cpu") % 2
    centre = 2.0 - 4.0 * y.double()
    x = centre[:, None] + positive("std", std) * _standard_normal(generator, n, 2)
    return x.to(_floating(dtype)), y


def two_moons(
    *, n: int = 1000, seed: int = 0, noise: float = 0.05, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles, shuffled: scikit-learn's ``make_moons``.

    Args:
        n: number of data points, both classes together; at least 2.
        seed: seed of the data.
        noise: standard deviation of the Gaussian noise about the half circles.
        dtype: floating-point type of ``x``.

    Returns:
        ``x`` of shape ``(n, 2)`` and the labels ``y`` of shape ``(n,)``, 0 or 1, ``int64``.

    Raises:
        ValueError: ``n``, ``seed``, ``noise`` or ``dtype`` is out of range.

    Example:
        >>> x, y = two_moons(n=6)
        >>> x.shape, int(y.sum())
        (torch.Size([6, 2]), 3)
    """
    if positive_integer("n", n) < 2:
        raise ValueError("n must be at least 2, a point for each moon; got 1.")
    x, y = make_moons(n_samples=n, noise=_noise(noise), random_state=checked_seed(seed))
    return torch.from_numpy(x).to(_floating(dtype)), torch.from_numpy(y).long()


def _regression(
    generator: torch.Generator,
    x: Tensor,
    curve: Callable[[Tensor], Tensor],
    noise: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Observe ``curve`` at ``x``, a double of shape ``(n,)``, under Gaussian noise."""
    y = curve(x) + _noise(noise) * _standard_normal(generator, len(x))
    return x[:, None].to(_floating(dtype)), y.to(dtype)


def _line(x: Tensor) -> Tensor:
    """The line that both linear data sets share."""
    return -0.3 + 0.5 * x


def _rising_sine(x: Tensor) -> Tensor:
    """One period of a sine on a line of slope 1."""
    return torch.sin(2 * math.pi * x) + x


def _generator(seed: int) -> torch.Generator:
    """A CPU generator of the call's own, so that the global one is untouched."""
    return torch.Generator().manual_seed(checked_seed(seed))


def _uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Draw ``n`` doubles from U(low, high)."""
    u = torch.rand(n, generator=generator, dtype=torch.float64, device="cpu")
    return low + (high - low) * u


def _standard_normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw doubles from N(0, 1)."""
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def _noise(noise: float) -> float:
    """Return ``noise`` if it is a standard deviation, zero allowed."""
    if not (is_number(noise) and noise >= 0):
        raise ValueError(
            f"noise must be a finite standard deviation of at least 0; got {noise!r}. "
            "Pass 0 for data without noise."
        )
    return float(noise)


def _floating(dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype`` if it is a floating-point type."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype must be a floating-point torch type; got {dtype!r}. Pass torch.float32."
        )
    return dtype
