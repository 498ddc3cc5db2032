r"""Scores of what a posterior predicts: probabilities, their uncertainty, and logits.

Each takes a :class:`NetworkPass` and returns a confidence ``(N,)``, higher where the prediction is
more certain: uncertainties come with a minus sign.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked, real_tensor
from probml_tp.checks.values import positive
from probml_tp.scores.network_pass import NetworkPass, Score

__all__ = [
    "OUTPUT_SCORES",
    "doctor",
    "energy",
    "log_max_probability",
    "max_logit",
    "max_probability",
    "negative_entropy",
    "negative_expected_entropy",
    "negative_mutual_information",
    "negative_variation_ratio",
]


@checked()
def max_probability(run: NetworkPass) -> Tensor:
    r"""The maximum class probability, MCP or MSP (Hendrycks & Gimpel 2017).

    .. math:: \max_c \bar p_c

    of the mean :math:`\bar p` over draws, as its logarithm in float64, which has the same order:
    in float32 all probabilities above :math:`1 - 6\cdot10^{-8}` would be one tie. See
    :func:`log_max_probability`.

    Args:
        run: a pass.

    Returns:
        The confidence in nats, at most 0.
    """
    return log_max_probability(run.predictive.log_probs)


@checked(log_probs=real_tensor(2, infinite=True))
def log_max_probability(log_probs: Tensor) -> Tensor:
    r"""The logarithm of the largest probability, with all its digits where that is close to 1.

    .. math:: \log p_{\hat c} = \log\Big(1 - \sum_{c \ne \hat c} p_c\Big)

    Args:
        log_probs: :math:`\log p_c`, ``(N, C)``, in float64.

    Returns:
        At most 0, ``(N,)``.

    Example:
        >>> log_max_probability(torch.tensor([[0.0, -40.0]], dtype=torch.float64))
        tensor([-4.2484e-18], dtype=torch.float64)
    """
    others = _others(log_probs).exp().sum(-1)
    return torch.log1p(-others.clamp_max(1 - 1 / log_probs.shape[1]))


@checked()
def negative_entropy(run: NetworkPass) -> Tensor:
    r"""Minus the predictive entropy, :math:`\sum_c \bar p_c \log \bar p_c`, total uncertainty.

    Args:
        run: a pass.

    Returns:
        The confidence in nats, at most 0, float64.
    """
    others = _others(run.predictive.log_probs).exp()
    top = 1 - others.sum(-1)
    return torch.xlogy(others, others).sum(-1) + top * max_probability(run)


@checked()
def negative_expected_entropy(run: NetworkPass) -> Tensor:
    r"""Minus the mean entropy over draws, :math:`-\tfrac1S\sum_s H(p_s)`: aleatoric uncertainty.

    Args:
        run: a pass.

    Returns:
        The confidence in nats, at most 0.

    Raises:
        ValueError: the predictions are in closed form and do not have it.
    """
    return run.predictive.mutual_information - run.predictive.predictive_entropy


@checked()
def negative_mutual_information(run: NetworkPass) -> Tensor:
    r"""Minus the mutual information of label and parameters (BALD; Houlsby et al. 2011).

    Args:
        run: a pass.

    Returns:
        The confidence in nats, at most 0; 0 everywhere for a single draw.

    Raises:
        ValueError: the predictions are in closed form and do not have it.
    """
    return -run.predictive.mutual_information


@checked()
def negative_variation_ratio(run: NetworkPass) -> Tensor:
    """Minus the share of draws that do not vote for the class with most votes (Gal 2016).

    It has at most ``S`` levels, so ties are many.

    Args:
        run: a pass.

    Returns:
        The confidence, from -1 to 0.

    Raises:
        ValueError: the predictions are in closed form, without votes.
    """
    return -run.predictive.variation_ratio


@checked()
def max_logit(run: NetworkPass) -> Tensor:
    r"""The largest logit, :math:`\max_c \bar f_c` (Hendrycks et al. 2022).

    Args:
        run: a pass.

    Returns:
        The confidence, in nats.
    """
    return run.logits.amax(-1)


@checked(temperature=positive)
def energy(run: NetworkPass, *, temperature: float = 1.0) -> Tensor:
    r"""Minus the free energy, :math:`T \log \sum_c e^{\bar f_c / T}` (Liu et al. 2020).

    Args:
        run: a pass.
        temperature: ``T``.

    Returns:
        The confidence, in nats.
    """
    return temperature * (run.logits / temperature).logsumexp(-1)


@checked()
def doctor(run: NetworkPass) -> Tensor:
    r"""DOCTOR's :math:`D_\alpha` (Granese et al. 2021): minus the odds that a random guess errs.

    With a label drawn from :math:`\bar p`, :math:`1 - \hat g` is the chance that the true class
    and the draw agree, and the detector rejects where :math:`(1 - g) / g` is large,

    .. math:: g = \sum_c \bar p_c^2, \qquad \text{confidence} = -\frac{1 - g}{g}

    Args:
        run: a pass.

    Returns:
        The confidence, at most 0, float64.
    """
    log_probs = run.predictive.log_probs
    g = (2 * log_probs).logsumexp(-1).exp()
    disagree = (log_probs.exp() * -torch.expm1(log_probs)).sum(-1)
    return -disagree / g


def _others(log_probs: Tensor) -> Tensor:
    r""":math:`\log p_c` of all classes but the most probable one, whose place holds -inf."""
    return log_probs.scatter(1, log_probs.argmax(-1, keepdim=True), -torch.inf)


OUTPUT_SCORES: Mapping[str, Score] = {
    "max-probability": max_probability,
    "entropy": negative_entropy,
    "expected-entropy": negative_expected_entropy,
    "mutual-information": negative_mutual_information,
    "variation-ratio": negative_variation_ratio,
    "max-logit": max_logit,
    "energy": energy,
    "doctor": doctor,
}
"""Scores that need nothing but a pass, by the name that tables and figures have for them."""
