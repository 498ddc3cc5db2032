r"""Basis functions :math:`\phi` of linear regression, for scalar inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence, Sized

import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive, positive_integer

__all__ = ["Basis", "GaussianBasis", "LinearBasis", "PolynomialBasis"]


class Basis(nn.Module):
    """A fixed feature map ``(batch, 1) -> (batch, num_features)``."""

    num_features: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The features of scalars ``x`` of shape ``(batch, 1)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Check the shape of ``x`` and return its features."""
        if x.ndim != 2 or x.shape[1] != 1:
            raise RuntimeError(
                f"a basis takes scalar inputs of shape (batch, 1), not {tuple(x.shape)}"
            )
        return self.features(x)

    def __str__(self) -> str:
        return repr(self)


class PolynomialBasis(Basis):
    r""":math:`\phi(x) = (1, x, x^2, \dots, x^d)`.

    Args:
        degree: ``d``, at least 1.

    Raises:
        ValueError: ``degree`` is below 1.

    Example:
        >>> PolynomialBasis(degree=3)(torch.tensor([[2.0]]))
        tensor([[1., 2., 4., 8.]])
    """

    def __init__(self, *, degree: int) -> None:
        super().__init__()
        self.degree = positive_integer("degree", degree)
        self.num_features = degree + 1

    def features(self, x: Tensor) -> Tensor:
        """Powers 0 to ``degree``."""
        return x ** torch.arange(self.num_features, device=x.device)

    def extra_repr(self) -> str:
        """The degree."""
        return f"degree={self.degree}"


class LinearBasis(PolynomialBasis):
    r""":math:`\phi(x) = (1, x)`: the polynomial basis of degree 1.

    Example:
        >>> LinearBasis()(torch.tensor([[3.0]]))
        tensor([[1., 3.]])
    """

    def __init__(self) -> None:
        super().__init__(degree=1)

    def extra_repr(self) -> str:
        """Nothing to add."""
        return ""


def _row(name: str, value: object) -> None:
    """The rule of a row of values, which are checked where they are read."""
    if not isinstance(value, Sized) or isinstance(value, str):
        raise ValueError(f"{name} must be a sequence of numbers; got {value!r}. Pass [0.0, 1.0].")


class GaussianBasis(Basis):
    r""":math:`\phi_j(x) = \exp(-(x - \mu_j)^2 / (2 s^2))`, no constant (Bishop 2006, eq. 3.4).

    Far from every centre all features vanish, and with them the predictive's epistemic variance.

    Args:
        centers: :math:`\mu_1, \dots, \mu_M`, in the units of ``x``.
        scale: ``s``, in the units of ``x``.

    Raises:
        ValueError: no centre is given, one is not finite, or ``scale`` is not positive.

    Example:
        >>> GaussianBasis(centers=[0.0, 1.0], scale=1.0)(torch.tensor([[1.0]]))
        tensor([[0.6065, 1.0000]])
    """

    centers: Tensor

    @checked(scale=positive, centers=_row)
    def __init__(self, *, centers: Sequence[float], scale: float) -> None:
        super().__init__()
        self.scale = positive("scale", scale)
        if not len(centers):
            raise ValueError("a Gaussian basis needs at least one centre; got none.")
        values = torch.tensor([float(c) for c in centers], dtype=torch.float64)
        if not bool(values.isfinite().all()):
            raise ValueError(f"centers must be finite; got {values.tolist()}. Drop the others.")
        self.register_buffer("centers", values, persistent=False)
        self.num_features = len(values)

    @classmethod
    @checked()
    def evenly_spaced(cls, low: float, high: float, *, num: int) -> GaussianBasis:
        r"""``num`` centres :math:`low + j s`, :math:`s = (high - low)/num` (the labs' choice)."""
        s = positive("high - low", high - low) / positive_integer("num", num)
        return cls(centers=[low + j * s for j in range(num)], scale=s)

    def features(self, x: Tensor) -> Tensor:
        """One bump for each centre."""
        return torch.exp(-0.5 * ((x - self.centers.to(x)) / self.scale) ** 2)

    def extra_repr(self) -> str:
        """Number of centres, their range and the scale."""
        low, high = float(self.centers.min()), float(self.centers.max())
        return f"{self.num_features} centers in [{low:g}, {high:g}], scale={self.scale:g}"
