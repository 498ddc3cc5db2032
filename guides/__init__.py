"""Guides: the approximate (and one exact) posteriors, all over the same log joint."""

from probml_tp.guides.delta import Delta
from probml_tp.guides.dropout import MCDropout
from probml_tp.guides.exact import Exact
from probml_tp.guides.laplace import Laplace, LinearizedLaplace
from probml_tp.guides.low_rank import LowRankNormal
from probml_tp.guides.mean_field import MeanFieldNormal
from probml_tp.guides.swag import SWAG
from probml_tp.inference.mixture import Mixture

__all__ = [
    "SWAG",
    "Delta",
    "Exact",
    "Laplace",
    "LinearizedLaplace",
    "LowRankNormal",
    "MCDropout",
    "MeanFieldNormal",
    "Mixture",
]
