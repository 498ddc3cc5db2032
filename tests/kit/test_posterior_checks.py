"""Diagnostics that every experiment on small models has: a table, and figures from arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Delta,
    Exact,
    Gaussian,
    Laplace,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    ExperimentConfig,
    Figure,
    NullProgress,
    Progress,
    Results,
    Table,
)
from probml_tp.kit.posterior_checks import CHECK_FIGURES, with_posterior_checks

X = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(-1)
Y = 0.5 * X.squeeze(-1) + 0.1 * torch.cos(9 * X.squeeze(-1))
PIT, LOSSES = CHECK_FIGURES


def fits() -> dict[str, tuple[Posterior, torch.Tensor]]:
    """A regression by two guides, and a classifier; with what their records are made at."""
    net = torch.nn.Linear(1, 1).double()
    line = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    coins = BayesianModel(net, NormalPrior(1.0), Bernoulli())
    labels = (Y > 0).double()
    return {
        "line-exact": (fit(line, Exact, (X, Y), progress=False), Y),
        "line-map": (fit(line, Delta, (X, Y), epochs=5, progress=False), Y),
        "laplace": (fit(coins, Laplace, (X, labels), epochs=5, progress=False), labels),
        "elsewhere-map": (fit(line, Delta, (X, Y), epochs=5, progress=False), Y + 1),
    }


def run(config: ExperimentConfig, progress: Progress) -> Results[ExperimentConfig]:
    made = fits()
    records = {n: p.to_inference_data(X, y, num_samples=150) for n, (p, y) in made.items()}
    return Results(
        experiment="demo",
        title="Demo",
        config=config,
        main=Table(MAIN_TABLE, "Posterior", {}, {}),
        findings=[],
        data_source="",
        posteriors={name: posterior for name, (posterior, _) in made.items()},
        inference_data=dict(records),
    )


def no_figures(results: Results[ExperimentConfig]) -> Iterator[Figure]:
    yield from ()


DEMO = with_posterior_checks(Experiment("demo", "", ExperimentConfig, run, no_figures))


@pytest.fixture(scope="module")
def results() -> Results[ExperimentConfig]:
    return DEMO.run(ExperimentConfig(), NullProgress())


def test_rows_are_the_posteriors_with_something_to_tell(results):
    assert results.checks is not None
    rows = ["line-exact", "line-map", "laplace", "elsewhere-map"]  # MAP: whether it has settled
    assert results.checks.rows == rows


def test_pit_values_are_those_of_real_targets_at_the_training_data(results):
    assert [name for name in results.arrays if name.startswith(PIT)] == [
        f"{PIT}.line-exact",
        f"{PIT}.line-map",
    ]
    record = results.inference_data["line-exact"]
    below = record.posterior_predictive["y"].to_numpy()[0] <= Y.numpy()
    np.testing.assert_allclose(results.arrays[f"{PIT}.line-exact"], below.mean(0))


def test_losses_are_those_of_trained_guides(results):
    losses = {name for name in results.arrays if name.startswith(LOSSES)}
    assert losses == {f"{LOSSES}.{name}" for name in ("line-map", "laplace", "elsewhere-map")}


def test_figures_need_the_arrays_only(results):
    bare = replace(results, posteriors={}, inference_data={}, checks=None)
    drawn = list(DEMO.figures(bare))
    assert [figure.name for figure in drawn] == [PIT, LOSSES]
    assert [len([ax for ax in f.figure.axes if ax.get_visible()]) for f in drawn] == [2, 3]


def test_titles_state_what_the_figures_show(results):
    pit, losses = DEMO.figures(results)
    distance = {
        name: stats.kstest(results.arrays[f"{PIT}.{name}"], "uniform").statistic
        for name in ("line-exact", "line-map")
    }
    worst = max(distance, key=distance.__getitem__)
    assert f"farthest from uniform under {worst}" in pit.title
    assert f"{distance[worst]:.2f}" in pit.title
    moves = {
        name: abs(np.diff(results.arrays[f"{LOSSES}.{name}"][-2:])[0])  # tenths of five epochs
        for name in ("line-map", "laplace", "elsewhere-map")
    }
    assert f"{max(moves.values()):.2g} nats a point" in losses.title
