"""The runners: ``fit`` for guides, ``fit_ensemble`` for several, ``sample_nuts`` for chains."""

from probml_tp.inference.autoguide import AutoGuideAdapter
from probml_tp.inference.ensembles import fit_ensemble
from probml_tp.inference.fit_options import EarlyStopping
from probml_tp.inference.fitting import GuideFactory, fit
from probml_tp.inference.mixture import Mixture
from probml_tp.inference.nuts.sample import sample_nuts
from probml_tp.inference.on_ray import on_ray
from probml_tp.inference.progress import ProgressCallback
from probml_tp.inference.starts import random_start

__all__ = [
    "AutoGuideAdapter",
    "EarlyStopping",
    "GuideFactory",
    "Mixture",
    "ProgressCallback",
    "fit",
    "fit_ensemble",
    "on_ray",
    "random_start",
    "sample_nuts",
]
