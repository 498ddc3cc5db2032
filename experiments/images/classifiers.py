"""LeNets fitted to images, each once a run, and what they say about images.

The posteriors of one set of options and one seed are kept in memory, with what they say about the
images that they were trained, validated and tested on. A validation set, a tenth of the training
images by default, is held out of every fit; temperatures, thresholds and confidence heads are
chosen on it, never on the test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from torch import Tensor

from probml_tp.datasets import NORMALIZATION, ImageDataset, load_images
from probml_tp.datasets.image_dataset import stratified_order
from probml_tp.diagnostics import to_inference_data
from probml_tp.guides import Delta
from probml_tp.guides.recipes import FitSettings, Stage, SwagPath, fit_all, guides_for, order_of
from probml_tp.harness.experiment import ExperimentConfig, SavesNetcdf, no_update, option
from probml_tp.kit.knobs import knob
from probml_tp.models import LENET_DROPOUT, lenet
from probml_tp.posterior import Posterior
from probml_tp.priors import FanInNormalPrior
from probml_tp.scores import NetworkPass, network_pass

TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}

DROPOUT_OFF = "dropout-off"
"""The deterministic net at the centre of MC dropout: the same weights, no unit dropped."""

ALL_GUIDES = guides_for("layers", without=("reference", "laplace", "laplace-linearized"))
"""Those that a LeNet can have: its curvature is too large for a full matrix, NUTS too slow."""

ONE_OF_EACH_FAMILY = ("laplace-last-layer", "mean-field", "mc-dropout", "deep-ensemble", "map")
"""The guides that are compared unless others are asked for."""

RECORD_SITES = ("fc2.bias", "fc2.weight")
RECORD_SIZE, RECORD_SAMPLES = 200, 50


@dataclass(frozen=True, kw_only=True)
class ImageConfig(ExperimentConfig):
    """Options of every experiment on images; the fits depend on nothing else."""

    dataset: str = option("mnist", "Which images.", choices=tuple(TITLES))
    data_root: str | None = option(
        None, "Folder of the data in torchvision's layout; none for the user's cache folder."
    )
    seeds: int = knob("seeds", 1)
    train_size: int = knob(
        "train_size",
        15_000,
        quick=6_000,
        full=60_000,
        minimum=200,
        remark="A stratified subset of the images; those for validation are among them.",
    )
    validation_share: float = option(
        0.1, "Share of the training images held out for validation.", minimum=0.01, maximum=0.5
    )
    test_size: int = knob("test_size", 2_000, quick=500, full=10_000, minimum=100)
    guides: tuple[str, ...] = knob("guides", ONE_OF_EACH_FAMILY, choices=ALL_GUIDES)
    epochs: int = knob("epochs", 2, quick=3, full=20)
    batch_size: int = knob("batch_size", 50, full=100)
    lr: float = knob("lr", 3e-3, full=1e-3)
    prior_variance: float = option(
        2.0, "Prior variance of a weight times the number of inputs of its unit.", minimum=1e-6
    )
    rank: int = knob("rank", 10)
    members: int = knob("members", 3, quick=2, full=5)
    swag_epochs: int = knob("swag_epochs", 5, quick=3, full=20)
    swag_lr: float = knob("swag_lr", 0.015, full=0.03, remark="Its momentum is 0.9.")
    num_samples: int = knob("num_samples", 50, quick=20, full=200)

    @property
    def images(self) -> str:
        """The data set's name in prose."""
        return TITLES[self.dataset]

    @property
    def each_seed(self) -> range:
        """The seeds of the runs."""
        return range(self.seed, self.seed + self.seeds)

    def stage(self, name: str, seed: int) -> str:
        """What a stage is called: with its seed where there are several."""
        return f"{name}, seed {seed}" if self.seeds > 1 else name


class ImageClassifiers:
    """The classifiers of one seed, fitted when they are first asked for, and their passes."""

    def __init__(self, config: ImageConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.mean, self.std = NORMALIZATION[config.dataset]
        self.train, self.validation = _split(config, seed)
        self.test = _load(config, "test", config.test_size, config.seed)
        prior = FanInNormalPrior(scale=config.prior_variance**0.5)
        self.model = lenet(prior=prior, num_classes=len(self.train.classes), seed=seed)
        self.how = settings(config, seed)
        self._done: dict[str, Posterior] = {}
        self._passes: dict[tuple[str, int], NetworkPass] = {}
        self._records: dict[str, SavesNetcdf] = {}

    @property
    def data_source(self) -> str:
        """Which images these were, and where they came from."""
        return f"Trained on {self.train.source}; tested on {self.test.source}"

    @property
    def is_fallback(self) -> bool:
        """Whether other images stand in for those asked for."""
        return self.train.is_fallback or self.test.is_fallback

    def normalized(self, data: ImageDataset) -> Tensor:
        """Images as the nets see them: by the constants of the data set they were trained on."""
        return data.normalized(mean=self.mean, std=self.std)

    def fit(
        self, guides: Iterable[str], *, stage: Stage = lambda _: nullcontext(no_update)
    ) -> None:
        """Fit the guides that are not fitted yet.

        Every stage is entered, so that the record of a run has all that an experiment takes alone.
        """
        asked = [*map(_fitted_as, guides)]
        for known in filter(self._done.__contains__, order_of(asked, self.how)):
            with stage(known):
                pass
        data = self.normalized(self.train), self.train.labels
        self._done = fit_all(asked, self.model, data, self.how, stage=stage, given=self._done)

    def posterior(self, guide: str) -> Posterior:
        """The posterior of a guide, fitted if it is not yet."""
        if guide not in self._done:
            self.fit([guide])
        if guide == DROPOUT_OFF and guide not in self._done:
            dropout = self._done["mc-dropout"]
            off = Posterior(Delta.at_centre(dropout.guide), seed=self.seed, info=dropout.info)
            self._done[guide] = off
        return self._done[guide]

    def seconds(self, guide: str) -> float:
        """The seconds that a fit took, with those of the fit that it started from."""
        return self._done[_fitted_as(guide)].info.total_seconds

    def network_pass(self, guide: str, data: ImageDataset) -> NetworkPass:
        """What a guide says about images, with the features of its last layer.

        Passes over the training, validation and test images are kept.
        """
        found = self._passes.get((guide, id(data)))
        if found is None:
            x, count = self.normalized(data), self.config.num_samples
            found = network_pass(self.posterior(guide), x, num_samples=count, features=True)
            if any(data is own for own in (self.train, self.validation, self.test)):
                self._passes[guide, id(data)] = found
        return found

    def correct(self, guide: str, data: ImageDataset) -> Tensor:
        """Which images a guide gets right, ``(N,)``."""
        return self.network_pass(guide, data).predictive.predicted_class == data.labels

    def records(self, guides: Sequence[str]) -> dict[str, SavesNetcdf]:
        """ArviZ records: weights of the last layer, log likelihood at the first test images."""
        x, y = self.normalized(self.test)[:RECORD_SIZE], self.test.labels[:RECORD_SIZE]
        for guide in [guide for guide in guides if guide not in self._records]:
            self._records[guide] = to_inference_data(
                self.posterior(guide), x, y, sites=RECORD_SITES, num_samples=RECORD_SAMPLES
            )
        return {guide: self._records[guide] for guide in guides}


@lru_cache(maxsize=10)  # a run of five seeds in two sizes
def kept(config: ImageConfig, seed: int) -> ImageClassifiers:
    """The classifiers of some options and a seed, kept as long as the process lives."""
    return ImageClassifiers(config, seed)


def shared(config: ImageConfig) -> ImageConfig:
    """The options that fits and passes depend on; the others at their defaults."""
    names = {field.name for field in fields(ImageConfig)} - {"guides", "seeds"}
    return ImageConfig(**{name: getattr(config, name) for name in names})


def _fitted_as(guide: str) -> str:
    """The guide that is fitted to get another one."""
    return "mc-dropout" if guide == DROPOUT_OFF else guide


def _load(config: ImageConfig, split: str, size: int, seed: int) -> ImageDataset:
    return load_images(config.dataset, split, root=config.data_root, max_size=size, seed=seed)


def _split(config: ImageConfig, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The training images of a seed, parted into those to train on and those for validation."""
    data = _load(config, "train", config.train_size, seed)
    order = stratified_order(data.labels, seed=seed)
    held_out = max(1, round(config.validation_share * len(data)))
    parts = {"fitted": order[held_out:], "held out for validation": order[:held_out]}
    fitted, validation = (
        replace(
            data,
            images=data.images[index],
            labels=data.labels[index],
            source=f"{data.source}; {len(index):,} of them {use} (seed {seed})",
        )
        for use, index in parts.items()
    )
    return fitted, validation


def settings(config: ImageConfig, seed: int) -> FitSettings:
    """How the guides of a seed are fitted."""
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        from_mode=("correlated",),
        batch_size=config.batch_size,
        rank=config.rank,
        rates=LENET_DROPOUT,
        members=config.members,
        apart=True,
        swag=SwagPath(
            lr=config.swag_lr, epochs=config.swag_epochs, batch_size=config.batch_size, momentum=0.9
        ),
        one_thread=False,
        seed=seed,
    )
