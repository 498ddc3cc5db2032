r"""The Laplace approximation: a normal at the mode, shaped by the curvature there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import repeat
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor
from torch.func import jvp

from probml_tp.checks.arguments import checked
from probml_tp.convergence import Convergence, NotConvergedWarning
from probml_tp.guide import Draws
from probml_tp.guides.cholesky import NotDefiniteError
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
from probml_tp.guides.jacobians import gradient_rows, plain_layers
from probml_tp.guides.layers import own_sites
from probml_tp.guides.newton import LIMIT, at_a_mode, attainable, gradient_of
from probml_tp.inference.descent import WORK, descent_path, in_double
from probml_tp.last_layer import last_called, last_defined
from probml_tp.model import BayesianModel, check_model

__all__ = ["Laplace", "LinearizedLaplace", "Structure"]

Structure = Literal["full", "kronecker", "diagonal"]

LEAST = (1e-3, 1e-6, 1e-9)
"""Nats that a hundred iterations of L-BFGS have to gain, in one try after another."""

ROUND, EFFORT = 100, 2e10
"""Iterations until it is seen what they gained, and the multiply-adds of all passes over the data.
"""

REMEDY = (
    "Train longer on all the data (without lr, optimizer and epochs a small problem is solved), "
    "use net.double() if the inputs are unscaled, or a smooth activation such as tanh: the optimum "
    "of a relu net may lie on a kink, where no gradient is zero."
)
NO_MODE = (
    "No mode was found near: the density of a hierarchical model is often unbounded where a scale "
    "goes to 0. Write it without centring, or use MeanFieldNormal or sample_nuts."
)


class Laplace(StructuredNormal):
    r"""Laplace approximation (MacKay 1992; Ritter et al. 2018; Daxberger et al. 2021).

    :math:`q(u) = \mathcal N(\hat u, A^{-1})` with :math:`\hat u` the MAP estimate and

    .. math:: A = H - \nabla^2 \log p(\hat u)

    with ``H`` the curvature of the negative log likelihood: a sum over all ``N`` points, not a
    mean. The prior is the one used in MAP training. The log evidence is
    :math:`\log p(\hat u, y) + \tfrac P2\log 2\pi - \tfrac12\log|A|`.

    The guide is trained on the MAP objective; around a mode found before,
    ``fit(model, Laplace, data, init=map_posterior, epochs=0)`` only computes the curvature. That
    takes three passes over the data in batches, in memory flat in ``N``.

    **It checks that it is at a mode**, by the Newton decrement :math:`\tfrac12 g^\top A^{-1}g` of
    the random sites. Above 0.01 nats it goes on to the mode by L-BFGS in double precision, if
    a pass over the data takes at most 10 million multiply-adds; a larger problem stays where it is,
    with a :class:`~probml_tp.NotConvergedWarning`. The figure is in ``posterior.info.convergence``.

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
            module with parameters that the net calls last), or names and patterns such as
            ``["fc2.*"]``. The others are point masses at the mode, and the evidence is that given
            their values.
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
    replayable_loss: ClassVar[bool] = True
    seeks_mode: ClassVar[bool] = True

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
        chosen = chosen_sites(check_model(model), sites)
        if model.conditional_sites and (structure != "full" or len(chosen) < len(model.sites)):
            raise ValueError(
                f"in a model whose priors depend on other sites, Laplace takes all sites in full "
                f"structure; got structure={structure!r} and {len(chosen)} of {len(model.sites)} "
                f"sites, and {model.conditional_sites[0]!r} has a conditional prior. Use "
                f"structure='full', sites='all'."
            )
        self.structure, self.curvature, self.max_params = structure, curvature, max_params
        super().__init__(model, _factors(model, structure, chosen))
        self.sites = sites if isinstance(sites, str) else list(sites)
        self._settled: Convergence | None = None
        self._passes = 0

    def set_factors(self, factors: Iterable[Factor]) -> None:
        """Take a covariance of factors, if none is too large to be factorised."""
        factors = list(factors)
        for factor in factors:
            check_size(factor, name=self.name, model=self.model, max_params=self.max_params)
        super().set_factors(factors)

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Find the last layer, which is the one that the net calls last."""
        if self.sites == "last-layer":
            sites = layer_sites(self.model, last_called(self.model, x[:1]))
            if sites != self.random_sites:
                self.set_factors(_factors(self.model, self.structure, sites))
            self.sites = sites

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The MAP objective per data point."""
        return map_loss(self.model, self.loc, x, y, size=size)

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Find the curvature at the mode, and with it the covariance and the log evidence.

        Where the point is no mode, a small problem goes on to one; a large one warns.

        Raises:
            ValueError: the posterior precision is not positive definite: there is no mode here.
        """
        self.prepare(x, y)
        self._passes = 0
        decrement, error = self._try_curvature(x, y)
        work = self.model.work(len(x))
        if decrement > LIMIT and work <= WORK:
            for least in LEAST:
                self._descend(x, y, least, rounds=int(EFFORT / len(LEAST) / work / ROUND))
                decrement, error = self._try_curvature(x, y)
                if decrement <= LIMIT or error is not None:
                    break
        if error is not None:
            raise NotDefiniteError(f"{error} {NO_MODE}") from error
        self._settled = at_a_mode(decrement, REMEDY)
        if not self._settled.converged:
            warnings.warn(
                f"Laplace needs a mode; this {self.name} posterior of {self.model.name} has a "
                f"Newton decrement of {decrement:.3g} nats, above {LIMIT}. {REMEDY}",
                NotConvergedWarning,
                stacklevel=3,
            )

    def take_curvature(self, x: Tensor, y: Tensor) -> None:
        """Find the curvature where the guide is, and with it covariance and log evidence."""
        self._settled = None
        curvatures = likelihood_curvature(
            self.model, self.loc, x, y, factors=self.factor_list, kind=self.curvature
        )
        self._passes += 1
        if self.model.conditional_sites:
            (likelihood,) = (cast("DenseCurvature", curvature) for curvature in curvatures)
            whole = DenseCurvature(likelihood.matrix + prior_hessian(self.model, self.loc))
            nothing = torch.zeros_like(self.loc, dtype=torch.float64)
            self.take([whole], nothing, x, y)
        else:
            self.take(curvatures, prior_precision(self.model, self.loc), x, y)
        self._passes += 1

    def convergence(self, x: Tensor, y: Tensor) -> Convergence | None:
        """The Newton decrement of the random sites, by the curvature that the guide has."""
        if self._settled is None and all(factor.is_fitted for factor in self.factor_list):
            self._settled = at_a_mode(self._decrement(x, y), REMEDY)
        return self._settled

    def _decrement(self, x: Tensor, y: Tensor) -> float:
        r""":math:`\tfrac12\|C^\top g\|^2` in nats, or what the step gains if that is less."""
        self._passes += 1
        g = gradient_of(self.model, self.loc, x, y)
        white = [factor.project(g[factor.index]) for factor in self.factor_list]
        decrement = 0.5 * sum(float(part.square().sum()) for part in white)
        step = torch.zeros_like(self.loc, dtype=torch.float64)
        for factor, part in zip(self.factor_list, white, strict=True):
            step[factor.index] = -factor.spread(part.to(self.loc.dtype)).double()
        decrement, passes = attainable(decrement, step, self.model, self.loc, x, y)
        self._passes += passes
        return decrement

    def _try_curvature(self, x: Tensor, y: Tensor) -> tuple[float, NotDefiniteError | None]:
        """The decrement by the curvature here; infinite where that is not definite, and why."""
        try:
            self.take_curvature(x, y)
        except NotDefiniteError as error:
            return torch.inf, error
        return self._decrement(x, y), None

    def _descend(self, x: Tensor, y: Tensor, least: float, *, rounds: int) -> None:
        """Go on towards a mode in the random sites, by L-BFGS in double precision."""
        wide, x, y = in_double(self.model, x, y)
        free = torch.cat([factor.index for factor in self.factor_list])
        *_, (point, passes) = descent_path(
            wide, self.loc, x, y, free=free, rounds=repeat(ROUND, min(rounds, 20)), least=least
        )
        self.loc.data = point.to(self.loc)
        self._passes += passes

    @property
    def finalize_passes(self) -> int:
        """Three, the curvature, the log likelihood and its gradient, and the way to the mode."""
        return self._passes

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

    .. math:: f^{\mathrm{lin}}_u(x) = f_{\hat u}(x) + J_{\hat u}(x)(u - \hat u)

    in unconstrained space, which for weights without a constraint is that of the weights.
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
        """The linearised outputs at one draw, differentiable in ``x`` where the net's layers are
        by forward mode.
        """
        centre, sites = self.model.layout.unravel(self.loc.detach()), self._net_sites
        draw = self.model.unconstrain(params)
        own = {name: centre[name] for name in sites}
        tangent = {name: draw[name] - centre[name] for name in sites}

        def net(own: dict[str, Tensor]) -> Tensor:
            return self.model.outputs(self.model.constrain(centre | own), x)

        try:
            with warnings.catch_warnings():  # of torch's own, when forward mode is first used
                warnings.filterwarnings("ignore", r".*torch\.jit\.script.*", FutureWarning)
                moved = jvp(net, (own,), (tangent,))
        except (NotImplementedError, RuntimeError):  # attention, LSTM, weight_norm
            if x.requires_grad:
                raise
            return self.outputs_of_draws({n: v.unsqueeze(0) for n, v in params.items()}, x)[0]
        linearized: Tensor = moved[0] + moved[1]
        return linearized

    def outputs_of_draws(self, params: Draws, x: Tensor) -> Tensor:
        """The same by the Jacobian that :meth:`function_moments` has, one for all draws."""
        centre, sites = self.model.layout.unravel(self.loc.detach()), self._net_sites
        draws = self.model.unconstrain(params)
        tangents = {n: (draws[n] - centre[n]).reshape(len(draws[n]), -1).mT for n in sites}
        found = []
        for _, outputs, rows in gradient_rows(
            self.model, self.loc, x, x, lambda outputs, *_: outputs, sites=sites, dense=True
        ):
            moved = torch.stack([row.times(tangents[n]) for n, row in rows.items()]).sum(0)
            found.append((outputs.unsqueeze(-1) + moved).movedim(-1, 0))
        return torch.cat(found, 1)

    @property
    def _net_sites(self) -> list[str]:
        """The random sites of the net."""
        own = self.model.likelihood.site_distributions()
        return [name for name in self.random_sites if name not in own]

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
            return layer_sites(model, last_defined(model.net))
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


def layer_sites(model: BayesianModel, layer: str | None) -> list[str]:
    """The sites of one layer of a net, in the model's order; of all if it has no layers."""
    if layer is None:
        return list(model.sites)
    net = model.net
    own = {id(net.get_parameter(name)) for name in own_sites(net, layer)}
    return [name for name, p in net.named_parameters() if id(p) in own]


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
