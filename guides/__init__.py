"""Guides: the approximate (and one exact) posteriors, all over the same log joint."""

from probml_tp.guides.delta import Delta
from probml_tp.guides.dropout import MCDropout
from probml_tp.guides.evidence import maximize_evidence
from probml_tp.guides.evidence_training import fit_evidence
from probml_tp.guides.exact import Exact
from probml_tp.guides.laplace import Laplace, LinearizedLaplace
from probml_tp.guides.mean_field import MeanFieldNormal

__all__ = [
    "Delta",
    "Exact",
    "Laplace",
    "LinearizedLaplace",
    "MCDropout",
    "MeanFieldNormal",
    "fit_evidence",
    "maximize_evidence",
]
