"""MC dropout: its KL term by hand, its masks, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from guide_cases import build
from model_cases import CASES, F64, Case, TiedNet, inputs, random_flat, targets
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    Gaussian,
    MCDropout,
    NormalPrior,
    Posterior,
    StudentTPrior,
    elbo,
    fit,
)
from probml_tp.guides import implied_prior_precision
from probml_tp.guides.dropout import MaskedUnits
from probml_tp.models import LENET_DROPOUT, lenet, logistic_regression, mlp

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def regressor(
    rates: dict[str, float], *, scale: float = 0.7, masks: str = "per-example"
) -> MCDropout:
    """A net 2-3-4-1 with its weights moved away from the start."""
    model = BayesianModel(mlp((2, 3, 4, 1), dtype=F64), NormalPrior(scale), Gaussian(0.4))
    guide = MCDropout(model, rates=rates, masks=masks)
    guide.loc.data = random_flat(model, seed=1, scale=0.6)
    return guide


def mask_sets(guide: MCDropout) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Every mask set of a guide with its probability and the weights under it."""
    model = guide.model
    values = {n: v.detach() for n, v in model.layout.unravel(guide.loc).items()}
    layers = [(f"{layer}.weight", rate) for layer, rate in guide.rates.items() if rate]
    units = [range(2 ** values[name].shape[1]) for name, _ in layers]
    for codes in itertools.product(*units):
        probability, params = 1.0, dict(values)
        for (name, rate), code in zip(layers, codes, strict=True):
            count = values[name].shape[1]
            keep = torch.tensor([(code >> k) & 1 for k in range(count)], dtype=F64)
            probability *= math.prod(rate if k == 0 else 1 - rate for k in keep.tolist())
            ones = [1] * (values[name].ndim - 2)
            params[name] = values[name] * keep.reshape(1, count, *ones) / (1 - rate)
        yield probability, params


# --------------------------------------------------------------------------------- the KL term


def test_kl_is_the_weight_penalty_minus_the_entropy_of_the_masks() -> None:
    """By hand: ||W||^2 / (2 s^2 (1-p)) a layer, s = 0.7, and the constants of the normals."""
    rates, s = {"fc2": 0.3, "fc3": 0.1}, 0.7
    guide = regressor(rates, scale=s)
    sites = guide.model.layout.unravel(guide.loc.detach())
    expected = 0.0
    for name, value in sites.items():
        p = rates.get(name.removesuffix(".weight"), 0.0) if name.endswith("weight") else 0.0
        expected += value.square().sum().item() / (2 * s**2 * (1 - p))
        expected += value.numel() * (math.log(s) + 0.5 * math.log(2 * math.pi))
        if p:
            units = value.shape[1]
            expected += units * (p * math.log(p) + (1 - p) * math.log(1 - p))
    assert guide.kl().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("prior", [NormalPrior(0.7, loc=0.2), StudentTPrior(3.0, 0.5)])
def test_kl_is_the_sum_over_all_mask_sets(prior: object) -> None:
    """By enumeration, no Monte Carlo: sum of q(z) [log q(z) - log prior(W_z)]."""
    model = BayesianModel(mlp((2, 3, 2, 1), dtype=F64), prior, Gaussian(0.4))
    guide = MCDropout(model, rates={"fc2": 0.3, "fc3": 0.15})
    guide.loc.data = random_flat(model, seed=1)
    total, mass = torch.zeros((), dtype=F64), 0.0
    for probability, params in mask_sets(guide):
        mass += probability
        total += probability * (math.log(probability) - model.log_prior(params))
    assert mass == pytest.approx(1.0)
    torch.testing.assert_close(guide.kl(), total, **CLOSE)


def test_the_gradient_is_that_of_dropout_with_a_weight_decay_for_each_layer() -> None:
    """Plain torch: mean NLL under F.dropout plus decay/2 ||W||^2, decay = 1 / (N s^2 (1-p))."""
    rates, s, n = {"fc2": 0.3, "fc3": 0.1}, 0.7, 9
    guide = regressor(rates, scale=s)
    x, y = inputs(n, 2), targets(inputs(n, 2))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        (ours,) = torch.autograd.grad(guide.loss(x, y, size=n), guide.loc)
        torch.manual_seed(5)
        w = {
            k: v.detach().requires_grad_() for k, v in guide.model.layout.unravel(guide.loc).items()
        }
        h = torch.relu(F.linear(x, w["fc1.weight"], w["fc1.bias"]))
        h = torch.relu(F.linear(F.dropout(h, 0.3), w["fc2.weight"], w["fc2.bias"]))
        f = F.linear(F.dropout(h, 0.1), w["fc3.weight"], w["fc3.bias"]).squeeze(-1)
    loss = 0.5 * F.mse_loss(f, y) / 0.4**2
    for name, value in w.items():
        p = rates.get(name.removesuffix(".weight"), 0.0)
        loss = loss + value.square().sum() / (n * s**2 * (1 - p)) / 2
    theirs = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(w.values()))])
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("loss", ["nll", "mse", "mse-2-targets"])
def test_dropout_with_weight_decay_is_the_guide_under_the_implied_prior(loss: str) -> None:
    """Plain torch: ``nn.Dropout``, SGD's weight decay and a usual loss, at the same masks.

    The steps are equal, once that of the mean squared error is scaled to the likelihood's.
    """
    decay, n, sigma, rates = 0.03, 12, 0.4, {"fc1": 0.0, "fc2": 0.3, "fc3": 0.1}
    d = 2 if loss == "mse-2-targets" else 1
    mse = {} if loss == "nll" else {"noise_precision": sigma**-2, "num_targets": d}
    prior = {
        f"fc{i}.*": NormalPrior.from_precision(
            implied_prior_precision(decay, rate=rate, size=n, **mse)
        )
        for i, rate in enumerate(rates.values(), 1)
    } | {
        f"fc{i}.bias": NormalPrior.from_precision(
            implied_prior_precision(decay, rate=0.0, size=n, **mse)
        )
        for i in (1, 2, 3)
    }
    net = mlp((2, 3, 4, d), dtype=F64)
    model = BayesianModel(net, prior, Gaussian(sigma))
    guide = MCDropout(model, rates=rates)
    x, y = model.check_data(inputs(n, 2), targets(inputs(n, 2), d))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        (ours,) = torch.autograd.grad(guide.loss(x, y, size=n), guide.loc)
        torch.manual_seed(5)
        plain = nn.Sequential(net[:2], nn.Dropout(0.3), net[2:4], nn.Dropout(0.1), net[4:]).train()
        f = plain(x)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, weight_decay=decay)
    scale = d / (2 * sigma**2)
    objective = F.mse_loss(f, y.reshape(f.shape))
    (objective * scale if loss == "nll" else objective).backward()
    before = torch.cat([p.detach().flatten() for p in plain.parameters()])
    optimizer.step()
    step = before - torch.cat([p.detach().flatten() for p in plain.parameters()])
    torch.testing.assert_close(ours, step if loss == "nll" else scale * step, **CLOSE)


def test_the_implied_prior_of_the_paper() -> None:
    """Gal & Ghahramani (2016), eq. 7: tau = p l^2 / (2 N lambda) with p the rate of keeping, loss
    1/(2N) sum of squares + lambda ||M||^2, M = W / p, hence lambda ||M||^2 = lambda/p^2 ||W||^2."""
    keep, lengthscale, n, tau = 0.8, 1.7, 50, 9.0
    decay = keep * lengthscale**2 / (2 * n * tau)  # on ||M||^2, beside half the mean square
    ours = implied_prior_precision(
        4 * decay / keep**2, rate=1 - keep, size=n, noise_precision=tau
    )  # on ||W||^2 / 2, beside the whole mean square: twice and once more twice
    assert ours == pytest.approx(lengthscale**2, rel=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight_decay": 0.0}, "weight_decay must be a positive finite number"),
        ({"rate": 1.0}, r"rate must lie in \[0, 1\)"),
        ({"size": 0}, "size must be an integer of at least 1"),
        ({"noise_precision": -1.0}, "noise_precision must be a positive finite number"),
        ({"noise_precision": 1.0, "num_targets": 0}, "num_targets must be an integer"),
        ({"num_targets": 2}, "num_targets goes with noise_precision"),
    ],
)
def test_what_implies_no_prior_is_refused(changed: dict[str, float], message: str) -> None:
    options = {"weight_decay": 1e-4, "rate": 0.5, "size": 10} | changed
    with pytest.raises(ValueError, match=message):
        implied_prior_precision(options.pop("weight_decay"), **options)


def test_a_rate_of_zero_in_one_layer_adds_nothing() -> None:
    both, one = (regressor(rates) for rates in ({"fc2": 0.3, "fc3": 0.0}, {"fc2": 0.3}))
    assert both.rates == {"fc2": 0.3, "fc3": 0.0}
    assert torch.equal(both.kl(), one.kl())
    assert both.constant_sites == one.constant_sites


def test_masked_units_have_probabilities_that_sum_to_one() -> None:
    weight = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    masked = MaskedUnits(weight, 0.3)
    total = 0.0
    for bits in itertools.product([0.0, 1.0], repeat=4):
        value = weight * (torch.tensor(bits, dtype=F64) / 0.7)
        log_prob = masked.log_prob(value).item()
        kept = sum(bits)
        assert log_prob == pytest.approx(kept * math.log(0.7) + (4 - kept) * math.log(0.3))
        total += math.exp(log_prob)
    assert total == pytest.approx(1.0)
    assert masked.log_prob(weight).item() == -math.inf
    assert masked.log_prob(torch.full_like(weight, 0.1)).item() == -math.inf


@pytest.mark.parametrize("kind", [torch.float32, F64])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.3, 1 / 3, 0.6, 0.7, 0.9])
def test_masked_units_know_their_own_draws(rate: float, kind: torch.dtype) -> None:
    """Rounding of 1 / (1 - p) must not turn a draw into an impossible one."""
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=kind)
    masked = MaskedUnits(weight, rate)
    draws = masked.rsample(torch.Size([40]), generator=torch.Generator().manual_seed(1))
    assert bool(torch.isfinite(masked.log_prob(draws)).all())


# ---------------------------------------------------------------------------------- the masks


@pytest.mark.parametrize("case", ["mlp", "lenet-small", "residual", "batch-norm", "embedding"])
def test_a_draw_drops_whole_input_units(case: str) -> None:
    guide, _ = build("mc-dropout", case)
    draws = guide.sample(200, generator=torch.Generator().manual_seed(0))
    values = guide.model.layout.unravel(guide.loc.detach())
    for name, value in values.items():
        rate = guide.rates.get(name.removesuffix(".weight"), 0.0)
        if not rate:
            assert torch.equal(draws[name], value.expand_as(draws[name]))
            continue
        columns = draws[name].transpose(1, 2).flatten(2)
        kept = (columns != 0).all(-1)
        assert torch.equal(kept, (columns != 0).any(-1))
        full = (value.transpose(0, 1).flatten(1) / (1 - rate)).expand_as(columns)
        torch.testing.assert_close(columns[kept], full[kept], **CLOSE)
        error = (rate * (1 - rate) / kept.numel()) ** 0.5
        assert abs(kept.double().mean().item() - (1 - rate)) < 5 * error


def test_masks_of_units_and_layers_are_independent() -> None:
    guide = regressor({"fc2": 0.5, "fc3": 0.5})
    draws = guide.sample(4000, generator=torch.Generator().manual_seed(0))
    kept = torch.cat([(draws[f"fc{i}.weight"] != 0).any(1).double() for i in (2, 3)], dim=1)
    correlation = torch.corrcoef(kept.T) - torch.eye(7)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_draws_average_to_the_deterministic_weights() -> None:
    guide = regressor({"fc2": 0.3})
    mean = sum(probability * params["fc2.weight"] for probability, params in mask_sets(guide))
    value = guide.model.layout.unravel(guide.loc.detach())["fc2.weight"]
    torch.testing.assert_close(mean, value, **CLOSE)


# -------------------------------------------------------- training: per-example and shared masks


def _expected_loss(guide: MCDropout, x: Tensor, y: Tensor) -> Tensor:
    """The loss averaged over all mask sets."""
    nll = sum(
        -probability * guide.model.log_likelihood(params, x, y).mean()
        for probability, params in mask_sets(guide)
    )
    return nll + guide.kl().detach() / len(x)


def _conv_guide(masks: str) -> tuple[MCDropout, Tensor, Tensor]:
    case = CASES["lenet-small"]()
    guide = MCDropout(case.model, rates={"conv2": 0.3, "fc2": 0.25}, masks=masks)
    guide.loc.data = random_flat(case.model, seed=1)
    return guide, case.x, case.y


class Tokens(nn.Module):
    """A linear layer applied to each of several tokens of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x)).sum(1) ** 2)


def _token_guide(masks: str) -> tuple[MCDropout, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Tokens().double()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.5))
    guide = MCDropout(model, rates={"inner": 0.5}, masks=masks)
    guide.loc.data = random_flat(model, seed=1, scale=1.0)
    x = inputs(5, 12).reshape(5, 4, 3)
    return guide, x, targets(x.flatten(1))


def _dense_guide(masks: str) -> tuple[MCDropout, Tensor, Tensor]:
    guide = regressor({"fc2": 0.4, "fc3": 0.2}, masks=masks)
    return guide, inputs(6, 2), targets(inputs(6, 2))


@pytest.mark.parametrize("setup", [_dense_guide, _conv_guide, _token_guide])
@pytest.mark.parametrize("masks", ["per-example", "shared"])
def test_both_kinds_of_masks_have_the_same_expected_loss(setup: object, masks: str) -> None:
    """The mean over 1,200 steps is the enumerated expectation, within 5 standard errors."""
    guide, x, y = setup(masks)
    guide.prepare(x, y)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        losses = torch.stack([guide.loss(x, y, size=len(x)) for _ in range(1200)])
    error = losses.std() / len(losses) ** 0.5
    assert (losses.mean() - _expected_loss(guide, x, y)).abs() < 5 * error


def test_masks_for_each_example_have_the_lower_variance() -> None:
    variances = {}
    for masks in ("per-example", "shared"):
        guide, x, y = _dense_guide(masks)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            losses = torch.stack([guide.loss(x, y, size=len(x)) for _ in range(500)])
        variances[masks] = losses.var().item()
    assert variances["per-example"] < 0.7 * variances["shared"]


def test_training_fits_the_data_and_keeps_the_net() -> None:
    guide = regressor({"fc2": 0.1})
    x = inputs(30, 2)
    before = {n: p.clone() for n, p in guide.model.net.named_parameters()}
    posterior = fit(guide.model, guide, (x, targets(x)), epochs=300, lr=0.02, progress=False)
    assert posterior.info.losses[-1] < posterior.info.losses[0] - 1
    for name, value in guide.model.net.named_parameters():
        assert torch.equal(value, before[name])


# ----------------------------------------------------------------- predictions: one function a draw


def test_a_draw_is_one_function_across_batches_and_positions() -> None:
    guide, case = build("mc-dropout", "mlp")
    posterior = Posterior(guide, seed=3)
    x = torch.cat([case.x, case.x])
    options = {"num_samples": 30, "keep_outputs": True}
    whole = posterior.predict(x, **options).require_outputs()
    assert torch.equal(whole[:, :10], whole[:, 10:])
    for batch_size in (1, 7):
        split = posterior.predict(x, batch_size=batch_size, **options).require_outputs()
        torch.testing.assert_close(split, whole, **CLOSE)
    assert whole.std(0).min() > 0


def test_predictions_average_over_all_mask_sets() -> None:
    guide = regressor({"fc2": 0.4, "fc3": 0.2})
    x, count = inputs(5, 2), 4000
    outputs = [(p, guide.model.outputs(w, x).squeeze(-1)) for p, w in mask_sets(guide)]
    mean = sum(p * f for p, f in outputs)
    variance = sum(p * (f - mean) ** 2 for p, f in outputs)
    ours = Posterior(guide).predict(x, num_samples=count)
    assert bool(((ours.mean - mean).abs() < 5 * (variance / count).sqrt()).all())
    fourth = sum(p * (f - mean) ** 4 for p, f in outputs)
    error = ((fourth - variance**2) / count).sqrt()
    assert bool(((ours.epistemic_variance - variance).abs() < 5 * error).all())


def test_dropout_layers_of_the_net_itself_stay_off() -> None:
    """MAP must not be scored with dropout on (accuracy lost), nor MC dropout with it off."""
    net = nn.Sequential(
        nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)
    ).double()
    assert net.training
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    x = inputs(6, 2)
    expected = net.eval()(x).squeeze(-1)
    for _ in range(2):
        assert torch.equal(Posterior(Delta(model)).predict(x).mean, expected)
    guide = MCDropout(model, rates={"3": 0.5})
    predictive = Posterior(guide).predict(x, num_samples=50)
    assert bool((predictive.epistemic_variance > 1e-6).all())
    guide.eval()
    model.eval()
    again = Posterior(guide).predict(x, num_samples=50)
    assert torch.equal(again.epistemic_variance, predictive.epistemic_variance)


def test_lenet_drops_where_the_lab_does() -> None:
    model = lenet(prior=NormalPrior(1.0))
    guide = MCDropout(model, rates=LENET_DROPOUT)
    assert guide.rates == {"fc1": 0.5, "fc2": 0.25}
    assert guide.constant_sites == set(model.sites) - {"fc1.weight", "fc2.weight"}
    draw = guide.sample(1, generator=torch.Generator().manual_seed(0))
    kept = (draw["fc1.weight"][0] != 0).any(0).double().mean().item()
    assert abs(kept - 0.5) < 5 * (0.25 / 512) ** 0.5


# --------------------------------------------------------------------------------- what is refused


def test_what_needs_a_density_is_refused_with_the_reason() -> None:
    guide, case = build("mc-dropout", "mlp")
    assert guide.no_density is not None
    with pytest.raises(ValueError, match="discrete distribution over masks: it has no density"):
        elbo(Posterior(guide), case.x, case.y)
    record = Posterior(guide).to_inference_data(case.x, case.y, num_samples=5)
    assert "log_q" not in record.sample_stats
    assert "lp" in record.sample_stats


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.1, math.nan, "0.5", None])
def test_rates_must_be_probabilities_below_one(rate: object) -> None:
    with pytest.raises(ValueError, match=r"drop rate of layer 'fc2' must lie in \[0, 1\); got"):
        MCDropout(CASES["mlp"]().model, rates={"fc2": rate})


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"fc9": 0.5}, r"got 'fc9'.*'fc1', 'fc2', 'fc3'"),
        ({"tanh1": 0.5}, r"got 'tanh1'"),
        ({"fc2.weight": 0.5}, r"got 'fc2.weight'"),
        ({"fc2": 0.0}, r"positive rate in at least one layer; got \{'fc2': 0.0\}"),
        ({}, r"positive rate"),
        (0.0, r"positive rate"),
    ],
)
def test_rates_that_name_no_layer_are_refused(rates: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCDropout(CASES["mlp"]().model, rates=rates)


def test_a_number_goes_to_every_layer_but_the_first() -> None:
    guide = MCDropout(CASES["mlp"]().model, rates=0.2)
    assert guide.rates == {"fc2": 0.2, "fc3": 0.2}


def test_unknown_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'per-example' or 'shared'; got 'none'"):
        MCDropout(CASES["mlp"]().model, rates=0.2, masks="none")


def test_grouped_convolutions_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(8, 3))
    model = BayesianModel(net, NormalPrior(1.0), Categorical(3))
    with pytest.raises(ValueError, match=r"ungrouped convolution; got '0'"):
        MCDropout(model, rates={"0": 0.5})


@pytest.mark.parametrize("layer", ["first", "second"])
def test_shared_weights_are_refused(layer: str) -> None:
    model = BayesianModel(TiedNet(), NormalPrior(1.0), Gaussian(0.3))
    with pytest.raises(ValueError, match=f"'{layer}' are shared"):
        MCDropout(model, rates={layer: 0.5})
    assert MCDropout(model, rates={"head": 0.5}).rates == {"head": 0.5}


def test_a_layer_called_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.head = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))

    model = BayesianModel(Twice().double(), NormalPrior(1.0), Gaussian(0.3))
    x = inputs(5, 2)
    with pytest.raises(ValueError, match=r"called once.*'layer' is called on .2, 2. rows"):
        fit(model, lambda m: MCDropout(m, rates={"layer": 0.5}), (x, x[:, 0]), progress=False)


def test_examples_folded_into_the_batch_are_refused() -> None:
    """Rows that belong to one example need one mask; masks by row have another expectation."""

    class Folded(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.inner(x.flatten(0, 1)))
            return self.head(hidden.unflatten(0, x.shape[:2]).sum(1) ** 2)

    model = BayesianModel(Folded().double(), NormalPrior(1.0), Gaussian(0.3))
    x = inputs(5, 12).reshape(5, 4, 3)
    with pytest.raises(ValueError, match="inner"):
        fit(model, lambda m: MCDropout(m, rates={"inner": 0.5}), (x, x[:, 0, 0]), progress=False)


def test_a_layer_that_is_never_called_is_refused() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
            self.head = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].sum(1))

    model = BayesianModel(Attention().double(), NormalPrior(1.0), Gaussian(0.3))
    x = inputs(5, 6).reshape(5, 3, 2)
    rates = {"attention.out_proj": 0.5}
    with pytest.raises(ValueError, match=r"attention\.out_proj"):
        fit(model, lambda m: MCDropout(m, rates=rates), (x, x[:, 0, 0]), progress=False)


def test_weights_that_cannot_be_zero_are_refused() -> None:
    case: Case = CASES["positive-weights"]()
    with pytest.raises(ValueError, match=r"2\.weight.*HalfNormal"):
        MCDropout(case.model, rates={"2": 0.5})


def test_a_net_that_is_one_layer_has_its_inputs_dropped() -> None:
    model = logistic_regression(3, prior=NormalPrior(1.0))
    guide = MCDropout(model, rates={"": 0.5})
    guide.loc.data.fill_(1.0)
    draws = guide.sample(50, generator=torch.Generator().manual_seed(0))
    assert set(draws["weight"].unique().tolist()) == {0.0, 2.0}
    assert guide.constant_sites == {"bias"}


def test_subclasses_of_linear_layers_are_dropped_like_linear_layers() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), Scaled(3, 1)).double()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    guide = MCDropout(model, rates={"2": 0.5})
    x = inputs(4, 2)
    assert torch.isfinite(guide.loss(x, x[:, 0], size=4))
    assert guide.sample(9)["2.weight"].shape == (9, 1, 3)


def test_dropout_before_a_convolution_is_torchs_by_channel() -> None:
    """``nn.Dropout2d`` in front of the layer, at the same masks; ``nn.Dropout`` is not the same."""
    case = CASES["lenet-small"]()
    guide = MCDropout(case.model, rates={"conv2": 0.5})
    guide.loc.data = random_flat(case.model, seed=1)
    net = case.model.net
    w = {n: v.detach() for n, v in case.model.layout.unravel(guide.loc).items()}
    losses = {}
    for name, layer in (("ours", None), ("2d", nn.Dropout2d(0.5)), ("pixels", nn.Dropout(0.5))):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(2)
            if layer is None:
                losses[name] = guide.loss(case.x, case.y, size=6) - guide.kl() / 6
                net.load_state_dict(w)
                continue
            losses[name] = F.cross_entropy(net[3:](layer(net[:3](case.x))), case.y)
    torch.testing.assert_close(losses["ours"], losses["2d"], **CLOSE)
    assert not torch.isclose(losses["ours"], losses["pixels"])


def test_convolutions_of_every_dimension_drop_channels() -> None:
    layers = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    for d, kind in layers.items():
        net = nn.Sequential(nn.Linear(2, 2), kind(3, 2, 2), nn.Flatten(), nn.Linear(2, 1)).double()
        model = BayesianModel(net, NormalPrior(1.0), Gaussian(dist.HalfNormal(1.0)))
        guide = MCDropout(model, rates={"1": 0.4})
        x = torch.ones(5, 3, *[2] * d, dtype=F64)
        assert torch.isfinite(guide.loss(x, x[:, 0].flatten(1)[:, 0], size=5))
        draws = guide.sample(100, generator=torch.Generator().manual_seed(0))["1.weight"]
        kept = (draws != 0).flatten(3).any(-1)
        assert torch.equal(kept.any(1), kept.all(1))
