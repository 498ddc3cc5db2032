"""Guides: the approximate (and one exact) posteriors, all over the same log joint."""

from probml_tp.guides.concrete_dropout import ConcreteDropout
from probml_tp.guides.delta import Delta
from probml_tp.guides.dropout import MCDropout, implied_prior_precision
from probml_tp.guides.evidence import maximize_evidence
from probml_tp.guides.evidence_training import fit_evidence
from probml_tp.guides.exact import Exact
from probml_tp.guides.gaussian_dropout import GaussianDropout
from probml_tp.guides.laplace import Laplace, LinearizedLaplace
from probml_tp.guides.mean_field import MeanFieldNormal

__all__ = [
    "ConcreteDropout",
    "Delta",
    "Exact",
    "GaussianDropout",
    "Laplace",
    "LinearizedLaplace",
    "MCDropout",
    "MeanFieldNormal",
    "fit_evidence",
    "implied_prior_precision",
    "maximize_evidence",
]
