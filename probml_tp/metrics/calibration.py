r"""Calibration: whether an event predicted with probability ``p`` happens with frequency ``p``.

:func:`reliability` bins predictions for a diagram, the calibration errors sum up what it shows, and
:class:`TemperatureScaling` repairs overall over- or underconfidence. All read a
:class:`~probml_tp.predictions.predictive.ClassificationPredictive`, whichever posterior made it.
The error over bins of equal width is :func:`probml_tp.metrics.expected_calibration_error`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive, positive_integer
from probml_tp.metrics.accuracy import binned_error, equal_bins
from probml_tp.predictions.predictive import ClassificationPredictive

__all__ = [
    "Reliability",
    "TemperatureScaling",
    "adaptive_calibration_error",
    "classwise_calibration_error",
    "reliability",
]

Array = np.ndarray[Any, Any]

TEMPERATURES = (0.05, 20.0)
"""The range of temperatures searched: beyond it no classifier is off by confidence alone."""


@dataclass(frozen=True)
class Reliability:
    """What was predicted and what came, in the ``B`` bins that hold any point.

    Args:
        low: lower edge of each bin in confidence, ``(B,)``.
        high: upper edge, ``(B,)``.
        count: points in it, ``(B,)``.
        confidence: their mean confidence, ``(B,)``.
        accuracy: the share of them that is right, ``(B,)``.
    """

    low: Array
    high: Array
    count: Array
    confidence: Array
    accuracy: Array

    @property
    def error(self) -> float:
        """Distance of accuracy and confidence, averaged over the points."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.average(gap, weights=self.count))


@checked()
def reliability(
    predictive: ClassificationPredictive, y: object, *, num_bins: int = 15, adaptive: bool = False
) -> Reliability:
    """Bin the points by confidence and compare it with accuracy.

    The confidence is the probability of the predicted class. Bins of equal width are those of
    :func:`~probml_tp.metrics.expected_calibration_error`, closed on the left.

    Args:
        predictive: the predictions at ``N`` points.
        y: their labels ``(N,)``.
        num_bins: how many bins, at most: empty ones are left out.
        adaptive: whether the bins hold equally many points, not equally wide intervals. Points
            of equal confidence share a bin, so where they are many there are fewer bins.

    Returns:
        The bins, lowest confidence first.

    Raises:
        ValueError: ``y`` is not one label for each point, or ``num_bins`` is below 1.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(3), torch.ones(3, 2))
        >>> bins = reliability(predictive, [0, 1, 1], num_bins=4)
        >>> bins.low, bins.count, bins.confidence.round(2), bins.accuracy
        (array([0.5 , 0.75]), array([1, 2]), array([0.6 , 0.85]), array([1. , 0.5]))
    """
    labels = predictive.check_labels(y)
    predicted = predictive.predicted_class
    correct, bins = (predicted == labels).cpu().numpy(), positive_integer("num_bins", num_bins)
    if not adaptive:
        confidence = predictive.confidence
        place = equal_bins(confidence, bins).cpu().numpy()
        return _binned(
            confidence.double().cpu().numpy(), correct, place, np.arange(bins + 1) / bins
        )
    log_confidence = predictive.log_probs.gather(1, predicted.unsqueeze(1)).squeeze(1)
    sharp = log_confidence.exp().clamp_max(1.0).cpu().numpy()
    edges = _equal_mass(sharp, bins)
    return _binned(sharp, correct, np.searchsorted(edges[:-1], sharp, side="right") - 1, edges)


def adaptive_calibration_error(
    predictive: ClassificationPredictive, y: object, *, num_bins: int = 15
) -> float:
    r"""How far confidence and accuracy are apart, over bins of equally many points.

    .. math:: \sum_{b=1}^B \frac{n_b}{N}
              \left|\mathrm{accuracy}_b - \mathrm{confidence}_b\right|

    Of the meanings that "adaptive calibration error" has, this is the one for the probability of
    the predicted class (Nguyen and O'Connor 2015; "AdaECE" of Mukhoti et al. 2020), not that over
    all classes of Nixon et al. (2019). Bins are those of :func:`reliability`.

    Args:
        predictive: the predictions at ``N`` points.
        y: their labels ``(N,)``.
        num_bins: ``B``.

    Returns:
        The error, between 0 and 1; lower is better.

    Raises:
        ValueError: ``y`` is not one label for each point, or ``num_bins`` is below 1.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(3), torch.ones(3, 2))
        >>> round(adaptive_calibration_error(predictive, [0, 1, 1], num_bins=3), 6)
        0.433333
    """
    return reliability(predictive, y, num_bins=num_bins, adaptive=True).error


@checked()
def classwise_calibration_error(
    predictive: ClassificationPredictive, y: object, *, num_bins: int = 15
) -> float:
    r"""How far the probability of each class and its frequency are apart (Kull et al. 2019).

    .. math:: \frac1C \sum_{c=1}^C \sum_{b=1}^B \frac{n_{bc}}{N}
              \left|\mathrm{frequency}_{bc} - \mathrm{probability}_{bc}\right|

    over ``B`` bins of equal width in the probability of class ``c``; the "static calibration
    error" of Nixon et al. (2019). It sees all probabilities, those of classes not predicted too:
    with many classes most are near 0 and the error is small. The bins are those of
    :func:`~probml_tp.metrics.expected_calibration_error`.

    Args:
        predictive: the predictions at ``N`` points.
        y: their labels ``(N,)``.
        num_bins: ``B``.

    Returns:
        The error, between 0 and 1; lower is better.

    Raises:
        ValueError: ``y`` is not one label for each point, or ``num_bins`` is below 1.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.8, 0.2]])
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(2), torch.ones(2, 2))
        >>> round(classwise_calibration_error(predictive, [0, 1]), 6)
        0.3
    """
    labels = predictive.check_labels(y)
    bins = positive_integer("num_bins", num_bins)
    by_class = [
        binned_error(p, labels == c, equal_bins(p, bins)) for c, p in enumerate(predictive.probs.mT)
    ]
    return math.fsum(by_class) / len(by_class)


@dataclass(frozen=True)
class TemperatureScaling:
    r"""One number that makes predictions less or more confident (Guo et al. 2017).

    .. math:: p^{(T)}_{nc} \propto \bar p_{nc}^{1 / T}, \qquad
              T = \arg\min_T -\tfrac1N \sum_n \log p^{(T)}_{n, y_n}

    It scales the logarithm of the *mean* probability, so it works on any posterior's predictions;
    for a point estimate that is the logits over ``T``. The predicted class never changes.

    Args:
        temperature: ``T``; above 1 it lowers the confidence.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1]] * 4)
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(4), torch.ones(4, 2))
        >>> scaling = TemperatureScaling.fit(predictive, [0, 0, 0, 1])
        >>> round(scaling.temperature, 4), scaling.apply(predictive).probs[0]
        (2.0, tensor([0.7500, 0.2500]))
    """

    temperature: float

    def __post_init__(self) -> None:
        """Check the temperature."""
        positive("temperature", self.temperature)

    @classmethod
    @checked()
    def fit(cls, predictive: ClassificationPredictive, y: object) -> TemperatureScaling:
        r"""Find the temperature of least negative log likelihood.

        The NLL is convex in :math:`\beta = 1 / T`, with the derivative
        :math:`\tfrac1N \sum_n (\mathbb E_{p^{(T)}_n}[\log \bar p_n] - \log \bar p_{n, y_n})`,
        whose root is bracketed and found in :math:`\log T`. The range is from 0.05 to 20. Where the
        NLL has no minimum the result is an end of it: the lower one if all predictions are
        right, as may happen with few points; the upper one if they are worse than uniform ones.

        Args:
            predictive: predictions at ``N`` points that trained nothing, as validation data.
            y: their labels ``(N,)``.

        Returns:
            The scaling.

        Raises:
            ValueError: ``y`` is not one label for each point, or some label has probability 0.
        """
        at_labels = predictive.log_prob(y)
        if bool(torch.isinf(at_labels).any()):
            raise ValueError(
                f"temperature scaling needs a positive probability of every label; "
                f"{int(torch.isinf(at_labels).sum())} of {len(at_labels)} labels have probability "
                f"0. Pass log_probs in float64 to the predictive."
            )
        # An impossible class takes no part: 0 times a finite number, not times infinity.
        log_probs, mean_at_labels = predictive.log_probs.clamp_min(-1e300), at_labels.mean()

        def slope(log_temperature: float) -> float:
            p = (log_probs * math.exp(-log_temperature)).softmax(-1)
            return float((p * log_probs).sum(-1).mean() - mean_at_labels)

        coldest, hottest = (math.log(t) for t in TEMPERATURES)
        if slope(coldest) <= 0:
            return cls(TEMPERATURES[0])
        if slope(hottest) >= 0:
            return cls(TEMPERATURES[1])
        return cls(math.exp(brentq(slope, coldest, hottest, xtol=1e-12)))

    @checked()
    def apply(self, predictive: ClassificationPredictive) -> ClassificationPredictive:
        """Rescale predictions.

        Args:
            predictive: of any posterior.

        Returns:
            The predictions with the scaled probabilities. They are no longer a mean over draws, so
            the outputs and the expected entropy are left out; the votes stay, since scaling
            each draw would not change them.
        """
        log_probs: Tensor = (predictive.log_probs / self.temperature).log_softmax(-1)
        return replace(
            predictive,
            outputs=None,
            probs=log_probs.exp().to(predictive.probs.dtype),
            expected_entropy=None,
            log_probs=log_probs,
        )


def _equal_mass(confidence: Array, num_bins: int) -> Array:
    """Edges of bins that hold equally many points; points that tie start a bin together."""
    rising = np.sort(confidence)
    first = np.arange(num_bins) * len(rising) // num_bins
    return np.append(np.unique(rising[first]), rising[-1])


def _binned(confidence: Array, correct: Array, place: Array, edges: Array) -> Reliability:
    bins = len(edges) - 1
    count = np.bincount(place, minlength=bins)
    used = count > 0
    return Reliability(
        low=edges[:-1][used],
        high=edges[1:][used],
        count=count[used],
        confidence=np.bincount(place, confidence, bins)[used] / count[used],
        accuracy=np.bincount(place, correct, bins)[used] / count[used],
    )
