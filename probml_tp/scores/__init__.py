"""Confidence scores: how likely a prediction is to be right, or a point to be in-distribution."""

from __future__ import annotations

from probml_tp.scores.confidnet import (
    ConfidNet,
    ConfidNetCriterion,
    ConfidNetEpoch,
    true_class_probability,
)
from probml_tp.scores.confidnet_training import fit_confidnet
from probml_tp.scores.mahalanobis import Covariance, Mahalanobis
from probml_tp.scores.nearest import NearestNeighbours, TrustScore
from probml_tp.scores.network_pass import NetworkPass, Score, network_pass
from probml_tp.scores.odin import Odin, ZeroGradientSign, input_gradient, perturbed
from probml_tp.scores.odin_choice import EPSILONS, OdinChoice, choose_odin
from probml_tp.scores.outputs import (
    OUTPUT_SCORES,
    doctor,
    energy,
    log_max_probability,
    max_logit,
    max_probability,
    negative_entropy,
    negative_expected_entropy,
    negative_mutual_information,
    negative_variation_ratio,
)
from probml_tp.scores.tempered import Tempered
from probml_tp.scores.vim import ViM

__all__ = [
    "EPSILONS",
    "OUTPUT_SCORES",
    "ConfidNet",
    "ConfidNetCriterion",
    "ConfidNetEpoch",
    "Covariance",
    "Mahalanobis",
    "NearestNeighbours",
    "NetworkPass",
    "Odin",
    "OdinChoice",
    "Score",
    "Tempered",
    "TrustScore",
    "ViM",
    "ZeroGradientSign",
    "choose_odin",
    "doctor",
    "energy",
    "fit_confidnet",
    "input_gradient",
    "log_max_probability",
    "max_logit",
    "max_probability",
    "negative_entropy",
    "negative_expected_entropy",
    "negative_mutual_information",
    "negative_variation_ratio",
    "network_pass",
    "perturbed",
    "true_class_probability",
]
