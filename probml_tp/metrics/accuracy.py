r"""How good a predictive distribution is, judged by data that it has not seen.

``classification_metrics`` and ``regression_metrics`` predict and judge;
``classification_scores`` and ``regression_scores`` judge predictions that exist already, so that
no network pass is done twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from sklearn.metrics import accuracy_score, root_mean_squared_error
from torch import Tensor

from probml_tp.checks.arguments import checked, real_tensor
from probml_tp.checks.values import positive_integer
from probml_tp.predictions.predictive import ClassificationPredictive, RegressionPredictive
from probml_tp.predictions.target_mixture import NUM_DRAWS

if TYPE_CHECKING:
    from probml_tp.posterior import Posterior

__all__ = [
    "brier_score",
    "classification_metrics",
    "classification_scores",
    "crps",
    "expected_calibration_error",
    "regression_metrics",
    "regression_scores",
    "total_variation",
]

MAX_PAIRS = 2_000_000
"""Pairs of mixture components, over points, that are held in memory at once."""


@checked()
def classification_metrics(
    posterior: Posterior, x: object, y: object, *, num_samples: int = 100, seed: int | None = None
) -> dict[str, float]:
    """Predict labels at ``x`` and judge the predictions by ``y``.

    Args:
        posterior: a posterior of a classification model.
        x: test inputs ``(N, ...)``.
        y: test labels ``(N,)``.
        num_samples: draws to average over.
        seed: determines the draws; default: the posterior's.

    Returns:
        What :func:`classification_scores` gives.

    Raises:
        ValueError: the model is not one of classification, or the data do not fit it.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Bernoulli, Delta, NormalPrior
        >>> from probml_tp.posterior import Posterior
        >>> net = torch.nn.Linear(1, 1)
        >>> _ = torch.nn.init.zeros_(net.weight), torch.nn.init.zeros_(net.bias)
        >>> posterior = Posterior(Delta(BayesianModel(net, NormalPrior(1.0), Bernoulli())))
        >>> scores = classification_metrics(posterior, torch.zeros(2, 1), [0, 0])
        >>> {name: round(value, 3) for name, value in scores.items()}
        {'accuracy': 1.0, 'nll': 0.693, 'brier': 0.5, 'ece': 0.5}
    """
    inputs, labels = posterior.model.check_data(x, y)
    predictive = posterior.predict(inputs, num_samples=num_samples, seed=seed)
    if not isinstance(predictive, ClassificationPredictive):
        raise ValueError(_wrong_kind("classification_metrics", "regression_metrics", posterior))
    return classification_scores(predictive, labels)


@checked()
def classification_scores(predictive: ClassificationPredictive, y: object) -> dict[str, float]:
    r"""Judge predicted class probabilities :math:`\bar p` by the labels that came.

    Args:
        predictive: the predictions at ``N`` points.
        y: their labels ``(N,)``.

    Returns:
        ``accuracy``: the share of points whose most probable class is the label.
        ``nll``: :math:`-\tfrac1N\sum_n \log\bar p_{n,y_n}`, in nats per point: the logarithm of the
        mean probability, taken in log space. ``brier``: see :func:`brier_score`. ``ece``: see
        :func:`expected_calibration_error`.

    Raises:
        ValueError: ``y`` is not one label for each point.
    """
    labels = predictive.check_labels(y)
    predicted = predictive.predicted_class
    return {
        "accuracy": float(accuracy_score(labels.cpu(), predicted.cpu())),
        "nll": -float(predictive.log_prob(labels).mean()),
        "brier": brier_score(predictive, labels),
        "ece": expected_calibration_error(predictive, labels),
    }


@checked()
def brier_score(predictive: ClassificationPredictive, y: object) -> float:
    r"""The Brier score in its original form, summed over classes (Brier 1950).

    .. math:: \frac1N \sum_n \sum_c \left(\bar p_{nc} - [y_n = c]\right)^2 \in [0, 2]

    For two classes it is twice the mean squared error of :math:`p(y = 1)`.

    Args:
        predictive: the predictions at ``N`` points.
        y: their labels ``(N,)``.

    Returns:
        The score; lower is better.

    Raises:
        ValueError: ``y`` is not one label for each point.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(2), torch.ones(2, 2))
        >>> round(brier_score(predictive, [0, 1]), 6)  # (0.04 + 0.04 + 0.25 + 0.25) / 2
        0.29
    """
    probs = predictive.probs.double()
    outcome = torch.nn.functional.one_hot(predictive.check_labels(y), probs.shape[-1])
    return float((probs - outcome).square().sum(-1).mean())


@checked()
def expected_calibration_error(
    predictive: ClassificationPredictive, y: object, *, num_bins: int = 15
) -> float:
    r"""How far confidence and accuracy are apart (Naeini et al. 2015; Guo et al. 2017).

    .. math:: \mathrm{ECE} = \sum_{b=1}^B \frac{n_b}{N}
              \left|\mathrm{accuracy}_b - \mathrm{confidence}_b\right|

    over ``B`` bins of equal width in the probability of the predicted class, each closed on the
    left, the last on both sides: see :func:`equal_bins`.

    Args:
        predictive: the predictions at ``N`` points.
        y: their labels ``(N,)``.
        num_bins: ``B``.

    Returns:
        The error, between 0 and 1; lower is better.

    Raises:
        ValueError: ``y`` is not one label for each point, or ``num_bins`` is below 1.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[1.0, 0.0], [0.98, 0.02]])
        >>> predictive = ClassificationPredictive(1, None, probs, torch.zeros(2), torch.ones(2, 2))
        >>> round(expected_calibration_error(predictive, [0, 1]), 6)  # one bin: |0.5 - 0.99|
        0.49
    """
    labels = predictive.check_labels(y)
    count = positive_integer("num_bins", num_bins)
    correct = predictive.predicted_class == labels
    return binned_error(predictive.confidence, correct, equal_bins(predictive.confidence, count))


def equal_bins(probability: Tensor, num_bins: int) -> Tensor:
    r"""The bin of each probability among :math:`[b / B, (b + 1) / B)`, the last one closed.

    A probability is compared as it is, float32 exactly as float64, with the doubles nearest to
    :math:`b / B`. So the float32 next to 0.7, which is smaller, lies below the edge 7/10.

    Args:
        probability: from 0 to 1, ``(N,)``.
        num_bins: ``B``.

    Returns:
        Numbers from 0 to B - 1, ``(N,)``.

    Example:
        >>> equal_bins(torch.tensor([0.0, 0.2, 0.21, 0.8, 1.0]), 5)
        tensor([0, 1, 1, 4, 4])
    """
    edges = torch.arange(1, num_bins, dtype=torch.float64, device=probability.device) / num_bins
    return torch.searchsorted(edges, probability.double().contiguous(), right=True)


def binned_error(probability: Tensor, happened: Tensor, bins: Tensor) -> float:
    r"""How far probability and frequency are apart, bin by bin.

    .. math:: \frac1N \sum_b \Big|\sum_{n \in b} (p_n - [\text{happened}_n])\Big|

    Args:
        probability: ``p``, ``(N,)``.
        happened: whether each event came, ``(N,)``.
        bins: the bin of each, ``(N,)``.

    Returns:
        The error, between 0 and 1.

    Example:
        >>> p, bins = torch.tensor([0.5, 0.75, 0.75]), torch.tensor([0, 1, 1])
        >>> binned_error(p, torch.tensor([True, True, False]), bins)  # (0.5 + 0.5) / 3
        0.3333333333333333
    """
    gap = probability.double() - happened.double()
    total = torch.zeros(int(bins.max()) + 1, dtype=torch.float64, device=gap.device)
    return float(total.index_add(0, bins, gap).abs().sum() / len(gap))


@checked()
def regression_metrics(
    posterior: Posterior,
    x: object,
    y: object,
    *,
    level: float = 0.95,
    num_samples: int = 100,
    seed: int | None = None,
) -> dict[str, float]:
    """Predict targets at ``x`` and judge the predictions by ``y``.

    Where a guide has its predictive in closed form, that is what is judged, not draws from it.

    Args:
        posterior: a posterior of a regression model.
        x: test inputs ``(N, ...)``.
        y: test targets, ``(N,)`` or ``(N, d)``.
        level: the probability of the central interval whose coverage is counted.
        num_samples: draws to average over.
        seed: determines the draws; default: the posterior's.

    Returns:
        What :func:`regression_scores` gives.

    Raises:
        ValueError: the model is not one of regression, the data do not fit it, or ``level`` is not
            between 0 and 1.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Delta, Gaussian, NormalPrior
        >>> from probml_tp.posterior import Posterior
        >>> net = torch.nn.Linear(1, 1)
        >>> _ = torch.nn.init.zeros_(net.weight), torch.nn.init.zeros_(net.bias)
        >>> posterior = Posterior(Delta(BayesianModel(net, NormalPrior(1.0), Gaussian(scale=1.0))))
        >>> scores = regression_metrics(posterior, torch.zeros(2, 1), [0.0, 2.0])
        >>> {name: round(value, 3) for name, value in scores.items()}
        {'rmse': 1.414, 'nll': 1.919, 'coverage': 0.5}
    """
    inputs, targets = posterior.model.check_data(x, y)
    in_closed_form = posterior.guide.function_moments(inputs[:1]) is not None
    predictive = posterior.predict(
        inputs, num_samples=num_samples, keep_outputs=not in_closed_form, seed=seed
    )
    if not isinstance(predictive, RegressionPredictive):
        raise ValueError(_wrong_kind("regression_metrics", "classification_metrics", posterior))
    return regression_scores(predictive, targets, level=level)


@checked()
def regression_scores(
    predictive: RegressionPredictive, y: object, *, level: float = 0.95
) -> dict[str, float]:
    r"""Judge predicted distributions of targets by the targets that came.

    Args:
        predictive: the predictions at ``N`` points, with their outputs kept unless the moments are
            exact.
        y: the targets, of the shape of the predictions.
        level: the probability of the central interval whose coverage is counted.

    Returns:
        ``rmse``: root mean squared error of the predictive mean, in the units of ``y``. ``nll``:
        :math:`-\tfrac1N\sum_n\log p(y_n \mid x_n)` with the predictive density averaged over draws,
        in nats per point. ``coverage``: the share of targets inside the central interval.

    Raises:
        ValueError: ``y`` does not fit the predictions, ``level`` is not between 0 and 1, or the
            outputs were not kept.
    """
    targets = predictive.check_targets(y)
    inside = predictive.covers(targets, level)
    mean = predictive.mean.double().cpu()
    return {
        "rmse": float(root_mean_squared_error(targets.flatten().cpu(), mean.flatten())),
        "nll": -float(predictive.log_prob(targets).mean()),
        "coverage": float(inside.double().mean()),
    }


@checked(num_draws=positive_integer)
def crps(predictive: RegressionPredictive, y: object, *, num_draws: int = NUM_DRAWS) -> Tensor:
    r"""The continuous ranked probability score of each prediction (Gneiting & Raftery 2007).

    .. math:: \mathrm{CRPS}(F, y) = \int \left(F(z) - [z \ge y]\right)^2 dz
              = E|Y - y| - \tfrac12 E|Y - Y'|, \qquad Y, Y' \sim F

    With :math:`A(m, v) = E|\mathcal N(m, v)| = m (2\Phi(m / \sqrt v) - 1)
    + 2\sqrt v\,\varphi(m / \sqrt v)` it is, for a mixture of normals,

    .. math:: \tfrac1S\sum_s A(y - \mu_s, \sigma_s^2)
              - \tfrac1{2S^2}\sum_{s,t} A(\mu_s - \mu_t, \sigma_s^2 + \sigma_t^2)

    (Grimit et al. 2006); for one normal the second term is :math:`-\sigma / \sqrt\pi`. Exact, but
    of :math:`S^2` terms a point. Of a point mass it would be the absolute error. For a likelihood
    that is not normal both expectations are means over draws of the targets: the score is then off
    by about the predictive standard deviation over :math:`\sqrt{\text{num\_draws}}`.

    Args:
        predictive: the predictions at ``N`` points, with their outputs kept unless the moments are
            exact.
        y: the targets, of the shape of the predictions.
        num_draws: draws of each target, where the likelihood is not normal.

    Returns:
        The score of each target, of their shape, in the units of ``y``; lower is better.

    Raises:
        ValueError: ``y`` does not fit the predictions, or the outputs were not kept.

    Example:
        >>> import torch
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> normal = RegressionPredictive(0, None, 0 * one, 0 * one, one)
        >>> [round(float(crps(normal, [y])), 4) for y in (0.0, 1.0)]
        [0.2337, 0.6024]
    """
    targets = predictive.check_targets(y)
    if predictive.components is not None:
        count = positive_integer("num_draws", num_draws)
        return predictive.components.crps(targets, num_draws=count)
    means, scales = predictive.normal_components()
    variances = scales.double().square()
    to_target = _mean_absolute_normal(targets - means, variances).mean(0)
    columns = zip(
        means.double().flatten(1).split(max(1, MAX_PAIRS // len(means) ** 2), 1),
        variances.flatten(1).split(max(1, MAX_PAIRS // len(means) ** 2), 1),
        strict=True,
    )
    apart = [
        _mean_absolute_normal(m[:, None] - m[None], v[:, None] + v[None]).mean((0, 1))
        for m, v in columns
    ]
    return to_target - 0.5 * torch.cat(apart).reshape(targets.shape)


def _mean_absolute_normal(mean: Tensor, variance: Tensor) -> Tensor:
    r""":math:`E|X|` of a normal variable."""
    sd = variance.sqrt()
    z = mean / sd
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    absolute: Tensor = mean * torch.special.erf(z / math.sqrt(2)) + 2 * sd * density
    return absolute


@checked(probs=real_tensor(), reference=real_tensor())
def total_variation(probs: Tensor, reference: Tensor) -> Tensor:
    r"""The total variation distance of two predictive distributions over classes.

    .. math:: \mathrm{TV}_n = \tfrac12 \sum_c |p_{nc} - q_{nc}| \in [0, 1]

    It is the largest difference in probability that the two give to any set of classes.

    Args:
        probs: :math:`p`, class probabilities ``(N, C)``.
        reference: :math:`q`, of the same shape.

    Returns:
        The distance at each point, ``(N,)``.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> total_variation(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.75, 0.25]]))
        tensor([0.2500])
    """
    if probs.shape != reference.shape:
        raise ValueError(
            f"probs and reference must be of the same points and classes; got shapes "
            f"{tuple(probs.shape)} and {tuple(reference.shape)}. Predict both at the same points."
        )
    return 0.5 * (probs - reference).abs().sum(-1)


def _wrong_kind(name: str, other: str, posterior: Posterior) -> str:
    return (
        f"{name} needs a model whose likelihood it can judge; {posterior.model.name} has "
        f"{posterior.model.likelihood.describe()}. Use {other}."
    )
