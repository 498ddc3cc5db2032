"""Guides: the approximate (and one exact) posteriors, all over the same log joint."""

from probml_tp.guides.concrete_dropout import ConcreteDropout
from probml_tp.guides.delta import Delta
from probml_tp.guides.dropout import MCDropout, implied_prior_precision
from probml_tp.guides.empirical_bayes import maximize_evidence
from probml_tp.guides.evidence_training import fit_evidence
from probml_tp.guides.exact import Exact
from probml_tp.guides.gaussian_dropout import GaussianDropout
from probml_tp.guides.laplace import Laplace, LinearizedLaplace
from probml_tp.guides.low_rank import LowRankNormal
from probml_tp.guides.mean_field import MeanFieldNormal
from probml_tp.guides.swag import SWAG
from probml_tp.inference.mixture import Mixture

__all__ = [
    "SWAG",
    "ConcreteDropout",
    "Delta",
    "Exact",
    "GaussianDropout",
    "Laplace",
    "LinearizedLaplace",
    "LowRankNormal",
    "MCDropout",
    "MeanFieldNormal",
    "Mixture",
    "fit_evidence",
    "implied_prior_precision",
    "maximize_evidence",
]
