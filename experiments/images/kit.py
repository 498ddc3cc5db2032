"""What the experiments on images share: classifiers by seed, results, tables over seeds.

All of them ask for the same classifiers, of which each is fitted once a run; see
:mod:`probml_tp.experiments.images.classifiers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np

from probml_tp.experiments.images.classifiers import (
    ImageClassifiers,
    ImageConfig,
    kept,
    settings,
    shared,
)
from probml_tp.guides.recipes import RECIPES, start_of
from probml_tp.harness.experiment import Progress, Results, SharedStage, Table, Update
from probml_tp.kit.common import Array, labels_of, over_seeds
from probml_tp.kit.comparisons import interval_words
from probml_tp.kit.sentences import Finding, tell

ConfigT = TypeVar("ConfigT", bound=ImageConfig)


def classify(
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

    def stage(name: str) -> AbstractContextManager[Update]:
        return progress.stage(SharedStage(config.stage(name, seed)))

    with stage("load images"):
        classifiers = kept(shared(config), seed)
    classifiers.fit(guides, stage=lambda guide: stage(f"fit {guide}"))
    for guide in guides if predict else ():
        with stage(f"predict {guide}"):
            classifiers.network_pass(guide, classifiers.test)
    return classifiers


def results_of(
    classifiers: ImageClassifiers,
    config: ConfigT,
    progress: Progress,
    *,
    findings: Iterable[Finding],
    arrays: Mapping[str, Array],
    foreign: str = "",
    **known: Any,
) -> Results[ConfigT]:
    """Make the results of a study, with the posteriors and records of the first seed.

    Args:
        classifiers: of the first seed.
        config: the options.
        progress: told of the stage.
        findings: what to say of them.
        arrays: what the figures need; ``size``, the number of test images, is entered unless given.
        foreign: what follows on the data.
        **known: more fields of :class:`Results`: its experiment, title, main and tables.

    Returns:
        The results.
    """
    with progress.stage(SharedStage("records for ArviZ")):
        records = classifiers.records(config.guides)
    results = Results(
        config=config,
        findings=[],
        data_source=f"{classifiers.data_source}{foreign}",
        data_is_fallback=classifiers.is_fallback,
        arrays={"size": np.array(len(classifiers.test)), **arrays},
        posteriors={guide: classifiers.posterior(guide) for guide in config.guides},
        inference_data=records,
        **known,
    )
    results.findings = tell(findings, results)
    return results


def averaged(
    title: str,
    row_heading: str,
    columns: Mapping[str, str],
    runs: Sequence[Mapping[str, Mapping[str, float]]],
) -> Table:
    """The table of the means over seeds, with Student's t intervals where there are several.

    Args:
        title: of the table.
        row_heading: what the rows are.
        columns: metric to heading; other metrics are left out.
        runs: of each seed: row to metric to value.

    Returns:
        The table.
    """
    means, intervals = over_seeds(
        [{row: {m: of[m] for m in of if m in columns} for row, of in run.items()} for run in runs]
    )
    return Table(title, row_heading, means, columns, intervals)


def longer_trained(results: Results[Any]) -> str | None:
    """The finding on guides that train on from where another one ends, if there are some.

    Args:
        results: of a study.

    Returns:
        The sentence.
    """
    config: ImageConfig = results.config
    how = settings(config, config.seed)
    longer = [
        g for g in config.guides if RECIPES[g].cost == "epochs" and start_of(g, how) is not None
    ]
    if not longer:
        return None
    return (
        f"Trained on from where MAP or an ensemble ends: {labels_of(longer)}. What is gained over "
        f"it is longer training as well as averaging."
    )


def intervals(results: Results[Any]) -> str | None:
    """The finding on which intervals the tables have, where there are several seeds.

    Args:
        results: of a study.

    Returns:
        The sentence.
    """
    seeds = results.config.seeds
    return f"Intervals are {interval_words(seeds)}." if seeds > 1 else None
