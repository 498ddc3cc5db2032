"""Diagnostics: ArviZ records, the ELBO, the gap to a reference, simulation-based calibration."""

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

__all__ = [
    "ELBO",
    "GapReport",
    "Infer",
    "Quantity",
    "RankUniformity",
    "ReferencePosterior",
    "SbcResult",
    "Verdict",
    "compare",
    "ecdf_band",
    "elbo",
    "moment_errors",
    "rank_uniformity",
    "reference_names",
    "reference_posterior",
    "simulation_based_calibration",
    "symmetry_p_value",
    "to_inference_data",
    "uniform_p_value",
]
