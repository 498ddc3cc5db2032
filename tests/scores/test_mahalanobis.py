"""The Mahalanobis distance by hand, and against scikit-learn and SciPy."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import mahalanobis
from score_cases import given, random_features
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probml_tp.scores import Mahalanobis

CROSS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]])
TWO = torch.cat([CROSS, CROSS + torch.tensor([10.0, 0.0])])
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]


def test_two_classes_by_hand():
    """The covariance within classes is diag(1/2, 2), that of all points diag(1/2 + 25, 2)."""
    test = given([[1.0, 2.0], [9.0, 0.0]])
    plain = Mahalanobis.fit(given(TWO), LABELS)(test)
    assert plain.tolist() == pytest.approx([-(2 + 2), -2])
    relative = Mahalanobis.fit(given(TWO), LABELS, relative=True)(test)
    assert relative.tolist() == pytest.approx([-4 + 16 / 25.5 + 2, -2 + 16 / 25.5])


@pytest.mark.parametrize("relative", [False, True])
def test_the_covariance_is_that_of_discriminant_analysis_and_the_distance_scipys(relative):
    train, test, y = random_features(200, 5), random_features(20, 5, seed=1), torch.arange(200) % 3
    train = train + y[:, None]
    lda = LinearDiscriminantAnalysis(solver="svd", store_covariance=True).fit(train, y)
    precision = torch.linalg.inv(torch.as_tensor(lda.covariance_)).numpy()
    squared = torch.tensor(
        [[mahalanobis(z, mean, precision) ** 2 for mean in lda.means_] for z in test]
    )
    expected = -squared.amin(1)
    if relative:
        of_all = torch.linalg.inv(train.mT.cov(correction=0)).numpy()
        expected += torch.tensor([mahalanobis(z, train.mean(0), of_all) ** 2 for z in test])
    score = Mahalanobis.fit(given(train), y, relative=relative)
    torch.testing.assert_close(score(given(test)), expected)


@pytest.mark.parametrize("relative", [False, True])
def test_it_does_not_depend_on_the_coordinates(relative):
    train, test, y = random_features(90, 4), random_features(10, 4, seed=1), torch.arange(90) % 3
    mix = random_features(4, 4, seed=2)
    plain = Mahalanobis.fit(given(train), y, relative=relative)(given(test))
    moved = Mahalanobis.fit(given(train @ mix + 3), y, relative=relative)(given(test @ mix + 3))
    torch.testing.assert_close(moved, plain)


def test_dead_features_do_not_count_unless_the_covariance_is_shrunk():
    train, test, y = random_features(90, 4), random_features(10, 4, seed=1), torch.arange(90) % 3
    dead = torch.zeros(90, 6, dtype=torch.float64)
    alive = torch.ones(10, 6, dtype=torch.float64)
    with_dead = given(torch.cat([train, dead], 1))
    plain = Mahalanobis.fit(given(train), y)(given(test))
    for rest in (0 * alive, alive):
        at = given(torch.cat([test, rest], 1))
        torch.testing.assert_close(Mahalanobis.fit(with_dead, y)(at), plain)
    shrunk = Mahalanobis.fit(with_dead, y, covariance="ledoit-wolf")
    silent, active = (shrunk(given(torch.cat([test, r], 1))) for r in (0 * alive, alive))
    assert (active < silent - 0.1).all()


def test_classes_that_do_not_occur_have_no_mean():
    assert Mahalanobis.fit(given(TWO), [0, 0, 0, 0, 2, 2, 2, 2]).means.shape == (2, 2)


def test_degenerate_input_is_refused():
    with pytest.raises(ValueError, match="at least two classes; all 8 are 1"):
        Mahalanobis.fit(given(TWO), [1] * 8)
    with pytest.raises(ValueError, match="must vary within classes"):
        Mahalanobis.fit(given(TWO[:2]), [0, 1])
    with pytest.raises(ValueError, match="one label from 0 to 2 for each of the 8 points"):
        Mahalanobis.fit(given(TWO), [0, 1])
    with pytest.raises(ValueError, match="covariance must be one of"):
        Mahalanobis.fit(given(TWO), LABELS, covariance="oas")
    score = Mahalanobis.fit(given(TWO), LABELS)
    with pytest.raises(ValueError, match="fitted to 2 features and got 3"):
        score(given(torch.zeros(4, 3)))
