"""The maximum probability at a temperature."""

from __future__ import annotations

import pytest
import torch

from probml_tp import Delta, MCDropout, NormalPrior, Posterior
from probml_tp.models import mlp_classifier
from probml_tp.scores import Odin, Tempered, max_probability, network_pass

MODEL = mlp_classifier(2, hidden=(8,), num_classes=4, prior=NormalPrior(1.0), dtype=torch.float64)
X = 3 * torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_a_points_logits_are_divided_by_the_temperature(temperature):
    run = network_pass(Posterior(Delta(MODEL)), X)
    expected = (run.logits / temperature).softmax(-1).amax(-1).log()
    torch.testing.assert_close(Tempered(temperature)(run), expected)
    torch.testing.assert_close(Tempered(temperature)(run), Odin(temperature, 0.0)(run))


def test_the_mean_over_draws_is_what_is_scaled():
    run = network_pass(Posterior(MCDropout(MODEL, rates=0.4)), X, num_samples=7)
    power = run.predictive.probs ** (1 / 3)
    expected = (power / power.sum(-1, keepdim=True)).amax(-1).log()
    torch.testing.assert_close(Tempered(3.0)(run), expected)
    torch.testing.assert_close(Tempered(1.0)(run), max_probability(run))


def test_the_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be a positive"):
        Tempered(0.0)
