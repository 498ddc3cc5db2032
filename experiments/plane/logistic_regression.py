r"""Logistic regression on two blobs: what a posterior over a straight boundary is worth.

**The prior.** A weight decay :math:`\lambda` on the *summed* negative log likelihood,
:math:`-\sum_n \log p(y_n \mid x_n, w) + \tfrac\lambda2 \|w\|^2`, is the prior
:math:`w \sim \mathcal N(0, \lambda^{-1} I)`; on the *mean* over ``N`` points the same number means
the prior :math:`\mathcal N(0, (N\lambda)^{-1} I)`, ``N`` times as narrow. Here the prior is what is
stated, by its precision, bias included. The default 0.05 is a standard deviation of 4.5; on a mean
loss over 400 points it is a weight decay of 0.05 / 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probml_tp.datasets import blobs
from probml_tp.diagnostics import elbo
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane.kit import (
    REFERENCE,
    Plane,
    PlaneStudy,
    closest_to_reference,
    far_away,
    plane_columns,
    study_on_plane,
)
from probml_tp.experiments.plane.logistic_regression_figures import figures
from probml_tp.experiments.plane.predictive_links import LinkStudy, compare_links, link_sentence
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.guides.recipes import FitSettings, SwagPath, fit_one
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    ExperimentConfig,
    Progress,
    Results,
    Table,
    Update,
    option,
)
from probml_tp.inference import sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import (
    FIT_COLUMN,
    chain_health,
    derived_seed,
)
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.model import BayesianModel
from probml_tp.models import logistic_regression
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

NAME = "logistic-regression"
GUIDES = (
    "map",
    "laplace",
    "laplace-diagonal",
    "mean-field",
    "low-rank-normal",
    "swag",
    "nuts",
)
MODE_ROUNDS = 10
LINK_STAGE = "closed forms of the predictive"
EVIDENCE_COLUMNS = {
    "log_evidence": "Log evidence (nats)",
    "elbo": "ELBO (nats) ↑",
    "elbo_error": "± (nats)",
}
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
        3000, "Steps of the variational fits, on all data.", quick=1000, full=10_000, minimum=1
    )
    lr: float = option(
        0.1, "Initial learning rate of the variational fits (Adam, cosine schedule).", minimum=1e-5
    )
    rank: int = option(1, "Columns of the low-rank normal's factor.", minimum=0, maximum=3)
    swag_lr: float = option(
        100.0, "Learning rate of SWAG's gradient descent, on the mean loss.", minimum=1e-6
    )
    swag_batch: int = option(10, "Points a step of SWAG, fewer than all.", minimum=1)
    swag_epochs: int = option(50, "Passes over the data of SWAG.", quick=20, full=500, minimum=2)
    num_samples: int = option(400, "Draws for each prediction.", quick=200, full=4000, minimum=2)
    nuts_chains: int = option(4, "NUTS chains.", quick=2, minimum=2)
    nuts_samples: int = option(400, "Draws kept of each chain.", quick=150, full=2000, minimum=10)
    nuts_warmup: int = option(200, "Warm-up steps of each chain.", quick=100, full=1000, minimum=10)
    extent: float = option(12.0, "Half the width of the maps, in units of the data.", minimum=1.0)
    radius: float = option(20.0, "Radius of the far ring, in units of the data.", minimum=1.0)
    resolution: int = option(121, "Grid points along each axis of a map.", quick=61, minimum=2)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to the blobs and look at it near the data and far away."""
    train = blobs(n=config.n, std=config.std, seed=config.seed, dtype=torch.float64)
    test_seed = derived_seed(config.seed, "test data")
    test = blobs(n=config.test_size, std=config.std, seed=test_seed, dtype=torch.float64)
    model = logistic_regression(2, prior=NormalPrior.from_precision(config.prior_precision))
    plane = _plane(config)
    study = study_on_plane(
        config.guides,
        lambda guide, done, update: _fit(guide, model, train, config, done, update),
        recipes=_recipes(config),
        plane=plane,
        train=train,
        test=test,
        num_samples=config.num_samples,
        progress=progress,
    )
    for guide, posterior in study.posteriors.items():
        study.metrics[guide] |= _evidence(posterior, train)
    links = None
    if "laplace" in config.guides:
        with progress.stage(LINK_STAGE), single_thread():
            links = compare_links(
                study.posteriors["laplace"], train, plane=plane, num_samples=config.num_samples
            )
    return Results(
        experiment=NAME,
        title="Logistic regression on two blobs",
        config=config,
        main=Table(
            MAIN_TABLE,
            "Posterior",
            study.metrics,
            {**plane_columns(plane), **EVIDENCE_COLUMNS, **FIT_COLUMN},
        ),
        findings=_findings(config, study, links),
        data_source=(
            f"{config.n} points in two Gaussian blobs about (2, 2) and (-2, -2), standard "
            f"deviation {config.std:g} (seed {config.seed}); {config.test_size:,} fresh points "
            f"to test on"
        ),
        arrays=study.arrays | (links.arrays if links else {}),
        tables=[links.table] if links else [],
        posteriors=dict(study.posteriors),
        inference_data=dict(study.records),
    )


def _recipes(config: Config) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        rounds=MODE_ROUNDS,
        init_scale=0.1,
        rank=config.rank,
        swag=SwagPath(lr=config.swag_lr, epochs=config.swag_epochs, batch_size=config.swag_batch),
        from_mode=("low-rank-normal",),
        seed=config.seed,
    )


def _fit(
    guide: str,
    model: BayesianModel,
    data: Data,
    config: Config,
    done: Mapping[str, Posterior],
    update: Update,
) -> Posterior:
    """NUTS by chains, the others by their recipes."""
    if guide == "nuts":
        return sample_nuts(
            model,
            data,
            chains=config.nuts_chains,
            num_samples=config.nuts_samples,
            warmup=config.nuts_warmup,
            mass_matrix="dense",
            seed=config.seed,
            progress=update,
        )
    with single_thread():
        return fit_one(guide, model, data, _recipes(config), done=done, update=update)


def _plane(config: Config) -> Plane:
    e = config.extent
    return Plane(
        extent=(-e, e, -e, e),
        resolution=config.resolution,
        centre=(0.0, 0.0),
        radius=config.radius,
    )


def _evidence(posterior: Posterior, data: Data) -> dict[str, float]:
    """The evidence as far as a guide knows it: Laplace's estimate, and the ELBO as a bound."""
    guide = posterior.guide
    if guide.no_density:
        return {}
    bound = elbo(posterior, *data, num_samples=2000)
    row = {"elbo": bound.value, "elbo_error": bound.standard_error}
    if isinstance(guide, StructuredNormal):
        row["log_evidence"] = guide.log_evidence()
    return row


def _findings(config: Config, study: PlaneStudy, links: LinkStudy | None) -> list[str]:
    metrics, records = study.metrics, study.records
    found = [far_away(metrics, config.radius), *closest_to_reference(metrics)]
    if {"laplace", "mean-field"} <= set(metrics):
        found.append(_evidence_sentence(metrics["laplace"], metrics["mean-field"]))
    if links is not None:
        found.append(link_sentence(links))
    if REFERENCE in records:
        found.append(chain_health(records[REFERENCE]).sentence("the parameters"))
    found.append(
        f"Prior: standard deviation {config.prior_precision**-0.5:.3g} on weights and bias, which "
        f"is a weight decay of {config.prior_precision:g} on the summed loss and of "
        f"{config.prior_precision / config.n:.3g} on the mean over {config.n} points."
    )
    return found


def _evidence_sentence(laplace: Mapping[str, float], mean_field: Mapping[str, float]) -> str:
    gap = laplace["log_evidence"] - laplace["elbo"]
    tight = gap < 0.5 + 3 * laplace["elbo_error"]
    reading = "the posterior is all but normal" if tight else "its normal misses a skewed posterior"
    better, worse = sorted(
        [("Laplace", laplace["elbo"]), ("Mean-field", mean_field["elbo"])],
        key=lambda pair: -pair[1],
    )
    return (
        f"Laplace estimates the log evidence as {laplace['log_evidence']:.2f} nats, {gap:.2f} nats "
        f"above its own ELBO: {reading}. {better[0]} has the higher ELBO ({better[1]:.2f} against "
        f"{worse[1]:.2f} nats)."
    )


EXPERIMENT = with_posterior_checks(
    Experiment(
        name=NAME,
        summary=EXPERIMENTS.summary(NAME),
        config=Config,
        run=run,
        figures=figures,
    )
)
