"""The two-moons experiment at a tiny size: its claims, its figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probml_tp.experiment import Results, run_experiment
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import chain_health
from probml_tp.experiments.plane import closest_to_reference
from probml_tp.experiments.two_moons import EXPERIMENT, GUIDES, Config
from probml_tp.results import read_results, write_results

TINY = Config.preset(
    "quick",
    n=150,
    test_size=200,
    hidden=12,
    epochs=300,
    members=2,
    swag_epochs=20,
    num_samples=40,
    nuts_samples=20,
    nuts_warmup=20,
    nuts_tree_depth=3,
    resolution=21,
)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["two-moons"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("two-moons")


def test_every_planned_stage_is_run_and_timed(results):
    assert list(results.timings) == list(EXPERIMENT.stages(TINY))


def test_every_guide_has_a_row_and_only_map_has_no_epistemic_uncertainty(results):
    assert tuple(results.metrics) == GUIDES
    for guide in GUIDES:
        information = results.arrays[f"{guide}.mutual_information"]
        ratio = results.arrays[f"{guide}.variation_ratio"]
        assert information.shape == ratio.shape == (TINY.resolution, TINY.resolution)
        assert (information.max() > 0.01) == (guide != "map")
        assert (ratio.max() > 0) == (guide != "map")
        assert 0 <= ratio.min() <= ratio.max() <= 0.5
        assert 0 <= information.min() <= information.max() <= np.log(2) + 1e-6


def test_linearising_saves_the_laplace_approximation(results):
    sampled, linear = results.metrics["laplace"], results.metrics["laplace-linearized"]
    assert linear["nll"] < sampled["nll"]
    assert linear["tv"] < sampled["tv"]


def test_far_away_map_is_the_most_confident(results):
    confidence = {guide: row["far_confidence"] for guide, row in results.metrics.items()}
    assert max(confidence, key=confidence.__getitem__) == "map"


def test_comparisons_are_made_with_nuts_and_left_out_for_nuts_itself(results):
    others = set(GUIDES) - {"nuts"}
    assert {guide for guide, row in results.metrics.items() if "tv" in row} == others
    compared = {guide for guide, row in results.metrics.items() if "mi_correlation" in row}
    assert compared == others - {"map"}


def test_guides_about_as_near_to_nuts_share_the_first_place():
    rows = {"map": {"tv": 0.3}, "laplace": {"tv": 0.105}, "mean-field": {"tv": 0.1}, "nuts": {}}
    (sentence,) = closest_to_reference(rows)
    assert sentence.startswith("Over the map Laplace and Mean-field predict most like NUTS")
    assert sentence.endswith("distance 0.105 and 0.100), MAP least (0.300).")
    rows["laplace"]["tv"] = 0.2
    assert "Over the map Mean-field predicts most" in closest_to_reference(rows)[0]
    assert closest_to_reference({"map": {"tv": 0.3}})[0].endswith("distance 0.300).")
    assert closest_to_reference({"map": {}}) == []


def test_a_reference_that_has_not_converged_is_called_provisional(results):
    health = chain_health(results.inference_data["nuts"], group="log_likelihood")
    assert health.r_hat > 1.05
    assert "a provisional reference only" in " ".join(results.findings)
    assert "usable as the reference" in replace(health, r_hat=1.0).sentence("the parameters")


def test_without_nuts_nothing_is_compared(tmp_path):
    results = run_experiment(EXPERIMENT, replace(TINY, guides=("map", "mc-dropout"), epochs=20))
    assert all("tv" not in row for row in results.metrics.values())
    assert not any("NUTS" in sentence for sentence in results.findings)
    assert len(list(EXPERIMENT.figures(results))) == 4


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert [figure.name for figure in saved.figures] == [
        "probability-maps",
        "mutual-information-maps",
        "variation-ratio-maps",
        "confidence-far-away",
    ]
    bare = replace(results, arrays=saved.arrays(), posteriors={}, inference_data={})
    for again, first in zip(EXPERIMENT.figures(bare), saved.figures, strict=True):
        assert (again.title, again.caption) == (first.title, first.caption)
