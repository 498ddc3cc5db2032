"""Posteriors of every kind to score, and passes with features and logits given by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    LinearizedLaplace,
    MCDropout,
    MeanFieldNormal,
    Mixture,
    NormalPrior,
)
from probml_tp.guide import Guide
from probml_tp.models import mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.scores import NetworkPass

NUM_CLASSES = 3
X = 2 * torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % NUM_CLASSES


def classifier(num_classes: int = NUM_CLASSES, *, activation: str = "tanh") -> BayesianModel:
    """A small net with 8 features."""
    return mlp_classifier(
        2,
        hidden=(7, 8),
        num_classes=num_classes,
        activation=activation,
        prior=NormalPrior(1.0),
        dtype=torch.float64,
    )


def ensemble(model: BayesianModel) -> Guide:
    """Two point masses that differ."""
    guide = Mixture(model, member=Delta, members=2)
    guide.members[1].loc.data = 0.8 * guide.members[0].loc.data.flip(0)
    return guide


def linearized(model: BayesianModel) -> Guide:
    """A linearised Laplace approximation at the net's own values."""
    guide = LinearizedLaplace(model, structure="diagonal")
    guide.take_curvature(*model.check_data(X, Y % model.likelihood.num_classes))
    return guide


GUIDES: dict[str, Callable[[BayesianModel], Guide]] = {
    "map": Delta,
    "dropout": lambda model: MCDropout(model, rates=0.3),
    "mean-field": lambda model: MeanFieldNormal(model, init_scale=0.5),
    "ensemble": ensemble,
    "linearised": linearized,
}


def given(features: object, logits: object = None) -> NetworkPass:
    """A pass of a point posterior with given features, and logits (default: all 0)."""
    z = torch.as_tensor(features, dtype=torch.float64)
    f = torch.zeros(len(z), NUM_CLASSES) if logits is None else torch.as_tensor(logits)
    f = f.double()
    log_probs = f.log_softmax(-1)
    predictive = ClassificationPredictive(
        1,
        None,
        log_probs.exp(),
        torch.zeros(len(z)),
        torch.ones_like(f),
        log_probs=log_probs,
        mean_outputs=f,
    )
    net = nn.Linear(z.shape[1], f.shape[1], dtype=torch.float64)
    model = BayesianModel(net, NormalPrior(1.0), Categorical(f.shape[1]))
    return NetworkPass(Posterior(Delta(model)), z, predictive, z)


def random_features(size: int, width: int, *, seed: int = 0) -> Tensor:
    """Correlated normal features."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, dtype=torch.float64, generator=generator)
    return torch.randn(size, width, dtype=torch.float64, generator=generator) @ mix
