"""Concrete dropout: its KL in the rates, its relaxation, and the rates it learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from guide_cases import build
from model_cases import CASES, F64, inputs, random_flat
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit
from scipy.stats import kstest
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    ConcreteDropout,
    Gaussian,
    MCDropout,
    NormalPrior,
    Posterior,
    StudentTPrior,
    fit,
)
from probml_tp.guides.concrete_dropout import MAX_LOGIT, RelaxedUnits
from probml_tp.models import LENET_DROPOUT, lenet, mlp

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def guide_of(prior: object, rates: dict[str, float], **options: object) -> ConcreteDropout:
    """A net 2-3-4-1 with its weights moved away from the start."""
    model = BayesianModel(mlp((2, 3, 4, 1), dtype=F64), prior, Gaussian(0.4))
    guide = ConcreteDropout(model, rates=rates, **options)
    guide.loc.data = random_flat(model, seed=1, scale=0.6)
    return guide


# ------------------------------------------------------------------------------ the KL in the rates


@pytest.mark.parametrize("prior", [NormalPrior(0.7, loc=0.2), StudentTPrior(3.0, 0.5)])
def test_kl_is_mc_dropouts_at_the_same_rates(prior: object) -> None:
    guide = guide_of(prior, {"fc2": 0.3, "fc3": 0.15})
    guide.logits.data = torch.tensor([-3.0, 1.2], dtype=F64)
    twin = MCDropout(guide.model, rates=guide.rates)
    twin.loc.data = guide.loc.data
    torch.testing.assert_close(guide.kl(), twin.kl(), **CLOSE)


def test_the_kls_derivative_in_a_logit_is_the_closed_form() -> None:
    """d/da [Q e^a / 2 - K H(sigmoid a)] = Q e^a / 2 + K a p (1 - p), Q the sum of w^2 / s^2."""
    s = 0.7
    guide = guide_of(NormalPrior(s), {"fc2": 0.3, "fc3": 0.15})
    a = torch.tensor([-3.0, 1.2], dtype=F64)
    guide.logits.data = a.clone()
    (ours,) = torch.autograd.grad(guide.kl(), guide.logits)
    weights = guide.model.layout.unravel(guide.loc.detach())
    q = torch.stack([weights[f"fc{i}.weight"].square().sum() / s**2 for i in (2, 3)])
    k, p = torch.tensor([3.0, 4.0], dtype=F64), a.sigmoid()
    torch.testing.assert_close(ours, q * a.exp() / 2 + k * a * p * (1 - p), **CLOSE)


@pytest.mark.parametrize("prior", [NormalPrior(0.7, loc=0.2), StudentTPrior(3.0, 0.5)])
def test_the_kls_gradient_is_its_finite_difference(prior: object) -> None:
    guide = guide_of(prior, {"fc2": 0.3, "fc3": 0.15})
    logits = torch.tensor([-2.0, 0.8], dtype=F64)

    def kl(a: Tensor) -> Tensor:
        guide.logits.data = a.detach()
        return guide.kl()

    (ours,) = torch.autograd.grad(kl(logits), guide.logits)
    h = 1e-5 * torch.eye(2, dtype=F64)
    with torch.no_grad():
        numeric = torch.stack([(kl(logits + d) - kl(logits - d)) / 2e-5 for d in h])
    torch.testing.assert_close(ours, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [-MAX_LOGIT, -8.0, 8.0, MAX_LOGIT])
def test_nothing_cancels_at_extreme_rates_in_float32(value: float) -> None:
    """KL, its gradient and the relaxed masks against float64."""
    values = {}
    for dtype in (torch.float32, F64):
        model = BayesianModel(mlp((2, 3, 1), dtype=F64).to(dtype), NormalPrior(1.0), Gaussian(0.4))
        guide = ConcreteDropout(model, rates=0.5)
        guide.loc.data = random_flat(model, seed=1, scale=1e-3).to(dtype)
        guide.logits.data.fill_(value)
        assert 0 < guide.rates["fc2"] < 1
        assert torch.isfinite(guide.log_prob(guide.sample(5))).all()
        excess = guide.kl() + model.log_prior_flat(guide.loc)
        (slope,) = torch.autograd.grad(excess, guide.logits)
        cost = guide.noise_cost("fc2", "fc2.weight", guide.loc[-4:-1].reshape(1, 3))
        relaxed = RelaxedUnits(guide.loc, guide.logits[0], 0.1)
        z = relaxed.multipliers((1000,), generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(z).all()
        values[dtype] = torch.stack([slope[0].double(), cost.double()])
    torch.testing.assert_close(values[torch.float32], values[F64], rtol=1e-5, atol=1e-12)


# ---------------------------------------------------------------------------------- the relaxation


def multipliers(rate: float, temperature: float, count: int = 20_000) -> Tensor:
    a = torch.tensor(rate, dtype=F64).logit()
    units = RelaxedUnits(torch.ones(1, 1, dtype=F64), a, temperature)
    return units.multipliers((count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.9])
def test_relaxed_masks_become_masks_as_the_temperature_falls(rate: float) -> None:
    """At the same u, within t log(2) / 2 on average; at t = 1e-9 they are masks."""
    hard = multipliers(rate, 1e-9)
    values = hard.unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / (1 - rate)], dtype=F64), **CLOSE)
    kept = (hard > 0).double().mean().item()
    assert abs(kept - (1 - rate)) < 5 * (rate * (1 - rate) / len(hard)) ** 0.5
    for temperature in (0.1, 0.01):
        gap = (multipliers(rate, temperature) - hard).abs() * (1 - rate)
        error = gap.std().item() / len(gap) ** 0.5
        assert 0 < gap.mean().item() < temperature * math.log(2) / 2 + 5 * error


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_relaxed_masks_have_the_concrete_distribution(temperature: float) -> None:
    """P(z < v) = sigmoid(t logit(v) + a) for the keep variable z (Maddison et al. 2017)."""
    rate = 0.3
    z = (multipliers(rate, temperature, 4000) * (1 - rate)).numpy()
    a = math.log(rate / (1 - rate))

    def cdf(v: np.ndarray) -> np.ndarray:
        return expit(temperature * logit(v) + a)

    assert kstest(z, cdf).pvalue > 1e-4
    assert kstest(1 - z, cdf).pvalue < 1e-4


def linear_guide(temperature: float, masks: str) -> tuple[ConcreteDropout, Tensor, Tensor]:
    """One linear layer without bias: the expected loss is a quadratic in moments of the masks."""
    net = nn.Linear(3, 1, bias=False).double()
    model = BayesianModel(net, NormalPrior(0.8), Gaussian(0.5))
    rates = {"": 0.3}
    guide = ConcreteDropout(model, rates=rates, temperature=temperature, masks=masks)
    guide.loc.data = torch.tensor([0.7, -0.4, 0.9], dtype=F64)
    x = inputs(8, 3)
    return guide, x, torch.sin(x.sum(-1))


def expected_nll(guide: ConcreteDropout, x: Tensor, y: Tensor, m: float, v: float) -> float:
    """The mean negative log likelihood if multipliers have mean ``m`` and variance ``v``."""
    products, sigma = x * guide.loc.detach(), 0.5
    square = (y - m * products.sum(-1)) ** 2 + v * products.square().sum(-1)
    return 0.5 * square.mean().item() / sigma**2 + math.log(sigma) + 0.5 * math.log(2 * math.pi)


def relaxed_moments(a: float, t: float) -> tuple[float, float]:
    """Mean and variance of a relaxed multiplier, by quadrature over the logistic logit(u)."""

    def moment(power: int) -> float:
        def integrand(s: float) -> float:
            return (expit((s - a) / t) * (1 + math.exp(a))) ** power * expit(s) * expit(-s)

        return quad(integrand, -40, a, limit=400)[0] + quad(integrand, a, 40, limit=400)[0]

    mean = moment(1)
    return mean, moment(2) - mean**2


@pytest.mark.parametrize("masks", ["per-example", "shared"])
def test_the_expected_loss_is_mc_dropouts_within_the_bias_of_the_relaxation(masks: str) -> None:
    """|E loss - E loss of MC dropout| is below the bound from coupling masks by their u."""
    t, p = 0.1, 0.3
    guide, x, y = linear_guide(t, masks)
    relaxed = expected_nll(guide, x, y, *relaxed_moments(logit(p), t))
    exact = expected_nll(guide, x, y, 1.0, p / (1 - p))
    products = (x * guide.loc.detach()).abs().sum(-1)
    residual = y.abs() + products / (1 - p)
    bound = (residual * products).mean().item() * t * math.log(2) / 2 / (1 - p) / 0.5**2
    assert 1e-4 < abs(relaxed - exact) < bound < exact

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        losses = torch.stack([guide.loss(x, y, size=8) for _ in range(1500)])
    error = losses.std().item() / len(losses) ** 0.5
    assert abs(losses.mean().item() - guide.kl().item() / 8 - relaxed) < 5 * error


# -------------------------------------------------------------------------------- the learned rates


def test_the_gradient_in_the_rate_is_unbiased_for_the_relaxed_loss() -> None:
    """The mean over 1,500 steps is the expected loss's derivative, within 5 standard errors."""
    t, n = 0.1, 6
    guide, x, y = linear_guide(t, "per-example")

    def expected(a: float) -> float:
        guide.logits.data.fill_(a)
        nll = expected_nll(guide, x, y, *relaxed_moments(a, t))
        return nll + guide.kl().item() / n

    a, h = -2.0, 1e-4
    derivative = (expected(a + h) - expected(a - h)) / (2 * h)
    guide.logits.data.fill_(a)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gradients = [
            torch.autograd.grad(guide.loss(x, y, size=n), guide.logits)[0] for _ in range(1500)
        ]
    each = torch.cat(gradients)
    assert abs(each.mean().item() - derivative) < 5 * each.std().item() / len(each) ** 0.5


def test_the_rate_of_least_expected_loss_is_the_one_by_hand() -> None:
    """Weights held, the loss under hard masks is least where, by hand,
    e^a / 2 (Q / N + S / sigma^2) + K a p (1 - p) / N = 0, S the mean of sum (x_k w_k)^2;
    under relaxed ones nearby."""
    n = 6
    guide, x, y = linear_guide(0.1, "per-example")
    w = guide.loc.detach()
    q, s = w.square().sum().item() / 0.8**2, (x * w).square().sum(-1).mean().item()

    def slope(a: float) -> float:
        return math.exp(a) / 2 * (q / n + s / 0.5**2) + 3 / n * a * expit(a) * expit(-a)

    def expected(a: float, t: float) -> float:
        guide.logits.data.fill_(a)
        moments = relaxed_moments(a, t) if t else (1.0, math.exp(a))
        return expected_nll(guide, x, y, *moments) + guide.kl().item() / n

    optimum = brentq(slope, -30, -0.05)
    found = {
        t: minimize_scalar(expected, bounds=(-8, 0), args=(t,), method="bounded").x
        for t in (0.0, 0.02, 0.1)
    }
    assert found[0.0] == pytest.approx(optimum, abs=1e-4)
    assert found[0.02] == pytest.approx(optimum, abs=0.1)
    assert found[0.1] == pytest.approx(optimum, abs=0.5)


def regression(num_points: int) -> tuple[Tensor, Tensor]:
    x = inputs(num_points, 1, seed=3)
    generator = torch.Generator().manual_seed(4)
    noise = 0.1 * torch.randn(num_points, generator=generator, dtype=F64)
    return x, torch.sin(2 * x).squeeze(-1) + noise


def regressor() -> BayesianModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BayesianModel(mlp((1, 20, 1), dtype=F64), NormalPrior(1.0), Gaussian(0.1))


def test_more_data_mean_a_smaller_rate() -> None:
    """Figure 1 of the paper: the masks' uncertainty is of the model, and data explain it away."""
    rates = {}
    for num_points in (5, 20, 200):
        posterior = fit(
            regressor(), lambda m: ConcreteDropout(m, rates=0.2), regression(num_points),
            epochs=400, lr=0.02, progress=False,
        )  # fmt: skip
        rates[num_points] = posterior.guide.rates["fc2"]
    assert 1e-7 < rates[200] < 0.6 * rates[20]
    assert rates[20] < 0.6 * rates[5] < 0.1


def expected_loss(guide: MCDropout, x: Tensor, y: Tensor) -> float:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.stack([guide.loss(x, y, size=len(x)) for _ in range(100)]).mean().item()


def test_learned_rates_have_a_lower_loss_than_fixed_ones() -> None:
    """With hard masks at the rates learned, and the same training."""
    x, y = regression(50)
    options = {"epochs": 400, "lr": 0.02, "progress": False}
    learned = fit(regressor(), lambda m: ConcreteDropout(m, rates=0.1), (x, y), **options).guide
    hard = MCDropout(learned.model, rates=learned.rates)
    hard.loc.data = learned.loc.data
    ours = expected_loss(hard, x, y)
    for rate in (0.1, 0.5):
        fixed = fit(regressor(), lambda m, p=rate: MCDropout(m, rates=p), (x, y), **options).guide
        assert ours < expected_loss(fixed, x, y) - 0.5


def test_a_posterior_is_read_back_with_the_rates_it_learned(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    posterior = fit(
        case.model, lambda m: ConcreteDropout(m, rates=case.rates, temperature=0.2),
        (case.x, case.y), epochs=20, lr=0.1, progress=False,
    )  # fmt: skip
    learned = posterior.guide.rates
    assert learned.keys() == case.rates.keys()
    assert all(abs(learned[layer] - rate) > 0.01 for layer, rate in case.rates.items())
    loaded = Posterior.load(posterior.save(tmp_path / "p"), case.model)
    assert loaded.guide.rates == learned
    assert loaded.guide.temperature == 0.2
    ours, theirs = loaded.draws(8), posterior.draws(8)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_interrupted_fit_goes_on_with_the_rates_it_had(tmp_path: Path) -> None:
    case = CASES["mlp"]()

    def run(progress: object, **options: object) -> Posterior:
        return fit(
            case.model, lambda m: ConcreteDropout(m, rates=case.rates), (case.x, case.y),
            epochs=8, batch_size=4, lr=0.1, progress=progress, **options,
        )  # fmt: skip

    def interrupt(done: int, total: int, message: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    whole = run(False)
    with pytest.raises(KeyboardInterrupt):
        run(interrupt, checkpoint=tmp_path / "c")
    resumed = run(False, checkpoint=tmp_path / "c")
    assert resumed.guide.rates == whole.guide.rates
    assert resumed.info.losses == whole.info.losses


@pytest.mark.parametrize("case", ["mlp", "lenet-small", "residual"])
def test_draws_have_hard_masks_at_the_learned_rates(case: str) -> None:
    guide, _ = build("concrete-dropout", case)
    draws = guide.sample(2000, generator=torch.Generator().manual_seed(0))
    values = guide.model.layout.unravel(guide.loc.detach())
    for layer, p in guide.rates.items():
        value, drawn = values[f"{layer}.weight"], draws[f"{layer}.weight"]
        full = (value / (1 - p)).expand_as(drawn)
        torch.testing.assert_close(drawn, torch.where(drawn == 0, 0.0, full), **CLOSE)
        kept = (drawn != 0).transpose(1, 2).flatten(2)
        assert torch.equal(kept.all(-1), kept.any(-1))
        error = (p * (1 - p) / kept[..., 0].numel()) ** 0.5
        assert abs(kept.double().mean().item() - (1 - p)) < 5 * error


def test_a_fit_keeps_rates_strictly_between_0_and_1() -> None:
    """Nothing speaks for a mask here: the rate goes to its end, and no further."""
    x, y = regression(200)
    posterior = fit(
        regressor(), lambda m: ConcreteDropout(m, rates=1e-6), (x, 100 * y),
        epochs=60, lr=1.0, progress=False,
    )  # fmt: skip
    assert posterior.guide.rates["fc2"] == pytest.approx(1 / (1 + math.exp(MAX_LOGIT)), rel=1e-6)
    assert torch.isfinite(posterior.guide.log_prob(posterior.draws(50))).all()


def test_lenet_learns_a_rate_for_each_layer() -> None:
    guide = ConcreteDropout(lenet(prior=NormalPrior(1.0)), rates=LENET_DROPOUT)
    generator = torch.Generator().manual_seed(0)
    guide.loss(torch.rand(4, 1, 28, 28, generator=generator), torch.arange(4), size=100).backward()
    assert guide.rates == pytest.approx({"fc1": 0.5, "fc2": 0.25})
    assert bool((guide.logits.grad != 0).all())
    every = ConcreteDropout(lenet(prior=NormalPrior(1.0)))
    assert every.rates == pytest.approx({"conv2": 0.1, "fc1": 0.1, "fc2": 0.1})


# --------------------------------------------------------------------------------- what is refused


def test_a_rate_of_zero_cannot_be_learned() -> None:
    with pytest.raises(ValueError, match=r"strictly between 0 and 1; got 0.0 for layer 'fc3'"):
        ConcreteDropout(CASES["mlp"]().model, rates={"fc2": 0.5, "fc3": 0.0})


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_the_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a positive finite number"):
        ConcreteDropout(CASES["mlp"]().model, temperature=temperature)
