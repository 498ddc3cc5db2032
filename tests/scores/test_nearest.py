"""Distances to training features: by hand, and against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from score_cases import given, random_features

from probml_tp.scores import NearestNeighbours, TrustScore

TRAIN, TEST = random_features(120, 5), random_features(25, 5, seed=1)
LABELS = torch.arange(120) % 3
LOGITS = random_features(25, 3, seed=2)


def all_pairs(a, b):
    """Distances without any library's shortcut."""
    return np.sqrt(((a.numpy()[:, None] - b.numpy()[None]) ** 2).sum(-1))


def test_the_kth_neighbour_by_hand():
    """Only directions count: at right angles, at 45 degrees, opposite."""
    train = given([[3.0, 0.0], [0.0, 0.1], [-2.0, 0.0]])
    test = given([[5.0, 5.0], [7.0, 0.0]])
    near = np.sqrt(2 - np.sqrt(2))
    first, second = (NearestNeighbours.fit(train, k=k)(test).tolist() for k in (1, 2))
    assert first == pytest.approx([-near, 0], abs=1e-7)
    assert second == pytest.approx([-near, -np.sqrt(2)])


@pytest.mark.parametrize("k", [1, 7, 120])
def test_the_kth_neighbour_among_all_pairs(k):
    unit = [z / z.norm(dim=1, keepdim=True) for z in (TEST, TRAIN)]
    expected = -np.sort(all_pairs(*unit), axis=1)[:, k - 1]
    score = NearestNeighbours.fit(given(TRAIN), k=k)(given(TEST))
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_features_that_are_all_zero_stay_finite():
    score = NearestNeighbours.fit(given(TRAIN), k=2)
    torch.testing.assert_close(score(given(torch.zeros(1, 5))), -torch.ones(1).double())


def test_the_trust_score_by_hand():
    train = given([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [9.0, 9.0]])
    test = given([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], torch.eye(3))
    score = TrustScore.fit(train, [0, 0, 1, 1])(test)
    assert score.tolist() == pytest.approx([3 / 1, 1 / 3, 0])  # class 2 has no training points


@pytest.mark.parametrize(("alpha", "k"), [(0.0, 10), (0.2, 10), (0.5, 3)])
def test_the_trust_score_among_all_pairs(alpha, k):
    classes = [TRAIN[LABELS == c] for c in range(3)]
    if alpha:
        radii = [np.sort(all_pairs(z, z), axis=1)[:, k] for z in classes]  # itself at place 0
        kept = [r <= np.quantile(r, 1 - alpha) for r in radii]
        classes = [z[torch.as_tensor(m)] for z, m in zip(classes, kept, strict=True)]
    nearest = np.stack([all_pairs(TEST, z).min(1) for z in classes], 1)
    predicted = LOGITS.argmax(1).numpy()
    own = nearest[np.arange(25), predicted]
    others = np.where(np.arange(3) == predicted[:, None], np.inf, nearest).min(1)
    score = TrustScore.fit(given(TRAIN), LABELS, alpha=alpha, k=k)
    np.testing.assert_allclose(score(given(TEST, LOGITS)), others / own, rtol=1e-6)


def test_an_outlier_is_left_out_of_its_class():
    """A point of class 1 amid class 0 spoils the scores there, unless outliers are left out."""
    zero, one = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(40, 2)
    one[:, 0] = 20 + torch.linspace(0, 1, 40)
    one[0] = 0.0
    train = given(torch.cat([zero, one]))
    labels = [0] * 40 + [1] * 40
    test = given([[0.01, 0.0]], [[1.0, 0.0, 0.0]])
    spoilt, clean = (TrustScore.fit(train, labels, alpha=a)(test).item() for a in (0.0, 0.05))
    assert spoilt < 1 < 20 < clean


@pytest.mark.parametrize(
    "fit",
    [
        lambda **o: NearestNeighbours.fit(given(TRAIN), k=5, **o)(given(TEST)),
        lambda **o: TrustScore.fit(given(TRAIN), LABELS, **o)(given(TEST, LOGITS)),
    ],
)
def test_a_subsample_is_determined_by_its_seed(fit):
    some = fit(max_points=30, seed=1)
    assert torch.equal(fit(max_points=30, seed=1), some)
    assert not torch.equal(fit(max_points=30, seed=2), some)
    assert torch.equal(fit(max_points=500), fit())


def test_a_subsample_holds_training_points_once_each():
    kept = NearestNeighbours.fit(given(TRAIN), k=5, max_points=30).features
    unit = TRAIN / TRAIN.norm(dim=1, keepdim=True)
    hits = (kept[:, None] - unit[None]).abs().amax(-1) < 1e-12
    assert hits.sum(1).tolist() == [1] * 30
    assert hits.sum(0).max() == 1


def test_degenerate_input_is_refused():
    with pytest.raises(ValueError, match="k=121 for 120"):
        NearestNeighbours.fit(given(TRAIN), k=121)
    with pytest.raises(ValueError, match="k=50 for 40"):
        NearestNeighbours.fit(given(TRAIN), max_points=40)
    with pytest.raises(ValueError, match="max_points must be an integer of at least 1"):
        NearestNeighbours.fit(given(TRAIN), max_points=0)
    with pytest.raises(ValueError, match="at least two classes"):
        TrustScore.fit(given(TRAIN), torch.zeros(120))
    with pytest.raises(ValueError, match="max_points=1 kept one"):
        TrustScore.fit(given(TRAIN), LABELS, max_points=1)
    with pytest.raises(ValueError, match="k=40 for a class of 40"):
        TrustScore.fit(given(TRAIN), LABELS, alpha=0.1, k=40)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\)"):
        TrustScore.fit(given(TRAIN), LABELS, alpha=1.0)
    for score in (NearestNeighbours.fit(given(TRAIN), k=1), TrustScore.fit(given(TRAIN), LABELS)):
        with pytest.raises(ValueError, match="fitted to 5 features and got 2"):
            score(given(torch.zeros(3, 2)))
