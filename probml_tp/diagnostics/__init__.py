"""Diagnostics: ArviZ records, evidence, reference posteriors, simulation-based calibration."""

from probml_tp.diagnostics.evidence.ais import AIS, annealed_importance_sampling
from probml_tp.diagnostics.evidence.bridge import bridge_sampling
from probml_tp.diagnostics.evidence.elbo import ELBO, elbo
from probml_tp.diagnostics.evidence.iwelbo import IWELBO, LogEvidence, iwelbo
from probml_tp.diagnostics.loo import loo
from probml_tp.diagnostics.psis import ParetoK, k_threshold, pareto_k
from probml_tp.diagnostics.references import (
    ReferencePosterior,
    moment_errors,
    reference_names,
    reference_posterior,
)
from probml_tp.diagnostics.sbc.ranks import (
    RankUniformity,
    Verdict,
    ecdf_band,
    rank_uniformity,
    symmetry_p_value,
    uniform_p_value,
)
from probml_tp.diagnostics.sbc.result import SbcResult
from probml_tp.diagnostics.sbc.run import Infer, Quantity, simulation_based_calibration
from probml_tp.diagnostics.step_left import StepLeft, step_left
from probml_tp.records import to_inference_data

__all__ = [
    "AIS",
    "ELBO",
    "IWELBO",
    "Infer",
    "LogEvidence",
    "ParetoK",
    "Quantity",
    "RankUniformity",
    "ReferencePosterior",
    "SbcResult",
    "StepLeft",
    "Verdict",
    "annealed_importance_sampling",
    "bridge_sampling",
    "ecdf_band",
    "elbo",
    "iwelbo",
    "k_threshold",
    "loo",
    "moment_errors",
    "pareto_k",
    "rank_uniformity",
    "reference_names",
    "reference_posterior",
    "simulation_based_calibration",
    "step_left",
    "symmetry_p_value",
    "to_inference_data",
    "uniform_p_value",
]
