r"""LeNet on images that are not like those it was trained on: corrupted ever more, and rotated.

Every guide judges the same test images clean, under each corruption at each severity, and at each
angle. Asked are how accuracy, likelihood and calibration fall (after Ovadia et al. 2019), and which
guide notices: whether its uncertainty tells corrupted images from clean ones, and whether it is
higher under the corruptions that cost more accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from probml_tp.datasets import CORRUPTIONS, ImageDataset, corrupt, rotated
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images import distribution_shift_figures as told
from probml_tp.experiments.images import kit
from probml_tp.experiments.images.classifiers import ImageClassifiers, ImageConfig
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    Progress,
    Results,
    Table,
    Update,
    option,
)
from probml_tp.kit.common import Array, derived_seed
from probml_tp.metrics.accuracy import classification_scores
from probml_tp.metrics.detection import auroc
from probml_tp.plots.style import guide_style
from probml_tp.scores import (
    NetworkPass,
    negative_entropy,
    negative_mutual_information,
    network_pass,
)

NAME = "distribution-shift"
JUDGED = ("accuracy", "nll", "ece")

TURNED, SHEET = 1, 3
"""Classes of the image that is turned and of the one on the contact sheet: a 1 and a 3."""

TURNED_DRAWS = 100


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Options of the experiment."""

    corruptions: tuple[str, ...] = option(
        tuple(CORRUPTIONS),
        "Which corruptions.",
        quick=("impulse-noise", "gaussian-blur", "contrast", "rotate"),
        choices=tuple(CORRUPTIONS),
    )
    severities: tuple[int, ...] = option(
        (1, 3, 5), "How severe, from 1 to 5.", full=(1, 2, 3, 4, 5), minimum=1, maximum=5
    )
    angle_step: int = option(
        15, "Degrees from one rotation to the next, up to 180.", quick=45, full=10, minimum=1
    )
    shift_size: int = option(
        200,
        "Test images under each corruption and rotation, at most; a stratified subset.",
        quick=100,
        full=500,
        minimum=20,
    )
    shift_samples: int = option(
        20, "Draws for each prediction of them.", quick=5, full=50, minimum=2
    )


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the guides, shift the test images, and judge every guide on every shift."""
    fitted = [
        kit.classify(config, config.guides, seed, progress, predict=False)
        for seed in config.each_seed
    ]
    with progress.stage("shift images"):
        shifts = _Shifts.of(config, fitted[0].test)
    arrays = shifts.arrays()
    judged: dict[str, list[dict[str, Array]]] = {guide: [] for guide in config.guides}
    for classifiers in fitted:
        for guide in config.guides:
            with progress.stage(config.stage(f"judge {guide}", classifiers.seed)) as update:
                judged[guide].append(_judge(guide, classifiers, shifts, config, update))
    for guide, parts in judged.items():
        arrays |= {f"{guide}.{name}": np.stack([part[name] for part in parts]) for name in parts[0]}
        arrays |= _shown(guide, fitted[0], shifts)
    rows = [
        {guide: _row(of[k], config) for guide, of in judged.items()} for k in range(config.seeds)
    ]
    main = kit.averaged(MAIN_TABLE, "Posterior", _columns(config), rows)
    turned = {guide: arrays[f"{guide}.rotation.accuracy"].mean(0) for guide in judged}
    for guide, accuracy in turned.items():
        main.put(guide, {"turned": float(accuracy.min())})
    hardest = np.mean(list(turned.values()), axis=0).argmin()
    arrays["hardest.angle"] = arrays["angles"][hardest]
    detection = {
        f"auroc_{name}_{severity}": f"{label}, severity {severity} ↑"
        for name, label in told.UNCERTAINTIES.items()
        for severity in _severities(config)
    }
    return kit.results_of(
        fitted[0],
        config,
        progress,
        findings=told.findings(config),
        arrays=arrays,
        foreign=f"; {len(shifts.clean):,} of them shifted",
        experiment=NAME,
        title=f"{config.images} under distribution shift",
        main=main,
        tables=[
            kit.averaged(told.DETECTION, "Posterior", detection, rows),
            _corruption_table(judged, config),
        ],
    )


def _severities(config: Config) -> list[int]:
    return sorted(set(config.severities))


@dataclass(frozen=True)
class _Shifts:
    """The clean test images and what became of them."""

    clean: ImageDataset
    corrupted: Mapping[str, Mapping[int, ImageDataset]]
    turned: Mapping[int, ImageDataset]

    @classmethod
    def of(cls, config: Config, test: ImageDataset) -> _Shifts:
        """Shift the test images; the same way for every seed of the fits."""
        clean = test.subset(config.shift_size, seed=config.seed)
        damage = partial(corrupt, clean, seed=derived_seed(config.seed, "corruptions"))
        severities = _severities(config)
        return cls(
            clean,
            {name: {s: damage(name, s) for s in severities} for name in config.corruptions},
            {angle: rotated(clean, angle) for angle in range(0, 181, config.angle_step)},
        )

    def __len__(self) -> int:
        return 1 + sum(map(len, self.corrupted.values())) + len(self.turned)

    @property
    def rows(self) -> list[list[ImageDataset]]:
        """Of each corruption: the clean images and those of each severity."""
        return [[self.clean, *steps.values()] for steps in self.corrupted.values()]

    def first_of(self, label: int) -> int:
        """The index of the first image of a class."""
        return int((self.clean.labels == label).nonzero()[0])

    def arrays(self) -> dict[str, Array]:
        """What the figures need of the images."""
        sheet, turned = self.first_of(SHEET), self.first_of(TURNED)
        sheets = [torch.stack([data.images[sheet] for data in row]) for row in self.rows]
        turns = [data.images[turned] for data in self.turned.values()]
        return {
            "corruptions": np.array(list(self.corrupted)),
            "severities": np.array(list(next(iter(self.corrupted.values())))),
            "angles": np.array(list(self.turned)),
            "classes": np.array(self.clean.classes),
            "size": np.array(len(self.clean)),
            "sheet.images": torch.stack(sheets).numpy(),
            "sheet.label": np.array(SHEET),
            "turned.images": torch.stack(turns).numpy(),
            "turned.label": np.array(TURNED),
        }


def _judge(
    guide: str, classifiers: ImageClassifiers, shifts: _Shifts, config: Config, update: Update
) -> dict[str, Array]:
    """Metric to array: ``(corruptions, 1 + severities)``, clean first; of rotation ``(angles,)``.

    ``share_right`` is, for each image, the share of corruptions under which it is still read right
    at the highest severity.
    """
    posterior, steps = classifiers.posterior(guide), iter(range(1, len(shifts) + 1))

    def look(data: ImageDataset) -> NetworkPass:
        x = classifiers.normalized(data)
        seen = network_pass(posterior, x, num_samples=config.shift_samples)
        update(next(steps), len(shifts))
        return seen

    clean, labels = look(shifts.clean), shifts.clean.labels
    damaged = [[clean, *map(look, row.values())] for row in shifts.corrupted.values()]
    cells = [[_metrics(seen, clean, labels) for seen in row] for row in damaged]
    turned = [_metrics(look(data), clean, labels) for data in shifts.turned.values()]
    found = {name: np.array([[cell[name] for cell in row] for row in cells]) for name in turned[0]}
    found |= {f"rotation.{name}": np.array([cell[name] for cell in turned]) for name in turned[0]}
    right = [(row[-1].predictive.predicted_class == labels).numpy() for row in damaged]
    return {**found, "share_right": np.mean(right, axis=0)}


def _metrics(seen: NetworkPass, clean: NetworkPass, labels: Tensor) -> dict[str, float]:
    """Scores, mean uncertainties, and how well these tell the images from the clean ones."""
    scores = classification_scores(seen.predictive, labels)
    found = {name: scores[name] for name in JUDGED}
    measures = {"entropy": negative_entropy, "mutual_information": negative_mutual_information}
    if seen.predictive.num_samples == 1:
        del measures["mutual_information"]
    for name, confidence in measures.items():
        before, values = (-confidence(one).numpy() for one in (clean, seen))
        is_shifted = np.repeat([False, True], [len(before), len(values)])
        found[name] = float(values.mean())
        found[f"auroc_{name}"] = auroc(np.concatenate([before, values]), is_shifted)
    return found


def _shown(guide: str, classifiers: ImageClassifiers, shifts: _Shifts) -> dict[str, Array]:
    """The probabilities of each draw as one image turns; the classes given to the sheet's."""
    posterior, normalized = classifiers.posterior(guide), classifiers.normalized
    turned, sheet = shifts.first_of(TURNED), shifts.first_of(SHEET)
    x = torch.cat([normalized(data)[turned : turned + 1] for data in shifts.turned.values()])
    outputs = posterior.predict(x, num_samples=TURNED_DRAWS, keep_outputs=True).require_outputs()
    sheets = torch.cat([normalized(data)[sheet : sheet + 1] for row in shifts.rows for data in row])
    classes = posterior.predict(sheets, num_samples=TURNED_DRAWS).predicted_class
    return {
        f"{guide}.turned": outputs.softmax(-1).transpose(0, 1).numpy(),
        f"{guide}.sheet": classes.reshape(len(shifts.corrupted), -1).numpy(),
    }


def _row(found: Mapping[str, Array], config: Config) -> dict[str, float]:
    """The metrics of one guide and seed: clean, and means over corruptions at each severity."""
    row = {f"clean_{name}": float(found[name][0, 0]) for name in ("accuracy", "ece")}
    judged = [name for name in (*JUDGED, *told.UNCERTAINTIES) if name in found]
    row |= {name: float(found[name][:, -1].mean()) for name in judged}
    error = 1 - found["accuracy"][:, 1:].ravel()
    for name in [name for name in told.UNCERTAINTIES if name in found]:
        for place, severity in enumerate(_severities(config), start=1):
            row[f"auroc_{name}_{severity}"] = float(found[f"auroc_{name}"][:, place].mean())
        if np.ptp(error) > 0 and np.ptp(found[name][:, 1:]) > 0:
            row[f"rank_{name}"] = float(spearmanr(found[name][:, 1:].ravel(), error).statistic)
    return row


def _columns(config: Config) -> dict[str, str]:
    worst = f"at severity {_severities(config)[-1]}"
    return {
        "clean_accuracy": "Accuracy, clean ↑",
        "accuracy": f"Accuracy {worst} ↑",
        "nll": f"NLL {worst} (nats) ↓",
        "ece": f"ECE {worst} ↓",
        "entropy": f"Entropy {worst} (nats)",
        "mutual_information": f"Mutual information {worst} (nats)",
        "rank_entropy": "Entropy and error, rank correlation ↑",
        "rank_mutual_information": "Mutual information and error, rank correlation ↑",
        "clean_ece": "",
        "turned": "",
    }


def _corruption_table(judged: Mapping[str, list[dict[str, Array]]], config: Config) -> Table:
    """The accuracy of every guide, and their mean, by corruption at the last severity."""
    runs = []
    for k in range(config.seeds):
        left = {guide: of[k]["accuracy"][:, -1] for guide, of in judged.items()}
        left["mean"] = np.mean(list(left.values()), axis=0)
        rows = enumerate(config.corruptions)
        runs.append({row: {g: float(v[place]) for g, v in left.items()} for place, row in rows})
    columns = {guide: f"{guide_style(guide).label} ↑" for guide in judged} | {"mean": ""}
    title = f"{told.BY_CORRUPTION} at severity {_severities(config)[-1]}"
    return kit.averaged(title, "Corruption", columns, runs)


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, told.figures)
