"""Prior distributions over the parameters of a net.

A *prior* is a distribution, such as ``dist.Normal(0.0, 1.0)``, or any callable ``(name, parameter)
-> distribution``; it has the parameter's shape, or broadcasts to it. The classes here are the usual
choices; a plain function or lambda works as well. There is no default prior: a Bayesian model
without an explicit prior is not one.

A hierarchical model has priors that depend on other sites: :class:`ConditionalPrior`.
"""

from probml_tp.priors.conditional_sites import ConditionalSite
from probml_tp.priors.families import (
    ConditionalPrior,
    FanInNormalPrior,
    FlatPrior,
    LaplacePrior,
    NormalPrior,
    Prior,
    PriorSpec,
    StudentTPrior,
)
from probml_tp.priors.normal_sites import NormalSites
from probml_tp.priors.resolution import resolve_priors
from probml_tp.priors.sites import SiteDistribution

__all__ = [
    "ConditionalPrior",
    "ConditionalSite",
    "FanInNormalPrior",
    "FlatPrior",
    "LaplacePrior",
    "NormalPrior",
    "NormalSites",
    "Prior",
    "PriorSpec",
    "SiteDistribution",
    "StudentTPrior",
    "resolve_priors",
]
