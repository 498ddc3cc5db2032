"""Confidence scores: how likely a prediction is to be right, or a point to be in-distribution."""

from __future__ import annotations

from probml_tp.scores.confidnet import (
    ConfidNet,
    ConfidNetCriterion,
    ConfidNetEpoch,
    true_class_probability,
)
from probml_tp.scores.confidnet_training import fit_confidnet
from probml_tp.scores.network_pass import NetworkPass, Score, network_pass
from probml_tp.scores.outputs import (
    OUTPUT_SCORES,
    doctor,
    energy,
    max_logit,
    max_probability,
    negative_entropy,
    negative_expected_entropy,
    negative_mutual_information,
    negative_variation_ratio,
)

__all__ = [
    "OUTPUT_SCORES",
    "ConfidNet",
    "ConfidNetCriterion",
    "ConfidNetEpoch",
    "NetworkPass",
    "Score",
    "doctor",
    "energy",
    "fit_confidnet",
    "max_logit",
    "max_probability",
    "negative_entropy",
    "negative_expected_entropy",
    "negative_mutual_information",
    "negative_variation_ratio",
    "network_pass",
    "true_class_probability",
]
