"""Diagnostics: ArviZ records, evidence, the gap to a reference, simulation-based calibration."""

from probml_tp.diagnostics.advice import (
    CLASSIFICATION,
    REGRESSION,
    Advice,
    Requirement,
    recommend,
)
from probml_tp.diagnostics.ais import AIS, annealed_importance_sampling
from probml_tp.diagnostics.arviz import to_inference_data
from probml_tp.diagnostics.bridge import bridge_sampling
from probml_tp.diagnostics.elbo import ELBO, elbo
from probml_tp.diagnostics.gap import GapReport, compare
from probml_tp.diagnostics.gap_checks import UnconvergedReferenceError
from probml_tp.diagnostics.iwelbo import IWELBO, LogEvidence, iwelbo
from probml_tp.diagnostics.loo import loo
from probml_tp.diagnostics.psis import ParetoK, k_threshold, pareto_k
from probml_tp.diagnostics.ranks import (
    RankUniformity,
    Verdict,
    ecdf_band,
    rank_uniformity,
    symmetry_p_value,
    uniform_p_value,
)
from probml_tp.diagnostics.references import (
    ReferencePosterior,
    moment_errors,
    reference_names,
    reference_posterior,
)
from probml_tp.diagnostics.sbc import (
    Infer,
    Quantity,
    SbcResult,
    simulation_based_calibration,
)
from probml_tp.diagnostics.settling import StepLeft, step_left

__all__ = [
    "AIS",
    "CLASSIFICATION",
    "ELBO",
    "IWELBO",
    "REGRESSION",
    "Advice",
    "GapReport",
    "Infer",
    "LogEvidence",
    "ParetoK",
    "Quantity",
    "RankUniformity",
    "ReferencePosterior",
    "Requirement",
    "SbcResult",
    "StepLeft",
    "UnconvergedReferenceError",
    "Verdict",
    "annealed_importance_sampling",
    "bridge_sampling",
    "compare",
    "ecdf_band",
    "elbo",
    "iwelbo",
    "k_threshold",
    "loo",
    "moment_errors",
    "pareto_k",
    "rank_uniformity",
    "recommend",
    "reference_names",
    "reference_posterior",
    "simulation_based_calibration",
    "step_left",
    "symmetry_p_value",
    "to_inference_data",
    "uniform_p_value",
]
