"""The experiment laplace-vs-vi at a tiny size: its claims, its figures."""

from __future__ import annotations

import numpy as np
import pytest
from own_figures import own_figures

from probml_tp.datasets import two_moons
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane.cost_scaling import (
    Cost,
    exponents,
    full_laplace_mib,
    growth_exponent,
    ladder,
    measure_costs,
)
from probml_tp.experiments.plane.laplace_vs_vi import EXPERIMENT, Config
from probml_tp.experiments.plane.laplace_vs_vi_findings import (
    cost_sentences,
    evidence_sentence,
    nearest_sentence,
)
from probml_tp.experiments.plane.posterior_gap import BLOBS_GUIDES, MOONS_GUIDES, REGIONS
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.harness.experiment import Results, run_experiment
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
    nuts_samples=20,
    nuts_warmup=20,
    nuts_tree_depth=3,
    blobs_draws=60,
    resamples=20,
    steps=2,
)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["laplace-vs-vi"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("laplace-vs-vi")


def test_every_guide_has_its_divergences_and_bounds(results):
    blobs = results.tables[0]
    for table, guides in ((results, MOONS_GUIDES), (blobs, BLOBS_GUIDES)):
        assert list(table.metrics) == [*guides, NOISE_FLOOR]
        for guide in [*guides[:-1], NOISE_FLOOR]:
            for region in REGIONS:
                low, high = table.intervals[guide][f"kl_{region}"]
                assert 0 <= low <= high
        assert "kl_data" not in table.metrics["nuts"]
        with_bound = {guide for guide, row in table.metrics.items() if "elbo" in row}
        with_bound_expected = set(guides) - {"map", "nuts", "mc-dropout", "laplace-last-layer"}
        assert with_bound_expected <= with_bound


def test_far_from_the_blobs_map_is_furthest_from_nuts(results):
    kl = {guide: row.get("kl_far", -1.0) for guide, row in results.tables[0].metrics.items()}
    assert max(kl, key=kl.__getitem__) == "map"


def test_variational_bounds_are_above_those_of_laplaces_normals(results):
    """What is fitted by the bound has the higher bound, also with fewer parameters."""
    for table in (results, results.tables[0]):
        rows, intervals = table.metrics, table.intervals
        low, high = intervals["mean-field"]["elbo"][0], intervals["laplace"]["elbo"][1]
        assert low > high
        assert rows["laplace"]["log_evidence"] > rows["laplace"]["elbo"]


def test_the_ladder_has_the_sizes_it_says():
    for width, params in zip(ladder(100_000), 10 ** np.arange(2, 5.1, 0.5), strict=True):
        model = mlp_classifier(2, hidden=(width, width), prior=NormalPrior(1.0))
        assert model.num_params == width**2 + 5 * width + 1
        assert model.num_params == pytest.approx(params, rel=0.06)


def test_exponents_are_slopes_of_the_last_tenfold():
    assert growth_exponent([10, 100, 1000], [9.0, 1.0, 8.0]) == pytest.approx(np.log10(8))
    assert np.isnan(growth_exponent([10, 1000], [1.0, 2.0]))
    found = exponents([Cost("map", 100, 1.0, 0.1), Cost("map", 1000, 10.0, 0.2)])
    assert found == {"map": {"seconds": pytest.approx(1.0), "most": 1000.0}}  # memory: too little


def test_full_laplace_grows_faster_in_memory_than_every_other_guide(results):
    rows = results.tables[1].metrics
    largest = {guide: row["mib"] for guide, row in rows.items() if "mib" in row}
    if not largest:
        pytest.skip("the peak of memory is not known on this system")
    growth = {g: row["memory_exponent"] for g, row in rows.items() if "memory_exponent" in row}
    assert max(growth, key=growth.__getitem__) == "laplace"
    assert largest["laplace"] > 3 * largest["laplace-kronecker"]
    assert largest["laplace"] == pytest.approx(full_laplace_mib(987), rel=1.0)


def test_full_laplace_stops_at_the_bound():
    costs = measure_costs(
        two_moons(n=50), most=1000, steps=1, repeats=1, limit_mib=full_laplace_mib(400), seed=0,
        update=lambda *_: None,
    )  # fmt: skip
    by_guide = {
        guide: [c.params for c in costs if c.guide == guide] for guide in ("laplace", "map")
    }
    assert by_guide == {"laplace": [105, 301], "map": [105, 301, 987]}
    text = cost_sentences(costs, full_laplace_mib(400) / 1024)[-1]
    assert "stops at 301 parameters: at 987 its matrices alone would need" in text


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
    kl = {f"kl_{region}": 0.5 for region in REGIONS}
    less = {f"kl_{region}": 0.1 for region in REGIONS}
    metrics = {
        "map": kl,
        "laplace": less,
        NOISE_FLOOR: {f"kl_{region}": 0.01 for region in REGIONS},
    }
    ends = {"map": (0.4, 0.6), "laplace": (0.015, 0.2), NOISE_FLOOR: (0.0, 0.02)}
    intervals = {name: dict.fromkeys(kl, pair) for name, pair in ends.items()}
    sentence = nearest_sentence("T", metrics, intervals)
    assert "on a far ring Laplace has the least (0.1) and MAP the largest (0.5)" in sentence
    assert "1 of 2 at the noise floor" in sentence
    rows = {"laplace": {"elbo": -9.0, "log_evidence": -5.0}, "mean-field": {"elbo": -4.0}}
    assert "is below a bound, hence too low" in evidence_sentence("T", rows)
    rows["mean-field"]["elbo"] = -6.0
    assert "contradicts no bound" in evidence_sentence("T", rows)


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert [f.name for f in own_figures(saved.figures)] == [
        "predictive-kl",
        "evidence",
        "cost-scaling",
    ]
    for again, first in zip(EXPERIMENT.figures(results), saved.figures, strict=True):
        assert (again.title, again.caption) == (first.title, first.caption)
