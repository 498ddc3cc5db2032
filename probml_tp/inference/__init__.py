"""The runners: ``fit`` for guides, ``sample_nuts`` for Markov chains."""

from probml_tp.inference.autoguide import AutoGuideAdapter
from probml_tp.inference.empirical import Empirical
from probml_tp.inference.fitting import EarlyStopping, GuideFactory, ProgressCallback, fit
from probml_tp.inference.mcmc import sample_nuts

__all__ = [
    "AutoGuideAdapter",
    "EarlyStopping",
    "Empirical",
    "GuideFactory",
    "ProgressCallback",
    "fit",
    "sample_nuts",
]
