r"""Logistic regression on two blobs: what a posterior over a straight boundary is worth.

**The prior.** A weight decay :math:`\lambda` on the *summed* negative log likelihood,
:math:`-\sum_n \log p(y_n \mid x_n, w) + \tfrac\lambda2 \|w\|^2`, is the prior
:math:`w \sim \mathcal N(0, \lambda^{-1} I)`; on the *mean* over ``N`` points the same number means
the prior :math:`\mathcal N(0, (N\lambda)^{-1} I)`, ``N`` times as narrow. Here the prior is what is
stated, by its precision, bias included. The default 0.05 is a standard deviation of 4.5; on a mean
loss over 400 points it is a weight decay of 0.05 / 400.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from probml_tp.datasets import blobs
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane import kit, kit_figures, predictive_links
from probml_tp.guides.recipes import Chains, FitSettings, SwagPath, guides_for
from probml_tp.harness.experiment import (
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    option,
)
from probml_tp.inference.parallel import single_thread
from probml_tp.kit import sentences
from probml_tp.kit.common import derived_seed
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.models import logistic_regression
from probml_tp.priors import NormalPrior

NAME = "logistic-regression"
GUIDES = guides_for()
EVIDENCE_COLUMNS = {
    "log_evidence": "Log evidence (nats)",
    "elbo": "ELBO (nats) ↑",
    "elbo_error": "± (nats)",
}


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    n: int = knob("n", 400, minimum=4, remark="Of both blobs together.")
    std: float = option(0.8, "Standard deviation of a blob along each axis.", minimum=0.01)
    test_size: int = knob("test_size", 5_000, quick=1_000, full=10_000)
    prior_precision: float = knob(
        "prior_precision", 0.05, minimum=1e-6, remark="It is a weight decay on the summed loss."
    )
    guides: tuple[str, ...] = knob("guides", GUIDES, choices=GUIDES)
    epochs: int = knob("epochs", 3000, quick=400, full=10_000)
    lr: float = knob("lr", 0.1)
    rank: int = knob("rank", 1, maximum=3)
    swag_lr: float = knob("swag_lr", 100.0)
    swag_batch_size: int = knob("swag_batch_size", 10)
    swag_epochs: int = knob("swag_epochs", 50, quick=20, full=500)
    num_samples: int = knob("num_samples", 400, quick=200, full=4000)
    chains: int = knob("chains", 4, quick=2)
    draws: int = knob("draws", 400, quick=150, full=2000)
    warmup: int = knob("warmup", 200, quick=100, full=1000, minimum=10)
    extent: float = knob("extent", 12.0)
    radius: float = knob("radius", 20.0)
    resolution: int = knob("resolution", 81, quick=41, full=121)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to the blobs and look at it near the data and far away."""
    train = blobs(n=config.n, std=config.std, seed=config.seed, dtype=torch.float64)
    test_seed = derived_seed(config.seed, "test data")
    test = blobs(n=config.test_size, std=config.std, seed=test_seed, dtype=torch.float64)
    plane = kit.Plane((0.0, 0.0), config.extent, config.resolution, config.radius)
    results = Results(
        experiment=NAME,
        title="Logistic regression on two blobs",
        config=config,
        main=kit.plane_table(plane, **EVIDENCE_COLUMNS),
        findings=[],
        data_source=(
            f"{config.n} points in two Gaussian blobs about (2, 2) and (-2, -2), standard "
            f"deviation {config.std:g} (seed {config.seed}); {config.test_size:,} fresh points "
            f"to test on"
        ),
    )
    model = logistic_regression(2, prior=NormalPrior.from_precision(config.prior_precision))
    views = kit.study_on_plane(
        results, model, _settings(config), plane=plane, train=train, test=test, progress=progress
    )
    for guide, view in views.items():
        results.main.put(guide, kit.evidence(view.posterior, train, num_samples=2000))
    if laplace := views.get("laplace"):
        with progress.stage("closed forms of the predictive"), single_thread():
            predictive_links.compare_links(results, laplace.posterior, train, plane=plane)
    results.findings = sentences.tell(FINDINGS, results)
    return results


def _settings(config: Config) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        rounds=10,
        init_scale=0.1,
        rank=config.rank,
        swag=SwagPath.of(config),
        from_mode=("correlated",),
        chains=Chains.of(config, mass_matrix="dense"),
        seed=config.seed,
    )


def _evidence(results: Results[Any]) -> str | None:
    """What Laplace says of the evidence, and whose bound is higher."""
    table = results.main
    if not {"laplace", "mean-field"} <= set(table.rows):
        return None
    bounds, estimate = table.column("elbo"), table["laplace", "log_evidence"]
    gap = estimate - bounds["laplace"]
    tight = gap < 0.5 + 3 * table["laplace", "elbo_error"]
    reading = "the posterior is all but normal" if tight else "its normal misses a skewed posterior"
    higher = sentences.BestWorst(
        "elbo",
        "{best} has the higher ELBO ({value} against {last} nats).",
        rows=sentences.any_of(("laplace", "mean-field")),
        higher=True,
        write="{:.2f}".format,
    )
    return (
        f"Laplace estimates the log evidence as {estimate:.2f} nats, {gap:.2f} nats above its own "
        f"ELBO: {reading}. {higher(results)}"
    )


def _prior(results: Results[Config]) -> str:
    config = results.config
    return (
        f"Prior: standard deviation {config.prior_precision**-0.5:.3g} on weights and bias, which "
        f"is a weight decay of {config.prior_precision:g} on the summed loss and of "
        f"{config.prior_precision / config.n:.3g} on the mean over {config.n} points."
    )


FINDINGS = (
    kit.FAR_AWAY,
    kit.NEAREST,
    _evidence,
    predictive_links.nearest_link,
    sentences.Chains("the parameters"),
    _prior,
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the maps, the confidence away from the data, and the ways to a probability."""
    doubt = kit_figures.spread_over_map(results, "probability", lambda p: (p > 0.1) & (p < 0.9))
    yield kit_figures.map_figure(
        results,
        "probability",
        title=f"The share of the map where confidence is below 90 % runs {doubt}",
        caption=f"{kit_figures.MAP_CAPTION} Averaging over boundaries turns the sharp edge of a "
        "single one into a fan: doubt grows with distance.",
    )
    yield kit_figures.confidence_figure(
        results, "; it dips to 50 % where the ring crosses the boundary."
    )
    if f"ray.{predictive_links.EXACT_LINK}" in results.arrays:
        yield predictive_links.link_figure(results)


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
