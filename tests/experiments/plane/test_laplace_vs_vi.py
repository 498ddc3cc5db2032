"""The experiment laplace-vs-vi at a tiny size: its claims, its figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from own_figures import own_figures

from probml_tp.datasets import two_moons
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane.cost_scaling import (
    cost_table,
    full_laplace,
    full_laplace_mib,
    growth_exponent,
    ladder,
    measure_costs,
)
from probml_tp.experiments.plane.laplace_vs_vi import EXPERIMENT, Config
from probml_tp.experiments.plane.posterior_gap import (
    BLOBS_GUIDES,
    MOONS,
    MOONS_GUIDES,
    REGIONS,
    highest_bound,
    nearest,
)
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.harness.experiment import MAIN_TABLE, Results, Table, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.inference.memory import peak_growth_mib
from probml_tp.models import mlp_classifier
from probml_tp.priors import NormalPrior

TINY = Config.preset(
    "quick",
    hidden=10,
    repeats=2,
    epochs=200,
    points=30,
    draws=20,
    warmup=20,
    max_tree_depth=3,
    blobs_draws=60,
    resamples=20,
    steps=2,
)


def of_numbers(main=None, config=TINY, **arrays) -> Results[Config]:
    """Results of numbers alone."""
    return Results("x", "X", config, main or Table(MAIN_TABLE, "Moons"), [], "", arrays=arrays)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["laplace-vs-vi"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("laplace-vs-vi")


def test_every_guide_has_its_divergences_and_bounds(results):
    blobs, chained = results.tables[0], {"nuts", NOISE_FLOOR}
    for table, guides in ((results.main, MOONS_GUIDES), (blobs, BLOBS_GUIDES)):
        assert table.rows == [*guides, NOISE_FLOOR]
        for region in REGIONS:
            ends = table.ends(f"kl_{region}")
            assert set(ends) == {*guides, NOISE_FLOOR} - {"nuts"}
            assert all(0 <= low <= high for low, high in ends.values())
        assert ("nuts", "kl_data") not in table
        without = chained | {"map", "mc-dropout", "laplace-last-layer"}
        assert set(guides) - without <= set(table.column("elbo"))


def test_far_from_the_blobs_map_is_furthest_from_nuts(results):
    kl = results.tables[0].column("kl_far")
    assert max(kl, key=kl.__getitem__) == "map"


def test_variational_bounds_are_above_those_of_laplaces_normals(results):
    """What is fitted by the bound has the higher bound, also with fewer parameters."""
    for table in (results.main, results.tables[0]):
        ends = table.ends("elbo")
        assert ends["mean-field"][0] > ends["laplace"][1]
        assert table["laplace", "log_evidence"] > table["laplace", "elbo"]


def test_the_ladder_has_the_sizes_it_says():
    for width, params in zip(ladder(100_000), 10 ** np.arange(2, 5.1, 0.5), strict=True):
        model = mlp_classifier(2, hidden=(width, width), prior=NormalPrior(1.0))
        assert model.num_params == width**2 + 5 * width + 1
        assert model.num_params == pytest.approx(params, rel=0.06)


def test_exponents_are_slopes_of_the_last_tenfold():
    assert growth_exponent([10, 100, 1000], [9.0, 1.0, 8.0]) == pytest.approx(np.log10(8))
    assert np.isnan(growth_exponent([10, 1000], [1.0, 2.0]))
    table = cost_table({"map": np.array([[100, 1.0, 0.1], [1000, 10.0, 0.2]])}, steps=1)
    assert table["map", "seconds_exponent"] == pytest.approx(1.0)
    assert table["map", "most"] == 1000 and table["map", "seconds"] == 10
    assert ("map", "memory_exponent") not in table  # too little


def test_full_laplace_grows_faster_in_memory_than_every_other_guide(results):
    largest = results.tables[1].column("mib")
    if not largest:
        pytest.skip("the peak of memory is not known on this system")
    growth = results.tables[1].column("memory_exponent")
    assert max(growth, key=growth.__getitem__) == "laplace"
    assert largest["laplace"] > 3 * largest["laplace-kronecker"]
    assert largest["laplace"] == pytest.approx(full_laplace_mib(987), rel=1.0)


def test_full_laplace_stops_at_the_bound():
    costs = measure_costs(
        two_moons(n=50), most=1000, steps=1, repeats=1, limit_mib=full_laplace_mib(400), seed=0,
        update=lambda *_: None,
    )  # fmt: skip
    sizes = {guide: costs[guide][:, 0].tolist() for guide in ("laplace", "map")}
    assert sizes == {"laplace": [105, 301], "map": [105, 301, 987]}
    config = replace(TINY, memory_limit=0.01)  # just over 400 parameters
    arrays = {f"costs.{guide}": own for guide, own in costs.items()}
    text = full_laplace(of_numbers(config=config, **arrays))
    assert "stops at 301 parameters: at 987 its matrices alone would need" in text
    largest = {name: own[:2] for name, own in arrays.items()}
    text = full_laplace(of_numbers(config=replace(TINY, memory_limit=1.0), **largest))
    assert text is None or "reaches the largest net, 301 parameters" in text


def test_the_growth_of_memory_is_that_of_the_block():
    with peak_growth_mib() as growth:
        small = np.ones(2**17)
    few = growth()
    if np.isnan(few):
        pytest.skip("the peak of memory is not known on this system")
    with peak_growth_mib() as growth:
        large = np.ones(2**23)  # 64 MiB
    assert few < 16 < 60 < growth() < 100
    assert len(small) < len(large)


def test_sentences_are_computed():
    table = Table(MAIN_TABLE, "Moons")
    for row, value, ends in (
        ("map", 0.5, (0.4, 0.6)),
        ("laplace", 0.1, (0.015, 0.2)),
        (NOISE_FLOOR, 0.01, (0.0, 0.02)),
    ):
        names = [f"kl_{region}" for region in REGIONS]
        table.put(row, dict.fromkeys(names, value), dict.fromkeys(names, ends))
    sentence = nearest(MOONS, of_numbers(table))
    assert "on a far ring Laplace has the least (0.1) and MAP the largest (0.5)" in sentence
    assert "1 of 2 at the noise floor" in sentence
    table.put("laplace", {"elbo": -9.0, "log_evidence": -5.0})
    table.put("mean-field", {"elbo": -4.0})
    assert "is below a bound, hence too low" in highest_bound(MOONS, of_numbers(table))
    table.put("mean-field", {"elbo": -6.0})
    assert "contradicts no bound" in highest_bound(MOONS, of_numbers(table))


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert [f.name for f in own_figures(saved.figures)] == [
        "predictive-kl",
        "evidence",
        "cost-scaling",
    ]
    for again, first in zip(EXPERIMENT.figures(results), saved.figures, strict=True):
        assert (again.title, again.caption) == (first.title, first.caption)
