"""The gap between posteriors: how far each is from a reference, and which one to use."""

from probml_tp.gap.advice import Advice, recommend
from probml_tp.gap.checks import UnconvergedReferenceError
from probml_tp.gap.report import GapReport, compare
from probml_tp.gap.requirements import CLASSIFICATION, REGRESSION, Requirement

__all__ = [
    "CLASSIFICATION",
    "REGRESSION",
    "Advice",
    "GapReport",
    "Requirement",
    "UnconvergedReferenceError",
    "compare",
    "recommend",
]
