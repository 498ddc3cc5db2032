"""The experiment approximation-gap at a tiny size: what it finds, leaves out and draws."""

from __future__ import annotations

import numpy as np
import pytest
from own_figures import own_figures

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.references.approximation_gap import EXPERIMENT, Config
from probml_tp.gap import UnconvergedReferenceError
from probml_tp.harness.experiment import Results, run_experiment
from probml_tp.harness.results import read_results, write_results

SMALL = {
    "epochs": 300, "draws": 40, "warmup": 40, "num_samples": 400, "resamples": 40,
    "simulations": 4, "nuts_simulations": 4, "jobs": 1,
}  # fmt: skip
TINY = Config(problems=("linear", "moons"), accept_reference=True, **SMALL)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["approximation-gap"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("approximation-gap")


def test_each_problem_has_its_tables_and_its_advice(results):
    assert results.title == "Which posterior should I use?"
    assert set(results.main.columns) == {"linear", "moons"}
    heads = [table.title.split(":")[0] for table in results.tables]
    assert heads[:2] == ["Line with a hole, linear regression"] * 2
    assert heads[-1] == "Simulation-based calibration"
    advice = [text for text in results.findings if "Use " in text]
    assert len(advice) == 2
    assert "(provisionally)" in advice[1]  # its chains are too short


def test_laplace_is_exact_on_the_line_and_mean_field_is_not(results):
    line, evidence = results.tables[:2]
    for region in ("data", "between", "far"):
        floor = line.ends(f"w2.{region}")["noise floor"][1]
        assert line["laplace", f"w2.{region}"] < 2 * floor
    exact = evidence["exact", "log_evidence"]
    assert evidence["laplace", "log_evidence"] == pytest.approx(exact, abs=1e-6)


def test_a_reference_that_has_not_converged_leaves_its_problem_out():
    found = run_experiment(EXPERIMENT, Config(problems=("linear", "logistic"), **SMALL))
    assert set(found.main.columns) == {"linear"}
    left_out = [text for text in found.findings if "is left out" in text]
    assert len(left_out) == 1
    assert "a reference chain must have converged: R-hat of at most 1.01" in left_out[0]


def test_no_reference_at_all_is_an_error():
    with pytest.raises(UnconvergedReferenceError, match="must have converged"):
        run_experiment(EXPERIMENT, Config(problems=("logistic",), **SMALL | {"draws": 20}))


def test_saved_whole_and_drawn_from_what_is_saved(results, tmp_path):
    write_results(results, EXPERIMENT, tmp_path)
    saved = read_results(tmp_path / "approximation-gap", arrays=True)
    names = [figure.name for figure in own_figures(saved.figures)]
    assert names[0] == "verdicts"
    assert {"gap-linear", "evidence-moons", "k-hat-moons", "sbc-linear", "sbc-ranks"} <= set(names)
    posteriors = {path.name for path in (saved.folder / "posteriors").iterdir()}
    assert {"linear-exact.safetensors", "moons-nuts.nc", "linear-nuts.nc"} <= posteriors
    stored = saved.arrays
    for name, values in results.arrays.items():
        np.testing.assert_array_equal(stored[name], values)
