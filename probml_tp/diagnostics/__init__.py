"""Diagnostics: ArviZ records, the ELBO, the gap to a reference, simulation-based calibration."""

from probml_tp.diagnostics.advice import Advice, Requirement, recommend
from probml_tp.diagnostics.arviz import to_inference_data
from probml_tp.diagnostics.elbo import ELBO, elbo
from probml_tp.diagnostics.gap import GapReport, compare
from probml_tp.diagnostics.ranks import (
    RankUniformity,
    Verdict,
    ecdf_band,
    rank_uniformity,
    symmetry_p_value,
    uniform_p_value,
)
from probml_tp.diagnostics.sbc import (
    Infer,
    Quantity,
    SbcResult,
    simulation_based_calibration,
)

__all__ = [
    "ELBO",
    "Advice",
    "GapReport",
    "Infer",
    "Quantity",
    "RankUniformity",
    "Requirement",
    "SbcResult",
    "Verdict",
    "compare",
    "ecdf_band",
    "elbo",
    "rank_uniformity",
    "recommend",
    "simulation_based_calibration",
    "symmetry_p_value",
    "to_inference_data",
    "uniform_p_value",
]
