"""probml_tp: how far can you trust a Bayesian model?

One model with explicit priors is one log joint density. Every approximation targets that same
density, comes back as the same :class:`Posterior`, and is inspected with the same ArviZ.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probml_tp.convergence import Convergence, NotConvergedWarning
    from probml_tp.diagnostics import elbo, to_inference_data
    from probml_tp.gap.choosing import which_posterior
    from probml_tp.guide import Guide
    from probml_tp.guides import (
        SWAG,
        ConcreteDropout,
        Delta,
        Exact,
        GaussianDropout,
        Laplace,
        LinearizedLaplace,
        LowRankNormal,
        MCDropout,
        MeanFieldNormal,
        fit_evidence,
        maximize_evidence,
    )
    from probml_tp.inference import EarlyStopping, Mixture, fit, fit_ensemble, sample_nuts
    from probml_tp.likelihoods import (
        Bernoulli,
        Categorical,
        Gaussian,
        HeteroscedasticGaussian,
        LocScaleGaussian,
    )
    from probml_tp.model import BayesianModel
    from probml_tp.posterior import Posterior
    from probml_tp.predictions.predictive import ClassificationPredictive, RegressionPredictive
    from probml_tp.priors import (
        ConditionalPrior,
        FanInNormalPrior,
        FlatPrior,
        LaplacePrior,
        NormalPrior,
        StudentTPrior,
    )

_MODULES = {
    "probml_tp.gap.choosing": ("which_posterior",),
    "probml_tp.convergence": ("Convergence", "NotConvergedWarning"),
    "probml_tp.diagnostics": ("elbo", "to_inference_data"),
    "probml_tp.guide": ("Guide",),
    "probml_tp.guides": (
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
        "fit_evidence",
        "maximize_evidence",
    ),
    "probml_tp.inference": ("EarlyStopping", "Mixture", "fit", "fit_ensemble", "sample_nuts"),
    "probml_tp.likelihoods": (
        "Bernoulli",
        "Categorical",
        "Gaussian",
        "HeteroscedasticGaussian",
        "LocScaleGaussian",
    ),
    "probml_tp.model": ("BayesianModel",),
    "probml_tp.posterior": ("Posterior",),
    "probml_tp.predictions.predictive": ("ClassificationPredictive", "RegressionPredictive"),
    "probml_tp.priors": (
        "ConditionalPrior",
        "FanInNormalPrior",
        "FlatPrior",
        "LaplacePrior",
        "NormalPrior",
        "StudentTPrior",
    ),
}

__all__ = [
    "SWAG",
    "BayesianModel",
    "Bernoulli",
    "Categorical",
    "ClassificationPredictive",
    "ConcreteDropout",
    "ConditionalPrior",
    "Convergence",
    "Delta",
    "EarlyStopping",
    "Exact",
    "FanInNormalPrior",
    "FlatPrior",
    "Gaussian",
    "GaussianDropout",
    "Guide",
    "HeteroscedasticGaussian",
    "Laplace",
    "LaplacePrior",
    "LinearizedLaplace",
    "LocScaleGaussian",
    "LowRankNormal",
    "MCDropout",
    "MeanFieldNormal",
    "Mixture",
    "NormalPrior",
    "NotConvergedWarning",
    "Posterior",
    "RegressionPredictive",
    "StudentTPrior",
    "elbo",
    "fit",
    "fit_ensemble",
    "fit_evidence",
    "maximize_evidence",
    "sample_nuts",
    "to_inference_data",
    "which_posterior",
]


def __getattr__(name: str) -> Any:
    """Load a part of the toolkit when it is first used: the command line starts at once."""
    for module, names in _MODULES.items():
        if name in names:
            loaded = import_module(module)
            globals().update({n: getattr(loaded, n) for n in names})
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
