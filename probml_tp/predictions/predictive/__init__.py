"""Predictive distributions, their uncertainty split into epistemic and aleatoric parts."""

from probml_tp.predictions.predictive.accumulators import accumulator_for
from probml_tp.predictions.predictive.base import Predictive
from probml_tp.predictions.predictive.classification import ClassificationPredictive
from probml_tp.predictions.predictive.regression import RegressionPredictive

__all__ = ["ClassificationPredictive", "Predictive", "RegressionPredictive", "accumulator_for"]
