"""ODIN by hand, against autograd and finite differences, for points and for draws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from score_cases import GUIDES, classifier
from score_cases import X as ALL
from torch import nn
from torch.nn import functional as F

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    Delta,
    MCDropout,
    Mixture,
    NormalPrior,
    Posterior,
)
from probml_tp.models import lenet
from probml_tp.scores import Odin, choose_odin, input_gradient, network_pass, perturbed

X = ALL[:12]
IMAGES = torch.rand(4, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def linear(weight, likelihood=None, dtype=torch.float64):
    """A linear classifier without bias, as a point posterior."""
    weight = torch.tensor(weight, dtype=dtype)
    net = nn.Linear(weight.shape[1], len(weight), bias=False, dtype=dtype)
    net.weight.data = weight
    likelihood = likelihood or Categorical(len(weight))
    return Posterior(Delta(BayesianModel(net, NormalPrior(1.0), likelihood)))


def log_mean_probability(posterior, x, labels, temperature, num_samples):
    """The objective written out: all draws at once, through the mean."""
    guide = posterior.guide
    draws = posterior.draws(guide.num_atoms or num_samples)
    count = len(next(iter(draws.values())))
    outputs = [guide.outputs({n: v[s] for n, v in draws.items()}, x) for s in range(count)]
    likelihood = posterior.model.likelihood
    probs = torch.stack([likelihood.log_probs(f / temperature).exp() for f in outputs])
    return probs.mean(0).gather(1, labels[:, None]).log().squeeze(1)


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_a_linear_classifier_by_hand(std):
    """log odds (f_2 - f_1)/T with gradient (-1, 1)/T: the step adds eps/std to f_1, and so on."""
    run = network_pass(linear([[1.0, 0.0], [0.0, 1.0]]), [[2.0, 1.0]])
    score = Odin(temperature=10.0, epsilon=0.1, std=std)(run)
    expected = -math.log1p(math.exp(-(1 + 0.2 / std) / 10))
    assert score.item() == pytest.approx(expected, rel=1e-12)
    gradient = input_gradient(run, temperature=10.0)
    torch.testing.assert_close(gradient, torch.tensor([[-0.1, 0.1]], dtype=torch.float64))


def test_one_logit_is_two_classes():
    one = network_pass(linear([[1.0, -2.0]], Bernoulli()), X)
    two = network_pass(linear([[-0.5, 1.0], [0.5, -1.0]]), X)
    for odin in (Odin(5.0, 0.02), Odin(5.0, 0.0)):
        torch.testing.assert_close(odin(one), odin(two))


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_the_gradient_is_that_of_finite_differences(make):
    posterior = Posterior(make(classifier()), seed=2)
    run = network_pass(posterior, X, num_samples=6)
    gradient = input_gradient(run, temperature=3.0, num_samples=6)
    labels, h = run.predictive.predicted_class, 1e-5
    columns = []
    for axis in torch.eye(2, dtype=torch.float64):
        up, down = (
            log_mean_probability(posterior, X + sign * h * axis, labels, 3.0, 6).detach()
            for sign in (1, -1)
        )
        columns.append(-(up - down) / (2 * h))
    numeric = torch.stack(columns, 1)
    ratio = gradient.norm(dim=1, keepdim=True) / numeric.norm(dim=1, keepdim=True)
    assert (ratio > 0.5).all()  # a positive multiple: by 1/(1 - p) for a point
    torch.testing.assert_close(gradient, ratio * numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_draws_are_differentiated_through_their_mean(make, temperature):
    posterior = Posterior(make(classifier()), seed=5)
    run = network_pass(posterior, X, num_samples=4)
    x = X.clone().requires_grad_()
    labels = run.predictive.predicted_class
    log_p = log_mean_probability(posterior, x, labels, temperature, 4)
    (exact,) = torch.autograd.grad(-log_p.sum(), x)
    gradient = input_gradient(run, temperature=temperature, num_samples=4, batch_size=5)
    scale = exact.norm(dim=1, keepdim=True) / gradient.norm(dim=1, keepdim=True)
    torch.testing.assert_close(gradient * scale, exact)
    moved = X - 0.05 * ((exact >= 0) * 2.0 - 1)
    expected = log_probabilities(posterior, moved, temperature, 4).amax(1)
    score = Odin(temperature, 0.05, num_samples=4)(run)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-12)


def log_probabilities(posterior, x, temperature, num_samples):
    classes = [torch.full((len(x),), c) for c in range(3)]
    each = [log_mean_probability(posterior, x, c, temperature, num_samples) for c in classes]
    return torch.stack(each, 1).detach()


def test_layers_before_the_first_random_one_are_shared_without_a_change():
    """LeNet's convolutions do not vary between dropout's draws: they run twice, not each draw."""
    model = lenet(prior=NormalPrior(1.0), dtype=torch.float64)
    posterior = Posterior(MCDropout(model, rates={"fc1": 0.5, "fc2": 0.25}), seed=1)
    run = network_pass(posterior, IMAGES, num_samples=5)
    calls = []
    hook = model.net.conv1.register_forward_hook(lambda *_: calls.append(1))
    gradient = input_gradient(run, temperature=5.0, num_samples=5)
    hook.remove()
    assert len(calls) == 2
    x = IMAGES.clone().requires_grad_()
    log_p = log_mean_probability(posterior, x, run.predictive.predicted_class, 5.0, 5)
    (exact,) = torch.autograd.grad(-log_p.sum(), x)
    scale = exact.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(gradient * scale.view(-1, 1, 1, 1), exact, rtol=1e-6, atol=1e-12)


def test_dropout_is_off_at_the_centre_and_on_in_the_draws():
    model = lenet(prior=NormalPrior(1.0), dtype=torch.float64)
    dropout = MCDropout(model, rates={"fc1": 0.5, "fc2": 0.25})
    odin = Odin(5.0, 0.0014, std=0.3081)
    off, on = (
        odin(network_pass(Posterior(guide), IMAGES))
        for guide in (Delta.at_centre(dropout), dropout)
    )
    own = {n: p.detach() for n, p in model.net.named_parameters()}
    x = IMAGES.clone().requires_grad_()
    f = model.outputs(own, x)
    loss = F.cross_entropy(f / 5, f.argmax(-1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    moved = IMAGES - 0.0014 * ((gradient >= 0) * 2 - 1) / 0.3081
    expected = (model.outputs(own, moved) / 5).log_softmax(-1).amax(-1)
    torch.testing.assert_close(off, expected, rtol=1e-9, atol=1e-12)
    assert (on - off).abs().max() > 1e-6


def test_without_a_step_the_order_tends_to_max_logit_minus_mean_logit():
    weight = [[4.0, 1.0], [-2.0, 3.0], [0.0, -5.0], [1.0, 1.0]]
    run = network_pass(linear(weight), X)
    limit = run.logits.amax(-1) - run.logits.mean(-1)
    assert Odin(1e5, 0.0)(run).argsort().tolist() == limit.argsort().tolist()
    assert Odin(1.0, 0.0)(run).argsort().tolist() != limit.argsort().tolist()


def test_float32_scores_do_not_tie_at_a_high_temperature():
    f = torch.linspace(0, 1e-3, 50)
    inputs = torch.stack([f, torch.zeros(50)], 1)
    run = network_pass(linear([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float32), inputs)
    assert (Odin(1000.0, 0.0)(run).diff() > 0).all()
    in_float32 = (run.logits / 1000).softmax(-1).amax(-1)
    assert len(in_float32.unique()) < 50


def test_the_gradient_survives_a_certain_prediction():
    """At T = 1 the gap is 40: p - 1 is 0 in float32, and so is the gradient of cross-entropy."""
    weight = [[40.0, 0.0], [0.0, 0.0]]
    run = network_pass(linear(weight, dtype=torch.float32), [[1.0, 1.0]])
    torch.testing.assert_close(input_gradient(run, temperature=1.0), torch.tensor([[-40.0, 0.0]]))
    x = torch.tensor([[1.0, 1.0]], requires_grad=True)
    F.cross_entropy(x @ torch.tensor(weight).T, torch.tensor([0])).backward()
    assert x.grad[0, 0] > -1e-14


def test_certain_draws_that_contradict_each_other_leave_a_gradient():
    """Odds of e^200 either way underflow float32 in any product of probabilities."""
    model = linear([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float32).model
    guide = Mixture(model, member=Delta, members=3)
    for member, scale in zip(guide.members, (200.0, 200.0, -200.0), strict=True):
        member.loc.data = scale * torch.eye(2).flatten()
    gradient = input_gradient(network_pass(Posterior(guide), [[1.0, 0.0]]), temperature=1.0)
    assert gradient.sign().tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(("sign", "second"), [("positive", -0.1), ("zero", 0.0)])
def test_a_pixel_that_the_net_ignores_moves_by_the_sign_of_zero(sign, second):
    run = network_pass(linear([[1.0, 0.0], [0.0, 0.0]]), [[1.0, 0.0]])
    gradient = input_gradient(run)
    moved = perturbed(run.inputs, gradient, epsilon=0.1, zero_gradient_sign=sign)
    assert moved[0].tolist() == pytest.approx([1.1, second])  # and is not clipped to [0, 1]
    assert Odin().zero_gradient_sign == "positive"


def test_the_step_is_in_units_of_the_raw_inputs():
    run = network_pass(Posterior(Delta(classifier())), X)
    scaled = Odin(5.0, 0.01, std=0.25)(run)
    torch.testing.assert_close(scaled, Odin(5.0, 0.04)(run))
    assert (scaled - Odin(5.0, 0.01)(run)).abs().max() > 1e-4


def test_each_channel_has_its_own_standard_deviation():
    x, gradient = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    moved = perturbed(x, gradient, epsilon=0.1, std=(0.5, 0.2))
    assert moved[0, 0].unique().item() == pytest.approx(-0.2)
    assert moved[0, 1].unique().item() == pytest.approx(-0.5)


def test_a_step_down_the_loss_raises_the_score():
    run = network_pass(Posterior(Delta(classifier())), X)
    scores = Odin(10.0).at_epsilons(run, [0.0, 1e-3, 2e-3])
    assert (scores.diff(dim=0) > 0).all()


def count_passes(model, function):
    """How often the first layer is called."""
    calls = []
    layer = next(m for m in model.net.modules() if isinstance(m, nn.Linear))
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    try:
        function()
    finally:
        hook.remove()
    return len(calls)


def test_a_point_needs_no_pass_without_a_step_and_two_with_one():
    run = network_pass(Posterior(Delta(classifier())), X)
    model = run.posterior.model
    assert count_passes(model, lambda: Odin(epsilon=0.0)(run)) == 0
    assert count_passes(model, lambda: Odin()(run)) == 2
    assert count_passes(model, lambda: Odin().at_epsilons(run, [0.0, 0.1, 0.2, 0.3])) == 4
    choose = {"temperatures": [1.0, 10.0], "epsilons": [0.0, 0.1, 0.2], "out_validation": run}
    # both passes, each temperature: one for the gradient and one a step
    assert count_passes(model, lambda: choose_odin(run, **choose)) == 2 * 2 * (1 + 2)


def test_no_step_and_a_tiny_step_agree():
    for make in GUIDES.values():
        run = network_pass(Posterior(make(classifier())), X)
        zero, tiny = Odin(2.0).at_epsilons(run, [0.0, 1e-9])
        torch.testing.assert_close(zero, tiny, rtol=1e-6, atol=1e-8)


def test_gradients_are_taken_even_where_they_are_switched_off():
    run = network_pass(Posterior(Delta(classifier())), X)
    with torch.no_grad():
        inside = Odin()(run)
    assert torch.equal(inside, Odin()(run))
    assert not inside.requires_grad


def test_the_mean_score_chooses_the_step():
    run = network_pass(Posterior(Delta(classifier(activation="relu"))), X)
    epsilons = [0.0, 0.1, 0.5, 3.0, 20.0]
    like = Odin(2.0, std=0.5)
    choice = choose_odin(run, epsilons=epsilons, like=like)
    means = [replace(like, epsilon=e)(run).exp().mean().item() for e in epsilons]
    assert list(choice.values.values()) == pytest.approx(means)
    best = epsilons[max(range(5), key=lambda i: means[i])]
    assert choice.odin == replace(like, epsilon=best)
    assert choice.criterion == "mean-score"


def test_the_auroc_chooses_step_and_temperature():
    posterior = Posterior(Delta(classifier()))
    inside, outside = network_pass(posterior, X), network_pass(posterior, X / 10)
    grid = {"temperatures": [1.0, 100.0], "epsilons": [0.0, 0.1]}
    choice = choose_odin(inside, out_validation=outside, **grid)
    values = {}
    for temperature in grid["temperatures"]:
        for epsilon in grid["epsilons"]:
            a, b = (Odin(temperature, epsilon)(run) for run in (inside, outside))
            wins = (a[:, None] > b).double() + 0.5 * (a[:, None] == b)
            values[temperature, epsilon] = wins.mean().item()
    assert choice.values == pytest.approx(values)
    chosen = (choice.odin.temperature, choice.odin.epsilon)
    assert values[chosen] == max(values.values())
    assert choice.criterion == "auroc"


def test_bad_arguments_are_refused():
    run = network_pass(Posterior(Delta(classifier())), X)
    for options, message in (
        ({"temperature": 0.0}, "temperature must be a positive"),
        ({"epsilon": -0.1}, "epsilon must be a finite number of at least 0"),
        ({"std": 0.0}, "std must be a positive"),
        ({"std": ()}, "std must hold a number"),
        ({"zero_gradient_sign": "minus"}, "zero_gradient_sign must be one of"),
        ({"num_samples": 0}, "num_samples"),
    ):
        with pytest.raises(ValueError, match=message):
            Odin(**options)
    with pytest.raises(ValueError, match="each of the 2 channels"):
        Odin(std=(1.0, 2.0, 3.0))(run)
    with pytest.raises(ValueError, match="at one temperature only"):
        choose_odin(run, temperatures=[1.0, 10.0])
    with pytest.raises(ValueError, match="to choose from"):
        choose_odin(run, epsilons=[])
    other = network_pass(Posterior(Delta(classifier())), X)
    with pytest.raises(ValueError, match="one posterior"):
        choose_odin(run, out_validation=other)


def test_indices_have_no_step():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    model = BayesianModel(net, NormalPrior(1.0), Categorical(2))
    run = network_pass(Posterior(Delta(model)), torch.tensor([[0, 1], [2, 3]]))
    with pytest.raises(ValueError, match="must be real numbers.*int64"):
        Odin()(run)
