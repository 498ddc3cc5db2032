r"""Two moons: what each approximation of a small net's posterior knows about its own ignorance.

A net with one hidden layer, independent normal priors on its weights and biases, and every guide
against NUTS on the same log joint. The posterior of a net has many modes (hidden units can be
permuted, signs traded), so distances are taken between predictions, not between weights, and the
chains are judged by the log likelihood at the data. The reference is bounded in time: shorter
trajectories than NUTS would like, fewer draws than a statistician would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from probml_tp.datasets import two_moons
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
from probml_tp.experiments.plane.repeated_fits import (
    Repeats,
    repeat_fits,
    repeat_sentences,
)
from probml_tp.experiments.plane.single_draws import (
    SINGLE,
    function_maps,
    pointwise_maps,
    rougher,
    roughness_table,
)
from probml_tp.experiments.plane.two_moons_figures import figures
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
    Array,
    chain_health,
    derived_seed,
    labels_of,
    percent,
)
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

NAME = "two-moons"
GUIDES = (
    "map",
    "deep-ensemble",
    "laplace",
    "laplace-linearized",
    "laplace-kronecker",
    "laplace-last-layer",
    "mean-field",
    "low-rank-normal",
    "swag",
    "multi-swag",
    "mc-dropout",
    "concrete-dropout",
    "gaussian-dropout",
    "nuts",
)
CENTRE = (0.5, 0.25)
MODE_ROUNDS = 20
SINGLE_MAPS = 8
SINGLE_STAGE = "single draws"
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    n: int = option(1000, "Number of training points, both moons together.", minimum=4)
    noise: float = option(0.05, "Standard deviation of the points about the moons.", minimum=0.0)
    test_size: int = option(2000, "Number of fresh test points.", quick=1000, minimum=2)
    hidden: int = option(50, "Units of the hidden layer.", minimum=1)
    prior_scale: float = option(
        1.0, "Standard deviation of the normal prior on each weight and bias.", minimum=1e-3
    )
    guides: tuple[str, ...] = option(GUIDES, "Which posteriors to compare.", choices=GUIDES)
    epochs: int = option(
        1500, "Steps of the variational fits, on all data.", quick=500, full=10_000, minimum=1
    )
    mean_field_lr: float = option(
        0.1,
        "Initial learning rate of mean-field (Adam, cosine schedule).",
        minimum=1e-5,
    )
    low_rank_lr: float = option(
        0.03,
        "Initial learning rate of the low-rank normal, from MAP (Adam, cosine schedule).",
        minimum=1e-5,
    )
    dropout_lr: float = option(
        0.05,
        "Initial learning rate of dropout and of the ensemble (Adam, cosine schedule).",
        minimum=1e-5,
    )
    rate: float = option(
        0.2,
        "Drop rate of the hidden units; concrete dropout learns it from there.",
        minimum=0.01,
        maximum=0.99,
    )
    rank: int = option(10, "Columns of the low-rank normal's factor.", minimum=0)
    members: int = option(5, "Members of the ensembles.", quick=3, full=10, minimum=2)
    swag_lr: float = option(
        1.0, "Learning rate of SWAG's gradient descent, on the mean loss.", minimum=1e-6
    )
    swag_batch: int = option(50, "Points a step of SWAG, fewer than all.", minimum=1)
    swag_epochs: int = option(100, "Passes over the data of SWAG.", quick=40, full=500, minimum=2)
    num_samples: int = option(200, "Draws for each prediction.", quick=100, full=1000, minimum=2)
    nuts_chains: int = option(2, "NUTS chains.", full=4, minimum=2)
    nuts_samples: int = option(150, "Draws kept of each chain.", quick=30, full=1000, minimum=4)
    nuts_warmup: int = option(150, "Warm-up steps of each chain.", quick=40, full=1000, minimum=10)
    nuts_tree_depth: int = option(
        6, "At most 2 to this power leapfrog steps a draw.", quick=4, full=10, minimum=1, maximum=12
    )
    extent: float = option(4.0, "Half the width of the maps, in units of the data.", minimum=1.0)
    radius: float = option(6.0, "Radius of the far ring, in units of the data.", minimum=1.0)
    seeds: int = option(
        3, "Fits of mean-field and MC dropout from different seeds.", quick=2, full=5, minimum=1
    )
    resolution: int = option(101, "Grid points along each axis of a map.", quick=51, minimum=2)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to the moons, and compare what they predict with NUTS."""
    train = two_moons(n=config.n, noise=config.noise, seed=config.seed)
    test_seed = derived_seed(config.seed, "test data")
    test = two_moons(n=config.test_size, noise=config.noise, seed=test_seed)
    prior = NormalPrior(config.prior_scale)
    model = mlp_classifier(2, hidden=(config.hidden,), prior=prior, seed=config.seed)

    def refit(guide: str, seed: int, update: Update) -> Posterior:
        own = mlp_classifier(2, hidden=(config.hidden,), prior=prior, seed=seed)
        return _fit(guide, own, train, replace(config, seed=seed), {}, update)

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
    repeats = repeat_fits(
        config.guides,
        refit,
        posteriors=study.posteriors,
        views=study.views,
        plane=plane,
        num_samples=config.num_samples,
        seed=config.seed,
        seeds=config.seeds,
        progress=progress,
    )
    arrays, tables = _single_draws(config, study, plane, progress)
    if repeats is not None:
        arrays, tables = arrays | repeats.arrays(), [repeats.table, *tables]
    return Results(
        experiment=NAME,
        title="Two moons",
        config=config,
        main=Table(MAIN_TABLE, "Posterior", study.metrics, {**plane_columns(plane), **FIT_COLUMN}),
        findings=_findings(config, study, repeats, tables),
        data_source=(
            f"{config.n} points on scikit-learn's two moons, noise {config.noise:g} (seed "
            f"{config.seed}); {config.test_size:,} fresh points to test on"
        ),
        arrays=study.arrays | arrays,
        tables=tables,
        posteriors=dict(study.posteriors),
        inference_data=dict(study.records),
    )


def _recipes(config: Config) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=config.dropout_lr,
        lrs={"mean-field": config.mean_field_lr, "low-rank-normal": config.low_rank_lr},
        rounds=MODE_ROUNDS,
        init_scale=0.1,
        rank=config.rank,
        rates={"fc2": config.rate},
        members=config.members,
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
            max_tree_depth=config.nuts_tree_depth,
            seed=config.seed,
            progress=update,
        )
    with single_thread():
        return fit_one(guide, model, data, _recipes(config), done=done, update=update)


def _plane(config: Config) -> Plane:
    (x, y), e = CENTRE, config.extent
    return Plane(
        extent=(x - e, x + e, y - e, y + e),
        resolution=config.resolution,
        centre=CENTRE,
        radius=config.radius,
    )


def _single_draws(
    config: Config, study: PlaneStudy, plane: Plane, progress: Progress
) -> tuple[dict[str, Array], list[Table]]:
    """Maps of single draws: of one function, and of another draw at every point."""
    chosen = [guide for guide in SINGLE if guide in study.posteriors]
    if not chosen:
        return {}, []
    maps: dict[str, tuple[Array, Array]] = {}
    arrays: dict[str, Array] = {}
    with progress.stage(SINGLE_STAGE), single_thread():
        for guide in chosen:
            functions, points = (
                draw(study.posteriors[guide], plane, num_maps=SINGLE_MAPS, seed=config.seed)
                for draw in (function_maps, pointwise_maps)
            )
            maps[guide] = functions, points
            arrays[f"{guide}.one_draw"] = functions[0].astype(np.float32)
            arrays[f"{guide}.draw_a_point"] = points[0].astype(np.float32)
    table = roughness_table(maps)
    return arrays, [table]


def _findings(
    config: Config, study: PlaneStudy, repeats: Repeats | None, tables: Sequence[Table]
) -> list[str]:
    metrics, records = study.metrics, study.records
    found = [*closest_to_reference(metrics), far_away(metrics, config.radius)]
    if {"laplace", "laplace-linearized"} <= set(metrics):
        found.append(_linearisation(metrics))
    correlation = {
        g: row["mi_correlation"] for g, row in metrics.items() if "mi_correlation" in row
    }
    if correlation:
        ranked = sorted(correlation, key=correlation.__getitem__, reverse=True)
        values = ", ".join(f"{labels_of([g])} {correlation[g]:.2f}" for g in ranked)
        found.append(f"Correlation of the mutual information over the map with NUTS's: {values}.")
    if repeats is not None:
        found.extend(repeat_sentences(repeats))
    single = [table for table in tables if "draw_a_point" in table.columns]
    found.extend(rougher(table.metrics) for table in single)
    if REFERENCE in records:
        health = chain_health(records[REFERENCE], group="log_likelihood")
        found.append(health.sentence("the log likelihood at the training points"))
    return found


def _linearisation(metrics: Mapping[str, Mapping[str, float]]) -> str:
    sampled, linear = metrics["laplace"], metrics["laplace-linearized"]
    return (
        f"The same Laplace covariance has a test accuracy of {percent(sampled['accuracy'])} and "
        f"an NLL of {sampled['nll']:.3f} nats when the net itself is run at its draws, "
        f"{percent(linear['accuracy'])} and {linear['nll']:.3f} nats when the net is linearised."
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
