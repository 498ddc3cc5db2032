"""The ArviZ record of a posterior.

Written by ourselves: Pyro's helpers reshape draws without regard to event dimensions, which for
as many draws as data points gives wrong log likelihoods without an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.digest import digest
from probml_tp.empirical import Empirical
from probml_tp.environment import package_versions
from probml_tp.guide import Guide, check_num_samples
from probml_tp.model import BayesianModel
from probml_tp.predictions.draws import draw_batches
from probml_tp.quiet_arviz import az
from probml_tp.streams import Stream, seeded, substream

if TYPE_CHECKING:
    from probml_tp.posterior import Posterior

__all__ = ["InOrder", "check_sites", "to_inference_data"]

MAX_POSTERIOR_ELEMENTS = 50_000_000


@checked(sites=None)
def to_inference_data(
    posterior: Posterior,
    x: object,
    y: object,
    *,
    num_samples: int = 1000,
    sites: Sequence[str] | None = None,
    seed: int | None = None,
) -> az.InferenceData:
    r"""Turn a posterior into ``arviz.InferenceData``.

    Groups: ``posterior`` (one variable a site, dimensions named after the site), ``sample_stats``
    (``lp``, the log joint, and ``log_q`` where the guide has a density; NUTS adds ``energy``,
    ``diverging``, ``tree_depth``, ``reached_max_treedepth``, ``n_steps``, ``step_size`` and
    ``acceptance_rate``), ``posterior_predictive``, ``log_likelihood``,
    ``observed_data`` (all ``y`` over ``observation``) and ``constant_data`` (``x``). Attributes
    give model, guide, seed and versions, and ``training_data``: 1 if ``x`` and ``y`` are what the
    posterior was fitted to; where it is known whether the fit has settled also ``converged``, 1 or
    0, and ``convergence_measure``, ``_value``, ``_limit`` and ``_remedy``. A chain's draws keep
    their chains and order; other guides give independent draws as one chain. For the linearised
    Laplace guide ``lp``, ``log_likelihood`` and ``posterior_predictive`` are those of the
    linearised model.

    Args:
        posterior: the posterior.
        x: inputs.
        y: targets.
        num_samples: independent draws, ``S``; for NUTS all stored draws are taken.
        sites: which sites go into ``posterior``; default all. Nets have many weights: choose the
            sites you look at, or fewer draws. The other groups do not depend on the choice.
        seed: determines the draws; default: the posterior's.

    Returns:
        The record: ``az.summary``, ``az.loo``, ``az.compare``, ``az.plot_ppc`` and
        ``to_netcdf`` work on it.

    Raises:
        ValueError: the data do not fit the model, a site is unknown, or the chosen sites make
            more than 50 million numbers.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, MeanFieldNormal, NormalPrior, Posterior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> record = to_inference_data(
        ...     Posterior(MeanFieldNormal(model)), torch.zeros(5, 1), torch.zeros(5), num_samples=9
        ... )
        >>> dict(record.log_likelihood.sizes)
        {'chain': 1, 'draw': 9, 'observation': 5}
    """
    guide, model = posterior.guide, posterior.model
    inputs, targets = model.check_data(x, y)
    chosen = check_sites(model, sites)
    check_num_samples(num_samples)
    if isinstance(guide, Empirical):
        chains, num_samples = guide.flat.shape[0], guide.flat.shape[0] * guide.flat.shape[1]
        source: Guide = InOrder(guide)
    else:
        chains, source = 1, guide
    seed = posterior.seed if seed is None else seed
    _check_size(model, chosen, num_samples)
    collected = _collect(source, inputs, targets, num_samples, seed, chosen)
    shape = (chains, num_samples // chains)
    return az.InferenceData(
        attrs=_attributes(posterior, seed) | _data_attribute(posterior, inputs, targets),
        posterior=_posterior_group(model, collected.pop("draws"), shape),
        sample_stats=_stats_group(posterior, collected.pop("stats"), shape),
        posterior_predictive=_observation_group(collected["predictive"], shape),
        log_likelihood=_observation_group(collected["log_likelihood"], shape),
        observed_data=_observation_group(targets, ()),
        constant_data=_constant_group(inputs),
    )


class InOrder(Guide):
    """An empirical distribution that gives its draws in order, chain after chain."""

    def __init__(self, guide: Empirical) -> None:
        super().__init__(guide.model)
        self.inner, self._next = guide, 0

    no_density = Empirical.no_density
    draws_are_stored = True

    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The next stored draws."""
        pool = self.inner.flat.flatten(0, 1)[self._next : self._next + num_samples]
        self._next += num_samples
        return self.model.layout.unravel(pool)

    site_distributions = Empirical.site_distributions
    log_prob = Empirical.log_prob
    loss = Empirical.loss


def _collect(
    guide: Guide, x: Tensor, y: Tensor, num_samples: int, seed: int, sites: Sequence[str]
) -> dict[str, Any]:
    """One pass over draws and points: draws, densities, log likelihoods, replicated targets."""
    model, likelihood = guide.model, guide.model.likelihood
    log_likelihood = torch.zeros(num_samples, len(x), dtype=torch.float64)
    predictive = torch.zeros(num_samples, *y.shape, dtype=y.dtype)
    draws: dict[str, list[Tensor]] = {name: [] for name in sites}
    stats: dict[str, list[Tensor]] = {"lp": []}
    if not guide.no_density:
        stats["log_q"] = []
    with torch.no_grad(), seeded(substream(seed, Stream.REPLICATES), x.device):
        for batch in draw_batches(guide, x, num_samples=num_samples, seed=seed):
            params, targets = batch.params, y[batch.points]
            if batch.points.start == 0:
                for name in sites:
                    draws[name].append(params[name].cpu())
                stats["lp"].append(model.log_prior(params))
                if "log_q" in stats:
                    stats["log_q"].append(guide.log_prob(params))
            log_likelihood[batch.draws, batch.points] = (
                likelihood.log_prob(batch.outputs, targets, params).double().cpu()
            )
            replicated = likelihood.distribution(batch.outputs, params).sample()
            predictive[batch.draws, batch.points] = replicated.to(y.dtype).cpu()
    joined = {name: torch.cat(parts).double().cpu() for name, parts in stats.items()}
    joined["lp"] = joined["lp"] + log_likelihood.sum(1)
    return {
        "draws": {name: torch.cat(parts) for name, parts in draws.items()},
        "stats": joined,
        "log_likelihood": log_likelihood,
        "predictive": predictive,
    }


def _posterior_group(
    model: BayesianModel, draws: Mapping[str, Tensor], shape: tuple[int, int]
) -> xr.Dataset:
    variables = {}
    for name, values in draws.items():
        dims = ["chain", "draw", *_site_dims(name, values.ndim - 1)]
        variables[name] = (dims, _array(values.reshape(*shape, *values.shape[1:])))
    return _dataset(variables, shape)


def _site_dims(name: str, ndim: int) -> list[str]:
    """Names of a site's own dimensions; weights follow torch's (out, in, kernel) order."""
    known = {1: ["out"], 2: ["out", "in"], 4: ["out", "in", "height", "width"]}
    labels = known.get(ndim, [f"dim{i}" for i in range(ndim)])
    return [f"{name}_{label}" for label in labels]


def _stats_group(
    posterior: Posterior, stats: Mapping[str, Tensor], shape: tuple[int, int]
) -> xr.Dataset:
    variables = {n: (["chain", "draw"], v.reshape(shape).numpy()) for n, v in stats.items()}
    sampler = posterior.info.sampler
    if isinstance(posterior.guide, Empirical) and sampler:
        for name in sorted(sampler.keys() - {"lp"}):
            by_draw = np.asarray(sampler[name])
            if by_draw.ndim == 1:  # one for each chain
                by_draw = np.repeat(by_draw[:, None], shape[1], axis=1)
            variables[name] = (["chain", "draw"], by_draw)
    return _dataset(variables, shape)


def _observation_group(values: Tensor, shape: tuple[int, ...]) -> xr.Dataset:
    """The variable ``y`` over ``observation`` (and ``target``), after chains and draws if any."""
    sample_dims = ["chain", "draw"][: len(shape)]
    own = values.shape[1:] if shape else values.shape
    dims = [*sample_dims, *["observation", "target"][: len(own)]]
    return _dataset({"y": (dims, _array(values.reshape(*shape, *own)))}, shape)


def _constant_group(x: Tensor) -> xr.Dataset:
    feature_dims = {2: ["feature"], 4: ["channel", "height", "width"]}
    own = feature_dims.get(x.ndim, [f"x_dim{i}" for i in range(x.ndim - 1)])
    return _dataset({"x": (["observation", *own], _array(x))}, ())


def _array(values: Tensor) -> np.ndarray:
    """As NumPy has it, which knows no bfloat16, nor sums of float16 beyond 65,504."""
    if values.dtype in (torch.bfloat16, torch.float16):
        values = values.float()
    return values.cpu().numpy()


def _dataset(
    variables: Mapping[str, tuple[list[str], np.ndarray]], shape: tuple[int, ...]
) -> xr.Dataset:
    sizes = {d: s for dims, v in variables.values() for d, s in zip(dims, v.shape, strict=True)}
    return xr.Dataset(dict(variables), coords={d: np.arange(s) for d, s in sizes.items()})


def _attributes(posterior: Posterior, seed: int) -> dict[str, Any]:
    return {
        "model": posterior.model.name,
        "model_spec": json.dumps(posterior.model.spec()),
        "guide": posterior.name,
        "guide_options": json.dumps(posterior.guide.options()),
        "likelihood": posterior.model.likelihood.describe(),
        "seed": seed,
        "fit_seconds": posterior.info.seconds,
        "inference_library": "probml_tp",
        "inference_library_version": package_versions()["probml_tp"],
        "versions": json.dumps(package_versions()),
    } | _convergence_attributes(posterior)


def _convergence_attributes(posterior: Posterior) -> dict[str, Any]:
    """Whether it has settled, and by what figure; nothing where there is nothing to tell."""
    found = posterior.info.convergence
    if found is None:
        return {}
    own = {f"convergence_{name}": value for name, value in asdict(found).items()}
    return own | {"converged": int(found.converged)}


def _data_attribute(posterior: Posterior, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Whether these are the data that the posterior is given: only then is ``lp`` its density."""
    return {"training_data": int(posterior.info.data == digest([x, y]))}


def check_sites(model: BayesianModel, sites: Sequence[str] | None) -> list[str]:
    """Return the sites asked for, all by default.

    Raises:
        ValueError: one of them is not the model's.
    """
    if sites is None:
        return list(model.sites)
    is_row = isinstance(sites, Iterable) and not isinstance(sites, str)
    if not is_row or not set(sites) <= set(model.sites):
        raise ValueError(
            f"sites must be a sequence of the model's site names; got {sites!r}. "
            f"They are {', '.join(model.sites)}."
        )
    return list(sites)


def _check_size(model: BayesianModel, sites: Sequence[str], num_samples: int) -> None:
    size = num_samples * sum(model.layout.shapes[name].numel() for name in sites)
    if size > MAX_POSTERIOR_ELEMENTS:
        raise ValueError(
            f"the posterior group may hold at most {MAX_POSTERIOR_ELEMENTS:,} numbers; "
            f"{num_samples} draws of {len(sites)} sites make {size:,}. Pass fewer draws with "
            f"num_samples, or choose sites."
        )
