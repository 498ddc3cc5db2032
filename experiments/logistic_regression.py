r"""Logistic regression on two blobs: what a posterior over a straight boundary is worth.

**The prior.** A weight decay :math:`\lambda` on the *summed* negative log likelihood,
:math:`-\sum_n \log p(y_n \mid x_n, w) + \tfrac\lambda2 \|w\|^2`, is the prior
:math:`w \sim \mathcal N(0, \lambda^{-1} I)`; on the *mean* over ``N`` points the same number means
the prior :math:`\mathcal N(0, (N\lambda)^{-1} I)`, ``N`` times as narrow. Here the prior is what is
stated, by its precision, bias included. The default 0.05 is a standard deviation of 4.5; on a mean
loss over 400 points it is a weight decay of 0.05 / 400.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from probml_tp.datasets import blobs
from probml_tp.diagnostics import elbo, to_inference_data
from probml_tp.experiment import (
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    Update,
    option,
)
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import (
    CLASSIFICATION_COLUMNS,
    Array,
    ChainHealth,
    Plane,
    PlaneView,
    by_guide,
    chain_health,
    derived_seed,
    labels_of,
    look_at_plane,
)
from probml_tp.guides import Delta, Laplace, MeanFieldNormal
from probml_tp.inference import fit, sample_nuts
from probml_tp.metrics import classification_metrics
from probml_tp.model import BayesianModel
from probml_tp.models import logistic_regression
from probml_tp.plots.classification import (
    confidence_panels,
    map_panels,
    plot_boundary,
    plot_labelled_points,
    plot_probability,
)
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EXPERIMENT", "Config", "figures", "run", "stages"]

NAME = "logistic-regression"
GUIDES = ("map", "laplace", "mean-field", "nuts")
REFERENCE = "nuts"
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    n: int = option(400, "Number of training points, both blobs together.", minimum=4)
    std: float = option(0.8, "Standard deviation of a blob along each axis.", minimum=0.01)
    test_size: int = option(10_000, "Number of fresh test points.", quick=2_000, minimum=1)
    prior_precision: float = option(
        0.05,
        "Precision of the normal prior on weights and bias; weight decay on the summed loss.",
        minimum=1e-6,
    )
    guides: tuple[str, ...] = option(GUIDES, "Which posteriors to compare.", choices=GUIDES)
    epochs: int = option(
        3000, "Steps of the mean-field fit, on all data.", quick=1000, full=10_000, minimum=1
    )
    num_samples: int = option(400, "Draws for each prediction.", quick=200, full=4000, minimum=2)
    nuts_chains: int = option(4, "NUTS chains.", quick=2, minimum=2)
    nuts_samples: int = option(500, "Draws kept of each chain.", quick=150, full=2000, minimum=10)
    nuts_warmup: int = option(300, "Warm-up steps of each chain.", quick=100, full=1000, minimum=10)
    extent: float = option(12.0, "Half the width of the maps, in units of the data.", minimum=1.0)
    radius: float = option(20.0, "Radius of the far ring, in units of the data.", minimum=1.0)
    resolution: int = option(121, "Grid points along each axis of a map.", quick=61, minimum=2)


def stages(config: Config) -> dict[str, float]:
    """Seconds expected of each stage on 2 cores."""
    steps = config.nuts_samples + config.nuts_warmup
    seconds = {
        "map": 0.5,
        "laplace": 0.2,
        "mean-field": 4e-4 * config.epochs,
        "nuts": 2.0 + 3e-3 * steps * config.nuts_chains,
    }
    fits = {f"fit {guide}": seconds[guide] for guide in config.guides}
    return {**fits, "predict": 2.0, "records for ArviZ": 1.0}


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to the blobs and look at it near the data and far away."""
    data = blobs(n=config.n, std=config.std, seed=config.seed, dtype=torch.float64)
    model = logistic_regression(2, prior=NormalPrior.from_precision(config.prior_precision))
    posteriors = {}
    for guide in config.guides:
        with progress.stage(f"fit {guide}") as update:
            posteriors[guide] = _fit(guide, model, data, config, update)
    plane = _plane(config)
    with progress.stage("predict"):
        views = {
            guide: look_at_plane(posterior, plane, num_samples=config.num_samples)
            for guide, posterior in posteriors.items()
        }
        metrics = _metrics(config, posteriors, views, data)
    with progress.stage("records for ArviZ"):
        records = {
            guide: to_inference_data(posterior, *data, num_samples=config.num_samples)
            for guide, posterior in posteriors.items()
        }
    arrays = {"x": data[0].numpy(), "y": data[1].numpy(), **plane.arrays()}
    for guide, view in views.items():
        arrays |= view.arrays(guide)
    health = chain_health(records[REFERENCE]) if REFERENCE in records else None
    return Results(
        experiment=NAME,
        title="Logistic regression on two blobs",
        config=config,
        metrics=metrics,
        columns=_columns(config),
        findings=_findings(config, metrics, health),
        data_source=(
            f"{config.n} points in two Gaussian blobs about (2, 2) and (-2, -2), standard "
            f"deviation {config.std:g} (seed {config.seed}); {config.test_size:,} fresh points "
            f"to test on"
        ),
        arrays=arrays,
        posteriors=dict(posteriors),
        inference_data=dict(records),
    )


def _fit(guide: str, model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
    """MAP and Laplace by L-BFGS to the mode, mean-field by Adam, NUTS by chains."""
    if guide == "nuts":
        return sample_nuts(
            model,
            data,
            chains=config.nuts_chains,
            num_samples=config.nuts_samples,
            warmup=config.nuts_warmup,
            dense_mass=True,
            seed=config.seed,
            progress=update,
        )
    if guide == "mean-field":
        return fit(
            model,
            MeanFieldNormal,
            data,
            epochs=config.epochs,
            lr=0.02,
            schedule="cosine",
            seed=config.seed,
            progress=update,
        )
    kind = {"map": Delta, "laplace": Laplace}[guide]
    return fit(model, kind, data, epochs=10, optimizer="lbfgs", seed=config.seed, progress=update)


def _plane(config: Config) -> Plane:
    e = config.extent
    return Plane(
        extent=(-e, e, -e, e),
        resolution=config.resolution,
        centre=(0.0, 0.0),
        radius=config.radius,
    )


def _metrics(
    config: Config, posteriors: Mapping[str, Posterior], views: Mapping[str, PlaneView], data: Data
) -> dict[str, dict[str, float]]:
    seed = derived_seed(config.seed, "test data")
    test = blobs(n=config.test_size, std=config.std, seed=seed, dtype=torch.float64)
    rows = {}
    for guide, posterior in posteriors.items():
        row = classification_metrics(posterior, *test, num_samples=config.num_samples)
        row["confidence_far_away"] = views[guide].confidence_far_away
        if REFERENCE in views:
            row["tv"] = views[guide].distance(views[REFERENCE])
        row |= _evidence(posterior, data)
        rows[guide] = row | {"seconds": posterior.info.seconds}
    return rows


def _evidence(posterior: Posterior, data: Data) -> dict[str, float]:
    """The evidence as far as a guide knows it: Laplace's estimate, and the ELBO as a bound."""
    guide = posterior.guide
    if guide.no_density:
        return {}
    bound = elbo(posterior, *data, num_samples=2000)
    row = {"elbo": bound.value, "elbo_error": bound.standard_error}
    if isinstance(guide, Laplace):
        row["log_evidence"] = guide.log_evidence()
    return row


def _columns(config: Config) -> dict[str, str]:
    return {
        **CLASSIFICATION_COLUMNS,
        "confidence_far_away": f"Mean confidence at distance {config.radius:g}",
        "tv": "Total variation to NUTS ↓",
        "log_evidence": "Log evidence, estimate (nats)",
        "elbo": "ELBO (nats) ↑",
        "elbo_error": "Standard error of the ELBO (nats)",
        "seconds": "Fit (s) ↓",
    }


def _findings(
    config: Config, metrics: Mapping[str, Mapping[str, float]], health: ChainHealth | None
) -> list[str]:
    found = [_far_away(config, metrics)]
    others = {g: row["tv"] for g, row in metrics.items() if "tv" in row and g != REFERENCE}
    if others:
        near, far = min(others, key=others.__getitem__), max(others, key=others.__getitem__)
        found.append(
            f"Over the map {labels_of([near])} predicts most like NUTS (mean total variation "
            f"{others[near]:.3f}), {labels_of([far])} least ({others[far]:.3f})."
        )
    if {"laplace", "mean-field"} <= set(metrics):
        found.append(_evidence_sentence(metrics["laplace"], metrics["mean-field"]))
    if health is not None:
        found.append(health.sentence("the parameters"))
    found.append(
        f"Prior: standard deviation {config.prior_precision**-0.5:.3g} on weights and bias, which "
        f"is a weight decay of {config.prior_precision:g} on the summed loss and of "
        f"{config.prior_precision / config.n:.3g} on the mean over {config.n} points."
    )
    return found


def _far_away(config: Config, metrics: Mapping[str, Mapping[str, float]]) -> str:
    confidence = {guide: row["confidence_far_away"] for guide, row in metrics.items()}
    ranked = sorted(confidence, key=confidence.__getitem__, reverse=True)
    values = ", ".join(f"{labels_of([guide])} {confidence[guide]:.1%}" for guide in ranked)
    return f"Mean confidence at distance {config.radius:g} from the centre of the data: {values}."


def _evidence_sentence(laplace: Mapping[str, float], mean_field: Mapping[str, float]) -> str:
    gap = laplace["log_evidence"] - laplace["elbo"]
    better = "below" if laplace["elbo"] < mean_field["elbo"] else "above"
    return (
        f"Laplace puts the log evidence at {laplace['log_evidence']:.1f} nats, {gap:.1f} nats above "
        f"its own ELBO of {laplace['elbo']:.1f}: so far is its normal from the skewed posterior. "
        f"That ELBO is {better} mean-field's, {mean_field['elbo']:.1f}."
    )


# --------------------------------------------------------------------------------------- figures


def figures(results: Results[Config]) -> Iterator[Figure]:
    """Draw the maps, and the confidence away from the data."""
    yield _maps(results)
    yield _confidence(results)


def _maps(results: Results[Config]) -> Figure:
    arrays = results.arrays
    maps = by_guide(arrays, results.config.guides, "probability")

    def decorate(guide: str, ax: Axes) -> None:
        plot_labelled_points(arrays["x"], arrays["y"], ax=ax)
        plot_boundary(maps[guide], extent=arrays["extent"], ax=ax)

    made = map_panels(
        maps,
        extent=arrays["extent"],
        plot=plot_probability,
        label="Probability of class 1",
        decorate=decorate,
    )
    caption = (
        "Probability of class 1 (red) over a range three times as wide as the data; the black line "
        "is the decision boundary. Averaging over boundaries turns the sharp edge of a single one "
        "into a fan: doubt grows with distance."
    )
    return Figure("probability-maps", _maps_title(maps), caption, made)


def _maps_title(maps: Mapping[str, Array]) -> str:
    doubt = {guide: float(np.mean((p > 0.1) & (p < 0.9))) for guide, p in maps.items()}
    shares = [f"{labels_of([guide])} on {doubt[guide]:.0%}" for guide in maps]
    return f"Where confidence is below 90 %: {', '.join(shares)} of the map"


def _confidence(results: Results[Config]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    made = confidence_panels(
        by_guide(arrays, guides, "confidence_by_radius"),
        by_guide(arrays, guides, "confidence_by_angle"),
        radii=arrays["radii"],
        angles=arrays["angles"],
        data_radius=float(np.linalg.norm(arrays["x"], axis=1).max()),
    )
    caption = (
        "Left: the probability of the predicted class, averaged over a ring about the centre of "
        "the data; grey marks how far the data reach. Right: the same on the largest ring, by "
        "direction; it dips to 50 % where the ring crosses the boundary."
    )
    title = _far_away(results.config, results.metrics)
    return Figure("confidence-far-away", title, caption, made)


EXPERIMENT = Experiment(
    name=NAME,
    summary=EXPERIMENTS.summary(NAME),
    config=Config,
    stages=stages,
    run=run,
    figures=figures,
)
