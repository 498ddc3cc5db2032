"""The calibration study: who passes, who is found out, and what is drawn of it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from probml_tp.diagnostics import SbcResult, elbo, simulation_based_calibration
from probml_tp.diagnostics.sbc.run import LOG_LIKELIHOOD
from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.experiments.references.approximation_gap import Config
from probml_tp.experiments.references.sbc_figures import sbc_figures
from probml_tp.experiments.references.sbc_judging import (
    judge_study,
    miscalibrated,
    sbc_findings,
    sbc_style,
    sbc_table,
    squared_distances,
)
from probml_tp.experiments.references.sbc_study import (
    PRIOR_PRECISION,
    PROBLEMS,
    SbcSize,
    expected_distance,
    run_sbc,
    sbc_arrays,
    sbc_study,
)
from probml_tp.guides import Exact, MeanFieldNormal
from probml_tp.harness.experiment import Results
from probml_tp.inference import fit
from probml_tp.streams import seeded

SIZE = SbcSize(simulations=30, nuts_simulations=4, epochs=20)
CHANCE = 1e-3
"""Uniform ranks have a smaller p-value once in a thousand seeds."""

LINE, PLANE = PROBLEMS["linear"], PROBLEMS["logistic"]


class Watcher:
    """Notes the stages and what each reports last."""

    def __init__(self):
        self.stages, self.last = [], {}

    @contextmanager
    def stage(self, name):
        self.stages.append(name)
        yield lambda done, total, message="": self.last.update({name: (done, total)})


@pytest.fixture(scope="module")
def watcher():
    return Watcher()


@pytest.fixture(scope="module")
def study(watcher):
    return run_sbc(SIZE, progress=watcher)


@pytest.fixture(scope="module")
def judged(study):
    return judge_study(study)


def simulated(problem, seed=1):
    """One data set from the prior."""
    model, x = problem.model(), problem.inputs()
    with seeded(seed, model.device), torch.no_grad():
        params = model.sample_prior()
        y = model.likelihood.distribution(model.outputs(params, x), params).sample()
    return model, model.check_data(x, y)


def posterior_of(problem, method, seed=1, size=SIZE):
    model, data = simulated(problem, seed)
    return problem.infer(method, size)(model, data, 0)


# ------------------------------------------------------------------------------- the posteriors


def test_what_is_broken_is_so_by_just_as_much():
    mean, covariance = weight_moments(posterior_of(LINE, "exact"))
    half_mean, half_covariance = weight_moments(posterior_of(LINE, "half-as-wide"))
    np.testing.assert_allclose(half_mean, mean, rtol=1e-9)
    np.testing.assert_allclose(half_covariance, covariance / 4, rtol=1e-9)
    prior_mean, prior_covariance = weight_moments(posterior_of(LINE, "prior"))
    np.testing.assert_allclose(prior_mean, 0, atol=1e-9)
    np.testing.assert_allclose(prior_covariance, np.eye(2) / PRIOR_PRECISION, atol=1e-9)


@pytest.mark.parametrize("size", [SIZE, Config().sbc], ids=["quick", "default"])
def test_mean_field_on_the_line_is_the_best_there_is(size):
    """The exact mean and conditional variances (Bishop 2006, eq. 10.12)."""
    model, data = simulated(LINE)
    loc, precision = Exact(model).solve(*data)
    guide = posterior_of(LINE, "mean-field", size=size).guide
    sd = precision.diagonal() ** -0.5
    torch.testing.assert_close(guide.log_scale.detach(), sd.log(), atol=0.25, rtol=0)
    assert ((guide.loc - loc).abs() / sd).max() < 0.5


def test_mean_field_in_the_plane_is_as_good_as_after_many_more_steps():
    model, data = simulated(PLANE)
    short = posterior_of(PLANE, "mean-field", size=Config().sbc)
    long = fit(
        model, MeanFieldNormal, data,
        init=short, epochs=500, lr=0.1, schedule="cosine", progress=False,
    )  # fmt: skip
    bounds = [elbo(posterior, *data, num_samples=2000, seed=0) for posterior in (short, long)]
    assert bounds[1].value - bounds[0].value < 0.25


# ------------------------------------------------------------------------------------ the ranks


def test_right_posteriors_pass(judged):
    for problem, method in [("linear", m) for m in ("exact", "laplace", "nuts")] + [
        ("logistic", "nuts")
    ]:
        assert judged[problem][method].p_value > CHANCE
        low, high = judged[problem][method].distance[1:]
        assert low < 1.2 and high > 0.8


def test_laplace_is_exact_on_the_line(study):
    exact, laplace = study["linear"]["exact"], study["linear"]["laplace"]
    np.testing.assert_array_equal(laplace.ranks, exact.ranks)
    np.testing.assert_allclose(laplace.mean, exact.mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["mean-field", "half-as-wide"])
def test_posteriors_too_narrow_are_found_out_by_as_much_as_they_are(study, judged, method):
    one = judged["linear"][method]
    assert method in miscalibrated(judged["linear"])
    assert one.distance[1] > 1
    squares = squared_distances(study["linear"][method], 2)
    error = squares.std(ddof=1) / np.sqrt(len(squares))
    assert abs(squares.mean() - expected_distance(method) ** 2) < 5 * error
    assert one.symmetry > 0.05  # about the right mean


def test_only_the_log_likelihood_finds_out_the_prior(judged):
    prior = judged["linear"]["prior"]
    assert prior.p_value < 1e-9
    assert prior.outside == (LOG_LIKELIHOOD,)


def test_the_closed_form_of_mean_field_is_one_without_correlation(monkeypatch):
    assert expected_distance("exact") == 1
    assert expected_distance("mean-field") > 1.5
    centred = torch.linspace(-1, 1, 15, dtype=torch.float64).unsqueeze(-1)
    monkeypatch.setattr("probml_tp.experiments.references.sbc_study._line_inputs", lambda: centred)
    assert expected_distance("mean-field") == pytest.approx(1)


@pytest.mark.parametrize("stretch", [0.5, 1.0, 2.0])
def test_the_distance_is_right_with_few_draws(stretch):
    rng = np.random.default_rng(0)
    runs, draws = 4000, 19
    truth = rng.standard_normal((runs, 2))
    values = stretch * rng.standard_normal((draws, runs, 2))
    result = SbcResult(
        ("a", "b"), draws, (values < truth).sum(0), truth, values.mean(0), values.std(0, ddof=1)
    )
    squares = squared_distances(result, 2)
    error = squares.std(ddof=1) / np.sqrt(runs)
    assert abs(squares.mean() - stretch**-2) < 5 * error


def test_nuts_has_the_first_of_the_data_sets_and_hardly_dependent_draws(study):
    for problem, methods in study.items():
        first = next(iter(methods.values()))
        nuts = methods["nuts"]
        assert nuts.simulations == SIZE.nuts_simulations
        here = [nuts.quantities.index(name) for name in PROBLEMS[problem].quantities]
        np.testing.assert_array_equal(
            nuts.truth[:, here], first.truth[: SIZE.nuts_simulations, here]
        )
        assert nuts.relative_ess.mean() > 0.8


# ----------------------------------------------------------------------------------- the running


def test_each_stage_is_entered_once_and_reports_its_end(study, watcher):
    expected = [f"ranks: {name}, {method}" for name, own in study.items() for method in own]
    assert watcher.stages == expected
    assert all(done == total for done, total in watcher.last.values())
    assert len(watcher.last) == len(watcher.stages)


@pytest.mark.parametrize("method", ["exact", "laplace", "mean-field", "nuts", "half-as-wide"])
def test_other_processes_get_the_same_method(method):
    cloudpickle = pytest.importorskip("cloudpickle")  # older versions of joblib bring their own
    size = replace(SIZE, epochs=2)
    sent = (LINE.infer(method, size), LINE.quantities)
    runs = [
        simulation_based_calibration(
            LINE.model(), infer, LINE.inputs(),
            simulations=1, num_samples=19, quantities=quantities, jobs=1, progress=False,
        )
        for infer, quantities in (sent, cloudpickle.loads(cloudpickle.dumps(sent)))
    ]  # fmt: skip
    np.testing.assert_array_equal(runs[0].ranks, runs[1].ranks)
    np.testing.assert_array_equal(runs[0].mean, runs[1].mean)


def test_more_data_sets_for_nuts_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"from 1 to simulations.*got 5 of 4\. Lower"):
        SbcSize(simulations=4, nuts_simulations=5)


# ---------------------------------------------------------------------- what is said and shown


def findings(study):
    """What is said of a study."""
    table = sbc_table(study)
    return sbc_findings(Results("x", "", None, table, [], "", arrays=sbc_arrays(study)))


@pytest.fixture(scope="module")
def arrays(study, tmp_path_factory):
    """Written and read as results are, among others."""
    path = tmp_path_factory.mktemp("arrays") / "arrays.npz"
    np.savez_compressed(path, allow_pickle=False, grid=np.zeros(3), **sbc_arrays(study))
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def test_arrays_give_the_study_back(study, arrays):
    restored = sbc_study(arrays)
    for problem, methods in study.items():
        assert list(restored[problem]) == list(methods)
        for method, result in methods.items():
            again = restored[problem][method]
            for field, value in vars(result).items():
                np.testing.assert_array_equal(getattr(again, field), value)
                assert type(getattr(again, field)) is type(value)
    assert findings(restored) == findings(study)


def test_the_table_has_every_method_with_intervals(study):
    table = sbc_table(study)
    assert len(table.rows) == sum(len(methods) for methods in study.values())
    assert all(set(table.row(row)) <= set(table.columns) for row in table.rows)
    for metric in ("bias", "distance"):
        for row, (low, high) in table.ends(metric).items():
            assert low <= table[row, metric] <= high
    broken = table.row("linear · Exact, half as wide (deliberately broken)")
    assert broken["expected"] == 2
    assert broken["p_value"] < 0.05


def test_findings_follow_the_numbers(study):
    linear, *others = findings(study)
    words = " ".join(others)
    assert "miscalibrated are mean-field" in linear
    assert linear.index("the exact posterior (p") < linear.index("miscalibrated")
    assert "log likelihood alone find it out" in words
    assert "tells bias, not width" in words
    assert "With the 9 methods allowed for as well (p times 9)" in words


def test_findings_clear_everyone_where_everyone_is_right(study):
    methods = dict.fromkeys(study["linear"], study["linear"]["exact"])
    plane = dict.fromkeys(study["logistic"], study["logistic"]["nuts"])
    found = findings({"linear": methods, "logistic": plane})
    assert "nobody is found miscalibrated" in found[0]
    assert not any("alone find it out" in sentence for sentence in found)
    assert "none would still be called miscalibrated" in found[-1]


def test_figures_come_from_arrays_alone(arrays):
    figures = {figure.name: figure for figure in sbc_figures(arrays)}
    assert list(figures) == ["sbc-linear", "sbc-logistic", "sbc-ranks", "sbc-distance"]
    assert "mean-field" in figures["sbc-linear"].title
    assert "half as wide" in figures["sbc-distance"].title
    axes = figures["sbc-linear"].figure.axes
    assert len(axes) == 6
    assert [len(ax.lines) for ax in axes] == [6, 6, 6, 2, 2, 2]  # the zero line with each
    labels = [text.get_text() for text in figures["sbc-linear"].figure.legends[0].get_texts()]
    assert sbc_style("half-as-wide").label in labels
    used = [ax for ax in figures["sbc-ranks"].figure.axes if ax.get_visible()]
    assert len(used) == len(LINE.methods) + len(PLANE.methods)
