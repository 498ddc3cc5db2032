"""Confidence scores: how likely a prediction is to be right, or a point to be in-distribution."""

from __future__ import annotations

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
    "NetworkPass",
    "Score",
    "doctor",
    "energy",
    "max_logit",
    "max_probability",
    "negative_entropy",
    "negative_expected_entropy",
    "negative_mutual_information",
    "negative_variation_ratio",
    "network_pass",
]
