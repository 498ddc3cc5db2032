r"""The Laplace approximation: a normal at the mode, shaped by the curvature there."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from torch.func import grad, jacrev, jvp

from probml_tp.guide import Draws
from probml_tp.guides.delta import map_loss
from probml_tp.guides.gaussian import FullNormal, generalised_gauss_newton, prior_precision
from probml_tp.model import BayesianModel

__all__ = ["Laplace", "LinearizedLaplace"]

Curvature = Literal["ggn", "hessian"]


class Laplace(FullNormal):
    r"""Laplace approximation with full curvature (MacKay 1992; Daxberger et al. 2021).

    :math:`q(u) = \mathcal N(\hat u, A^{-1})` with :math:`\hat u` the MAP estimate and

    .. math:: A = \sum_n J_n^\top F_n J_n - \nabla^2 \log p(\hat u)

    (``curvature="ggn"``), or the exact Hessian of the negative log joint (``"hessian"``). The sum
    runs over all ``N`` points, it is not a mean, and the prior is the one used in MAP training.
    The log evidence is :math:`\log p(\hat u, y) + \tfrac P2\log 2\pi - \tfrac12\log|A|`.

    Args:
        model: the model.
        curvature: ``"ggn"``, positive semi-definite by construction, or ``"hessian"``.
        max_params: the largest ``P`` accepted.

    Raises:
        ValueError: too many parameters, or ``curvature`` is unknown.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, Laplace, (x, 2 * x), epochs=5, optimizer="lbfgs")
        >>> posterior.guide.scale_tril.shape
        torch.Size([2, 2])
    """

    name: ClassVar[str] = "laplace"
    deterministic_loss: ClassVar[bool] = True

    def __init__(
        self, model: BayesianModel, *, curvature: Curvature = "ggn", max_params: int = 10_000
    ) -> None:
        super().__init__(model, max_params=max_params)
        if curvature not in get_args(Curvature):
            raise ValueError(f"curvature must be 'ggn' or 'hessian'; got {curvature!r}.")
        self.curvature = curvature

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The MAP objective per data point."""
        return map_loss(self.model, self.loc, x, y, size=size)

    def solve(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The MAP estimate and the precision there."""
        loc = self.loc.detach()
        if self.curvature == "ggn":
            precision = generalised_gauss_newton(self.model, loc, x)
            precision.diagonal().add_(prior_precision(self.model, loc))
        else:
            gradient = grad(lambda u: self.model.log_joint_flat(u, x, y))
            precision = -jacrev(gradient)(loc).double()
        return loc, precision

    def options(self) -> dict[str, Any]:
        """The curvature and the limit on the number of parameters."""
        return {"curvature": self.curvature, **super().options()}


class LinearizedLaplace(Laplace):
    r"""Laplace whose predictions use the net linearised at the mode (Immer et al. 2021).

    .. math:: f^{\mathrm{lin}}_\theta(x) = f_{\hat\theta}(x)
              + J_{\hat\theta}(x)(\theta - \hat\theta)

    The generalised Gauss-Newton matrix is the exact Hessian of this linearised model, so its
    predictions agree with the posterior where the net's own, far from the mode, need not. Draws
    and densities are those of :class:`Laplace`; arguments likewise.

    Example:
        >>> issubclass(LinearizedLaplace, Laplace)
        True
    """

    name: ClassVar[str] = "laplace-linearized"

    def outputs(self, params: Draws, x: Tensor) -> Tensor:
        """The linearised outputs at one draw, by a Jacobian-vector product."""
        mode = self.model.constrain(self.model.layout.unravel(self.loc.detach()))
        tangent = {name: params[name] - mode[name] for name in mode}
        with warnings.catch_warnings():  # of torch's own, when forward mode is first used
            warnings.filterwarnings("ignore", r".*torch\.jit\.script.*", FutureWarning)
            moved = jvp(lambda p: self.model.outputs(p, x), (mode,), (tangent,))
        linearized: Tensor = moved[0] + moved[1]
        return linearized

    def function_moments(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The moments of the linearised function, for regression with known noise."""
        return self.linearized_moments(x)
