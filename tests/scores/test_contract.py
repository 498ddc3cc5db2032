"""Every score on every kind of posterior: finite, one a point, the same again and in any batches.

An ensemble has no last layer of its own: ViM refuses it, which tests of ViM see to.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from score_cases import GUIDES, X, Y, classifier

from probml_tp import Posterior
from probml_tp.scores import (
    OUTPUT_SCORES,
    Mahalanobis,
    NearestNeighbours,
    Odin,
    Tempered,
    TrustScore,
    ViM,
    network_pass,
)

TRAIN, TEST = slice(0, 40), slice(40, 60)

FITS = {name: lambda *_, score=score: score for name, score in OUTPUT_SCORES.items()} | {
    "odin": lambda *_: Odin(2.0, 0.05, num_samples=4),
    "odin-in-batches": lambda *_: Odin(2.0, 0.05, num_samples=4, batch_size=7),
    "odin-without-step": lambda *_: Odin(2.0, 0.0, num_samples=4),
    "tempered": lambda *_: Tempered(2.0),
    "mahalanobis": Mahalanobis.fit,
    "relative-mahalanobis": lambda run, y: Mahalanobis.fit(run, y, relative=True),
    "nearest-neighbours": lambda run, _: NearestNeighbours.fit(run, k=3),
    "trust-score": lambda run, y: TrustScore.fit(run, y, alpha=0.1, k=3),
    "vim": lambda run, _: ViM.fit(run),
}


@lru_cache
def passes(guide, num_classes, batch_size=1000):
    """Train and test pass of one posterior."""
    posterior = Posterior(GUIDES[guide](classifier(num_classes)), seed=4)
    options = {"num_samples": 6, "features": True, "batch_size": batch_size}
    return tuple(network_pass(posterior, X[part], **options) for part in (TRAIN, TEST))


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("name", FITS)
def test_a_score_is_a_finite_number_for_each_point(name, guide, num_classes):
    if (name, guide) == ("vim", "ensemble"):
        return
    labels = Y[TRAIN] % num_classes
    train, test = passes(guide, num_classes)
    score = FITS[name](train, labels)
    values = score(test)
    assert values.shape == (20,)
    assert values.isfinite().all()
    assert not values.requires_grad
    if name not in ("variation-ratio", "mutual-information"):  # ties, by their nature
        assert len(values.unique()) == 20
    assert torch.equal(score(test), values)
    train, test = passes(guide, num_classes, batch_size=7)
    again = FITS[name](train, labels)(test)
    torch.testing.assert_close(again, values, rtol=1e-8, atol=1e-8)


def test_batches_of_odin_are_of_no_consequence():
    for guide in GUIDES:
        _, test = passes(guide, 3)
        one, many = (FITS[name]()(test) for name in ("odin", "odin-in-batches"))
        torch.testing.assert_close(one, many, rtol=1e-12, atol=1e-12)
