"""The experiment on posteriors with known answers: known biases show, impossible fits are told."""

from __future__ import annotations

import pytest
import torch

from probml_tp import Exact, MeanFieldNormal, Posterior, fit
from probml_tp.diagnostics import step_left
from probml_tp.experiments.references.reference_posteriors import EXPERIMENT, LEFT, Config
from probml_tp.harness.experiment import run_experiment
from probml_tp.models import dugongs_line


@pytest.fixture(scope="module")
def results():
    config = Config(
        posteriors=("dugongs-line", "eight-schools-centered"),
        guides=("map", "laplace", "mean-field", "low-rank-normal"),
    )
    return run_experiment(EXPERIMENT, config)


def test_laplace_is_exact_where_the_posterior_is_normal(results):
    assert results.main["dugongs-line", "laplace"] < 0.1
    assert results.tables[0]["dugongs-line", "laplace"] == pytest.approx(1, abs=0.06)


@pytest.fixture(scope="module")
def covariance():
    classic = dugongs_line()
    return fit(classic.model, Exact, classic.data).guide.covariance()


def test_mean_field_is_too_narrow_where_parameters_are_correlated(results, covariance):
    narrow, wide = (table["dugongs-line", "mean-field"] for table in results.tables[:2])
    precision = torch.linalg.inv(covariance).diagonal()
    optimum = float((precision * covariance.diagonal()).rsqrt()[0])  # the same for both
    assert optimum < 0.45
    assert 0.85 * optimum < narrow <= wide < 1.15 * optimum


def test_a_low_rank_normal_that_can_hold_the_posterior_does(results):
    ratios = [table["dugongs-line", "low-rank-normal"] for table in results.tables[:2]]
    assert ratios == pytest.approx([1, 1], abs=0.1)
    assert results.main["dugongs-line", "low-rank-normal"] < 0.15


def test_mean_field_of_the_funnel_is_its_closed_form():
    results = run_experiment(EXPERIMENT, Config(posteriors=("funnel",), guides=("mean-field",)))
    optimum = (1 / 9 + 9 / 2) ** -0.5 / 3  # of v, from the ELBO with the scales of z maximised out
    assert results.tables[0]["funnel", "mean-field"] == pytest.approx(optimum, rel=0.1)


def test_fits_that_have_settled_say_so_and_short_ones_what_is_left(results):
    assert results.tables[2].title == LEFT
    assert any("4 variational fits have settled" in finding for finding in results.findings)
    short = Config(posteriors=("dugongs-line",), guides=("map", "low-rank-normal"), epochs=20)
    told = [s for s in run_experiment(EXPERIMENT, short).findings if "has not settled" in s]
    assert len(told) == 1
    assert told[0].startswith("Low-rank normal on dugongs-line")


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.2)])
def test_the_step_left_is_the_distance_from_the_optimum_in_closed_form(covariance, shift, stretch):
    classic = dugongs_line()
    guide = MeanFieldNormal(classic.model)
    scale = torch.linalg.inv(covariance).diagonal().rsqrt()
    direction = torch.tensor([1.0, 0.0], dtype=scale.dtype)
    guide.loc.data = fit(classic.model, Exact, classic.data).guide.loc.detach()
    guide.loc.data += shift * scale * direction
    guide.log_scale.data = scale.log() + stretch * direction
    found = step_left(Posterior(guide, seed=0), classic.data)
    newton = abs(1 - torch.tensor(2 * stretch).exp().item()) / 2
    unit = 5 * shift / 4000**0.5  # the standard deviation it is measured in is that of draws
    assert abs(found.value - max(shift, newton)) < 5 * found.se + unit
    assert found.se < 0.05


def test_laplace_without_a_mode_is_a_finding_and_no_row(results):
    assert ("eight-schools-centered", "laplace") not in results.main
    told = [s for s in results.findings if "eight-schools-centered is refused" in s]
    assert len(told) == 1
    assert "there is no mode" in told[0]
    assert "positive definite" in told[0]


def test_a_point_mass_has_no_spread(results):
    assert results.tables[0]["dugongs-line", "map"] == 0


def test_the_figure_is_drawn_from_the_results(results):
    made, *_ = EXPERIMENT.figures(results)
    assert "Laplace" in made.title
    assert len(made.figure.axes) == 2
