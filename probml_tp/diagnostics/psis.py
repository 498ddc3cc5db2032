r"""Pareto k-hat: whether a posterior can stand in for the true one, without a reference.

The importance ratios :math:`r_s = p(\theta_s, y \mid x) / q(\theta_s)` of a guide's own draws have
a tail like that of a generalised Pareto distribution of shape ``k``: moments of ``r`` up to the
order ``1 / k`` exist. A large ``k`` says that ``q`` misses mass of the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer, valid_seed
from probml_tp.diagnostics.evidence.importance import check_density, importance_ratios
from probml_tp.guide import Guide, Sites
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.quiet_arviz import az
from probml_tp.streams import Stream, substream

__all__ = ["ParetoK", "k_error", "k_threshold", "layers_of", "pareto_k", "smoothed_weights"]

Array = np.ndarray[Any, Any]

LEAST_DRAWS = 100

PRIOR_DRAWS = 10
"""What the value 1/2 counts in a k-hat, in draws of the tail."""

EQUAL = 1e-3
"""Ratios within 0.1 % of each other have no tail; what differs is rounding."""

NOISE = "likelihood"
"""What the likelihood's own sites are called as a layer."""


@dataclass(frozen=True)
class ParetoK:
    r"""How well a posterior's draws can be reweighted to the true posterior.

    Args:
        k: Pareto k-hat of the importance ratios of all sites; minus infinity where they are equal.
        ess: effective number of draws, :math:`1 / \sum_s w_s^2` of the smoothed weights.
        num_samples: ``S``.
        layers: k-hat of each layer given the others at the guide's centre; empty for a guide whose
            conditionals have no closed form.
    """

    k: float
    ess: float
    num_samples: int
    layers: Mapping[str, float] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """The largest k-hat at which so many draws can be trusted; see :func:`k_threshold`."""
        return k_threshold(self.num_samples)

    @property
    def error(self) -> float:
        """The standard error of k-hat; see :func:`k_error`."""
        return k_error(self.k, self.num_samples)

    @property
    def verdict(self) -> str:
        """What the number says.

        Example:
            >>> ParetoK(k=0.62, ess=400.0, num_samples=1000).verdict
            'good: reweighted draws are those of the posterior (k-hat 0.62, at most 0.67)'
        """
        k = f"k-hat {self.k:.2f}"
        if self.k <= self.threshold:
            limit = f"at most {self.threshold:.2f}"
            return f"good: reweighted draws are those of the posterior ({k}, {limit})"
        if self.k <= 0.7:
            return f"unsure: more than {self.num_samples} draws are needed to tell ({k})"
        if self.k < 1:
            return f"bad: reweighting is unreliable, the posterior has mass that q misses ({k})"
        return f"very bad: the weights have no finite mean at this sample size ({k})"


@checked()
def pareto_k(
    posterior: Posterior, x: object, y: object, *, num_samples: int = 1000, seed: int | None = None
) -> ParetoK:
    r"""Diagnose a posterior by the Pareto k-hat of its importance ratios (Yao et al. 2018).

    "Yes, but did it work? Evaluating variational inference", with the fit and the threshold of
    Vehtari et al. (2024, "Pareto smoothed importance sampling"), by ``arviz.psislw``:

    .. math:: \log r_s = \log p(\theta_s) + \sum_n \log p(y_n \mid x_n, \theta_s)
              - \log q(\theta_s), \qquad \theta_s \sim q

    Constants do not matter, so a flat prior is fine. In many dimensions the number grows for any
    guide that is not exact, even where the predictions are good; then it says that the joint
    density of the weights is off, not by how much the functions are. By layer: the same ratios with
    :math:`\theta_l \sim q(\theta_l \mid \theta_{-l} = c)`, where ``c`` is the guide's centre, at
    which all other layers are held: the conditional of ``q`` against that of the posterior, which
    tells which layers are approximated worst. Layers are the modules that hold the parameters; the
    likelihood's own sites are a layer named ``"likelihood"``.

    For the linearised Laplace guide the joint density is that of the linearised model, by which it
    predicts, as in :func:`to_inference_data`; that of the net itself is judged by ``Laplace``.

    Args:
        posterior: a posterior with a density.
        x: all inputs it was fitted to.
        y: all targets.
        num_samples: draws, ``S``, for all sites and for each layer.
        seed: determines them; default: the posterior's.

    Returns:
        k-hat with its threshold, by layer too, the effective sample size and a verdict.

    Raises:
        ValueError: the guide has no density, there are fewer than 100 draws, or the data do not
            fit.

    Example:
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> pareto_k(fit(model, Exact, (x, 2 * x)), x, 2 * x).verdict
        'good: reweighted draws are those of the posterior (k-hat -inf, at most 0.67)'
    """
    check_density(posterior, "Pareto k-hat")
    guide, model = posterior.guide, posterior.model
    inputs, targets = model.check_data(x, y)
    if positive_integer("num_samples", num_samples) < LEAST_DRAWS:
        raise ValueError(
            f"the tail of importance ratios needs num_samples of at least {LEAST_DRAWS}; got "
            f"{num_samples}. Pass 1000."
        )
    seed = valid_seed(posterior.seed if seed is None else seed)
    own_net = type(guide).outputs is Guide.outputs

    def ratios(of: Guide, stream: int) -> Tensor:
        return importance_ratios(
            of,
            inputs,
            targets,
            num_samples=num_samples,
            seed=substream(seed, Stream.PARETO_K, stream),
            own_net=own_net,
        ).log_ratios

    weights, k = smoothed_weights(ratios(guide, 0).numpy())
    layers = {}
    for stream, (name, sites) in enumerate(layers_of(model).items(), start=1):
        if guide.conditional_draws(sites, 1) is not None:
            found = ratios(_Layer(guide, sites), stream).numpy()
            layers[name] = float(smoothed_weights(found)[1])
    return ParetoK(float(k), float(1 / np.exp(2 * weights).sum()), num_samples, layers)


@checked()
def k_threshold(num_samples: int) -> float:
    r"""The largest k-hat to trust, :math:`\min(1 - 1/\log_{10} S, 0.7)` (Vehtari et al. 2024).

    Args:
        num_samples: ``S``.

    Returns:
        The threshold.

    Example:
        >>> k_threshold(100), k_threshold(10_000)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7)


def k_error(k: float, num_samples: int) -> float:
    r"""The asymptotic standard error of a k-hat fitted to the largest ratios of ``S`` draws.

    The maximum likelihood estimate of a generalised Pareto shape :math:`k > -1/2` from ``M``
    exceedances has the standard error :math:`(1 + k) / \sqrt M` (Smith 1987, "Estimating tails of
    probability distributions"). Here ``M`` is :math:`\min(S/5, 3\sqrt S)`, and k-hat the average
    of the estimate, of weight ``M``, and 1/2, of weight 10 (Vehtari et al. 2024).

    Args:
        k: the k-hat.
        num_samples: ``S``.

    Returns:
        The standard error; 0 where all ratios are equal.

    Example:
        >>> round(k_error(0.7, 1000), 2), k_error(-math.inf, 1000)
        (0.16, 0.0)
    """
    if math.isinf(k):
        return 0.0
    tail = math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))
    estimate = max((k * (tail + PRIOR_DRAWS) - PRIOR_DRAWS / 2) / tail, -0.5)
    return tail / (tail + PRIOR_DRAWS) * (1 + estimate) / math.sqrt(tail)


def smoothed_weights(log_ratios: Array, *, reff: float = 1.0) -> tuple[Array, Array]:
    r"""Pareto smoothed weights, by ``arviz.psislw``.

    Args:
        log_ratios: logarithms of importance ratios ``(*batch, S)``, each set up to a constant.
        reff: effective draws of a chain as a share of its draws.

    Returns:
        The logarithms of the normalised weights ``(*batch, S)``, and the k-hats ``(*batch,)``.
        Ratios that are equal have equal weights, and k-hat minus infinity.
    """
    equal = np.ptp(log_ratios, axis=-1) < EQUAL
    with np.errstate(all="ignore"):  # weights that are 0, and ratios that are equal
        weights, k = az.psislw(log_ratios, reff)  # type: ignore[no-untyped-call]
    weights = np.where(equal[..., None], -np.log(log_ratios.shape[-1]), weights)
    return weights, np.where(equal, -np.inf, k)


def layers_of(model: BayesianModel) -> dict[str, list[str]]:
    """The sites of each layer, in the model's order.

    Args:
        model: the model.

    Returns:
        The path of the module that holds a net's parameters (the model's name for the net's own)
        to their names; the likelihood's sites under ``"likelihood"``.
    """
    own = model.likelihood.site_distributions()
    layers: dict[str, list[str]] = {}
    for name in model.sites:
        layer = NOISE if name in own else name.rpartition(".")[0] or model.name
        layers.setdefault(layer, []).append(name)
    return layers


class _Layer(Guide):
    """A guide's conditional of one layer, all others at its centre, as draws and a density.

    The density is the guide's own, that of the conditional up to a constant.
    """

    def __init__(self, guide: Guide, sites: Collection[str]) -> None:
        super().__init__(guide.model)
        self.inner, self.random = guide, frozenset(sites)
        self.name = guide.name  # type: ignore[misc]

    @property
    def constant_sites(self) -> frozenset[str]:
        """The other layers' sites."""
        return frozenset(self.model.sites) - self.random

    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Draws of the conditional."""
        draws = self.inner.conditional_draws(self.random, num_samples, generator=generator)
        return cast("dict[str, Tensor]", draws)

    def log_prob(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Of the joint: up to a constant that of the conditional."""
        return self.inner.log_prob(draws)

    def outputs(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The inner guide's."""
        return self.inner.outputs(params, x)

    def outputs_of_draws(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
        """The inner guide's."""
        return self.inner.outputs_of_draws(params, x)

    def site_distributions(self) -> Sites:
        """The inner guide's: only draws are conditioned."""
        return self.inner.site_distributions()

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The inner guide's."""
        return self.inner.loss(x, y, size=size)
