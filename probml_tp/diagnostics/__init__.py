"""Diagnostics: the ArviZ record of a posterior, its ELBO, and simulation-based calibration."""

from probml_tp.diagnostics.arviz import to_inference_data
from probml_tp.diagnostics.elbo import ELBO, elbo
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
    "Infer",
    "Quantity",
    "RankUniformity",
    "SbcResult",
    "Verdict",
    "ecdf_band",
    "elbo",
    "rank_uniformity",
    "simulation_based_calibration",
    "symmetry_p_value",
    "to_inference_data",
    "uniform_p_value",
]
