r"""Likelihoods :math:`p(y \mid f)`: what the output ``f`` of a net says about a target ``y``.

Shapes: ``outputs`` is ``(*draws, batch, k)`` as a net returns it; targets are ``(batch,)``, or
``(batch, d)`` for regression with ``d > 1`` outputs. A likelihood may have parameters of its own
(a noise scale with a prior): those are sites like any other, passed in ``params``.
"""

from probml_tp.likelihoods.base import (
    ClassificationLikelihood,
    Likelihood,
    RegressionLikelihood,
)
from probml_tp.likelihoods.classification import Bernoulli, Categorical
from probml_tp.likelihoods.regression import Gaussian, HeteroscedasticGaussian, LocScaleGaussian

__all__ = [
    "Bernoulli",
    "Categorical",
    "ClassificationLikelihood",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "LocScaleGaussian",
    "RegressionLikelihood",
]
