"""The two-moons experiment at a tiny size: its claims, its figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from own_figures import assert_drawn_from_arrays, own_figures

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane.kit import NEAREST, Plane, compared_columns
from probml_tp.experiments.plane.repeated_fits import (
    ANOTHER_RUN,
    HALVES,
    nearer,
    repeated,
    repeats_table,
)
from probml_tp.experiments.plane.single_draws import (
    SINGLE,
    function_maps,
    pointwise_maps,
    roughness,
)
from probml_tp.experiments.plane.two_moons import EXPERIMENT, GUIDES, Config
from probml_tp.harness.experiment import MAIN_TABLE, Results, Table, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.kit.common import chain_health
from probml_tp.plots.style import guide_style

TINY = Config.preset(
    "quick",
    n=150,
    test_size=200,
    hidden=12,
    epochs=300,
    members=2,
    swag_epochs=20,
    num_samples=40,
    draws=20,
    warmup=20,
    max_tree_depth=3,
    resolution=21,
)

PLANE = Plane((0.5, 0.25), 3.5, 9, 5.0, num_radii=2, num_angles=4)


def found(main=None, tables=(), **arrays) -> Results[Config]:
    """Results of numbers alone."""
    table = Table(MAIN_TABLE, "Posterior", main)
    return Results("x", "X", TINY, table, [], "", tables=list(tables), arrays=arrays)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["two-moons"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("two-moons")


def test_every_guide_has_a_row_and_only_map_has_no_epistemic_uncertainty(results):
    assert tuple(results.main.rows) == GUIDES
    for guide in GUIDES:
        information = results.arrays[f"{guide}.mutual_information"]
        ratio = results.arrays[f"{guide}.variation_ratio"]
        assert information.shape == ratio.shape == (TINY.resolution, TINY.resolution)
        assert (information.max() > 0.01) == (guide != "map")
        assert (ratio.max() > 0) == (guide != "map")
        assert 0 <= ratio.min() <= ratio.max() <= 0.5
        assert 0 <= information.min() <= information.max() <= np.log(2) + 1e-6


def test_linearising_saves_the_laplace_approximation(results):
    for metric in ("nll", "tv"):
        assert results.main["laplace-linearized", metric] < results.main["laplace", metric]


def test_far_away_map_is_the_most_confident(results):
    confidence = results.main.column("far_confidence")
    assert max(confidence, key=confidence.__getitem__) == "map"


def test_comparisons_are_made_with_nuts_and_left_out_for_nuts_itself(results):
    others = set(GUIDES) - {"nuts"}
    assert set(results.main.column("tv")) == others
    assert set(results.main.column("mi_correlation")) == others - {"map"}


def test_guides_about_as_near_to_nuts_share_the_first_place():
    rows = {"map": {"tv": 0.3}, "laplace": {"tv": 0.105}, "mean-field": {"tv": 0.1}, "nuts": {}}
    sentence = NEAREST(found(rows))
    assert sentence.startswith("Over the map Laplace and Mean-field predict most like NUTS")
    assert sentence.endswith("distance 0.105 and 0.100), MAP least (0.300).")
    rows["laplace"]["tv"] = 0.2
    assert "Over the map Mean-field predicts most" in NEAREST(found(rows))
    assert NEAREST(found({"map": {"tv": 0.3}})).endswith("distance 0.300).")
    assert NEAREST(found({"map": {}})) is None


def test_a_reference_that_has_not_converged_is_called_provisional(results):
    health = chain_health(results.inference_data["nuts"], group="log_likelihood")
    assert health.r_hat > 1.05
    assert "a provisional reference only" in " ".join(results.findings)
    assert "usable as the reference" in replace(health, r_hat=1.0).sentence("the parameters")


def test_without_nuts_nothing_is_compared(tmp_path):
    results = run_experiment(EXPERIMENT, replace(TINY, guides=("map", "mc-dropout"), epochs=20))
    assert results.main.column("tv") == {}
    assert not any("NUTS" in sentence for sentence in results.findings)
    names = [figure.name for figure in own_figures(EXPERIMENT.figures(results))]
    assert "repeated-fits" not in names and names[-1] == "single-draws"
    assert list(results.timings) == [
        "fit map",
        "fit mc-dropout",
        "predict",
        "records for ArviZ",
        "single draws",
    ]


def test_the_repeated_fits_begin_with_the_first_and_differ_by_their_seeds(results):
    for guide in ("mean-field", "mc-dropout"):
        values = results.arrays[f"repeats.{guide}.tv"]
        assert len(values) == TINY.seeds == 2
        assert values[0] == results.main[guide, "tv"]
        assert values[0] != values[1]
        mean = results.tables[0][guide_style(guide).label, "tv"]
        assert mean == pytest.approx(values.mean())


def test_nuts_is_compared_with_itself_by_chains_and_by_run(results):
    for row in (HALVES, ANOTHER_RUN):
        assert 0 < results.tables[0][row, "tv"] < 0.5
    text = " ".join(results.findings)
    assert "NUTS itself is" in text and "from run to run" in text


def repeat_sentences(mean_field, dropout, floor) -> tuple[str | None, str | None]:
    runs = {
        "mean-field": [{"tv": tv, "mi_correlation": 0.5} for tv in mean_field],
        "mc-dropout": [{"tv": tv, "mi_correlation": 0.4} for tv in dropout],
        HALVES: [{"tv": floor}],
    }
    table, arrays = repeats_table(runs, compared_columns(PLANE), len(mean_field))
    assert list(table.ends("tv")) == ["Mean-field", "MC dropout"]
    assert table[HALVES, "tv"] == floor
    return repeated(found(tables=[table], **arrays)), nearer(found(tables=[table], **arrays))


def test_the_nearer_guide_is_named_only_if_the_paired_interval_says_so():
    clear = repeat_sentences([0.1, 0.2, 0.3], [0.15, 0.25, 0.351], 0.01)
    assert "Mean-field is nearer to NUTS" in clear[1] and "paired by seed, is -0.050" in clear[1]
    assert "0.200 ± 0.058 from NUTS" in clear[0]
    assert "further than the reference's own noise" in clear[0]
    unclear = repeat_sentences([0.1, 0.2, 0.3], [0.15, 0.1, 0.35], 0.25)
    assert "Neither is nearer" in unclear[1]
    assert "cannot tell Mean-field and MC dropout from the posterior" in unclear[0]


def test_a_draw_a_point_is_rougher_than_one_function(results):
    (table,) = [table for table in results.tables if "draw_a_point" in table.columns]
    for guide in SINGLE:
        assert table.ends("draw_a_point")[guide][0] > 1.2 * table.ends("one_draw")[guide][1]
        noisy, smooth = (
            roughness(results.arrays[f"{guide}.{name}"][None])[0]
            for name in ("draw_a_point", "one_draw")
        )
        assert noisy > smooth


def test_a_draw_a_point_of_a_point_mass_is_the_same_function(results):
    """The negative control: without randomness both kinds of map are one."""
    one, anew = (
        draw(results.posteriors["map"], PLANE, num_maps=2, seed=0)
        for draw in (function_maps, pointwise_maps)
    )
    np.testing.assert_allclose(np.broadcast_to(one[0], anew.shape), anew, atol=1e-6)


def test_both_kinds_of_draws_have_the_same_average(results):
    maps = [
        draw(results.posteriors["mc-dropout"], PLANE, num_maps=400, seed=seed)
        for seed, draw in enumerate((function_maps, pointwise_maps))
    ]
    error = np.sqrt(sum(drawn.var(0) for drawn in maps) / 400)
    assert (np.abs(maps[0].mean(0) - maps[1].mean(0)) < 5 * error + 1e-6).all()


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path), arrays=True)
    assert [figure.name for figure in own_figures(saved.figures)] == [
        "probability-maps",
        "mutual-information-maps",
        "variation-ratio-maps",
        "confidence-far-away",
        "repeated-fits",
        "single-draws",
    ]
    assert_drawn_from_arrays(EXPERIMENT, results, saved)
