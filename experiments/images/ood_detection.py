r"""Out-of-distribution detection: which scores tell foreign images from those a net was made for.

One LeNet is trained with dropout. With dropout off it gives the maximum class probability (MCP),
ODIN, energy, max logit and the scores of its features; its draws, and those of other posteriors,
give entropy, mutual information and variation ratio. Every score is a confidence, and the
in-distribution test images are the positive class of AUROC and of the FPR at 95 % TPR; AUPR-Out has
the foreign images as the positive class, as in the labs.

ODIN's step is chosen on in-distribution validation images, or with a declared validation set
(rendered letters of the training split) that is of no kind it is judged by elsewhere. The grid of
temperatures and steps is judged on the test sets only to answer a question about ODIN itself, and
nothing is chosen from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probml_tp.datasets import ImageDataset, MissingDataError, load_images, noise_images
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images import kit, score_rows
from probml_tp.experiments.images import ood_detection_figures as told
from probml_tp.experiments.images.classifiers import DROPOUT_OFF, ImageClassifiers, ImageConfig
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, option
from probml_tp.kit.common import Array, derived_seed
from probml_tp.kit.comparisons import compare
from probml_tp.kit.knobs import knob
from probml_tp.scores import Odin, choose_odin

NAME = "ood-detection"
COLUMNS = {
    "auroc": "AUROC (%) ↑",
    "aupr_in": "AUPR-In (%) ↑",
    "aupr_out": "AUPR-Out (%) ↑",
    "fpr95": "FPR at 95 % TPR (%) ↓",
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Options of the experiment."""

    ood_size: int = option(
        500, "Images of each foreign set, at most.", quick=200, full=2_000, minimum=50
    )
    resamples: int = knob("resamples", 300, quick=100, full=500, minimum=50)


@dataclass(frozen=True)
class _Run:
    """One seed: scores by row and cell of the grid, of the test images and each foreign set."""

    classifiers: ImageClassifiers
    rows: list[score_rows.Row]
    inside: dict[str, Tensor]
    outside: dict[str, dict[str, Tensor]]


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the classifiers and the scores of each seed, and compare them on the foreign sets."""
    foreign = _foreign_sets(config)
    runs = [_one_seed(config, seed, foreign, progress) for seed in config.each_seed]
    with progress.stage("compare"):
        compared = {name: _compare(config, runs, name, grid=False) for name in foreign}
        grids = [table for name in foreign for table in _compare(config, runs, name, grid=True)]
    differences = [table for _, *others in compared.values() for table in others]
    shown = {name: tables[0] for name, tables in compared.items()}
    return kit.results_of(
        runs[0].classifiers,
        config,
        progress,
        findings=told.findings(config, list(foreign)),
        arrays=_arrays(runs[0], foreign),
        foreign=f". Foreign: {'; '.join(data.source for data in foreign.values())}",
        experiment=NAME,
        title=f"Out-of-distribution detection, {config.images} against other images",
        main=_by_set(shown),
        tables=[*shown.values(), *differences, *grids],
    )


def _foreign_sets(config: Config) -> dict[str, ImageDataset]:
    """The foreign sets that can be had; the findings say which cannot."""
    size, root, seed = config.ood_size, config.data_root, config.seed
    found: dict[str, ImageDataset] = {}
    for name in told.SETS:
        if name == "noise":
            found[name] = noise_images("uniform", n=size, seed=derived_seed(seed, "noise"))
        elif name != config.dataset:
            with suppress(MissingDataError):
                found[name] = load_images(name, "test", root=root, max_size=size, seed=seed)
    return found


def _one_seed(
    config: Config, seed: int, foreign: Mapping[str, ImageDataset], progress: Progress
) -> _Run:
    guides = score_rows.scored_guides(config)
    classifiers = kit.classify(config, guides, seed, progress)
    with progress.stage(f"fit scores, seed {seed}"):
        odin = score_rows.odin_scores(classifiers)
        odin[told.ODIN_VALIDATED] = _by_letters(classifiers)
        rows = [
            *score_rows.net_rows(classifiers, odin),
            *score_rows.draw_rows(guide for guide in guides if guide not in (DROPOUT_OFF, "map")),
        ]
    with progress.stage(f"score, seed {seed}") as update:
        inside, outside = _score(classifiers, rows, classifiers.test), {}
        for number, (name, data) in enumerate(foreign.items(), start=1):
            update(number, len(foreign) + 1, told.SETS[name])
            outside[name] = _score(classifiers, rows, data)
    return _Run(classifiers, rows, inside, outside)


def _by_letters(classifiers: ImageClassifiers) -> Odin:
    """ODIN chosen to tell validation images from letters of the training split."""
    size = len(classifiers.validation)
    letters = load_images("letters", "train", max_size=size, seed=classifiers.seed)
    return choose_odin(
        classifiers.network_pass(DROPOUT_OFF, classifiers.validation),
        out_validation=classifiers.network_pass(DROPOUT_OFF, letters),
        temperatures=told.TEMPERATURES,
        epsilons=told.EPSILONS,
        like=Odin(std=classifiers.std),
    ).odin


def _score(
    classifiers: ImageClassifiers, rows: list[score_rows.Row], data: ImageDataset
) -> dict[str, Tensor]:
    """Every row's score of the images, and ODIN's by cell: one gradient a temperature."""
    others = [row for row in rows if not isinstance(row.score, Odin)]
    scores = score_rows.confidences(others, classifiers, data)
    seen = classifiers.network_pass(DROPOUT_OFF, data)
    odin = {row.label: row.score for row in rows if isinstance(row.score, Odin)}
    for t in dict.fromkeys([*told.TEMPERATURES, *(score.temperature for score in odin.values())]):
        own = [score.epsilon for score in odin.values() if score.temperature == t]
        epsilons = list(dict.fromkeys([*told.EPSILONS, *own]))
        values = Odin(t, std=classifiers.std).at_epsilons(seen, epsilons).double().cpu()
        scores |= {told.cell(t, e): v for e, v in zip(epsilons, values, strict=True)}
    return scores | {
        row: scores[told.cell(one.temperature, one.epsilon)] for row, one in odin.items()
    }


def _compare(config: Config, runs: list[_Run], name: str, *, grid: bool) -> list[Table]:
    """All rows, or ODIN on the grid with what it is held against, on one foreign set."""
    rows = [row.label for row in runs[0].rows]
    if grid:
        rows = [*told.GRID_REFERENCES, *told.CELLS]
    sizes = [len(one[told.REFERENCE]) for one in (runs[0].inside, runs[0].outside[name])]
    return compare(
        told.grid_title(name) if grid else told.against(name),
        [{x: torch.cat([one.inside[x], one.outside[name][x]]) for x in rows} for one in runs],
        [torch.arange(sum(sizes)) < sizes[0]] * len(runs),
        columns={"aupr_out": ""} if grid else COLUMNS,
        references=told.GRID_REFERENCES if grid else told.RIVALS,
        resamples=config.resamples,
        seed=derived_seed(config.seed, f"bootstrap {name}"),
    )


def _by_set(compared: Mapping[str, Table]) -> Table:
    """The AUROC with foreign sets as columns."""
    columns = {name: f"AUROC, {told.SETS[name]} (%) ↑" for name in compared}
    made = Table(MAIN_TABLE, "Score", columns=columns)
    for name, table in compared.items():
        ends = table.ends("auroc")
        for row, value in table.column("auroc").items():
            made.put(row, {name: value}, {name: ends[row]} if row in ends else None)
    return made


def _arrays(first: _Run, foreign: Mapping[str, ImageDataset]) -> dict[str, Array]:
    chosen = [
        [row.score.temperature, row.score.epsilon]
        for row in first.rows
        if isinstance(row.score, Odin)
        and row.label in (score_rows.ODIN_CHOSEN, told.ODIN_VALIDATED)
    ]
    arrays: dict[str, Array] = {"odin.chosen": np.array(chosen)}
    rows = [row.label for row in first.rows]
    for name, data in foreign.items():
        arrays |= {f"outside.{name}.{row}": first.outside[name][row].numpy() for row in rows}
        sure = first.outside[name][told.REFERENCE].argsort(descending=True)[:8]
        arrays[f"accepted.{name}.images"] = data.images.numpy()[sure]
    return arrays | {f"inside.{row}": first.inside[row].numpy() for row in rows}


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, told.figures)
