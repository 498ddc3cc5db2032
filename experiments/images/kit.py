"""LeNets fitted to images: what the experiments on digits and fashion share.

All of them ask for the same classifiers, of which each is fitted once a run: the posteriors of one
set of options and one seed are kept in memory, with what they say about the images that they were
trained, validated and tested on. A validation set, a tenth of the training images by default, is
held out of every fit; temperatures, thresholds and confidence heads are chosen on it, never on the
test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from torch import Tensor

from probml_tp.datasets import NORMALIZATION, ImageDataset, load_images
from probml_tp.datasets.image_dataset import stratified_order
from probml_tp.diagnostics import to_inference_data
from probml_tp.guides import Delta
from probml_tp.guides.recipes import FitSettings, SwagPath, fit_one
from probml_tp.harness.experiment import (
    ExperimentConfig,
    Progress,
    SavesNetcdf,
    SharedStage,
    Update,
    no_update,
    option,
)
from probml_tp.models import LENET_DROPOUT, lenet
from probml_tp.posterior import Posterior
from probml_tp.priors import FanInNormalPrior
from probml_tp.scores import NetworkPass, network_pass

TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
"""Data set to its name in prose."""

DROPOUT_OFF = "dropout-off"
"""The deterministic net at the centre of MC dropout: the same weights, no unit dropped."""

ONE_OF_EACH_FAMILY = ("map", "deep-ensemble", "laplace-last-layer", "mean-field", "mc-dropout")
"""The guides that are compared unless others are asked for."""

ALL_GUIDES = (
    "map",
    "deep-ensemble",
    "laplace-kronecker",
    "laplace-diagonal",
    "laplace-last-layer",
    "mean-field",
    "low-rank-normal",
    "swag",
    "mc-dropout",
    "concrete-dropout",
    "gaussian-dropout",
    "multi-swag",
)


RECORD_SITES = ("fc2.bias", "fc2.weight")
RECORD_SIZE, RECORD_SAMPLES = 200, 50


@dataclass(frozen=True, kw_only=True)
class ImageConfig(ExperimentConfig):
    """Options of every experiment on images; the fits depend on nothing else."""

    dataset: str = option("mnist", "Which images.", choices=tuple(TITLES))
    data_root: str | None = option(
        None, "Folder of the data in torchvision's layout; none for the user's cache folder."
    )
    seeds: int = option(1, "Runs from different seeds, the first of them the seed.", minimum=1)
    train_size: int = option(
        15_000,
        "Training images, at most; a stratified subset. Those for validation are among them.",
        quick=2_000,
        full=60_000,
        minimum=200,
    )
    validation_share: float = option(
        0.1, "Share of the training images held out for validation.", minimum=0.01, maximum=0.5
    )
    test_size: int = option(
        2_000,
        "Test images, at most; a stratified subset.",
        quick=500,
        full=10_000,
        minimum=100,
    )
    guides: tuple[str, ...] = option(
        ONE_OF_EACH_FAMILY, "Which posteriors to compare.", choices=ALL_GUIDES
    )
    epochs: int = option(5, "Passes over the training images.", quick=4, full=20, minimum=1)
    batch_size: int = option(100, "Images a step.", quick=25, minimum=1)
    lr: float = option(1e-3, "Initial learning rate of Adam.", minimum=1e-6)
    prior_variance: float = option(
        2.0, "Prior variance of a weight times the number of inputs of its unit.", minimum=1e-6
    )
    rank: int = option(10, "Columns of the low-rank normal's factor.", minimum=0)
    members: int = option(3, "Members of the ensembles.", quick=2, full=5, minimum=2)
    swag_epochs: int = option(10, "Passes over the images of SWAG.", quick=4, full=20, minimum=2)
    swag_lr: float = option(
        0.03, "Learning rate of SWAG's gradient descent (momentum 0.9).", minimum=1e-6
    )
    num_samples: int = option(100, "Draws for each prediction.", quick=30, full=200, minimum=2)


def seeds(config: ImageConfig) -> list[int]:
    """The seeds of the runs.

    Args:
        config: the options.

    Returns:
        As many as the options say, in order.

    Example:
        >>> seeds(ImageConfig(seed=3, seeds=2))
        [3, 4]
    """
    return [config.seed + number for number in range(config.seeds)]


# ------------------------------------------------------------------------------- what things cost


def fit_stages(
    config: ImageConfig, guides: Sequence[str], seed: int, *, predict: bool = True
) -> dict[str, float]:
    """The stages of :func:`fit_all`, with the seconds expected of each on 2 cores.

    Args:
        config: the options.
        guides: those to fit.
        seed: of this run.
        predict: whether the test images are predicted.

    Returns:
        Stage to seconds.
    """
    plan: dict[str, float] = {_load_stage(config, seed): 1.0}
    for guide in _recipes(config, seed).order(map(_fitted_as, guides)):
        plan[_fit_stage(config, guide, seed)] = _fit_seconds(config, guide)
    for guide in guides if predict else ():
        seconds = pass_seconds(config, guide, config.test_size)
        plan[_predict_stage(config, guide, seed)] = seconds
    return plan


def fit_all(
    config: ImageConfig,
    guides: Sequence[str],
    seed: int,
    progress: Progress,
    *,
    predict: bool = True,
) -> ImageClassifiers:
    """Load the images, fit the guides of one seed and predict the test images.

    What another experiment has done already is not done again.

    Args:
        config: the options.
        guides: those to fit; the starts of others are fitted too, but do not predict.
        seed: of this run.
        progress: told of every stage.
        predict: whether to predict the test images.

    Returns:
        The classifiers.
    """
    with progress.stage(_load_stage(config, seed)):
        classifiers = kept(_shared(config), seed)
    for guide in classifiers.recipes.order(map(_fitted_as, guides)):
        with progress.stage(_fit_stage(config, guide, seed)) as update:
            classifiers.posterior(guide, update=update)
    for guide in guides if predict else ():
        with progress.stage(_predict_stage(config, guide, seed)):
            classifiers.network_pass(guide, classifiers.test)
    return classifiers


def _fitted_as(guide: str) -> str:
    """The guide that is fitted to get another one."""
    return "mc-dropout" if guide == DROPOUT_OFF else guide


def _fit_seconds(config: ImageConfig, guide: str) -> float:
    """Seconds expected of a fit on 2 cores, without that of the guide that it starts from."""
    images = config.train_size * (1 - config.validation_share)
    curvature = {"kronecker": 1.4e-3, "diagonal": 1.2e-3, "last-layer": 6e-4}
    if guide.startswith("laplace-"):
        return images * curvature[guide.removeprefix("laplace-")]
    each = {"low-rank-normal": 2.5e-4, "deep-ensemble": 1.5e-4 * config.members}
    each |= {"swag": 1.5e-4, "multi-swag": 1.5e-4 * config.members}
    epochs = config.swag_epochs if "swag" in guide else config.epochs
    return 1.0 + images * epochs * each.get(guide, 1.8e-4)


def pass_seconds(config: ImageConfig, guide: str, size: int) -> float:
    """Seconds expected of the predictions at so many images on 2 cores.

    Args:
        config: the options.
        guide: which.
        size: images.

    Returns:
        Seconds.
    """
    each = dict.fromkeys(ALL_GUIDES, 6e-5 * config.num_samples)
    each |= dict.fromkeys(("mc-dropout", "concrete-dropout", "gaussian-dropout"), 2e-4)
    each |= {"map": 1e-4, DROPOUT_OFF: 1e-4, "deep-ensemble": 1e-4 * config.members}
    each |= {"laplace-kronecker": 1.3e-3, "laplace-diagonal": 1e-3, "laplace-last-layer": 2e-4}
    return 0.2 + each[guide] * size


# --------------------------------------------------------------------------------- the classifiers


class ImageClassifiers:
    """The classifiers of one seed, fitted when they are first asked for, and their passes.

    Args:
        config: the options; those that no fit depends on do not matter.
        seed: of the split into training and validation images, the fits and the draws.
    """

    def __init__(self, config: ImageConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.train, self.validation = _split(config, seed)
        self.test = _load(config, "test", config.test_size, config.seed)
        prior = FanInNormalPrior(scale=config.prior_variance**0.5)
        self.model = lenet(prior=prior, num_classes=len(self.train.classes), seed=seed)
        self.recipes = _recipes(config, seed)
        self._done: dict[str, Posterior] = {}
        self._passes: dict[tuple[str, str], NetworkPass] = {}
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
        """Images as the nets see them: by the constants of the data set they were trained on.

        Args:
            data: any images.

        Returns:
            Inputs ``(N, 1, 28, 28)``.
        """
        mean, std = NORMALIZATION[self.config.dataset]
        return data.normalized(mean=mean, std=std)

    def posterior(self, guide: str, *, update: Update | None = None) -> Posterior:
        """The posterior of a guide, fitted if it is not yet.

        Args:
            guide: its name, or :data:`DROPOUT_OFF`.
            update: told of the progress of the fit.

        Returns:
            The posterior.
        """
        for name in self.recipes.order([_fitted_as(guide)]):
            if name not in self._done:
                data = self.normalized(self.train), self.train.labels
                self._done[name] = fit_one(
                    name,
                    self.model,
                    data,
                    self.recipes,
                    done=self._done,
                    update=update or no_update,
                )
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

        Args:
            guide: its name, or :data:`DROPOUT_OFF`.
            data: any images.

        Returns:
            The pass.
        """
        splits = {id(self.train): "train", id(self.validation): "validation", id(self.test): "test"}
        split = splits.get(id(data))
        if split is None:
            return self._pass(guide, data)
        if (guide, split) not in self._passes:
            self._passes[guide, split] = self._pass(guide, data)
        return self._passes[guide, split]

    def records(self, guides: Sequence[str]) -> dict[str, SavesNetcdf]:
        """ArviZ records: the last layer's weights, and the log likelihood at the first test images.

        Args:
            guides: whose.

        Returns:
            Guide to record.
        """
        x = self.normalized(self.test)[:RECORD_SIZE]
        for guide in guides:
            if guide not in self._records:
                self._records[guide] = to_inference_data(
                    self.posterior(guide),
                    x,
                    self.test.labels[:RECORD_SIZE],
                    sites=RECORD_SITES,
                    num_samples=RECORD_SAMPLES,
                )
        return {guide: self._records[guide] for guide in guides}

    def _pass(self, guide: str, data: ImageDataset) -> NetworkPass:
        return network_pass(
            self.posterior(guide),
            self.normalized(data),
            num_samples=self.config.num_samples,
            features=True,
        )


@lru_cache(maxsize=10)  # a run of five seeds in two sizes
def kept(config: ImageConfig, seed: int) -> ImageClassifiers:
    """The classifiers of some options and a seed, kept as long as the process lives.

    Args:
        config: the options that fits depend on, the others at their defaults.
        seed: of the run.

    Returns:
        The classifiers; the same ones for the same arguments.
    """
    return ImageClassifiers(config, seed)


def _shared(config: ImageConfig) -> ImageConfig:
    """The options that fits and passes depend on; the others at their defaults."""
    names = {field.name for field in fields(ImageConfig)} - {"guides", "seeds"}
    return ImageConfig(**{name: getattr(config, name) for name in names})


def records_stage(config: ImageConfig) -> SharedStage:
    """The stage in which :meth:`ImageClassifiers.records` makes the records of all guides.

    Args:
        config: the options.

    Returns:
        Its name.
    """
    return SharedStage("records for ArviZ")


def _with_seed(config: ImageConfig, stage: str, seed: int) -> str:
    return f"{stage}, seed {seed}" if config.seeds > 1 else stage


def _fit_stage(config: ImageConfig, guide: str, seed: int) -> SharedStage:
    return SharedStage(_with_seed(config, f"fit {guide}", seed))


def _predict_stage(config: ImageConfig, guide: str, seed: int) -> SharedStage:
    return SharedStage(_with_seed(config, f"predict {guide}", seed))


def _load_stage(config: ImageConfig, seed: int) -> SharedStage:
    return SharedStage(_with_seed(config, "load images", seed))


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


def _recipes(config: ImageConfig, seed: int) -> FitSettings:
    swag = SwagPath(
        lr=config.swag_lr,
        epochs=config.swag_epochs,
        batch_size=config.batch_size,
        momentum=0.9,
    )
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        from_mode=("low-rank-normal",),
        batch_size=config.batch_size,
        rank=config.rank,
        rates=LENET_DROPOUT,
        members=config.members,
        apart=True,
        swag=swag,
        seed=seed,
    )
