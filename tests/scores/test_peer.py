"""The same scores from pytorch-ood, which calls outliers high: ours with the sign turned round."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from torch import nn

from probml_tp import Categorical, Delta, NormalPrior, fit
from probml_tp.model import BayesianModel
from probml_tp.scores import (
    Mahalanobis,
    NearestNeighbours,
    Odin,
    Tempered,
    ViM,
    energy,
    max_logit,
    max_probability,
    negative_entropy,
    network_pass,
)

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(90) % 3
TRAIN = torch.randn(90, 2, 6, 6, generator=GENERATOR) + Y.view(-1, 1, 1, 1) / 3
TEST = 2 * torch.randn(25, 2, 6, 6, generator=GENERATOR)
STD = [0.25, 0.5]


@pytest.fixture(scope="module")
def posterior():
    """A small convolutional net, trained a little."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(2, 4, 3),
                relu1=nn.ReLU(),
                pool=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(16, 8),
                tanh=nn.Tanh(),
                fc2=nn.Linear(8, 3),
            )
        )
    model = BayesianModel(net, NormalPrior(1.0), Categorical(3))
    return fit(model, Delta, (TRAIN, Y), epochs=30, seed=0)


@pytest.fixture(scope="module")
def net(posterior):
    """The fitted net, and its layers but the last: the encoder."""
    net = posterior.model.net
    net.load_state_dict(posterior.guide.centre())
    return net, nn.Sequential(OrderedDict(list(net.named_children())[:-1]))


@pytest.fixture(scope="module")
def runs(posterior):
    """Train and test pass."""
    return tuple(network_pass(posterior, x, features=True) for x in (TRAIN, TEST))


def same(ours, theirs, **tolerance):
    torch.testing.assert_close(ours.double(), theirs.double(), **tolerance)
    assert not np.allclose(ours, ours.mean(), rtol=1e-2)  # there is something to compare


def test_scores_of_logits(runs, net):
    _, run = runs
    logits = net[0](TEST).detach()
    close = {"rtol": 1e-5, "atol": 1e-5}
    same(energy(run), -peer.EnergyBased(None).predict_logits(logits), **close)
    same(max_logit(run), -peer.MaxLogit(None).predict_logits(logits), **close)
    same(max_probability(run).exp(), -peer.MaxSoftmax(None).predict_logits(logits), **close)
    same(negative_entropy(run), -peer.Entropy(None).predict_logits(logits), **close)
    scaled = peer.MaxSoftmax(None, t=2.5).predict_logits(logits)
    same(Tempered(2.5)(run).exp(), -scaled, **close)
    hot = peer.EnergyBased(None, t=3.0).predict_logits(logits)
    same(energy(run, temperature=3.0), -hot, **close)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("std", [1.0, STD])
def test_odin(runs, net, temperature, std):
    """No gradient is exactly 0 here, or each side is given the same sign for it."""
    _, run = runs
    norm_std = std if std == STD else None
    theirs = peer.ODIN(net[0], eps=0.01, temperature=temperature, norm_std=norm_std)
    ours = Odin(temperature, 0.01, std=std, zero_gradient_sign="zero")
    same(ours(run).exp(), -theirs.predict(TEST), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("relative", [False, True])
def test_mahalanobis(runs, net, relative):
    """Theirs has the scatter where ours has the covariance, and halves the plain distance."""
    train, run = runs
    z, test = (net[1](x).detach() for x in (TRAIN, TEST))
    detector = (peer.RMD if relative else peer.Mahalanobis)(None).fit_features(z, Y)
    theirs = -len(z) * detector.predict_features(test) * (1 if relative else 2)
    same(Mahalanobis.fit(train, Y, relative=relative)(run), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("k", [1, 20])
def test_nearest_neighbours(runs, net, k):
    train, run = runs
    z, test = (net[1](x).detach() for x in (TRAIN, TEST))
    theirs = -peer.KNN(None, k=k).fit_features(z, Y).predict_features(test)
    same(NearestNeighbours.fit(train, k=k)(run), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 5])
def test_vim(runs, net, dim):
    train, run = runs
    z, test = (net[1](x).detach() for x in (TRAIN, TEST))
    theirs = peer.ViM(None, d=dim, w=net[0].fc2.weight, b=net[0].fc2.bias).fit_features(z, Y)
    same(ViM.fit(train, dim=dim)(run), -theirs.predict_features(test), rtol=1e-4, atol=1e-4)
