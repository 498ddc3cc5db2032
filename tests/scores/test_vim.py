"""Virtual-logit matching by hand, and against the authors' formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from score_cases import GUIDES, X, classifier, random_features
from sklearn.covariance import EmpiricalCovariance
from torch import nn

from probml_tp import BayesianModel, Bernoulli, Categorical, Delta, NormalPrior, Posterior
from probml_tp.scores import ViM, network_pass


def linear(weight, bias=None):
    """A linear classifier, whose features are its inputs."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    net = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, dtype=torch.float64)
    net.weight.data = weight
    if bias is not None:
        net.bias.data = torch.as_tensor(bias, dtype=torch.float64)
    likelihood = Bernoulli() if len(weight) == 1 else Categorical(len(weight))
    return Posterior(Delta(BayesianModel(net, NormalPrior(1.0), likelihood)))


def test_three_features_by_hand():
    """The third direction is outside the usual space; its length is a virtual logit."""
    posterior = linear([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    points = [[4.0, 0.0, 0.5], [-4.0, 0.0, 0.5], [0.0, 2.0, -0.5], [0.0, -2.0, -0.5]]
    score = ViM.fit(network_pass(posterior, points, features=True), dim=2)
    assert score.alpha == pytest.approx((4 + 0 + 2 + 0) / 4 / 0.5)
    test = network_pass(posterior, [[1.0, 0.0, 0.0], [1.0, 0.0, 2.0]], features=True)
    energy = np.log(np.e + 1)
    assert score(test).tolist() == pytest.approx([energy, energy - 2 * score.alpha])


@pytest.mark.parametrize("bias", [True, False])
def test_the_authors_formulas(bias):
    """As in haoqiwang/vim: scikit-learn's covariance about the origin, NumPy's eigenvectors."""
    w = random_features(3, 6, seed=3).numpy()
    b = np.array([0.5, -1.0, 2.0]) if bias else np.zeros(3)
    posterior = linear(w, b if bias else None)
    train, test = random_features(80, 6).numpy(), random_features(9, 6, seed=1).numpy()
    u = -np.matmul(np.linalg.pinv(w), b)
    ec = EmpiricalCovariance(assume_centered=True).fit(train - u)
    eig_vals, eigen_vectors = np.linalg.eig(ec.covariance_)
    null = np.ascontiguousarray((eigen_vectors.T[np.argsort(eig_vals * -1)[3:]]).T)
    length = np.linalg.norm(np.matmul(train - u, null), axis=-1)
    alpha = (train @ w.T + b).max(axis=-1).mean() / length.mean()
    energy = np.log(np.exp(test @ w.T + b).sum(-1))
    expected = energy - alpha * np.linalg.norm(np.matmul(test - u, null), axis=-1)
    score = ViM.fit(network_pass(posterior, train, features=True))  # half of 6 by default
    np.testing.assert_allclose(score(network_pass(posterior, test, features=True)), expected)


def test_one_logit_is_two_classes():
    inputs = random_features(30, 4)
    one = linear([[1.0, -2.0, 0.5, 0.0]], [0.3])
    two = linear([[-0.5, 1.0, -0.25, 0.0], [0.5, -1.0, 0.25, 0.0]], [-0.15, 0.15])
    runs = [network_pass(posterior, inputs, features=True) for posterior in (one, two)]
    torch.testing.assert_close(*(ViM.fit(run)(run) for run in runs))


@pytest.mark.parametrize(("width", "dim"), [(2, 1), (3, 1), (100, 50), (768, 512), (2048, 1000)])
def test_the_default_dimension_is_the_papers(width, dim):
    posterior = linear(np.eye(2, width))
    run = network_pass(posterior, random_features(3, width), features=True)
    if width < 700:
        train = network_pass(posterior, random_features(2 * width, width), features=True)
        assert ViM.fit(train).residual.shape == (width, width - dim)
    else:  # three points span fewer directions
        with pytest.raises(ValueError, match=f"outside the {dim} largest of {width}"):
            ViM.fit(run)


def test_a_guide_without_a_centre_is_refused():
    run = network_pass(Posterior(GUIDES["ensemble"](classifier())), X, features=True)
    with pytest.raises(ValueError, match="needs a guide with a centre; the deep-ensemble"):
        ViM.fit(run)


def test_degenerate_input_is_refused():
    run = network_pass(Posterior(Delta(classifier())), X, features=True)
    for dim in (8, 9):
        with pytest.raises(ValueError, match=f"dim={dim} for 8"):
            ViM.fit(run, dim=dim)
    with pytest.raises(ValueError, match="dim must be an integer of at least 1"):
        ViM.fit(run, dim=0)
    low = linear(np.eye(2, 4), [-50.0, -50.0])
    with pytest.raises(ValueError, match=r"mean of the largest logits is -4.*score of features"):
        ViM.fit(network_pass(low, random_features(30, 4), features=True))
    with pytest.raises(ValueError, match="features=True"):
        ViM.fit(network_pass(run.posterior, X))
