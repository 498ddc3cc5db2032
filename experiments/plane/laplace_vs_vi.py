r"""Laplace against variational inference: how near to NUTS, at which bound, at which cost.

Two problems with the data of the other experiments: logistic regression on two blobs, where the
posterior has one mode and is skewed, and a small net on two moons, where it has many. Every guide
targets the same log joint; NUTS on it is the reference, with its own noise floor. The costs are
those of nets of growing size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from probml_tp.datasets import blobs, two_moons
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane import cost_scaling, posterior_gap
from probml_tp.experiments.plane.posterior_gap import BLOBS, MOONS, TABLES
from probml_tp.gap.study import GapProblem
from probml_tp.guides.recipes import Chains, FitSettings
from probml_tp.harness.experiment import (
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    Table,
    option,
)
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import Finding, tell
from probml_tp.models import logistic_regression, mlp_classifier
from probml_tp.priors import NormalPrior

NAME = "laplace-vs-vi"
FINDINGS: tuple[Finding, ...] = (
    *(partial(posterior_gap.nearest, title) for title in TABLES),
    *(partial(posterior_gap.highest_bound, title) for title in TABLES),
    *cost_scaling.COST_FINDINGS,
)


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    hidden: int = knob("hidden", 50, remark="For the moons.")
    epochs: int = knob("epochs", 1500, quick=150, full=10_000)
    lr: float = knob("lr", 0.05)
    num_samples: int = knob("num_samples", 400, quick=100, full=2000, minimum=20)
    elbo_samples: int = option(
        1000, "Draws for the evidence lower bounds.", quick=200, full=10_000, minimum=2
    )
    resamples: int = knob("resamples", 100, quick=40, full=500, minimum=20)
    points: int = knob("points", 200, quick=100, minimum=4)
    chains: int = knob("chains", 2, full=4)
    draws: int = knob("draws", 150, quick=30, full=1000, minimum=20, remark="For the net.")
    warmup: int = knob("warmup", 150, quick=30, full=1000, minimum=10, remark="For the net.")
    max_tree_depth: int = knob(
        "max_tree_depth", 5, quick=4, full=10, maximum=12, remark="For the net."
    )
    blobs_draws: int = knob(
        "draws", 400, quick=100, full=2000, minimum=20, remark="On the blobs; half as many warm up."
    )
    most_params: int = option(
        10_000, "Parameters of the largest net whose cost is measured.", quick=1_000, full=100_000,
        minimum=1_000,
    )  # fmt: skip
    steps: int = option(20, "Training steps whose time is measured.", quick=5, full=100, minimum=1)
    repeats: int = option(2, "Times each cost is measured.", quick=1, full=3, minimum=1)
    memory_limit: float = option(
        1.0,
        "The full Laplace approximation is left out where its matrices need more, in GiB.",
        full=6.0,
        minimum=0.01,
    )


def run(config: Config, progress: Progress) -> Results[Config]:
    """Compare the guides with NUTS on two problems, and measure what they cost."""
    results = Results(
        experiment=NAME,
        title="Laplace against variational inference",
        config=config,
        main=Table(TABLES[MOONS], "Moons", columns=posterior_gap.COLUMNS),
        findings=[],
        data_source=(
            f"400 points in two Gaussian blobs and 1,000 on two moons (seed {config.seed}), "
            f"as in the experiments logistic-regression and two-moons"
        ),
        tables=[Table(TABLES[BLOBS], "Blobs", columns=posterior_gap.COLUMNS)],
    )
    chains = [
        posterior_gap.study_problem(problem, results, progress=progress)
        for problem in _problems(config)
    ]
    with progress.stage("costs of growing nets") as update:
        costs = cost_scaling.measure_costs(
            two_moons(seed=config.seed),
            most=config.most_params,
            steps=config.steps,
            repeats=config.repeats,
            limit_mib=1024 * config.memory_limit,
            seed=config.seed,
            update=update,
        )
    results.arrays = {f"costs.{guide}": own for guide, own in costs.items()}
    results.tables.append(cost_scaling.cost_table(costs, steps=config.steps))
    results.findings = [*tell(FINDINGS, results), *chains]
    return results


def _problems(config: Config) -> list[GapProblem]:
    """The blobs under logistic regression, the moons under a net; as in their own experiments."""
    how = FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        lrs={"correlated": 0.03, "factorised": 0.1},
        rounds=20,
        init_scale=0.1,
        rank=10,
        rates={"fc2": 0.2},
        from_mode=("correlated",),
        chains=Chains.of(config),
        seed=config.seed,
    )
    draws = config.blobs_draws
    short = replace(how.chains, draws=draws, warmup=draws // 2, max_tree_depth=7)
    seen = partial(posterior_gap.plane_problem, points=config.points, seed=config.seed)
    on_blobs = seen(
        partial(blobs, dtype=torch.float64),
        radius=20.0,
        name="blobs",
        title=BLOBS,
        model=logistic_regression(2, prior=NormalPrior.from_precision(0.05)),
        guides=posterior_gap.BLOBS_GUIDES,
        how=replace(how, rank=1, chains=short),
    )
    on_moons = seen(
        two_moons,
        radius=6.0,
        name="moons",
        title=MOONS,
        model=mlp_classifier(2, hidden=(config.hidden,), prior=NormalPrior(1.0), seed=config.seed),
        guides=posterior_gap.MOONS_GUIDES,
        how=how,
    )
    return [on_blobs, on_moons]


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw divergences from NUTS, bounds on the evidence, and costs."""
    yield posterior_gap.divergence_figure(results)
    yield posterior_gap.evidence_figure(results)
    yield cost_scaling.cost_figure(results)


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
