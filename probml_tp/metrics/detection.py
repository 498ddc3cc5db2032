"""How well a confidence tells right predictions from wrong ones, and known inputs from foreign.

A confidence is a number per point, higher where the prediction is more likely right, or the input
more likely from the training distribution; only the order that it gives counts. Ties, of which
scores such as the variation ratio have many, are handled as one threshold by every metric.

A single metric raises ``ValueError`` where it is undefined; :func:`failure_metrics` and
:func:`ood_metrics` leave it out, so no value is ever NaN.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from probml_tp.checks.values import finite_vector, flag_vector, strictly_between_0_and_1
from probml_tp.metrics.selective import augrc, aurc, excess_aurc

__all__ = ["auroc", "average_precision", "failure_metrics", "fpr_at_tpr", "ood_metrics"]

Array = np.ndarray[Any, Any]


def auroc(score: object, positive: object) -> float:
    r"""The probability that a positive scores above a negative, a tie counting one half.

    Args:
        score: one number per point ``(N,)``, higher where more likely positive.
        positive: whether each point is positive, ``(N,)``.

    Returns:
        The area under the ROC curve, by scikit-learn; 1/2 for a score that says nothing.

    Raises:
        ValueError: all points are of one kind, a score is not finite, or the shapes do not fit.

    Example:
        >>> auroc([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])  # pairs: 1, 1, 1/2, 1
        0.875
    """
    scores, labels = _checked(score, positive)
    _require_both("AUROC", labels)
    return float(roc_auc_score(labels, scores))


def average_precision(score: object, positive: object) -> float:
    r"""The area under the precision-recall curve, by steps, not trapezoids.

    .. math:: \mathrm{AP} = \sum_k (\text{recall}_k - \text{recall}_{k-1})\, \text{precision}_k

    over the distinct scores, highest first.

    Args:
        score: one number per point ``(N,)``, higher where more likely positive.
        positive: whether each point is positive, ``(N,)``.

    Returns:
        The average precision, by scikit-learn; the share of positives for a score that says
        nothing, and 1 if all points are positive.

    Raises:
        ValueError: no point is positive, a score is not finite, or the shapes do not fit.

    Example:
        >>> round(average_precision([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0]), 4)  # 1/2 + 1/2 * 2/3
        0.8333
    """
    scores, labels = _checked(score, positive)
    if not labels.any():
        raise ValueError(
            f"average precision needs at least one positive point; got none among {len(labels)}. "
            f"Judge more points, or leave it out."
        )
    return float(average_precision_score(labels, scores))


def fpr_at_tpr(score: object, positive: object, *, tpr: float = 0.95) -> float:
    """The share of negatives let through by the threshold that keeps enough positives.

    The threshold is the highest that keeps at least ``tpr`` of the positives; no value is
    interpolated, since within a group of ties no threshold exists.

    Args:
        score: one number per point ``(N,)``, higher where more likely positive.
        positive: whether each point is positive, ``(N,)``.
        tpr: the share of positives to keep.

    Returns:
        The false positive rate; lower is better.

    Raises:
        ValueError: all points are of one kind, ``tpr`` is not between 0 and 1, a score is not
            finite, or the shapes do not fit.

    Example:
        >>> fpr_at_tpr([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 0, 0], tpr=0.95)
        0.3333333333333333
    """
    scores, labels = _checked(score, positive)
    _require_both("FPR at a given TPR", labels)
    level = strictly_between_0_and_1("tpr", tpr)
    fprs, tprs, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(fprs[np.argmax(tprs >= level)])


def failure_metrics(confidence: object, correct: object) -> dict[str, float]:
    r"""How well a confidence tells a classifier's right predictions from its wrong ones.

    The definitions are those of Corbière et al. (2019), for whom a right prediction is the
    positive of AUROC and FPR, and of the risk-coverage literature.

    Args:
        confidence: one number per point ``(N,)``, higher where more likely right.
        correct: whether each prediction is right, ``(N,)``.

    Returns:
        ``auroc`` and ``fpr95`` (FPR at 95 % TPR), with right predictions as positives;
        ``aupr_success``, average precision of right predictions by confidence; ``aupr_error``,
        that of wrong ones by its negative; ``aurc``, ``e_aurc`` and ``augrc`` of
        :mod:`probml_tp.metrics.selective`. Left out is what is undefined: without wrong predictions
        ``auroc``, ``fpr95`` and ``aupr_error``; without right ones ``auroc``, ``fpr95`` and
        ``aupr_success``.

    Raises:
        ValueError: a confidence is not finite, or the two do not fit together.

    Example:
        >>> metrics = failure_metrics([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])
        >>> [(name, round(value, 3)) for name, value in metrics.items()][:4]
        [('auroc', 0.667), ('aupr_success', 0.917), ('aupr_error', 0.5), ('fpr95', 1.0)]
        >>> [(name, round(value, 3)) for name, value in metrics.items()][4:]
        [('aurc', 0.146), ('e_aurc', 0.112), ('augrc', 0.094)]
    """
    confidences, right = _checked(confidence, correct, names=("confidence", "correct"))
    return {
        **_ranking(confidences, right, "aupr_success", "aupr_error"),
        "aurc": aurc(confidences, right),
        "e_aurc": excess_aurc(confidences, right),
        "augrc": augrc(confidences, right),
    }


def ood_metrics(
    confidence_in: object, confidence_out: object, *, positive: Literal["in", "out"] = "in"
) -> dict[str, float]:
    """How well a confidence tells in-distribution points from others.

    Args:
        confidence_in: of in-distribution points ``(N,)``, expected to be higher.
        confidence_out: of out-of-distribution points ``(M,)``.
        positive: which points must be kept by the threshold of the FPR: with ``"in"``, as in
            the ODIN paper (Liang et al. 2018), it is the share of out-of-distribution points let
            through when 95 % of the in-distribution ones are kept; with ``"out"``, as in newer
            benchmarks, the share of in-distribution points flagged when 95 % of the others are
            found. The other entries do not depend on it.

    Returns:
        ``auroc``; ``aupr_in``, average precision of in-distribution points by confidence;
        ``aupr_out``, that of the others by its negative; ``fpr95``.

    Raises:
        ValueError: either set is empty or not finite, or ``positive`` is neither of the two.

    Example:
        >>> metrics = ood_metrics([0.9, 0.8, 0.5], [0.6, 0.4, 0.3])
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'auroc': 0.889, 'aupr_in': 0.917, 'aupr_out': 0.917, 'fpr95': 0.333}
    """
    if positive not in ("in", "out"):
        raise ValueError(f"positive must be 'in' or 'out'; got {positive!r}. Pass one of them.")
    known = finite_vector("confidence_in", confidence_in)
    foreign = finite_vector("confidence_out", confidence_out)
    confidences = np.concatenate([known, foreign])
    is_known = np.arange(len(confidences)) < len(known)
    metrics = _ranking(confidences, is_known, "aupr_in", "aupr_out")
    if positive == "out":
        metrics["fpr95"] = fpr_at_tpr(-confidences, ~is_known)
    return metrics


def _ranking(scores: Array, labels: Array, positives: str, negatives: str) -> dict[str, float]:
    """What the order of the scores says, as far as it is defined."""
    metrics: dict[str, float] = {}
    both = bool(labels.any() and not labels.all())
    if both:
        metrics["auroc"] = auroc(scores, labels)
    if labels.any():
        metrics[positives] = average_precision(scores, labels)
    if not labels.all():
        metrics[negatives] = average_precision(-scores, ~labels)
    if both:
        metrics["fpr95"] = fpr_at_tpr(scores, labels)
    return metrics


def _checked(
    score: object, positive: object, *, names: tuple[str, str] = ("score", "positive")
) -> tuple[Array, Array]:
    scores = finite_vector(names[0], score)
    return scores, flag_vector(names[1], positive, len(scores))


def _require_both(metric: str, labels: Array) -> None:
    if labels.all() or not labels.any():
        raise ValueError(
            f"{metric} needs positive and negative points; got {int(labels.sum())} positive of "
            f"{len(labels)}. Judge more points, or leave it out."
        )
