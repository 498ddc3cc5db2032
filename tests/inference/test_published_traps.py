"""Mistakes seen in published solutions of the classification lab: each would fail here.

Two more have their tests elsewhere: the curvature as a mean instead of a sum over the data
(``test_the_curvature_is_a_sum_over_points``) and a KL term that is N times too weak or too strong
(``test_the_objective_is_nll_per_point_plus_kl_over_n``).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from model_cases import F64
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam

from probml_tp import BayesianModel, Bernoulli, Delta, Laplace, MeanFieldNormal, NormalPrior, fit
from probml_tp.datasets import blobs
from probml_tp.models import logistic_regression, mlp_classifier

DATA = blobs(n=60, std=2.5, seed=0, dtype=F64)
OPTIONS = {"epochs": 20, "optimizer": "lbfgs", "progress": False}


@pytest.mark.parametrize("make", [logistic_regression, partial(mlp_classifier, hidden=(5,))])
def test_the_logit_goes_through_the_sigmoid_once(make: object) -> None:
    model = make(2, prior=NormalPrior(1.0), dtype=F64)  # type: ignore[operator]
    x, y = model.check_data(*DATA)
    params = model.initial_params()
    params = {name: torch.full_like(value, 0.7) for name, value in params.items()}
    logits = model.outputs(params, x)[:, 0]
    assert float(logits.max()) > 1  # a probability would not be
    own = model.likelihood.log_prob(logits.unsqueeze(-1), y, {}).sum()
    bce = -binary_cross_entropy_with_logits(logits, y.double(), reduction="sum")
    torch.testing.assert_close(own, bce)
    twice = -binary_cross_entropy_with_logits(logits.sigmoid(), y.double(), reduction="sum")
    assert abs(float(own - twice)) > 1


def test_a_net_that_ends_in_a_sigmoid_is_refused() -> None:
    """It could not be sure of class 0: its probabilities lie between 1/2 and sigmoid(1)."""
    net = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()).double()
    squashed = BayesianModel(net, NormalPrior(4.0), Bernoulli())
    with pytest.raises(ValueError, match="must return logits"):
        fit(squashed, Delta, DATA, **OPTIONS)
    right = logistic_regression(2, prior=NormalPrior(4.0))
    probs = fit(right, Delta, DATA, **OPTIONS).predict(DATA[0]).probs[:, 1]
    assert float(probs.min()) < 0.05 and float(probs.max()) > 0.95


def test_the_laplace_covariance_is_that_of_the_summed_loss() -> None:
    model = logistic_regression(2, prior=NormalPrior.from_precision(0.05))
    posterior = fit(model, Laplace, DATA, **OPTIONS)
    design = np.column_stack([DATA[0].numpy(), np.ones(60)])
    theirs = LogisticRegression(C=1 / 0.05, fit_intercept=False, tol=1e-12, max_iter=1000)
    p = theirs.fit(design, DATA[1].numpy()).predict_proba(design)[:, 1]
    summed = (design.T * (p * (1 - p))) @ design
    tril = posterior.guide.scale_tril.numpy()
    np.testing.assert_allclose(
        tril @ tril.T, np.linalg.inv(summed + 0.05 * np.eye(3)), rtol=1e-4, atol=1e-8
    )
    of_mean = np.linalg.inv(summed / 60 + 0.05 * np.eye(3))
    assert (np.diag(of_mean) > 5 * np.diag(tril @ tril.T)).all()


class Indifferent(MeanFieldNormal):
    """A mean-field guide whose loss has no gradient: what moves it is the optimiser's own."""

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        return 0.0 * (self.loc.sum() + self.log_scale.sum())


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_variational_parameters_have_no_weight_decay_of_their_own(decay: float) -> None:
    model = mlp_classifier(2, hidden=(5,), prior=NormalPrior(1.0), dtype=F64)
    guide = Indifferent(model)
    loc, log_scale = (p.detach().clone() for p in (guide.loc, guide.log_scale))
    options = {"optimizer": partial(Adam, lr=0.1, weight_decay=decay)} if decay else {"lr": 0.1}
    fit(model, guide, DATA, epochs=3, progress=False, **options)
    moved = not (torch.equal(guide.loc, loc) and torch.equal(guide.log_scale, log_scale))
    assert moved == bool(decay)  # the negative control: a decay would show
