"""Laplace: its curvature against curvlinops and autograd, its evidence and its predictions."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from guide_cases import build
from model_cases import CASES, F64, LENET, Case, inputs, labels, random_flat, targets
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.func import grad, jacrev

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Delta,
    FlatPrior,
    Gaussian,
    Laplace,
    LinearizedLaplace,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.guides import jacobians
from probml_tp.guides.fisher import generalised_gauss_newton, prior_precision
from probml_tp.likelihoods import ClassificationLikelihood

CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def hessian(f: object, u: Tensor) -> Tensor:
    return jacrev(grad(f))(u)


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y), case.rates)


# ---------------------------------------------------------------------------------- curvature


@pytest.fixture(scope="module")
def ggn_operator() -> Any:
    """The class of curvlinops, one of whose own imports still uses torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from curvlinops import GGNLinearOperator
    return GGNLinearOperator


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "loss", "factor"),
    [
        ("mlp", nn.MSELoss(reduction="sum"), 2 * 0.3**2),
        ("mlp-2-targets", nn.MSELoss(reduction="sum"), 2 * 0.4**2),
        ("batch-norm", nn.MSELoss(reduction="sum"), 2 * 0.3**2),
        ("classifier-2", nn.BCEWithLogitsLoss(reduction="sum"), 1.0),
        ("classifier-3", nn.CrossEntropyLoss(reduction="sum"), 1.0),
        ("lenet-small", nn.CrossEntropyLoss(reduction="sum"), 1.0),
    ],
)
def test_ggn_is_that_of_curvlinops(
    ggn_operator: Any, name: str, loss: nn.Module, factor: float
) -> None:
    case = checked(name)
    flat = random_flat(case.model, seed=2)
    net = case.model.net
    for key, value in case.model.layout.unravel(flat).items():
        net.get_parameter(key).data = value.clone()
    net.requires_grad_(True)
    parameters = list(net.parameters())
    y = case.y if name in ("classifier-3", "lenet-small", "mlp-2-targets") else case.y[:, None]
    operator = ggn_operator(net, loss, parameters, [(case.x, y)], check_deterministic=False)
    theirs = operator @ torch.eye(case.model.num_params, dtype=F64)
    ours = generalised_gauss_newton(case.model, flat, case.x)
    torch.testing.assert_close(factor * ours, theirs.detach(), **CLOSE)


def _outcomes(case: Case, n: int, params: dict[str, Tensor]) -> list[tuple[Tensor, float]]:
    """The possible targets of point ``n`` with weights that make second derivatives exact."""
    likelihood = case.model.likelihood
    outputs = case.model.outputs(params, case.x[n : n + 1])
    if isinstance(likelihood, ClassificationLikelihood):
        probs = likelihood.log_probs(outputs)[0].exp()
        return [(torch.tensor([c]).to(case.y), float(p)) for c, p in enumerate(probs)]
    mean, variance = likelihood.moments(outputs, params)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    d = mean.shape[-1]
    grid = np.stack(np.meshgrid(*[np.arange(4)] * d), -1).reshape(-1, d)
    result = []
    for index in grid:
        y = mean + torch.tensor(nodes[index]) * variance.sqrt()
        weight = math.prod(weights[index]) / math.sqrt(2 * math.pi) ** d
        result.append((y.squeeze(-1) if d == 1 else y, weight))
    return result


@pytest.mark.parametrize(
    "name",
    ["mlp", "mlp-half-normal", "mlp-2-targets-noise", "mlp-heteroscedastic", "classifier-3",
     "classifier-2", "positive-weights", "tied", "residual", "embedding", "batch-norm"],
)  # fmt: skip
def test_ggn_is_the_expected_hessian_over_targets(name: str) -> None:
    """With scores of mean zero the two are equal, whatever the net and the parametrisation."""
    case = checked(name)
    flat = random_flat(case.model, seed=2)
    params = case.model.constrain(case.model.layout.unravel(flat))
    points = range(3)
    expected = torch.zeros(case.model.num_params, case.model.num_params, dtype=F64)
    for n in points:
        x = case.x[n : n + 1]
        for y, weight in _outcomes(case, n, params):

            def negative_log_likelihood(u: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                theta = case.model.constrain(case.model.layout.unravel(u))
                return -case.model.log_likelihood(theta, x, y).sum()

            expected += weight * hessian(negative_log_likelihood, flat)
    ours = generalised_gauss_newton(case.model, flat, case.x[: len(points)])
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["linear", "logistic", "softmax"])
def test_ggn_is_the_hessian_for_linear_nets(name: str) -> None:
    case = checked(name)
    flat = random_flat(case.model, seed=2)

    def negative_log_likelihood(u: Tensor) -> Tensor:
        return -case.model.log_likelihood(case.model.layout.unravel(u), case.x, case.y).sum()

    ours = generalised_gauss_newton(case.model, flat, case.x)
    torch.testing.assert_close(ours, hessian(negative_log_likelihood, flat), **CLOSE)


def test_ggn_differs_from_the_hessian_for_a_net() -> None:
    """Negative control: the equality above is not empty."""
    case = checked("mlp")
    flat = random_flat(case.model, seed=2)

    def negative_log_likelihood(u: Tensor) -> Tensor:
        return -case.model.log_likelihood(case.model.layout.unravel(u), case.x, case.y).sum()

    ours = generalised_gauss_newton(case.model, flat, case.x)
    assert (ours - hessian(negative_log_likelihood, flat)).abs().max() > 1
    assert torch.linalg.eigvalsh(ours)[0] > -1e-9


@pytest.mark.parametrize("name", ["mlp-half-normal", "mlp-heavy-tails", "positive-weights"])
def test_prior_precision_is_the_hessian_of_the_log_prior(name: str) -> None:
    model = CASES[name]().model
    flat = random_flat(model, seed=3, scale=2.0)
    expected = -hessian(model.log_prior_flat, flat)
    torch.testing.assert_close(expected, expected.diagonal().diag(), **CLOSE)
    torch.testing.assert_close(prior_precision(model, flat), expected.diagonal(), **CLOSE)


def test_prior_precision_of_a_flat_prior_is_zero() -> None:
    model = CASES["flat-prior"]().model
    assert torch.equal(prior_precision(model, random_flat(model)), torch.zeros(3, dtype=F64))


def test_chunks_of_points_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    case = checked("classifier-3")
    flat = random_flat(case.model)
    whole = generalised_gauss_newton(case.model, flat, case.x)
    monkeypatch.setattr(jacobians, "MAX_ELEMENTS", 4 * 3 * case.model.num_params)
    torch.testing.assert_close(generalised_gauss_newton(case.model, flat, case.x), whole)


# ------------------------------------------------------------------------ posterior and evidence


@pytest.mark.parametrize("name", ["mlp-half-normal", "classifier-3", "positive-weights"])
def test_covariance_and_evidence_follow_from_the_precision(name: str) -> None:
    guide, _ = build("laplace", name)
    case = checked(name)
    loc = guide.loc.detach()
    precision = generalised_gauss_newton(case.model, loc, case.x)
    precision += prior_precision(case.model, loc).diag()
    covariance = guide.scale_tril @ guide.scale_tril.T
    torch.testing.assert_close(covariance, torch.linalg.inv(precision), rtol=1e-6, atol=1e-9)
    assert torch.equal(guide.scale_tril, guide.scale_tril.tril())
    joint = case.model.log_joint_flat(loc, case.x, case.y)
    half = 0.5 * (len(loc) * math.log(2 * math.pi) - torch.logdet(precision))
    assert guide.log_evidence() == pytest.approx((joint + half).item(), rel=1e-9)


def test_the_exact_hessian_on_request() -> None:
    case = checked("mlp-half-normal")
    posterior = fit(
        case.model,
        lambda m: Laplace(m, curvature="hessian"),
        (case.x, case.y),
        epochs=30,
        optimizer="lbfgs",
        progress=False,
    )
    loc = posterior.guide.loc.detach()
    exact = -hessian(lambda u: case.model.log_joint_flat(u, case.x, case.y), loc)
    tril = posterior.guide.scale_tril
    torch.testing.assert_close(tril @ tril.T, torch.linalg.inv(exact), rtol=1e-6, atol=1e-9)


def test_map_and_laplace_have_the_same_mode_in_unconstrained_space() -> None:
    case = checked("mlp-half-normal")
    options = {"epochs": 30, "optimizer": "lbfgs", "progress": False}
    delta, laplace = (fit(case.model, g, (case.x, case.y), **options) for g in (Delta, Laplace))
    assert torch.equal(delta.guide.loc, laplace.guide.loc)
    slope = grad(lambda u: case.model.log_joint_flat(u, case.x, case.y))(delta.guide.loc.detach())
    assert slope.abs().max() < 1e-5


def test_logistic_regression_agrees_with_scikit_learn() -> None:
    x = inputs(40, 3)
    y = labels(x, 2)
    model = BayesianModel(nn.Linear(3, 1, bias=False).double(), NormalPrior(1.3), Bernoulli())
    posterior = fit(model, Laplace, (x, y), epochs=20, optimizer="lbfgs", progress=False)
    theirs = LogisticRegression(C=1.3**2, fit_intercept=False, tol=1e-12, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(posterior.guide.loc.detach(), theirs.coef_[0], rtol=1e-6)
    p = theirs.predict_proba(x)[:, 1]
    precision = (x.numpy().T * (p * (1 - p))) @ x.numpy() + np.eye(3) / 1.3**2
    tril = posterior.guide.scale_tril.numpy()
    np.testing.assert_allclose(tril @ tril.T, np.linalg.inv(precision), rtol=1e-5)


def test_the_curvature_is_a_sum_over_points() -> None:
    """Twice the data: half the covariance (a flat prior). A mean would leave it as it is."""
    x = inputs(20, 2)
    model = BayesianModel(nn.Linear(2, 1).double(), FlatPrior(), Gaussian(0.3))
    y = targets(x)
    once, twice = (
        fit(model, Laplace, data, epochs=10, optimizer="lbfgs", progress=False).guide.scale_tril
        for data in ((x, y), (torch.cat([x, x]), torch.cat([y, y])))
    )
    torch.testing.assert_close(twice @ twice.T, 0.5 * once @ once.T, rtol=1e-7, atol=0)


def test_batches_do_not_change_the_curvature() -> None:
    case = checked("softmax")
    mode = fit(case.model, Delta, (case.x, case.y), progress=False)
    options = {"epochs": 2, "progress": False, "lr": 1e-9, "init": mode}
    whole, batched = (
        fit(case.model, Laplace, (case.x, case.y), batch_size=b, **options).guide.scale_tril
        for b in (None, 3)
    )
    torch.testing.assert_close(whole, batched, rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ["mlp", "mlp-2-targets"])
def test_linearised_moments_are_those_of_the_jacobian(name: str) -> None:
    guide, case = build("laplace-linearized", name)
    grid = inputs(7, 2, seed=9)
    loc = guide.loc.detach()
    unravel = case.model.layout.unravel
    jacobian = jacrev(lambda u: case.model.outputs(unravel(u), grid))(loc)
    covariance = guide.scale_tril @ guide.scale_tril.T
    expected = torch.einsum("nkp,pq,nkq->nk", jacobian, covariance, jacobian).squeeze(-1)
    ours = Posterior(guide).predict(grid)
    torch.testing.assert_close(ours.epistemic_variance, expected, **CLOSE)
    mode = case.model.outputs(unravel(loc), grid).squeeze(-1)
    torch.testing.assert_close(ours.mean, mode, **CLOSE)
    assert ours.num_samples == 0


@pytest.mark.parametrize("name", ["mlp", "classifier-3", "mlp-half-normal", "lenet-small"])
@pytest.mark.parametrize("vectorize", ["loop", "vmap"])
def test_linearised_draws_are_affine_in_the_parameters(name: str, vectorize: str) -> None:
    guide, case = build("laplace-linearized", name)
    model, loc = case.model, guide.loc.detach()
    posterior = Posterior(guide, seed=2)
    predictive = posterior.predict(case.x, num_samples=4, keep_outputs=True, vectorize=vectorize)

    def outputs(u: Tensor) -> Tensor:
        return model.outputs(model.constrain(model.layout.unravel(u)), case.x)

    draws = model.layout.ravel(model.unconstrain(posterior.draws(4)))
    change = torch.einsum("nkp,sp->snk", jacrev(outputs)(loc), draws - loc)
    torch.testing.assert_close(predictive.require_outputs(), outputs(loc) + change, **CLOSE)


def test_linearised_moments_and_draws_agree() -> None:
    guide, case = build("laplace-linearized", "mlp")
    posterior = Posterior(guide)
    count = 5000
    exact = posterior.predict(case.x)
    sampled = posterior.predict(case.x, num_samples=count, keep_outputs=True)
    error = (exact.epistemic_variance / count).sqrt()
    assert bool(((sampled.mean - exact.mean).abs() < 5 * error).all())
    ratio = sampled.epistemic_variance / exact.epistemic_variance
    assert bool(((ratio - 1).abs() < 5 * (2 / count) ** 0.5).all())


def test_laplace_itself_predicts_with_the_net() -> None:
    guide, case = build("laplace", "mlp")
    posterior = Posterior(guide, seed=1)
    predictive = posterior.predict(case.x, num_samples=3, keep_outputs=True)
    draws = posterior.draws(3)
    for s in range(3):
        expected = case.model.outputs({n: v[s] for n, v in draws.items()}, case.x)
        torch.testing.assert_close(predictive.require_outputs()[s], expected, **CLOSE)
    assert type(guide) is Laplace
    assert issubclass(LinearizedLaplace, Laplace)


# ------------------------------------------------------------------------------ what is refused


def test_a_saddle_point_is_no_mode() -> None:
    """All weights zero: flat in every direction but those that couple two layers."""
    case = checked("mlp")
    wide = BayesianModel(case.model.net, NormalPrior(100.0), Gaussian(0.1))
    guide = Laplace(wide, curvature="hessian")
    guide.loc.data.zero_()
    with pytest.raises(ValueError, match=r"positive definite.*smallest eigenvalue is -.*ggn"):
        guide.take_curvature(case.x, case.y)
    robust = Laplace(wide)
    robust.loc.data.zero_()
    robust.take_curvature(case.x, case.y)
    assert bool((robust.scale_tril.diagonal() > 0).all())


def test_a_flat_prior_on_a_net_is_improper() -> None:
    case = checked("mlp")
    flat = BayesianModel(case.model.net, FlatPrior(), Gaussian(0.3))
    with pytest.raises(ValueError, match=r"positive definite|improper"):
        fit(flat, Laplace, (case.x, case.y), epochs=2, progress=False)


def test_large_nets_are_refused_before_anything_is_computed() -> None:
    with pytest.raises(ValueError, match=r"10000 parameters; lenet has 65558 \(32\.0 GiB\)"):
        Laplace(LENET().model)


def test_unknown_curvature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"curvature must be one of 'ggn', .*; got 'fisher'"):
        Laplace(CASES["mlp"]().model, curvature="fisher")
