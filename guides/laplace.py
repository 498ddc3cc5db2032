r"""The Laplace approximation: a normal at the mode, shaped by the curvature there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor
from torch.func import jvp

from probml_tp.arguments import checked
from probml_tp.guide import Draws
from probml_tp.guides.curvature import DenseCurvature
from probml_tp.guides.delta import map_loss
from probml_tp.guides.factors import DenseFactor, DiagonalFactor, Factor, KroneckerFactor
from probml_tp.guides.fisher import (
    CurvatureKind,
    likelihood_curvature,
    prior_hessian,
    prior_precision,
)
from probml_tp.guides.gaussian import StructuredNormal, check_size
from probml_tp.guides.jacobians import plain_layers
from probml_tp.model import BayesianModel

__all__ = ["Laplace", "LinearizedLaplace", "Structure"]

Structure = Literal["full", "kronecker", "diagonal"]


class Laplace(StructuredNormal):
    r"""Laplace approximation (MacKay 1992; Ritter et al. 2018; Daxberger et al. 2021).

    :math:`q(u) = \mathcal N(\hat u, A^{-1})` with :math:`\hat u` the MAP estimate and

    .. math:: A = H - \nabla^2 \log p(\hat u)

    with ``H`` the curvature of the negative log likelihood: a sum over all ``N`` points, not a
    mean. The prior is the one used in MAP training. The log evidence is
    :math:`\log p(\hat u, y) + \tfrac P2\log 2\pi - \tfrac12\log|A|`.

    The guide is trained on the MAP objective; around a mode found before,
    ``fit(model, Laplace, data, init=map_posterior, epochs=0)`` only computes the curvature. That
    takes one pass over the data in batches, in memory flat in ``N``.

    Of a hierarchical model the prior's exact second derivatives are taken, a full matrix that need
    not be positive definite; full structure and all sites are all there is for it.

    Args:
        model: the model.
        structure: what is kept of ``H``. ``"full"``: all of it, ``P^2`` numbers.
            ``"kronecker"``: for each linear layer and two-dimensional convolution
            :math:`B \otimes A` (KFAC-expand), weights and biases apart; the diagonal for all other
            sites. ``"diagonal"``: its exact diagonal, without a Jacobian being formed for linear
            layers.
        curvature: ``"ggn"`` (the Fisher information), ``"mc-fisher"``, ``"empirical-fisher"``, or
            ``"hessian"`` (full structure only); see :mod:`probml_tp.guides.fisher`.
        sites: which parameters are random: ``"all"``, ``"last-layer"`` (the weight and bias of the
            last module with parameters), or names and patterns such as ``["fc2.*"]``. The others
            are point masses at the mode, and the evidence is that given their values.
        max_params: the largest side of a matrix that is factorised.

    Raises:
        ValueError: a matrix would be too large, or an option is unknown or does not apply.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, Laplace, (x, 2 * x), epochs=5, optimizer="lbfgs")
        >>> posterior.guide.scale_tril.shape
        torch.Size([2, 2])
        >>> posterior.guide.marginal_variance()["weight"].shape
        torch.Size([1, 1])
    """

    name: ClassVar[str] = "laplace"
    deterministic_loss: ClassVar[bool] = True

    @checked(structure=None, curvature=None)
    def __init__(
        self,
        model: BayesianModel,
        *,
        structure: Structure = "full",
        curvature: CurvatureKind = "ggn",
        sites: str | Sequence[str] = "all",
        max_params: int = 10_000,
    ) -> None:
        for name, value, known in (
            ("structure", structure, Structure),
            ("curvature", curvature, CurvatureKind),
        ):
            if value not in get_args(known):
                options = ", ".join(map(repr, get_args(known)))
                raise ValueError(f"{name} must be one of {options}; got {value!r}.")
        if curvature == "hessian" and structure != "full":
            raise ValueError(
                f"the exact Hessian comes in full structure only; got {structure!r}. Use "
                f"curvature='ggn', or structure='full'."
            )
        chosen = chosen_sites(model, sites)
        if model.conditional_sites and (structure != "full" or len(chosen) < len(model.sites)):
            raise ValueError(
                f"in a model whose priors depend on other sites, Laplace takes all sites in full "
                f"structure; got structure={structure!r} and {len(chosen)} of {len(model.sites)} "
                f"sites, and {model.conditional_sites[0]!r} has a conditional prior. Use "
                f"structure='full', sites='all'."
            )
        factors = _factors(model, structure, chosen)
        for factor in factors:
            check_size(factor, name=self.name, model=model, max_params=max_params)
        super().__init__(model, factors)
        self.structure, self.curvature = structure, curvature
        self.sites = sites if isinstance(sites, str) else list(sites)
        self.max_params = max_params

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The MAP objective per data point."""
        return map_loss(self.model, self.loc, x, y, size=size)

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Find the curvature at the mode, and with it the covariance and the log evidence."""
        curvatures = likelihood_curvature(
            self.model, self.loc, x, y, factors=self.factor_list, kind=self.curvature
        )
        if self.model.conditional_sites:
            (likelihood,) = (cast("DenseCurvature", curvature) for curvature in curvatures)
            whole = DenseCurvature(likelihood.matrix + prior_hessian(self.model, self.loc))
            nothing = torch.zeros_like(self.loc, dtype=torch.float64)
            self.take([whole], nothing, x, y)
            return
        self.take(curvatures, prior_precision(self.model, self.loc), x, y)

    @property
    def finalize_passes(self) -> int:
        """Two: the curvature, and the log likelihood at the mode."""
        return 2

    def options(self) -> dict[str, Any]:
        """Structure, curvature, sites and the limit on their number."""
        return {
            "structure": self.structure,
            "curvature": self.curvature,
            "sites": self.sites,
            "max_params": self.max_params,
        }


class LinearizedLaplace(Laplace):
    r"""Laplace whose predictions use the net linearised at the mode (Immer et al. 2021).

    .. math:: f^{\mathrm{lin}}_\theta(x) = f_{\hat\theta}(x)
              + J_{\hat\theta}(x)(\theta - \hat\theta)

    The generalised Gauss-Newton matrix is the exact Hessian of this linearised model, so its
    predictions agree with the posterior where the net's own, far from the mode, need not. The
    outputs at a point are normal, with mean :math:`f_{\hat\theta}(x)` and covariance
    :math:`J(x)\Sigma J(x)^\top`, both exact; ``posterior.predict(x, link=...)`` says how class
    probabilities follow from them. Draws and densities are those of :class:`Laplace`; arguments
    likewise.

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
        """The moments of the linearised function; ``None`` where the likelihood has own sites."""
        if self.model.likelihood.site_distributions():
            return None
        return self.linearized_moments(x)


def chosen_sites(model: BayesianModel, sites: str | Sequence[str]) -> list[str]:
    """Resolve a choice of sites.

    Args:
        model: the model.
        sites: ``"all"``, ``"last-layer"``, or names and shell-style patterns.

    Returns:
        The sites' names, in the model's order.

    Raises:
        ValueError: a pattern matches no site.
    """
    if isinstance(sites, str):
        if sites == "all":
            return list(model.sites)
        if sites == "last-layer":
            own = [dict(m.named_parameters(recurse=False)) for m in model.net.modules()]
            last = [params for params in own if params][-1]
            ids = {id(parameter) for parameter in last.values()}
            return [name for name, p in model.net.named_parameters() if id(p) in ids]
        sites = [sites]
    for pattern in sites:
        if not any(fnmatchcase(name, pattern) for name in model.sites):
            raise ValueError(
                f"sites must be 'all', 'last-layer', or name sites of the model; {pattern!r} "
                f"matches none. They are {', '.join(model.sites)}."
            )
    if not sites:
        raise ValueError("sites must name at least one site; got none. Pass 'all', say.")
    return [n for n in model.sites if any(fnmatchcase(n, pattern) for pattern in sites)]


def _factors(model: BayesianModel, structure: Structure, sites: Sequence[str]) -> list[Factor]:
    """The factors that make a structure."""
    if structure == "full":
        return [DenseFactor(model, sites)]
    if structure == "diagonal":
        return [DiagonalFactor(model, sites)]
    factors: list[Factor] = []
    for layer in plain_layers(model).values():
        if layer.weight in sites:
            factors.append(KroneckerFactor(model, layer.weight, layer=layer.name))
        if layer.bias is not None and layer.bias in sites:
            factors.append(DenseFactor(model, [layer.bias], layer=layer.name))
    covered = {name for factor in factors for name in factor.sites}
    if rest := [name for name in sites if name not in covered]:
        factors.append(DiagonalFactor(model, rest))
    return factors
