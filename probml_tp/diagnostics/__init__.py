"""Diagnostics: the ArviZ record of a posterior, its ELBO, and its gap to a reference."""

from probml_tp.diagnostics.arviz import to_inference_data
from probml_tp.diagnostics.elbo import ELBO, elbo
from probml_tp.diagnostics.gap import GapReport, compare

__all__ = ["ELBO", "GapReport", "compare", "elbo", "to_inference_data"]
