"""Gaussian dropout: its KL as a limit of exact ones, its lines, and its loss in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from guide_cases import build
from model_cases import CASES, F64, inputs, random_flat, targets
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from probml_tp import (
    BayesianModel,
    FlatPrior,
    Gaussian,
    GaussianDropout,
    LaplacePrior,
    NormalPrior,
    Posterior,
    StudentTPrior,
    fit,
)
from probml_tp.guides.gaussian_dropout import GaussianUnits
from probml_tp.models import mlp

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
LOG_2PI_E = math.log(2 * math.pi * math.e)


def guide_of(prior: object, rates: dict[str, float], **options: object) -> GaussianDropout:
    """A net 2-3-4-1 with its weights moved away from the start."""
    model = BayesianModel(mlp((2, 3, 4, 1), dtype=F64), prior, Gaussian(0.4))
    guide = GaussianDropout(model, rates=rates, **options)
    guide.loc.data = random_flat(model, seed=1, scale=0.6)
    return guide


# --------------------------------------------------------------------------------- the KL term


def narrow_kl(w: Tensor, alpha: float, prior: NormalPrior, sigma: float) -> Tensor:
    """The exact KL of N(w, alpha w w^T + sigma^2 I) to the prior, less the entropy across w."""
    eye = torch.eye(len(w), dtype=F64)
    q = MultivariateNormal(w, alpha * torch.outer(w, w) + sigma**2 * eye)
    p = MultivariateNormal(torch.full_like(w, prior.loc), prior.scale**2 * eye)
    across = 0.5 * (len(w) - 1) * (LOG_2PI_E + 2 * math.log(sigma))
    return kl_divergence(q, p) + across


def test_kl_is_the_limit_of_exact_kl_divergences_of_narrow_normals() -> None:
    """Unit by unit, by torch; the gap falls as sigma^2."""
    prior, rates = NormalPrior(0.7, loc=0.2), {"fc2": 0.3, "fc3": 0.1}
    guide = guide_of(prior, rates)
    weights = guide.model.layout.unravel(guide.loc.detach())
    base = -guide.model.log_prior_flat(guide.loc.detach())
    for layer in rates:
        w = weights[f"{layer}.weight"]
        base += guide.model.sites[f"{layer}.weight"].log_prob(w)  # this layer's, counted below
    gaps = []
    for sigma in (1e-3, 1e-4):
        columns = [
            narrow_kl(column, p / (1 - p), prior, sigma)
            for layer, p in rates.items()
            for column in weights[f"{layer}.weight"].T
        ]
        gaps.append(abs((guide.kl() - base - torch.stack(columns).sum()).item()))
    assert gaps[0] < 1e-3
    assert gaps[1] < 0.02 * gaps[0]


def test_kl_and_its_gradient_by_hand() -> None:
    """(1 + alpha) ||W||^2 / (2 s^2) - sum_k log ||w_k|| - K/2 log(2 pi e alpha), s = 0.7."""
    rates, s = {"fc2": 0.3, "fc3": 0.1}, 0.7
    guide = guide_of(NormalPrior(s), rates)
    w = {k: v.detach().requires_grad_() for k, v in guide.model.layout.unravel(guide.loc).items()}
    expected = torch.zeros((), dtype=F64)
    for name, value in w.items():
        p = rates.get(name.removesuffix(".weight"), 0.0) if name.endswith("weight") else 0.0
        alpha = p / (1 - p)
        expected = expected + (1 + alpha) * value.square().sum() / (2 * s**2)
        expected = expected + value.numel() * (math.log(s) + 0.5 * math.log(2 * math.pi))
        if p:
            entropy = value.square().sum(0).log() / 2 + 0.5 * (LOG_2PI_E + math.log(alpha))
            expected = expected - entropy.sum()
    torch.testing.assert_close(guide.kl(), expected, **CLOSE)
    (ours,) = torch.autograd.grad(guide.kl(), guide.loc)
    theirs = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(w.values()))])
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(
    ("prior", "density", "error"),
    [
        (StudentTPrior(3.0, 0.5), stats.t(3.0, 0, 0.5), 1e-3),
        (LaplacePrior(0.5), stats.laplace(0, 0.5), 1e-2),
    ],
)
def test_other_priors_are_integrated_over_the_noise(
    prior: object, density: stats.rv_continuous, error: float
) -> None:
    """By adaptive quadrature on both sides of the kink, weight by weight."""
    alpha = 0.3 / 0.7
    guide = guide_of(prior, {"fc2": 0.3})
    w = guide.model.layout.unravel(guide.loc.detach())["fc2.weight"]
    noise, total = stats.norm(1, alpha**0.5), 0.0
    for value in w.flatten().tolist():

        def cost(z: float, value: float = value) -> float:
            return noise.pdf(z) * (density.logpdf(value) - density.logpdf(value * z))

        total += quad(cost, -8, 0)[0] + quad(cost, 0, 10)[0]
    entropy = w.norm(dim=0).log().sum().item() + 3 / 2 * (LOG_2PI_E + math.log(alpha))
    assert guide.noise_cost("fc2", "fc2.weight", w).item() == pytest.approx(
        total - entropy, abs=error
    )


def test_a_normal_prior_by_quadrature_is_its_closed_form() -> None:
    """A Student-t with many degrees of freedom is nearly normal, and takes the other path."""
    normal, nearly = (
        guide_of(prior, {"fc2": 0.4}).kl() for prior in (NormalPrior(0.7), StudentTPrior(1e8, 0.7))
    )
    torch.testing.assert_close(normal, nearly, rtol=1e-6, atol=1e-6)


def test_a_flat_prior_leaves_the_entropy() -> None:
    guide = guide_of(FlatPrior(), {"fc2": 0.3})
    w = guide.model.layout.unravel(guide.loc)["fc2.weight"]
    entropy = w.norm(dim=0).log().sum() + 3 / 2 * (LOG_2PI_E + math.log(0.3 / 0.7))
    torch.testing.assert_close(guide.kl(), -entropy, **CLOSE)


# ----------------------------------------------------------------------------------- the lines


def test_the_density_integrates_to_one_along_a_line() -> None:
    """With respect to length: points at arc length t from the origin along (3, 4) / 5."""
    units = GaussianUnits(torch.tensor([[3.0], [4.0]], dtype=F64), 0.25)
    t = torch.linspace(-15, 25, 4001, dtype=F64)
    points = t[:, None, None] * torch.tensor([[0.6], [0.8]], dtype=F64)
    density = units.log_prob(points).exp()
    assert torch.trapezoid(density, t).item() == pytest.approx(1.0, abs=1e-12)
    mean = torch.trapezoid(density * t, t).item()
    assert mean == pytest.approx(5.0, abs=1e-11)


@pytest.mark.parametrize("kind", [torch.float32, F64])
@pytest.mark.parametrize("shape", [(1, 4), (6, 4), (2, 4, 3, 3)])
def test_a_draw_is_on_its_lines_and_a_neighbour_is_not(
    kind: torch.dtype, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=kind)
    units = GaussianUnits(weight, 0.5)
    draws = units.rsample(torch.Size([500]), generator=torch.Generator().manual_seed(1))
    inside = units.log_prob(draws)
    assert inside.shape == (500,)
    assert bool(torch.isfinite(inside).all())
    assert bool(torch.isfinite(units.log_prob(torch.zeros_like(weight))))
    if shape[0] > 1:
        off = draws.clone()
        off[:, 0, 0] *= 1 + 1e-3
        assert bool((units.log_prob(off) == -torch.inf).all())


@pytest.mark.parametrize("case", ["mlp", "lenet-small", "residual"])
def test_draws_multiply_whole_units_by_normal_noise(case: str) -> None:
    guide, _ = build("gaussian-dropout", case)
    count = 4000
    draws = guide.sample(count, generator=torch.Generator().manual_seed(0))
    values = guide.model.layout.unravel(guide.loc.detach())
    for name, value in values.items():
        p = guide.rates.get(name.removesuffix(".weight"), 0.0)
        if not p:
            assert torch.equal(draws[name], value.expand_as(draws[name]))
            continue
        z = (draws[name] / value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(z, z[..., :1].expand_as(z), rtol=1e-9, atol=1e-9)
        z, alpha = z[..., 0], p / (1 - p)
        assert ((z.mean(0) - 1).abs() < 5 * (alpha / count) ** 0.5).all()
        assert ((z.var(0) - alpha).abs() < 5 * alpha * (2 / count) ** 0.5).all()
        correlation = torch.corrcoef(z.T) - torch.eye(z.shape[1], dtype=F64)
        assert z.shape[1] == 1 or correlation.abs().max() < 5 / count**0.5


# ------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("noise", ["per-example", "shared"])
def test_the_expected_loss_is_the_closed_form(noise: str) -> None:
    """One linear layer: E (y - sum x_k w_k z_k)^2 = (y - x w)^2 + alpha sum (x_k w_k)^2."""
    net = nn.Linear(3, 1, bias=False).double()
    model = BayesianModel(net, NormalPrior(0.8), Gaussian(0.5))
    guide = GaussianDropout(model, rates={"": 0.3}, noise=noise)
    guide.loc.data = torch.tensor([0.7, -0.4, 0.9], dtype=F64)
    x = inputs(8, 3)
    y = torch.sin(x.sum(-1))
    products = x * guide.loc.detach()
    square = (y - products.sum(-1)) ** 2 + 0.3 / 0.7 * products.square().sum(-1)
    nll = (0.5 * square / 0.5**2).mean() + math.log(0.5) + 0.5 * math.log(2 * math.pi)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        losses = torch.stack([guide.loss(x, y, size=20) for _ in range(1500)])
    error = losses.std() / len(losses) ** 0.5
    gap = losses.mean() - (nll + guide.kl() / 20)
    assert gap.abs() < 5 * error
    without_noise = nll - 0.3 / 0.7 * products.square().sum(-1).mean() / (2 * 0.5**2)
    assert (losses.mean() - (without_noise + guide.kl() / 20)).abs() > 5 * error


def test_noise_of_a_convolution_is_by_channel() -> None:
    """The same as multiplying the layer's input by noise of shape (batch, channels, 1, 1)."""
    case = CASES["lenet-small"]()
    guide = GaussianDropout(case.model, rates={"conv2": 0.2})
    guide.loc.data = random_flat(case.model, seed=1)
    net = case.model.net
    w = guide.model.layout.unravel(guide.loc.detach())
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        ours = guide.loss(case.x, case.y, size=6)
        torch.manual_seed(3)
        z = 1 + 0.5 * torch.randn(6, 2, 1, 1, dtype=F64)
        net.load_state_dict(w)
        h = net[2](net[1](net[0](case.x))) * z
        theirs = F.cross_entropy(net[3:](h), case.y)
    torch.testing.assert_close(ours, theirs + guide.kl() / 6, **CLOSE)


def test_without_data_columns_have_the_norm_that_the_kl_asks_for() -> None:
    """The minimum of (1 + alpha) r^2 / (2 s^2) - log r is at r = s / sqrt(1 + alpha)."""
    guide = guide_of(NormalPrior(0.7), {"fc2": 0.3})
    optimizer = torch.optim.LBFGS([guide.loc], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        kl = guide.kl()
        kl.backward()
        return kl

    optimizer.step(closure)
    w = guide.model.layout.unravel(guide.loc.detach())["fc2.weight"]
    expected = torch.full((3,), 0.7 * 0.7**0.5, dtype=F64)
    torch.testing.assert_close(w.norm(dim=0), expected, rtol=1e-4, atol=1e-4)


def test_training_fits_the_data_and_is_read_back(tmp_path: Path) -> None:
    guide = guide_of(NormalPrior(0.7), {"fc2": 0.1}, noise="shared")
    x = inputs(30, 2)
    posterior = fit(guide.model, guide, (x, targets(x)), epochs=200, lr=0.02, progress=False)
    assert posterior.info.losses[-1] < posterior.info.losses[0] - 1
    loaded = Posterior.load(posterior.save(tmp_path / "p"), guide.model)
    assert loaded.guide.options() == {"rates": {"fc2": 0.1}, "noise": "shared"}
    assert torch.equal(loaded.draws(5)["fc2.weight"], posterior.draws(5)["fc2.weight"])


# ---------------------------------------------------------------------------- what is refused


def test_a_unit_whose_weights_are_all_zero_is_refused() -> None:
    guide = guide_of(NormalPrior(0.7), {"fc3": 0.3})
    guide.model.layout.unravel(guide.loc.data)["fc3.weight"][:, 2] = 0
    x = inputs(5, 2)
    with pytest.raises(ValueError, match=r"'fc3.weight' those of 1 units are zero.*index 2\. Init"):
        fit(guide.model, guide, (x, targets(x)), epochs=1, progress=False)


def test_a_layer_with_rate_zero_is_a_point_mass() -> None:
    both, one = (guide_of(NormalPrior(0.7), r) for r in ({"fc2": 0.3, "fc3": 0.0}, {"fc2": 0.3}))
    assert both.rates == {"fc2": 0.3, "fc3": 0.0}
    assert both.constant_sites == one.constant_sites
    assert torch.equal(both.kl(), one.kl())


def test_unknown_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must be 'per-example' or 'shared'; got 'none'"):
        GaussianDropout(CASES["mlp"]().model, rates=0.2, noise="none")
