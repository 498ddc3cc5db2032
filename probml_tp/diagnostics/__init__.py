"""Diagnostics: the ArviZ record of a posterior, and its evidence lower bound."""

from probml_tp.diagnostics.arviz import to_inference_data
from probml_tp.diagnostics.elbo import ELBO, elbo

__all__ = ["ELBO", "elbo", "to_inference_data"]
