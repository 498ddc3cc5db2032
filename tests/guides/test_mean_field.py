"""The estimators of the mean-field objective: one expectation, three variances; the temperature."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from model_cases import CASES, F64, Case, inputs, random_flat, targets
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from probml_tp import BayesianModel, Exact, Gaussian, MeanFieldNormal, NormalPrior, fit
from probml_tp.guides import weight_noise
from probml_tp.guides.weight_noise import ExampleNoise, treatments

ESTIMATORS = ("shared", "local-reparameterization", "flipout")
NOISES = ESTIMATORS[1:]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Sequence(nn.Module):
    """A linear layer at three positions of each example, as in a recurrent or attention net."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.token(x)).sum(1))


class GroupedConv(nn.Module):
    """A grouped convolution with circular padding, and one over a single position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, groups=2, padding=1, padding_mode="circular")
        self.last = nn.Conv1d(4, 1, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(x))).flatten(1)


def _user_case(build: Callable[[], nn.Module], *shape: int) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = build().double()
    x = inputs(8, torch.Size(shape).numel()).reshape(8, *shape)
    model = BayesianModel(net, NormalPrior(0.9), Gaussian(scale=0.5))
    return Case(model, x, targets(x.flatten(1)))


OWN = {
    "sequence": lambda: _user_case(Sequence, 3, 2),
    "grouped-conv": lambda: _user_case(GroupedConv, 2, 5),
}


@cache
def case_of(name: str) -> Case:
    case = (CASES | OWN)[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y))


def guide_of(case: str, estimator: str, *, temperature: float = 1.0) -> MeanFieldNormal:
    """A guide away from its start, with weight noise that matters."""
    data = case_of(case)
    guide = MeanFieldNormal(data.model, estimator=estimator, temperature=temperature)
    guide.loc.data = random_flat(data.model, seed=1)
    guide.log_scale.data = random_flat(data.model, seed=2, scale=0.2) - 1.2
    guide.prepare(data.x, data.y)
    return guide


def losses_and_gradients(
    guide: MeanFieldNormal, x: Tensor, y: Tensor, num_draws: int, *, size: int = 10
) -> Tensor:
    """One row a draw: the loss, then its gradient."""
    rows = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(num_draws):
            loss = guide.loss(x, y, size=size)
            gradient = torch.autograd.grad(loss, [guide.loc, guide.log_scale])
            rows.append(torch.cat([loss.detach().reshape(1), *gradient]))
    return torch.stack(rows)


class LossAt(nn.Module):
    """The loss of a guide as a module, so that its parameters can be arguments."""

    def __init__(self, guide: MeanFieldNormal) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, epsilon: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self.guide.loss_at(epsilon, x, y, size=10)


@cache
def shared_reference(case: str) -> Tensor:
    """The rows of 1,500 shared draws at once; the first are seen to be those of a loop."""
    data, guide = case_of(case), guide_of(case, "shared")
    module, parameters = LossAt(guide), (guide.loc.detach(), guide.log_scale.detach())

    def loss(loc: Tensor, log_scale: Tensor, epsilon: Tensor) -> Tensor:
        named = {"guide.loc": loc, "guide.log_scale": log_scale}
        return functional_call(module, named, (epsilon, data.x, data.y))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        epsilon = torch.stack([torch.randn_like(guide.loc) for _ in range(1500)])
    each = vmap(grad_and_value(loss, argnums=(0, 1)), in_dims=(None, None, 0))
    gradients, values = each(*parameters, epsilon)
    rows = torch.cat([values.unsqueeze(1), *gradients], 1).detach()
    torch.testing.assert_close(rows[:5], losses_and_gradients(guide, data.x, data.y, 5), **EXACT)
    return rows


def deviations(guide: MeanFieldNormal, case: str) -> Tensor:
    """How many standard errors the means lie from those of the shared draw.

    Each point is there 20 times, with noise of its own: the same mean, known better.
    """
    data = case_of(case)
    x, y = (t.repeat(20, *[1] * (t.ndim - 1)) for t in (data.x, data.y))
    ours, theirs = losses_and_gradients(guide, x, y, 300), shared_reference(case)
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    return (ours.mean(0) - theirs.mean(0)).abs() / (error + 1e-12)


# ------------------------------------------------------------------- the same in expectation


@pytest.mark.parametrize(
    ("case", "estimator"),
    [
        (case, estimator)
        for case in ("mlp-heavy-tails", "lenet-small", "positive-weights", *OWN)
        for estimator in NOISES
        if (case, estimator) != ("grouped-conv", "local-reparameterization")
    ],
)
def test_loss_and_gradient_are_those_of_the_shared_draw_in_expectation(
    case: str, estimator: str
) -> None:
    assert float(deviations(guide_of(case, estimator), case).max()) < 5


@pytest.mark.parametrize("case", ["lenet-small", "sequence"])
def test_independent_noise_at_each_position_is_another_objective(case: str) -> None:
    """As published for convolutions."""
    guide = guide_of(case, "local-reparameterization")
    layers = dict.fromkeys(guide_of(case, "flipout")._example_noise.layers, NOISES[0])
    guide._example_noise = ExampleNoise(guide.model, layers)
    assert float(deviations(guide, case).max()) > 5


def test_flipout_has_the_variance_of_weights_shared_by_positions() -> None:
    """A weight applied at T positions that are averaged: var = s^2 mean(x)^2 + s_b^2, in closed
    form; with independent noise at each it would be s^2 mean(x^2) / T + s_b^2 / T."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1, dtype=F64)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).mean(1)

    model = BayesianModel(Mean(), NormalPrior(1.0), Gaussian(scale=0.5))
    x = torch.tensor([[1.0, 2.0, 0.5]], dtype=F64).reshape(1, 3, 1)
    s = torch.tensor([0.7, 0.4], dtype=F64)
    m = torch.tensor([0.2, -0.1], dtype=F64)
    params, n = model.layout.unravel(m), 4000
    assert treatments(model, "local-reparameterization", params, x) == {}
    layers = treatments(model, "flipout", params, x)
    assert layers == {"fc": "flipout"}
    noise = ExampleNoise(model, layers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        epsilon = torch.randn(n, 2, dtype=F64)
        f = torch.cat([noise.outputs(m, s, e, params, x) for e in epsilon]).squeeze(1)
    variance = s[0] ** 2 * x.mean() ** 2 + s[1] ** 2
    independent = (s[0] ** 2 * x.square().mean() + s[1] ** 2) / 3
    z = (f - m[0] * x.mean() - m[1]) ** 2
    assert (z.mean() - variance).abs() < 5 * z.std() / n**0.5
    assert (z.mean() - independent).abs() > 5 * z.std() / n**0.5


# ----------------------------------------------------------------------------- each estimator


@pytest.mark.parametrize("bias", [True, False])
def test_local_reparameterisation_has_the_moments_of_a_linear_layer(bias: bool) -> None:
    net, n = nn.Linear(3, 2, bias=bias, dtype=F64), 20_000
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.5))
    m, s = random_flat(model, seed=1), random_flat(model, seed=2).exp()
    x = inputs(2, 3)
    params = model.layout.unravel(m)
    noise = ExampleNoise(model, {"": "local-reparameterization"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = x.repeat_interleave(n, 0)
        a = noise.outputs(m, s, torch.zeros_like(m), params, rows).reshape(2, n, 2)
    sites = model.layout.unravel(s)
    mean = x @ params["weight"].mT + params.get("bias", 0.0)
    variance = x.square() @ sites["weight"].square().mT + sites.get("bias", m.new_zeros(2)) ** 2
    centred = a - mean.unsqueeze(1)
    for z, expected in ((centred, 0.0), (centred.square() - variance.unsqueeze(1), 0.0)):
        assert bool(((z.mean(1) - expected).abs() < 5 * z.std(1) / n**0.5).all())
    products = centred[0].prod(1), centred[:, :, 0].prod(0)  # outputs, examples: independent
    for z in products:
        assert z.mean().abs() < 5 * z.std() / n**0.5


def test_local_reparameterisation_has_a_gradient_at_an_input_of_zeros() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()
    net[0].bias.data.fill_(-9.0)  # every unit is off
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.5))
    guide = MeanFieldNormal(model, estimator="local-reparameterization")
    guide.loss(inputs(4, 2), targets(inputs(4, 2)), size=4).backward()
    assert bool(guide.loc.grad.isfinite().all() & guide.log_scale.grad.isfinite().all())


@pytest.mark.parametrize("case", ["mlp-gamma", "lenet-small", "residual", "tied", *OWN])
def test_flipout_without_flips_is_the_shared_draw(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, flipout = case_of(case), guide_of(case, "flipout")
    epsilon = random_flat(data.model, seed=4, scale=1.0)
    theirs = guide_of(case, "shared").loss_at(epsilon, data.x, data.y, size=30)
    assert not torch.isclose(flipout.loss_at(epsilon, data.x, data.y, size=30), theirs)
    monkeypatch.setattr(weight_noise, "_signs", lambda like, _: torch.ones_like(like))
    ours = flipout.loss_at(epsilon, data.x, data.y, size=30)
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_flipouts_signs_are_alike_at_all_positions_and_differ_between_examples() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        signs = weight_noise._signs(torch.zeros(200, 5, 4, 4), 1)
    assert signs.shape == (200, 5, 1, 1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean().abs() < 5 / 1000**0.5
    correlation = signs.flatten(1).T @ signs.flatten(1) / 200
    assert bool(((correlation - torch.eye(5)).abs() < 5 / 200**0.5).all())


@pytest.mark.parametrize("estimator", NOISES)
def test_noise_of_each_example_lowers_the_variance_of_the_gradient(estimator: str) -> None:
    """On 200 points the sum over them averages out what a shared draw does not."""
    model, x = CASES["mlp"]().model, inputs(200, 2)
    variance = {}
    for kind in ("shared", estimator):
        guide = MeanFieldNormal(model, estimator=kind, init_scale=0.1)
        rows = losses_and_gradients(guide, x, targets(x), 200)
        variance[kind] = rows[:, 1:].var(0).sum()
    assert variance[estimator] < variance["shared"] / 10


def test_a_fit_finds_the_mean_fields_optimum_by_each_estimator() -> None:
    """Linear regression, where it is known: the exact mean, the precision's diagonal."""
    net = nn.Linear(2, 1, dtype=F64)
    for parameter in net.parameters():
        parameter.data.zero_()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.3))
    x = inputs(30, 2)
    exact = fit(model, Exact, (x, targets(x))).guide
    precision = torch.cholesky_inverse(exact.scale_tril)
    for estimator in ESTIMATORS:
        posterior = fit(
            model,
            lambda m, e=estimator: MeanFieldNormal(m, estimator=e, init_scale=0.1),
            (x, targets(x)),
            epochs=500,
            lr=0.05,
            schedule="cosine",
        )
        sd = precision.diagonal().rsqrt()
        assert bool(((posterior.guide.loc - exact.loc).abs() < 0.3 * sd).all())
        assert bool(((posterior.guide.log_scale.exp() / sd).log().abs() < 0.15).all())


# ------------------------------------------------------------- which layers are treated, and how


class Awkward(nn.Module):
    """Layers of which only ``head`` has weights that nothing else reads, used once an example."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(2, 2)
        self.read = nn.Linear(2, 2)
        self.unused = nn.Linear(2, 2)
        self.rows = nn.Linear(1, 1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        self.gain = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(torch.tanh(self.twice(x)))
        x = torch.tanh(self.read(input=x)) @ self.read.weight
        x = self.rows(x.reshape(-1, 1)).reshape(x.shape)
        return self.head(self.gain * self.normed(x))


@pytest.mark.parametrize("estimator", NOISES)
def test_layers_that_cannot_be_treated_take_the_shared_draw(estimator: str) -> None:
    case = _user_case(Awkward, 2)
    guide = MeanFieldNormal(case.model, estimator=estimator)
    guide.prepare(case.x, case.y)
    assert guide._example_noise.layers == {"head": estimator}


def test_layers_with_positions_are_left_to_the_shared_draw_or_flipout() -> None:
    local, flipout = (list(guide_of("lenet-small", kind)._example_noise.layers) for kind in NOISES)
    assert local == ["fc1", "fc2"]
    assert flipout == ["conv1", "conv2", "fc1", "fc2"]
    layers = guide_of("sequence", "local-reparameterization")._example_noise.layers
    assert layers == {"head": "local-reparameterization"}


def test_a_layer_called_by_keyword_is_treated() -> None:
    class Keyword(Sequence):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(input=torch.tanh(self.token(input=x)).sum(1))

    case = _user_case(Keyword, 3, 2)
    guide = MeanFieldNormal(case.model, estimator="flipout")
    guide.loss(case.x, case.y, size=8).backward()
    assert list(guide._example_noise.layers) == ["token", "head"]


@pytest.mark.parametrize("estimator", NOISES)
def test_a_net_without_a_layer_to_treat_is_refused(estimator: str) -> None:
    case = CASES["polynomial"]()
    with pytest.raises(ValueError, match=r"at least one linear layer.*Use estimator='shared'"):
        fit(case.model, lambda m: MeanFieldNormal(m, estimator=estimator), (case.x, case.y))


@pytest.mark.parametrize("case", ["mlp", "lenet-small", "polynomial", "grouped-conv"])
def test_auto_is_local_reparameterisation_where_it_is_exact_else_the_shared_draw(case: str) -> None:
    data, auto = case_of(case), guide_of(case, "auto")
    local = auto._example_noise is not None
    assert local == (case in ("mlp", "lenet-small"))
    twin = guide_of(case, "local-reparameterization" if local else "shared")
    losses = []
    for guide in (auto, twin):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            losses.append(guide.loss(data.x, data.y, size=9))
    assert torch.equal(*losses)
    assert MeanFieldNormal(data.model).options()["estimator"] == "auto"


def test_estimators_are_named() -> None:
    with pytest.raises(ValueError, match=r"estimator must be one of .*flipout.*; got 'local'"):
        MeanFieldNormal(case_of("mlp").model, estimator="local")


@pytest.mark.parametrize("estimator", NOISES)
def test_the_state_of_a_guide_does_not_depend_on_the_estimator(estimator: str) -> None:
    state = guide_of("lenet-small", estimator).state_dict()
    assert list(state) == ["loc", "log_scale"]


# ------------------------------------------------- the weight of the KL term, and the temperature


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_each_point_carries_t_over_n_of_the_kl(estimator: str, temperature: float) -> None:
    data, guide = case_of("lenet-small"), guide_of(
        "lenet-small", estimator, temperature=temperature
    )  # fmt: skip
    losses = []
    for rows, size in ((slice(0, 4), 6), (slice(0, 4), 12), (slice(0, 4), 10**12)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            losses.append(guide.loss(data.x[rows], data.y[rows], size=size))
    kl = temperature * guide.kl()
    torch.testing.assert_close(losses[0] - losses[1], kl / 12, **EXACT)
    torch.testing.assert_close(losses[0] - losses[2], kl / 6, **EXACT)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_of_an_epoch_average_to_the_objective(estimator: str) -> None:
    """In expectation, whatever the batch size: here 3 and 5 of 8."""
    data, guide = case_of("sequence"), guide_of("sequence", estimator)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        whole, epoch = [], []
        for _ in range(400):
            whole.append(guide.loss(data.x, data.y, size=8))
            epoch.append(
                sum(
                    len(r) / 8 * guide.loss(data.x[r], data.y[r], size=8)
                    for r in torch.arange(8).split(3)
                )
            )
    a, b = torch.stack(whole), torch.stack(epoch)
    assert (a.mean() - b.mean()).abs() < 5 * ((a.var() + b.var()) / 400) ** 0.5


def test_a_tempered_optimum_is_that_of_the_likelihood_to_the_power_1_over_t() -> None:
    """Gaussian noise of variance T sigma^2 is the likelihood to the power 1 / T: the same
    gradients, up to the factor T."""
    x, T = inputs(10, 2), 0.25
    net = case_of("mlp").model.net
    tempered = BayesianModel(net, NormalPrior(0.8), Gaussian(scale=0.4))
    scaled = BayesianModel(net, NormalPrior(0.8), Gaussian(scale=0.4 * T**0.5))
    gradients = []
    for model, temperature in ((tempered, T), (scaled, 1.0)):
        guide = MeanFieldNormal(model, estimator="shared", temperature=temperature)
        epsilon = random_flat(model, seed=3)
        loss = guide.loss_at(epsilon, x, targets(x), size=10)
        gradients.append(torch.cat(torch.autograd.grad(loss, [guide.loc, guide.log_scale])))
    torch.testing.assert_close(gradients[0], T * gradients[1], **EXACT)


@pytest.mark.parametrize("temperature", [0.0, -1.0, True, "1"])
def test_the_temperature_is_positive(temperature: object) -> None:
    with pytest.raises(ValueError, match="temperature must be a positive finite number"):
        MeanFieldNormal(case_of("mlp").model, temperature=temperature)
