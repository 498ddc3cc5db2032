r"""Empirical Bayes: prior precision and noise by the Laplace approximation of the evidence.

.. math:: \log p(y \mid \delta, \sigma) \approx \log p(y \mid \hat u, \sigma)
          + \log p(\hat u \mid \delta) + \tfrac P2\log 2\pi
          - \tfrac12\log|H_\sigma + \mathrm{diag}(\delta)|

(MacKay 1992; Immer et al. 2021, "Scalable marginal likelihood estimation for model selection in
deep learning"). The prior is the model's, so what comes back is a new model with the prior that was
found, and its posterior: the prior of the fit and that of the posterior stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import data_pair
from probml_tp.digest import digest
from probml_tp.fit_info import FitInfo
from probml_tp.guides.curvature import Curvature
from probml_tp.guides.fisher import likelihood_curvature, prior_precision
from probml_tp.guides.in_double import in_double
from probml_tp.guides.laplace import Laplace
from probml_tp.likelihoods import Gaussian
from probml_tp.likelihoods.base import is_exactly
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.priors.normal_sites import LOG_2PI
from probml_tp.streams import Stream, seeded, substream

__all__ = ["Precision", "empirical_model", "maximize_evidence", "require_laplace"]

Precision = Literal["scalar", "layer", "parameter", "fixed"]
"""How many prior precisions are free: one for all, one a tensor, one a number, none."""

MAX_LOG_FACTOR = 25.0


@checked()
def maximize_evidence(
    posterior: Posterior,
    data: tuple[object, object],
    *,
    precision: Precision = "scalar",
    noise: bool = False,
) -> Posterior:
    r"""Find prior precisions and noise by the evidence, after training.

    The parameters stay where they are: the posterior that comes back is centred at the mode under
    the old prior. :func:`fit_evidence` moves both.

    Args:
        posterior: a Laplace posterior; the curvature is computed anew from the data.
        data: inputs and targets it was fitted to.
        precision: ``"scalar"`` multiplies the precisions of all normal priors by one factor,
            ``"layer"`` each parameter tensor's (weight or bias) by its own, ``"parameter"`` gives
            every number its own (automatic relevance determination; not with Kronecker factors),
            ``"fixed"`` leaves them. Priors that are not normal, and sites that are point masses,
            stay as they are.
        noise: whether to find the known noise scale of a Gaussian likelihood too.

    Returns:
        The posterior of the new model, ``result.model``; ``result.info.log_evidence`` has the
        evidence before and after, and ``result.info.options`` what was found, with which
        :meth:`probml_tp.BayesianModel.with_scales` makes the model again.

    Raises:
        ValueError: the posterior is no Laplace posterior, the noise is not known, there is nothing
            to find, or the data do not fit.

    Example:
        >>> from probml_tp import BayesianModel, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(10.0), Gaussian(scale=1.0))
        >>> x = torch.linspace(-1, 1, 50).unsqueeze(-1)
        >>> mode = fit(model, Laplace, (x, 2 * x), optimizer="lbfgs", epochs=5)
        >>> tuned = maximize_evidence(mode, (x, 2 * x), precision="layer")
        >>> round(float(tuned.model.sites["weight"].scale), 1)
        2.0
    """
    guide = require_laplace(posterior.guide)
    start = time.perf_counter()
    x, y = guide.model.check_data(*data_pair("data", data))
    with seeded(substream(posterior.seed, Stream.HYPERPARAMETERS), guide.model.device):
        model, found = empirical_model(guide, x, y, precision=precision, noise=noise)
        tuned = type(guide)(model, **guide.options())
        tuned.loc.data = guide.loc.detach().clone()
        tuned.take_curvature(x, y)
    before = found.pop("log_evidence_before")
    info = FitInfo(
        options={"precision": precision, "noise": noise, **found},
        seconds=time.perf_counter() - start,
        log_evidence=[before, tuned.log_evidence()],
        data=digest([x, y]),
    )
    info.convergence = tuned.convergence(x, y)
    info.begin_from(posterior.info)
    return Posterior(tuned, seed=posterior.seed, info=info)


@dataclass(frozen=True)
class _Evidence:
    """The evidence as a function of log factors of the precisions and the log noise ratio.

    Args:
        curvatures: of the log likelihood, one a factor, at the noise of the model.
        places: the parameters of each factor.
        base: the precision of the prior as it is, ``(P,)``.
        group: for each parameter the index of its log factor; -1 for none.
        squares: squared distances of the parameters from the means of their priors, ``(P,)``.
        residual: the sum of the squared residuals over the squared noise scale.
        targets: the number of target values.
        offset: log likelihood and log prior as they are.
    """

    curvatures: Sequence[Curvature]
    places: Sequence[Tensor]
    base: Tensor
    group: Tensor
    squares: Tensor
    residual: float
    targets: int
    offset: float

    def log_factor(self, log_factors: Tensor) -> Tensor:
        """The log factor of each parameter's precision, ``(P,)``; 0 where there is none."""
        bounded = log_factors.clamp(-MAX_LOG_FACTOR, MAX_LOG_FACTOR)
        return torch.cat([bounded, bounded.new_zeros(1)])[self.group]

    def __call__(self, log_factors: Tensor, log_noise: Tensor) -> Tensor:
        """The log evidence in nats."""
        log_factor = self.log_factor(log_factors)
        prior = self.base * log_factor.exp()
        change = 0.5 * (log_factor - (prior - self.base) * self.squares).sum()
        scale = (-2 * log_noise).exp()
        fit_change = -0.5 * self.residual * (scale - 1) - self.targets * log_noise
        log_dets = [
            curvature.times(scale).log_det(prior[place])
            for curvature, place in zip(self.curvatures, self.places, strict=True)
        ]
        size = sum(len(place) for place in self.places)
        volume = 0.5 * (size * LOG_2PI - torch.stack(log_dets).sum())
        return self.offset + change + fit_change + volume


def require_laplace(guide: object) -> Laplace:
    """Return the guide if it is a Laplace guide.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(guide, Laplace):
        raise ValueError(
            f"the evidence is that of a Laplace guide; got {getattr(guide, 'name', guide)}. Fit "
            f"Laplace, around a mode by init=posterior, epochs=0."
        )
    return guide


def empirical_model(
    guide: Laplace, x: Tensor, y: Tensor, *, precision: Precision, noise: bool
) -> tuple[BayesianModel, dict[str, Any]]:
    """The model with the prior precisions and the noise of largest evidence.

    Args:
        guide: where the parameters are, and the structure of the curvature.
        x: inputs, checked.
        y: targets, checked.
        precision: see :func:`maximize_evidence`.
        noise: likewise.

    Returns:
        The model, and in plain types what was found: ``log_evidence_before``, ``noise_scale`` if it
        was free, and by site the factors of the prior ``scales`` unless each number has its own.

    Raises:
        ValueError: an option does not apply, or nothing is free.
    """
    model = guide.model
    names = _tunable(guide, precision, noise)
    evidence, groups = _evidence(guide, x, y, precision, names, noise)
    like = evidence.base
    log_factors = like.new_zeros(groups).requires_grad_()
    log_noise = like.new_zeros(()).requires_grad_(noise)
    with torch.no_grad():
        found: dict[str, Any] = {"log_evidence_before": float(evidence(log_factors, log_noise))}
    _ascend(
        lambda: evidence(log_factors, log_noise),
        [free for free in (log_factors, log_noise) if free.requires_grad and free.numel()],
    )
    factors = (-0.5 * evidence.log_factor(log_factors.detach())).exp()
    scales: dict[str, Tensor] = {}
    for name, factor in model.layout.unravel(factors).items():
        if name in names and precision != "fixed":
            old: Tensor = model.sites[name].scale  # type: ignore[assignment]
            one = factor if precision == "parameter" else factor.flatten()[0]
            scales[name] = old * one.to(old)
    if precision in ("scalar", "layer"):
        found["scale_factors"] = {n: float(factors[model.layout.slices[n]][0]) for n in scales}
    if noise:
        found["noise_scale"] = float(_noise_scale(model)) * float(log_noise.detach().exp())
    return model.with_scales(scales, noise_scale=found.get("noise_scale")), found


def _tunable(guide: Laplace, precision: Precision, noise: bool) -> list[str]:
    """The sites whose prior may change."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {get_args(Precision)}; got {precision!r}.")
    if noise:
        _noise_scale(guide.model)
    if noise and guide.curvature == "empirical-fisher":
        raise ValueError(
            "the noise cannot be found with the empirical Fisher, which scales with its fourth "
            "power. Use curvature='ggn'."
        )
    if conditional := guide.model.conditional_sites:
        raise ValueError(
            f"the evidence is maximised for independent priors; that of {conditional[0]!r} is "
            f"{guide.model.sites[conditional[0]].describe()}: its scale is inferred already. "
            f"Sample the posterior, by sample_nuts() for example."
        )
    own = guide.model.likelihood.site_distributions()
    names = [n for n in guide.random_sites if guide.model.sites[n].is_normal and n not in own]
    if not noise and (precision == "fixed" or not names):
        raise ValueError(
            "there is nothing to find: no prior of a random site is normal and free, and the noise "
            "is fixed. Pass noise=True, or another precision."
        )
    return names


def _ascend(function: Callable[[], Tensor], free: list[Tensor]) -> None:
    """Maximise by L-BFGS with a strong Wolfe line search, in float64."""
    optimizer = torch.optim.LBFGS(
        free, max_iter=200, tolerance_grad=1e-7, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -function()
        loss.backward()
        return loss

    optimizer.step(closure)


def _noise_scale(model: BayesianModel) -> Tensor:
    likelihood = model.likelihood
    if not is_exactly(likelihood, Gaussian) or likelihood.noise_prior is not None:
        raise ValueError(
            f"noise=True needs a Gaussian likelihood of known noise; got {likelihood.describe()}. "
            f"Leave noise out, or use Gaussian(scale=<number>)."
        )
    return likelihood.scale


def _evidence(
    guide: Laplace, x: Tensor, y: Tensor, precision: Precision, names: Sequence[str], noise: bool
) -> tuple[_Evidence, int]:
    """The evidence of a guide at its centre, and the number of free factors."""
    model, flat = guide.model, guide.loc.detach()
    curvatures = likelihood_curvature(
        model, flat, x, y, factors=guide.factor_list, kind=guide.curvature
    )
    residual, targets = 0.0, y.numel()
    with torch.no_grad():
        if noise:
            double = in_double(model, x)
            params = double.constrain(double.layout.unravel(flat.to(double.dtype)))
            outputs = torch.cat([double.outputs(params, part) for part in x.split(1000)])
            scaled = (outputs.double().reshape(y.shape) - y) / _noise_scale(double)
            residual = float(scaled.square().sum())
        offset = float(guide.log_likelihood(x, y) + guide.log_prior())
    group, groups = _groups(model, precision, names)
    squares = torch.zeros_like(flat, dtype=torch.float64)
    normal = model.normal_sites
    squares[normal.index] = (flat[normal.index].double() - normal.loc).square()
    evidence = _Evidence(
        curvatures,
        [factor.index for factor in guide.factor_list],
        prior_precision(model, flat),
        group,
        squares,
        residual,
        targets if noise else 0,
        offset,
    )
    return evidence, groups


def _groups(model: BayesianModel, precision: Precision, names: Sequence[str]) -> tuple[Tensor, int]:
    """For each parameter the index of its log factor (-1: none), and how many there are."""
    group = torch.full((model.num_params,), -1, device=model.device)
    if precision == "fixed":
        return group, 0
    count = 0
    for number, name in enumerate(names):
        place = model.layout.slices[name]
        size = place.stop - place.start
        if precision == "parameter":
            group[place] = torch.arange(count, count + size, device=model.device)
            count += size
        else:
            group[place] = 0 if precision == "scalar" else number
    counts = {"scalar": 1, "layer": len(names), "parameter": count}
    return group, counts[precision]
