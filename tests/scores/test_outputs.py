"""Scores of outputs: formulas by hand, their order, and their digits."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from probml_tp import Delta, MCDropout, NormalPrior
from probml_tp.models import mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.scores import (
    OUTPUT_SCORES,
    NetworkPass,
    doctor,
    energy,
    max_logit,
    max_probability,
    negative_entropy,
    network_pass,
)

MODEL = mlp_classifier(2, hidden=(8,), num_classes=4, prior=NormalPrior(1.0), dtype=torch.float64)
X = 3 * torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
RUN = network_pass(Posterior(MCDropout(MODEL, rates=0.4)), X, num_samples=11)


def of_logits(logits):
    """A pass of a point posterior with given logits."""
    outputs = torch.as_tensor(logits)
    log_probs = outputs.log_softmax(-1).double()
    zeros = torch.zeros(len(outputs))
    votes = torch.ones(outputs.shape)
    predictive = ClassificationPredictive(
        1, None, log_probs.exp(), zeros, votes, log_probs=log_probs, mean_outputs=outputs
    )
    return NetworkPass(Posterior(Delta(MODEL)), X[: len(outputs)], predictive, None)


def test_each_score_is_its_formula():
    probs, predictive = RUN.predictive.probs, RUN.predictive
    expected = {
        "max-probability": probs.amax(-1).log(),
        "entropy": -torch.tensor(scipy_entropy(probs.numpy(), axis=1)),
        "expected-entropy": -predictive.expected_entropy,
        "mutual-information": -predictive.mutual_information,
        "variation-ratio": predictive.votes.amax(-1).double() / 11 - 1,
        "max-logit": RUN.logits.amax(-1),
        "energy": RUN.logits.exp().sum(-1).log(),
        "doctor": -(1 - probs.square().sum(-1)) / probs.square().sum(-1),
    }
    assert list(expected) == list(OUTPUT_SCORES)
    for name, value in expected.items():
        torch.testing.assert_close(
            OUTPUT_SCORES[name](RUN), value, check_dtype=False, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("name", OUTPUT_SCORES)
def test_every_score_is_a_confidence(name):
    """Higher where more certain: the sign that published solutions got wrong for the entropy."""
    run = of_logits(torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0]]))
    sure, unsure = OUTPUT_SCORES[name](run).tolist()
    if name in ("expected-entropy", "mutual-information", "variation-ratio"):
        spread = RUN.predictive.mutual_information
        order = OUTPUT_SCORES["mutual-information"](RUN).argsort()
        assert (spread[order].diff() <= 0).all()
    else:
        assert sure > unsure


def test_saturated_probabilities_still_have_an_order():
    """In float32 both maximum probabilities are exactly 1."""
    run = of_logits(torch.tensor([[30.0, 0.0, 0.0, 0.0], [40.0, 0.0, 0.0, 0.0]]))
    assert (run.predictive.probs.float().amax(-1) == 1).all()
    for score in (max_probability, negative_entropy, doctor):
        less, more = score(run)
        assert less < more < 0
    expected = torch.tensor([-3 * math.exp(-30), -3 * math.exp(-40)], dtype=torch.float64)
    torch.testing.assert_close(max_probability(run), expected, rtol=1e-5, atol=0.0)


def test_scores_are_exact_at_even_odds_and_at_certainty():
    run = of_logits(torch.tensor([[0.0, 0.0, 0.0, 0.0], [800.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(
        max_probability(run), torch.tensor([-math.log(4), 0.0], dtype=torch.float64)
    )
    torch.testing.assert_close(
        negative_entropy(run), torch.tensor([-math.log(4), 0.0], dtype=torch.float64)
    )
    torch.testing.assert_close(doctor(run), torch.tensor([-3.0, 0.0], dtype=torch.float64))


def test_energy_tends_to_the_largest_logit_as_its_temperature_falls():
    torch.testing.assert_close(energy(RUN, temperature=1e-3), max_logit(RUN), rtol=0, atol=2e-3)
