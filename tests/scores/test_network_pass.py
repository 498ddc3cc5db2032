"""One pass gives what predictions, logits and features would give apart."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    Gaussian,
    LinearizedLaplace,
    MCDropout,
    MeanFieldNormal,
    Mixture,
    NormalPrior,
    fit,
)
from probml_tp.models import lenet, mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.scores import network_pass

X = torch.linspace(-2, 2, 22).reshape(11, 2)
Y = torch.arange(11) % 3


def classifier(num_classes=3):
    return mlp_classifier(
        2, hidden=(6, 4), num_classes=num_classes, prior=NormalPrior(1.0), dtype=torch.float64
    )


def penultimate(net, params, x):
    """The features by hand: all layers but the last."""
    sub = nn.Sequential(OrderedDict(list(net.named_children())[:-1]))
    names = [n for n, _ in sub.named_parameters()]
    return torch.func.functional_call(sub, {n: params[n] for n in names}, (x,))


@pytest.mark.parametrize("batch_size", [3, 100])
@pytest.mark.parametrize(
    "make",
    [
        Delta,
        lambda m: MCDropout(m, rates=0.3),
        lambda m: MeanFieldNormal(m, init_scale=0.3),
    ],
)
def test_features_are_the_mean_over_the_draws_of_the_last_layers_inputs(make, batch_size):
    posterior = Posterior(make(classifier()), seed=3)
    run = network_pass(posterior, X.double(), num_samples=7, features=True, batch_size=batch_size)
    draws = posterior.draws(7)
    each = [
        penultimate(posterior.model.net, {n: v[s] for n, v in draws.items()}, X.double())
        for s in range(7)
    ]
    torch.testing.assert_close(run.features, torch.stack(each).mean(0))


def test_an_ensembles_features_stand_side_by_side():
    posterior = Posterior(Mixture(classifier(), member=Delta, members=3))
    with torch.no_grad():
        for number, member in enumerate(posterior.guide.members):
            member.loc.mul_(1 + 0.1 * number)
    run = network_pass(posterior, X.double(), features=True, batch_size=4)
    assert run.features.shape == (11, 12)
    for number, member in enumerate(posterior.guide.members):
        own = penultimate(posterior.model.net, member.centre(), X.double())
        torch.testing.assert_close(run.features[:, 4 * number : 4 * number + 4], own)


@pytest.mark.parametrize("make", [Delta, lambda m: MCDropout(m, rates=0.3), LinearizedLaplace])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_predictions_do_not_depend_on_whether_features_are_kept(make, num_classes):
    model = classifier(num_classes)
    posterior = fit(model, make, (X.double(), Y % num_classes), epochs=3, seed=1)
    plain = posterior.predict(X.double(), num_samples=9)
    for features in (False, True):
        run = network_pass(posterior, X.double(), num_samples=9, features=features)
        torch.testing.assert_close(run.predictive.log_probs, plain.log_probs)
        torch.testing.assert_close(run.predictive.expected_entropy, plain.expected_entropy)
        torch.testing.assert_close(run.predictive.votes, plain.votes)
    assert run.features.shape == (11, 4)


def test_the_mean_outputs_are_those_of_the_draws():
    posterior = Posterior(MeanFieldNormal(classifier(), init_scale=0.5), seed=5)
    kept = posterior.predict(X.double(), num_samples=8, keep_outputs=True)
    torch.testing.assert_close(kept.mean_outputs, kept.outputs.mean(0))


def test_the_linearised_nets_mean_outputs_and_features_are_those_of_the_mode():
    posterior = fit(classifier(), LinearizedLaplace, (X.double(), Y), epochs=20)
    run = network_pass(posterior, X.double(), features=True)
    at_mode = Posterior(Delta.at_centre(posterior.guide))
    other = network_pass(at_mode, X.double(), features=True)
    torch.testing.assert_close(run.logits, other.logits)
    torch.testing.assert_close(run.features, other.features)
    probit = posterior.predict(X.double(), link="probit")
    torch.testing.assert_close(probit.mean_outputs, other.logits)


def test_two_classes_get_two_logits_with_the_same_probabilities():
    run = network_pass(Posterior(Delta(classifier(2))), X.double())
    assert run.logits.shape == (11, 2)
    torch.testing.assert_close(run.logits.softmax(-1), run.predictive.probs)


def test_the_centre_of_dropout_is_the_net_with_dropout_off():
    """The bug of published solutions: dropout left on for scores of the deterministic net."""
    model = lenet(prior=NormalPrior(1.0), dtype=torch.float64)
    dropout = MCDropout(model, rates={"fc1": 0.5, "fc2": 0.25})
    x = torch.rand(6, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    off = Posterior(Delta.at_centre(dropout)).predict(x)
    own = {n: p.detach() for n, p in model.net.named_parameters()}
    torch.testing.assert_close(off.mean_outputs, model.outputs(own, x))
    on = Posterior(dropout).predict(x, num_samples=20)
    assert (on.mean_outputs - off.mean_outputs).abs().max() > 1e-3
    assert on.variation_ratio.max() > 0 or on.mutual_information.max() > 1e-6


def test_hooks_are_gone_afterwards_even_after_an_error():
    posterior = Posterior(Delta(classifier()))
    network_pass(posterior, X.double(), features=True)
    with pytest.raises(ValueError, match="num_samples"):
        network_pass(
            Posterior(MCDropout(posterior.model, rates=0.1)),
            X.double(),
            num_samples=0,
            features=True,
        )
    modules = posterior.model.net.modules()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_bad_input_is_refused_with_its_remedy():
    regression = BayesianModel(nn.Linear(2, 1), NormalPrior(1.0), Gaussian(scale=1.0))
    with pytest.raises(ValueError, match=r"scores need a classifier.*predict"):
        network_pass(Posterior(Delta(regression)), X)
    convolution = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 3, 2), nn.Flatten())
    model = BayesianModel(convolution, NormalPrior(1.0), Categorical(3))
    with pytest.raises(ValueError, match=r"last layer, which must be an nn.Linear.*Conv1d"):
        network_pass(Posterior(Delta(model)), X, features=True)
    run = network_pass(Posterior(Delta(model)), X)
    with pytest.raises(ValueError, match="features=True"):
        run.require_features()


def test_a_guide_without_a_centre_says_so():
    mixture = Mixture(classifier(), member=Delta, members=2)
    with pytest.raises(ValueError, match=r"guide with a centre; the deep-ensemble"):
        Delta.at_centre(mixture)
