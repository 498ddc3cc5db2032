r"""Laplace against variational inference: how near to NUTS, at which bound, at which cost.

Two problems with the data of the other experiments: logistic regression on two blobs, where the
posterior has one mode and is skewed, and a small net on two moons, where it has many. Every guide
targets the same log joint; NUTS on it is the reference, with its own noise floor. The costs are
those of nets of growing size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from probml_tp.datasets import blobs, two_moons
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane.cost_scaling import (
    Cost,
    exponents,
    measure_costs,
)
from probml_tp.experiments.plane.laplace_vs_vi_figures import figures
from probml_tp.experiments.plane.laplace_vs_vi_findings import findings
from probml_tp.experiments.plane.posterior_gap import (
    BLOBS_GUIDES,
    MOONS_GUIDES,
    ProblemStudy,
    plane_regions,
    study_problem,
)
from probml_tp.gap.study import GapProblem
from probml_tp.guides.recipes import Chains, FitSettings
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    ExperimentConfig,
    Progress,
    Results,
    Table,
    option,
)
from probml_tp.kit.common import Rows, derived_seed
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.models import logistic_regression, mlp_classifier
from probml_tp.priors import NormalPrior

NAME = "laplace-vs-vi"
BLOBS_TREE_DEPTH = 7
SCALING_STAGE = "costs of growing nets"


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    hidden: int = option(50, "Units of the hidden layer of the net for the moons.", minimum=1)
    epochs: int = option(
        1500, "Steps of the variational fits, on all data.", quick=300, full=10_000, minimum=1
    )
    lr: float = option(
        0.05, "Initial learning rate of the variational fits (Adam, cosine schedule).", minimum=1e-5
    )
    num_samples: int = option(
        400, "Draws of each posterior that is not a chain.", quick=100, full=2000, minimum=20
    )
    elbo_samples: int = option(
        1000, "Draws for the evidence lower bounds.", quick=200, full=10_000, minimum=2
    )
    resamples: int = option(
        100, "Bootstrap resamples for the intervals.", quick=40, full=500, minimum=20
    )
    points: int = option(
        200, "Points of each region where predictions are compared.", quick=100, minimum=4
    )
    nuts_chains: int = option(2, "NUTS chains.", full=4, minimum=2)
    nuts_samples: int = option(
        150, "Draws kept of each chain of the net.", quick=40, full=1000, minimum=20
    )
    nuts_warmup: int = option(150, "Warm-up steps of these.", quick=50, full=1000, minimum=10)
    blobs_draws: int = option(
        400,
        "Draws kept of each chain, and half as many warm-up steps, on the blobs.",
        quick=100,
        full=2000,
        minimum=20,
    )
    nuts_tree_depth: int = option(
        5,
        "For the net at most 2 to this power leapfrog steps a draw.",
        quick=4,
        full=10,
        minimum=1,
        maximum=12,
    )
    most_params: int = option(
        10_000, "Parameters of the largest net whose cost is measured.", quick=1_000, full=100_000,
        minimum=1_000,
    )  # fmt: skip
    steps: int = option(50, "Training steps whose time is measured.", quick=20, full=100, minimum=1)
    repeats: int = option(2, "Times each cost is measured.", quick=1, full=3, minimum=1)
    memory_limit: float = option(
        1.0,
        "The full Laplace approximation is left out where its matrices need more, in GiB.",
        full=6.0,
        minimum=0.01,
    )


def run(config: Config, progress: Progress) -> Results[Config]:
    """Compare the guides with NUTS on two problems, and measure what they cost."""
    studies = {
        problem.name: study_problem(
            problem,
            num_samples=config.num_samples,
            elbo_samples=config.elbo_samples,
            resamples=config.resamples,
            seed=config.seed,
            progress=progress,
        )
        for problem in _problems(config)
    }
    train = two_moons(seed=config.seed)
    with progress.stage(SCALING_STAGE) as update:
        costs = measure_costs(
            train,
            most=config.most_params,
            steps=config.steps,
            repeats=config.repeats,
            limit_mib=1024 * config.memory_limit,
            seed=config.seed,
            update=update,
        )
    return _results(config, studies, costs)


def _problems(config: Config) -> list[GapProblem]:
    """The blobs under logistic regression, the moons under a net; as in their own experiments."""
    how = FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        lrs={"low-rank-normal": 0.03, "mean-field": 0.1},
        rounds=20,
        init_scale=0.1,
        rank=10,
        rates={"fc2": 0.2},
        from_mode=("low-rank-normal",),
        seed=config.seed,
    )
    return [_blobs(config, replace(how, rank=1)), _moons(config, how)]


def _blobs(config: Config, how: FitSettings) -> GapProblem:
    seeds = config.seed, derived_seed(config.seed, "test data")
    train, test = (blobs(seed=seed, dtype=torch.float64) for seed in seeds)
    x, regions = plane_regions(
        train[0], test[0], points=config.points, radius=20.0, seed=config.seed
    )
    draws = config.blobs_draws
    return GapProblem(
        name="blobs",
        title="Blobs, logistic regression",
        model=logistic_regression(2, prior=NormalPrior.from_precision(0.05)),
        data=train,
        x=x,
        regions=regions,
        guides=BLOBS_GUIDES,
        how=replace(
            how,
            chains=Chains(
                chains=config.nuts_chains,
                draws=draws,
                warmup=draws // 2,
                max_tree_depth=BLOBS_TREE_DEPTH,
            ),
        ),
    )


def _moons(config: Config, how: FitSettings) -> GapProblem:
    seeds = config.seed, derived_seed(config.seed, "test data")
    train, test = (two_moons(seed=seed) for seed in seeds)
    x, regions = plane_regions(
        train[0], test[0], points=config.points, radius=6.0, seed=config.seed
    )
    return GapProblem(
        name="moons",
        title="Moons, a net",
        model=mlp_classifier(2, hidden=(config.hidden,), prior=NormalPrior(1.0), seed=config.seed),
        data=train,
        x=x,
        regions=regions,
        guides=MOONS_GUIDES,
        how=replace(
            how,
            chains=Chains(
                chains=config.nuts_chains,
                draws=config.nuts_samples,
                warmup=config.nuts_warmup,
                max_tree_depth=config.nuts_tree_depth,
            ),
        ),
    )


def _results(
    config: Config, studies: Mapping[str, ProblemStudy], costs: list[Cost]
) -> Results[Config]:
    blobs_study, moons_study = studies["blobs"], studies["moons"]
    arrays = {"costs.guides": np.array(list(dict.fromkeys(cost.guide for cost in costs)))}
    for guide in arrays["costs.guides"]:
        own = [cost for cost in costs if cost.guide == guide]
        arrays[f"costs.{guide}"] = np.array([(c.params, c.seconds, c.mib) for c in own])
    for study in studies.values():
        arrays |= study.arrays()
    return Results(
        experiment=NAME,
        title="Laplace against variational inference",
        config=config,
        main=Table(
            MAIN_TABLE, "Moons", moons_study.metrics, moons_study.columns, moons_study.intervals
        ),
        findings=findings(studies, costs, config.memory_limit),
        data_source=(
            f"400 points in two Gaussian blobs and 1,000 on two moons (seed {config.seed}), "
            f"as in the experiments logistic-regression and two-moons"
        ),
        arrays=arrays,
        posteriors={
            f"{name}-{guide}": posterior
            for name, study in studies.items()
            for guide, posterior in study.posteriors.items()
        },
        inference_data={f"{name}-nuts": study.record for name, study in studies.items()},
        tables=[
            Table(
                title=f"{blobs_study.title}: the same",
                row_heading="Blobs",
                rows=blobs_study.metrics,
                columns=blobs_study.columns,
                intervals=blobs_study.intervals,
            ),
            _cost_table(costs, config),
        ],
    )


def _cost_table(costs: list[Cost], config: Config) -> Table:
    largest = {cost.guide: cost for cost in costs}
    rows: Rows = {}
    for guide, slopes in exponents(costs).items():
        cost = largest[guide]
        rows[guide] = {"most": float(cost.params), "seconds": cost.seconds}
        rows[guide] |= {"mib": cost.mib} if np.isfinite(cost.mib) else {}
        rows[guide] |= {
            f"{name}_exponent": slopes[name] for name in ("seconds", "memory") if name in slopes
        }
    return Table(
        title=(
            f"Cost of the largest net measured, and the exponent of its growth with the number of "
            f"parameters over the last tenfold (trained guides: {config.steps} steps; Laplace: "
            f"from a given mode)"
        ),
        row_heading="Guide",
        rows=rows,
        columns={
            "most": "Parameters",
            "seconds": "Time (s) ↓",
            "mib": "Memory (MiB) ↓",
            "seconds_exponent": "Exponent of time",
            "memory_exponent": "Exponent of memory",
        },
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
