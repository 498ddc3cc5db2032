"""What the scores of features have in common: checks of what they are fitted to and judge."""

from __future__ import annotations

import torch
from torch import Tensor

from probml_tp.checks.values import positive_integer, valid_seed
from probml_tp.scores.network_pass import NetworkPass

__all__ = ["features_like", "labelled_features", "subsample"]


def labelled_features(run: NetworkPass, labels: object) -> tuple[Tensor, Tensor]:
    """The features of training points and their labels.

    Args:
        run: a pass over training data, with features.
        labels: one for each point.

    Returns:
        The features ``(N, d)``, and the labels ``(N,)``.

    Raises:
        ValueError: there are no features, the labels do not fit the pass, or are all the same.
    """
    features, y = run.require_features(), run.predictive.check_labels(labels)
    classes = y.unique()
    if len(classes) < 2:
        raise ValueError(
            f"labels must be of at least two classes; all {len(y)} are {classes.item()}. Pass the "
            f"training data of every class."
        )
    return features, y


def features_like(run: NetworkPass, width: int) -> Tensor:
    """The features of a pass, to be judged by a score that was fitted to others.

    Args:
        run: a pass with features.
        width: the number ``d`` of features that the score was fitted to.

    Returns:
        ``(N, d)``.

    Raises:
        ValueError: there are no features, or another number of them.
    """
    features = run.require_features()
    if features.shape[1] != width:
        raise ValueError(
            f"a score must judge the posterior it was fitted to; it was fitted to {width} features "
            f"and got {features.shape[1]}. Fit it to a pass of the {run.posterior.name} posterior."
        )
    return features


def subsample(size: int, max_points: int | None, seed: int) -> Tensor:
    """Which points to keep, in order: all, or so many at random without repetition.

    Args:
        size: how many there are.
        max_points: how many to keep; ``None`` for all.
        seed: determines which.

    Returns:
        Their indices.

    Raises:
        ValueError: ``max_points`` is below 1, or the seed out of range.
    """
    generator = torch.Generator().manual_seed(valid_seed(seed))
    if max_points is None or positive_integer("max_points", max_points) >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=generator)[:max_points].sort().values
