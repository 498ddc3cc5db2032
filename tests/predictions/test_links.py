"""From normal outputs to class probabilities: quadrature, closed forms, and common draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from guide_cases import build
from model_cases import F64
from torch import Tensor

from probml_tp import Bernoulli, Categorical, Posterior
from probml_tp.predictions.links import laplace_bridge, logistic_normal, probit, symmetric_root
from probml_tp.predictions.normal_outputs import predict_from_moments


def moments(num_points: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(num_points, k, generator=generator, dtype=F64)
    half = torch.randn(num_points, k, k, generator=generator, dtype=F64)
    return mean, half @ half.mT + 0.1 * torch.eye(k, dtype=F64)


def expected_sigmoid(mean: Tensor, variance: Tensor) -> Tensor:
    """By Gauss-Hermite quadrature with 80 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    f = mean.unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * torch.tensor(nodes)
    return (torch.sigmoid(f) * torch.tensor(weights)).sum(-1) / math.sqrt(2 * math.pi)


def test_sampled_probabilities_are_the_integral() -> None:
    mean, covariance = moments(6, 1)
    predicted = predict_from_moments(
        Bernoulli(), [(mean, covariance)], link="sampled", num_samples=40_000, seed=0
    )
    exact = expected_sigmoid(mean[:, 0], covariance[:, 0, 0])
    error = (exact * (1 - exact) / 40_000).sqrt()
    assert bool(((predicted.probs[:, 1] - exact).abs() < 5 * error).all())
    assert predicted.num_samples == 40_000


def test_probit_is_mackays_formula_and_near_the_integral() -> None:
    mean, covariance = moments(6, 1)
    variance = covariance[:, 0, 0]
    linked = probit(Bernoulli(), mean, covariance)
    by_hand = torch.sigmoid(mean[:, 0] / torch.sqrt(1 + math.pi * variance / 8))
    torch.testing.assert_close(linked.log_probs[:, 1].exp(), by_hand)
    exact = expected_sigmoid(mean[:, 0], variance)
    assert bool(((by_hand - exact).abs() < 0.02).all())  # the known size of its error
    assert linked.expected_entropy is None


def test_the_reference_is_the_integral_for_narrow_and_for_wide_normals() -> None:
    """Against the trapezoidal rule on a fine grid of the standard normal."""
    mean = torch.tensor([0.3, 2.0, -3.0, 1.0, -3.0, 5.0, -40.0, 3.0], dtype=F64)
    scale = torch.tensor([0.1, 0.5, 0.999, 1.0, 1.001, 7.0, 30.0, 100.0], dtype=F64)
    z = torch.linspace(-12, 12, 240_001, dtype=F64)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    integral = torch.stack(
        [
            torch.trapezoid(torch.sigmoid(m + s * z) * density, z)
            for m, s in zip(mean, scale, strict=True)
        ]
    )
    torch.testing.assert_close(logistic_normal(mean, scale**2), integral, rtol=0, atol=1e-10)
    torch.testing.assert_close(logistic_normal(mean, torch.zeros_like(mean)), mean.sigmoid())
    hermite = expected_sigmoid(mean[-1:], scale[-1:] ** 2)  # misses the step between its nodes
    assert float((hermite - integral[-1:]).abs()) > 1e-3


def test_probit_without_variance_is_the_plain_prediction() -> None:
    mean, _ = moments(5, 3)
    linked = probit(Categorical(3), mean, torch.zeros(5, 3, 3, dtype=F64))
    torch.testing.assert_close(linked.log_probs, mean.log_softmax(-1))


def test_the_bridges_dirichlet_has_its_mode_where_the_normal_has_its_mean() -> None:
    """MacKay's map, inverted by hand for three classes with outputs that sum to zero."""
    alpha = torch.tensor([2.0, 3.0, 5.0], dtype=F64)
    mean = alpha.log() - alpha.log().mean()
    inverse = 1 / alpha
    k = 3
    covariance = inverse.diag() - (inverse.unsqueeze(0) + inverse.unsqueeze(1)) / k
    covariance = covariance + inverse.sum() / k**2
    # a covariance on the subspace of sum zero: any variance of the sum is conditioned away
    covariance = covariance + 0.7 * torch.ones(k, k, dtype=F64)
    linked = laplace_bridge(Categorical(3), mean.unsqueeze(0), covariance.unsqueeze(0))
    torch.testing.assert_close(linked.log_probs[0].exp(), alpha / alpha.sum())
    dirichlet = torch.distributions.Dirichlet(alpha)
    torch.manual_seed(0)
    entropies = torch.special.entr(dirichlet.sample(torch.Size([20_000]))).sum(-1)
    error = entropies.std() / 20_000**0.5
    assert linked.expected_entropy is not None
    assert (entropies.mean() - linked.expected_entropy[0]).abs() < 5 * error


def test_the_bridge_for_one_logit_is_that_for_two_classes() -> None:
    mean, covariance = moments(5, 1)
    one = laplace_bridge(Bernoulli(), mean, covariance)
    sign = torch.tensor([-0.5, 0.5], dtype=F64)
    two = laplace_bridge(
        Categorical(2), mean * sign, covariance * torch.outer(sign, sign) + 1e-3 * torch.ones(2, 2)
    )
    torch.testing.assert_close(one.log_probs, two.log_probs)


def test_symmetric_roots_are_roots_and_symmetric() -> None:
    _, covariance = moments(4, 3)
    root = symmetric_root(covariance)
    torch.testing.assert_close(root @ root, covariance)
    torch.testing.assert_close(root, root.mT)
    singular = torch.ones(1, 2, 2, dtype=F64)
    torch.testing.assert_close(symmetric_root(singular) @ symmetric_root(singular), singular)


# ------------------------------------------------------------------------- through predict()


@pytest.fixture
def posterior() -> tuple[Posterior, Tensor]:
    guide, case = build("laplace-linearized", "classifier-3")
    return Posterior(guide, seed=3), case.x


def test_draws_do_not_depend_on_the_batch_size(posterior: tuple[Posterior, Tensor]) -> None:
    fitted, x = posterior
    whole, parts = (fitted.predict(x, num_samples=50, batch_size=b) for b in (1000, 3))
    torch.testing.assert_close(whole.probs, parts.probs)
    assert torch.equal(whole.votes, parts.votes)
    assert whole.num_samples == 50
    other = fitted.predict(x, num_samples=50, seed=9)
    assert not torch.equal(other.probs, whole.probs)


def test_outputs_sampled_at_points_are_those_of_linearised_draws(
    posterior: tuple[Posterior, Tensor],
) -> None:
    """Function space and weight space: the same mean probabilities, within 5 standard errors."""
    fitted, x = posterior
    count = 4000
    function = fitted.predict(x, num_samples=count)
    weights = fitted.predict(x, num_samples=count, keep_outputs=True)
    probs = weights.require_outputs().softmax(-1)
    error = probs.std(0) * (2 / count) ** 0.5
    assert bool(((function.probs - weights.probs).abs() < 5 * error).all())
    gap = (function.mutual_information - weights.mutual_information).abs()
    assert bool((gap < 0.02).all())


@pytest.mark.parametrize("link", ["probit", "laplace-bridge"])
def test_closed_forms_take_no_draws(posterior: tuple[Posterior, Tensor], link: Any) -> None:
    fitted, x = posterior
    predicted = fitted.predict(x, link=link)
    assert predicted.num_samples == 0
    torch.testing.assert_close(predicted.probs.sum(-1), torch.ones(len(x), dtype=F64))
    with pytest.raises(ValueError, match="votes need draws"):
        _ = predicted.variation_ratio
    if link == "probit":
        with pytest.raises(ValueError, match=r"give their mean only.*link='sampled'"):
            _ = predicted.mutual_information
    else:
        assert bool((predicted.mutual_information >= 0).all())
    assert bool((predicted.predictive_entropy > 0).all())
    assert predicted.log_prob(torch.zeros(len(x), dtype=torch.long)).shape == (len(x),)


def test_a_link_needs_normal_outputs_of_a_classifier() -> None:
    guide, case = build("laplace", "classifier-3")
    with pytest.raises(ValueError, match=r"normal outputs.*fit LinearizedLaplace"):
        Posterior(guide).predict(case.x, link="probit")
    guide, case = build("laplace-linearized", "mlp")
    with pytest.raises(ValueError, match="Leave link out"):
        Posterior(guide).predict(case.x, link="probit")
    guide, case = build("laplace-linearized", "classifier-3")
    with pytest.raises(ValueError, match=r"link must be one of .*; got 'softmax'"):
        Posterior(guide).predict(case.x, link="softmax")
    with pytest.raises(ValueError, match="without keeping outputs"):
        Posterior(guide).predict(case.x, link="probit", keep_outputs=True)


def test_heteroscedastic_outputs_are_sampled() -> None:
    guide, case = build("laplace-linearized", "mlp-heteroscedastic")
    count = 5000
    function = Posterior(guide).predict(case.x, num_samples=count)
    weights = Posterior(guide).predict(case.x, num_samples=count, keep_outputs=True)
    error = (weights.epistemic_variance * 2 / count).sqrt()
    assert bool(((function.mean - weights.mean).abs() < 5 * error).all())
    assert function.num_samples == count


def test_unknown_noise_takes_draws_of_the_parameters() -> None:
    guide, case = build("laplace-linearized", "mlp-half-normal")
    assert guide.function_moments(case.x) is None
    assert Posterior(guide).predict(case.x, num_samples=7).num_samples == 7
