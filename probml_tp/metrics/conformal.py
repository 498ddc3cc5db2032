r"""Conformal prediction: sets of labels that hold the true one as often as promised.

Split conformal prediction needs no trust in the model: whatever the probabilities of a posterior
are, sets calibrated on ``n`` further points hold the label of a new point with at least the
probability asked for, averaged over calibration sets and points, as long as all of them are
exchangeable. What a better posterior buys is *smaller* sets, and coverage that is even over points.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import as_tensor, finite, strictly_between_0_and_1, valid_seed
from probml_tp.predictions.predictive import ClassificationPredictive

__all__ = ["conformal_sets", "set_metrics"]

Array = np.ndarray[Any, Any]
Method = Literal["lac", "aps", "raps"]

SMALLEST_PROBABILITY = 1e-7
"""Below 1e-8 MAPIE would leave a label out whatever the calibration says."""

RAPS_SHARE = 0.2
"""Share of the calibration points on which MAPIE tunes the penalty of RAPS."""

SIZE_STRATA = (1, 3, 10, 100)
"""Largest set sizes of the strata of Angelopoulos et al. (2021), the last one open."""


@checked()
def conformal_sets(
    calibration: ClassificationPredictive,
    y: object,
    test: ClassificationPredictive,
    *,
    coverage: float = 0.9,
    method: Method = "lac",
    seed: int = 0,
) -> Tensor:
    r"""Turn predictions into sets of labels of guaranteed coverage, by MAPIE.

    A set holds every label whose score is at most the :math:`\lceil (n+1)\,\text{coverage}
    \rceil`-th smallest of the ``n`` scores of calibration labels. With :math:`p` the predicted
    probabilities the score of label ``c`` is, by ``method``:

    ``"lac"`` :math:`1 - p_c` (Sadinle et al. 2019): the smallest sets on average.

    ``"aps"`` the total probability of the labels above ``c`` plus a uniformly random share of
    :math:`p_c` (Romano et al. 2020): coverage more even over points.

    ``"raps"`` that, plus a penalty on labels of low rank, tuned on a fifth of the calibration
    points (Angelopoulos et al. 2021): shorter sets where there are many classes. The label that
    crosses the threshold always stays, since MAPIE's random rule for it is not exact beyond the
    ranks without penalty; coverage is then above what was asked for.

    MAPIE has the last two for three classes or more. Sets may be empty under the first two.

    Args:
        calibration: predictions at ``n`` points that trained nothing and tuned nothing.
        y: their labels ``(n,)``.
        test: predictions of the same posterior at ``N`` further points.
        coverage: the probability with which a set should hold the label.
        method: the score.
        seed: determines the random shares of APS and RAPS.

    Returns:
        Whether each label is in each set, boolean ``(N, C)``, on the CPU.

    Raises:
        ValueError: ``y`` does not fit the calibration predictions, the two predictions differ in
            classes, an option is out of range, or the calibration points are too few for it.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(4), torch.ones(4, 2))
        >>> conformal_sets(predictive, [0, 0, 0, 1], predictive, coverage=0.5).int().tolist()
        [[1, 0], [1, 0], [1, 0], [0, 0]]
    """
    # MAPIE takes seconds to import.
    from mapie.classification import SplitConformalClassifier

    labels = calibration.check_labels(y).cpu().numpy()
    known, new = (_probabilities(predictive) for predictive in (calibration, test))
    _check(known, labels, new, strictly_between_0_and_1("coverage", coverage), method)
    conformal = SplitConformalClassifier(
        StoredProbabilities(known.shape[1]),
        confidence_level=coverage,
        conformity_score=method,
        random_state=np.random.RandomState(valid_seed(seed) % 2**32),
    )
    with warnings.catch_warnings():
        # A class that no calibration point has is no trouble: scores, not classes, are ranked.
        warnings.filterwarnings("ignore", message="WARNING: your conformalization dataset")
        conformal.conformalize(known, labels)
    last = {"include_last_label": True if method == "raps" else "randomized"}
    _, sets = conformal.predict_set(new, conformity_score_params=last)
    return torch.from_numpy(np.ascontiguousarray(sets[:, :, 0]))


def set_metrics(sets: object, y: object) -> dict[str, float]:
    """Judge sets of labels by the labels that came.

    Args:
        sets: whether each label is in each set, boolean ``(N, C)``.
        y: labels ``(N,)``.

    Returns:
        ``coverage``: the share of sets that hold the label. ``size``: labels in a set, on
        average. ``empty`` and ``singleton``: the shares of sets with no and with one label.
        ``size_stratified_coverage``: the lowest coverage among the sets of up to 1, 2-3, 4-10,
        11-100 and more labels (Angelopoulos et al. 2021), of those that occur; far below
        ``coverage`` if the sets are too small where it is hard. A stratum of few points makes
        it noisy.

    Raises:
        ValueError: ``sets`` is not boolean with two dimensions, or ``y`` does not fit it.

    Example:
        >>> metrics = set_metrics([[True, False], [True, True], [False, False]], [0, 1, 1])
        >>> {name: round(value, 3) for name, value in metrics.items()}  # doctest: +ELLIPSIS
        {'coverage': 0.667, 'size': 1.0, 'empty': 0.333, 'singleton': 0.333, 'size_...': 0.5}
    """
    chosen, labels = _checked_sets(sets, y)
    hit = chosen.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    size = chosen.sum(1)
    stratum = torch.bucketize(size, torch.tensor(SIZE_STRATA))
    return {
        "coverage": float(hit.mean()),
        "size": float(size.double().mean()),
        "empty": float((size == 0).double().mean()),
        "singleton": float((size == 1).double().mean()),
        "size_stratified_coverage": min(float(hit[stratum == s].mean()) for s in stratum.unique()),
    }


class StoredProbabilities(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier, as scikit-learn has them, whose inputs are its predictions.

    Args:
        num_classes: ``C``.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classes_ = np.arange(num_classes)

    def fit(self, x: Array, y: Array) -> StoredProbabilities:
        """Do nothing: it is fitted."""
        return self

    def predict(self, x: Array) -> Array:
        """The most probable class."""
        predicted: Array = x.argmax(1)
        return predicted

    def predict_proba(self, x: Array) -> Array:
        """What it was given."""
        return x


def _probabilities(predictive: ClassificationPredictive) -> Array:
    probs = predictive.log_probs.exp().clamp_min(SMALLEST_PROBABILITY)
    array: Array = (probs / probs.sum(1, keepdim=True)).cpu().numpy()
    return array


def _check(known: Array, labels: Array, new: Array, coverage: float, method: str) -> None:
    if method not in get_args(Method):
        raise ValueError(
            f"method must be one of {', '.join(get_args(Method))}; got {method!r}. Pass 'lac'."
        )
    if known.shape[1] != new.shape[1]:
        raise ValueError(
            f"calibration and test predictions must have the same classes; got {known.shape[1]} "
            f"and {new.shape[1]}. Predict both with the same posterior."
        )
    if method != "lac" and len(np.unique(labels)) < 3:
        raise ValueError(
            f"{method} needs three classes or more among the calibration labels; got "
            f"{len(np.unique(labels))}. Pass method='lac'."
        )
    needed = math.ceil(max(1 / (1 - coverage), 1 / coverage))
    if method == "raps":
        needed = math.ceil(max(needed, known.shape[1]) / RAPS_SHARE)
        once = np.flatnonzero(np.bincount(labels) == 1)
        if len(once):
            raise ValueError(
                f"RAPS parts the calibration points by class, and needs two of each that occurs; "
                f"class {once[0]} has one. Pass more points, or method='aps'."
            )
    if len(labels) < needed:
        raise ValueError(
            f"coverage {coverage:g} by {method} needs at least {needed} calibration points; got "
            f"{len(labels)}. Pass more points, or lower the coverage."
        )


def _checked_sets(sets: object, y: object) -> tuple[Tensor, Tensor]:
    chosen, labels = as_tensor("sets", sets).cpu(), finite("y", as_tensor("y", y)).cpu()
    if chosen.dtype != torch.bool or chosen.ndim != 2:
        raise ValueError(
            f"sets must be a boolean array of points and classes; got {chosen.dtype} of shape "
            f"{tuple(chosen.shape)}. Pass what conformal_sets returns."
        )
    in_range = (labels >= 0) & (labels < chosen.shape[1]) & (labels == labels.round())
    if labels.shape != chosen.shape[:1] or not bool(in_range.all()):
        raise ValueError(
            f"y must hold one label from 0 to {chosen.shape[1] - 1} for each of the {len(chosen)} "
            f"sets; got shape {tuple(labels.shape)} with values from {labels.min().item():g} to "
            f"{labels.max().item():g}. Pass the labels of the points of the sets."
        )
    return chosen, labels.long()
