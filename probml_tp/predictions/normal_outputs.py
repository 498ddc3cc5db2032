r"""Predictions from outputs that are normal with known moments, without draws of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probml_tp.guide import check_num_samples
from probml_tp.likelihoods import (
    Bernoulli,
    Categorical,
    ClassificationLikelihood,
    Gaussian,
    Likelihood,
)
from probml_tp.likelihoods.base import is_exactly
from probml_tp.predictions.draws import MAX_OUTPUT_ROWS, DrawBatch
from probml_tp.predictions.links import Link, laplace_bridge, probit, symmetric_root
from probml_tp.predictions.predictive import (
    ClassificationPredictive,
    Predictive,
    RegressionPredictive,
    accumulator_for,
)
from probml_tp.streams import Stream, substream

__all__ = ["Moments", "predict_from_moments"]

Moments = tuple[Tensor, Tensor]
"""Mean ``(n, k)`` and covariance ``(n, k, k)`` of the outputs at a batch of points."""


def predict_from_moments(
    likelihood: Likelihood,
    moments: Sequence[Moments],
    *,
    link: Link,
    num_samples: int,
    seed: int,
) -> Predictive:
    """The predictive distribution where outputs are normal.

    Args:
        likelihood: the observation model, without sites of its own.
        moments: of the outputs, batch by batch.
        link: how class probabilities follow; regression with known noise is in closed form, and
            other likelihoods are always sampled.
        num_samples: draws of the outputs, where they are sampled.
        seed: determines them.

    Returns:
        The predictions at all points, in order.

    Raises:
        ValueError: there is no such closed form for the likelihood, or a moment has another shape.
    """
    for mean, covariance in moments:
        if mean.ndim != 2 or covariance.shape != (*mean.shape, mean.shape[-1]):
            raise ValueError(
                f"function_moments of a guide must return a mean (batch, k) and a covariance "
                f"(batch, k, k); got {tuple(mean.shape)} and {tuple(covariance.shape)}. Return "
                f"both for every point."
            )
    if is_exactly(likelihood, Gaussian):
        mean, covariance = (torch.cat(parts) for parts in zip(*moments, strict=True))
        return _normal(likelihood, mean, covariance)
    if link == "sampled" or not isinstance(likelihood, ClassificationLikelihood):
        return _sampled(likelihood, moments, num_samples, seed)
    if not (is_exactly(likelihood, Bernoulli) or is_exactly(likelihood, Categorical)):
        raise ValueError(
            f"the {link} link is a formula for Bernoulli and Categorical likelihoods; got "
            f"{likelihood.describe()}. Call predict(..., link='sampled')."
        )
    function = probit if link == "probit" else laplace_bridge
    linked = [function(likelihood, *part) for part in moments]
    log_probs = torch.cat([part.log_probs for part in linked])
    entropies = [p.expected_entropy for p in linked if p.expected_entropy is not None]
    dtype = moments[0][0].dtype
    return ClassificationPredictive(
        num_samples=0,
        outputs=None,
        probs=log_probs.exp().to(dtype),
        expected_entropy=torch.cat(entropies).to(dtype) if entropies else None,
        votes=None,
        log_probs=log_probs,
        mean_outputs=torch.cat([mean for mean, _ in moments]),
    )


def _sampled(
    likelihood: Likelihood, moments: Sequence[Moments], num_samples: int, seed: int
) -> Predictive:
    """Averages over draws of each point's outputs; the random numbers are common to all points.

    With the symmetric root of the covariance a draw is a continuous function of the inputs.
    """
    like = moments[0][0]
    generator = torch.Generator(device=like.device).manual_seed(substream(seed, Stream.DRAWS))
    epsilon = torch.randn(
        (check_num_samples(num_samples), like.shape[-1]),
        generator=generator,
        dtype=like.dtype,
        device=like.device,
    )
    accumulator = accumulator_for(likelihood, sum(len(m) for m, _ in moments), keep_outputs=False)
    start = 0
    for mean, covariance in moments:
        points, root, first = slice(start, start + len(mean)), symmetric_root(covariance), 0
        for part in epsilon.split(max(1, MAX_OUTPUT_ROWS // len(mean))):
            outputs = mean + (root @ part.mT).permute(2, 0, 1)
            accumulator.update(DrawBatch(slice(first, first + len(part)), points, {}, outputs))
            first += len(part)
        start = points.stop
    predictive = accumulator.result()
    if isinstance(predictive, ClassificationPredictive):
        exact = torch.cat([mean for mean, _ in moments])
        predictive = replace(predictive, mean_outputs=exact)
    return predictive


def _normal(likelihood: Gaussian, mean: Tensor, covariance: Tensor) -> RegressionPredictive:
    """The closed form for normal outputs and known noise."""
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    noise = likelihood.moments(mean, {})[1]
    mean, variance, noise = (
        (v.squeeze(-1) if v.shape[-1] == 1 else v).double() for v in (mean, variance, noise)
    )
    return RegressionPredictive(
        num_samples=0,
        outputs=None,
        mean=mean,
        epistemic_variance=variance,
        aleatoric_variance=noise,
    )
