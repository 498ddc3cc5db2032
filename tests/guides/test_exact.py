"""The exact posterior against formulas written out here, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from model_cases import CASES, CONJUGATE, Case, inputs, targets
from sklearn.linear_model import BayesianRidge
from torch import nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Delta,
    Exact,
    FlatPrior,
    Gaussian,
    HeteroscedasticGaussian,
    Laplace,
    LinearizedLaplace,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    StudentTPrior,
    elbo,
    fit,
)
from probml_tp.models import GaussianBasis, LinearBasis, PolynomialBasis, linear_regression

F64 = torch.float64


def design(case: Case) -> np.ndarray:
    """The features, from the net's own basis."""
    return case.model.net.basis(case.x).numpy()


def closed_form(
    phi: np.ndarray, y: np.ndarray, *, mu: float, s: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bishop 2006, eqs. 3.50-3.51, by an explicit inverse."""
    precision = np.eye(phi.shape[1]) / s**2 + phi.T @ phi / sigma**2
    covariance = np.linalg.inv(precision)
    return covariance @ (mu / s**2 + phi.T @ y / sigma**2), covariance


def moments(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a full normal guide over real sites."""
    tril = posterior.guide.scale_tril
    return posterior.guide.loc.detach().numpy(), (tril @ tril.T).numpy()


PRIORS = {"linear": (0.0, 0.5**0.5), "polynomial": (0.5, 1.5), "gaussian-basis": (0.0, 2.0)}


@pytest.fixture(params=CONJUGATE)
def conjugate(request: pytest.FixtureRequest) -> tuple[Case, float, float]:
    return CASES[request.param](), *PRIORS[request.param]


def test_mean_and_covariance_are_the_closed_form(conjugate: tuple[Case, float, float]) -> None:
    case, mu, s = conjugate
    posterior = fit(case.model, Exact, (case.x, case.y))
    mean, covariance = closed_form(design(case), case.y.numpy(), mu=mu, s=s, sigma=0.3)
    ours = moments(posterior)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ours[1], covariance, rtol=1e-8, atol=1e-12)


def test_the_evidence_is_the_marginal_density_of_the_targets(
    conjugate: tuple[Case, float, float],
) -> None:
    case, mu, s = conjugate
    phi, y = design(case), case.y.numpy()
    marginal = scipy.stats.multivariate_normal(
        phi @ np.full(phi.shape[1], mu), 0.3**2 * np.eye(len(y)) + s**2 * phi @ phi.T
    )
    posterior = fit(case.model, Exact, (case.x, case.y))
    assert posterior.guide.log_evidence() == pytest.approx(marginal.logpdf(y), rel=1e-10)


def test_every_draws_elbo_term_is_the_evidence(conjugate: tuple[Case, float, float]) -> None:
    case, _, _ = conjugate
    posterior = fit(case.model, Exact, (case.x, case.y))
    draws = posterior.draws(50)
    x, y = case.model.check_data(case.x, case.y)
    for s in range(50):
        joint = case.model.log_joint({n: v[s] for n, v in draws.items()}, x, y)
        term = joint - posterior.guide.log_prob({n: v[s : s + 1] for n, v in draws.items()})[0]
        assert term.item() == pytest.approx(posterior.guide.log_evidence(), rel=1e-9, abs=1e-8)
    estimate = elbo(posterior, case.x, case.y)
    assert estimate.value == pytest.approx(posterior.guide.log_evidence(), abs=1e-8)
    assert estimate.standard_error < 1e-9


def test_predictions_are_the_textbooks(conjugate: tuple[Case, float, float]) -> None:
    """Bishop 2006, eqs. 3.58-3.59, far outside the data too."""
    case, mu, s = conjugate
    posterior = fit(case.model, Exact, (case.x, case.y))
    grid = torch.linspace(-6, 6, 41, dtype=F64).unsqueeze(-1)
    mean, covariance = closed_form(design(case), case.y.numpy(), mu=mu, s=s, sigma=0.3)
    phi = case.model.net.basis(grid).numpy()
    ours = posterior.predict(grid)
    np.testing.assert_allclose(ours.mean, phi @ mean, rtol=1e-8, atol=1e-10)
    expected = np.einsum("np,pq,nq->n", phi, covariance, phi)
    np.testing.assert_allclose(ours.epistemic_variance, expected, rtol=1e-7, atol=1e-13)
    np.testing.assert_allclose(ours.aleatoric_variance, np.full(41, 0.09), rtol=1e-12)
    np.testing.assert_allclose(ours.variance, expected + 0.09, rtol=1e-7)


def test_predictions_by_draws_agree_with_the_closed_form(
    conjugate: tuple[Case, float, float],
) -> None:
    case, _, _ = conjugate
    posterior = fit(case.model, Exact, (case.x, case.y))
    count = 4000
    exact = posterior.predict(case.x)
    sampled = posterior.predict(case.x, num_samples=count, keep_outputs=True)
    error = (exact.epistemic_variance / count).sqrt()
    assert bool(((sampled.mean - exact.mean).abs() < 5 * error).all())
    ratio = sampled.epistemic_variance / exact.epistemic_variance
    assert bool(((ratio - 1).abs() < 5 * (2 / count) ** 0.5).all())
    torch.testing.assert_close(sampled.aleatoric_variance, exact.aleatoric_variance)


def test_the_gaussian_basis_forgets_its_uncertainty_far_away() -> None:
    case = CASES["gaussian-basis"]()
    posterior = fit(case.model, Exact, (case.x, case.y))
    far = posterior.predict(torch.tensor([[50.0]], dtype=F64))
    assert far.epistemic_variance.item() < 1e-30
    assert far.variance.item() == pytest.approx(0.09, rel=1e-12)


def test_scikit_learns_bayesian_ridge_agrees() -> None:
    """At the hyperparameters that it finds: coefficients, covariance, predictions, evidence."""
    x = inputs(30, 1)
    y = targets(x)
    basis = PolynomialBasis(degree=4)
    phi = basis(x).numpy()
    ridge = BayesianRidge(
        fit_intercept=False,
        alpha_1=0,
        alpha_2=0,
        lambda_1=0,
        lambda_2=0,
        compute_score=True,
        tol=1e-12,
        max_iter=3000,
    ).fit(phi, y.numpy())
    model = linear_regression(
        basis,
        prior=NormalPrior.from_precision(ridge.lambda_),
        likelihood=Gaussian.from_precision(ridge.alpha_),
    )
    posterior = fit(model, Exact, (x, y))
    mean, covariance = moments(posterior)
    np.testing.assert_allclose(mean, ridge.coef_, rtol=1e-6)
    np.testing.assert_allclose(covariance, ridge.sigma_, rtol=1e-6)
    grid = torch.linspace(-2, 2, 9, dtype=F64).unsqueeze(-1)
    theirs = ridge.predict(basis(grid).numpy(), return_std=True)
    ours = posterior.predict(grid)
    np.testing.assert_allclose(ours.mean, theirs[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.std, theirs[1], rtol=1e-6)
    assert posterior.guide.log_evidence() == pytest.approx(ridge.scores_[-1], rel=1e-6)


# ------------------------------------------------------------------------------ the flat prior


def test_a_flat_prior_gives_least_squares_and_its_sampling_covariance() -> None:
    case = CASES["flat-prior"]()
    phi, y = design(case), case.y.numpy()
    posterior = fit(case.model, Exact, (case.x, case.y))
    mean, covariance = moments(posterior)
    np.testing.assert_allclose(mean, np.linalg.lstsq(phi, y)[0], rtol=1e-9)
    np.testing.assert_allclose(covariance, 0.09 * np.linalg.inv(phi.T @ phi), rtol=1e-8)


def test_a_flat_prior_is_the_limit_of_wide_ones() -> None:
    x = inputs(12, 1)
    y = targets(x)
    flat, wide = (
        moments(
            fit(
                linear_regression(PolynomialBasis(degree=2), prior=prior, likelihood=0.3),
                Exact,
                (x, y),
            )
        )
        for prior in (FlatPrior(), NormalPrior(1e5))
    )
    np.testing.assert_allclose(flat[0], wide[0], rtol=1e-7)
    np.testing.assert_allclose(flat[1], wide[1], rtol=1e-7)


def test_flat_and_normal_priors_mix() -> None:
    x = inputs(12, 2)
    y = targets(x)
    prior = {"bias": FlatPrior(), "weight": NormalPrior(0.7)}
    model = BayesianModel(nn.Linear(2, 1).double(), prior, Gaussian(0.3))
    mean, covariance = moments(fit(model, Exact, (x, y)))
    phi = np.hstack([x.numpy(), np.ones((12, 1))])
    precision = np.diag([0.7**-2] * 2 + [0]) + phi.T @ phi / 0.09
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), rtol=1e-9)
    np.testing.assert_allclose(mean, np.linalg.solve(precision, phi.T @ y.numpy() / 0.09))


def test_a_flat_prior_has_no_evidence() -> None:
    case = CASES["flat-prior"]()
    posterior = fit(case.model, Exact, (case.x, case.y))
    with pytest.raises(ValueError, match=r"evidence needs a proper prior.*NormalPrior"):
        posterior.guide.log_evidence()


def test_a_flat_prior_with_too_few_data_is_refused() -> None:
    model = linear_regression(PolynomialBasis(degree=3), prior=FlatPrior(), likelihood=0.3)
    x = inputs(3, 1)
    with pytest.raises(ValueError, match=r"improper: the data do not determine every parameter"):
        fit(model, Exact, (x, targets(x)))


# --------------------------------------------------------------- other shapes of linear models


def test_several_targets_are_regressions_side_by_side() -> None:
    x, y = inputs(12, 2), targets(inputs(12, 2), 3)
    model = BayesianModel(nn.Linear(2, 3).double(), NormalPrior(0.8), Gaussian(0.3))
    posterior = fit(model, Exact, (x, y))
    phi = np.hstack([x.numpy(), np.ones((12, 1))])
    sites = model.layout.unravel(posterior.guide.loc.detach())
    for j in range(3):
        mean, covariance = closed_form(phi, y[:, j].numpy(), mu=0.0, s=0.8, sigma=0.3)
        ours = torch.cat([sites["weight"][j], sites["bias"][j : j + 1]])
        np.testing.assert_allclose(ours, mean, rtol=1e-9)
        expected = np.einsum("np,pq,nq->n", phi, covariance, phi)
        np.testing.assert_allclose(posterior.predict(x).epistemic_variance[:, j], expected)


def test_a_fixed_offset_of_the_net_is_taken_off_the_targets() -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=F64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 + x.square() + x * self.weight

    x = inputs(12, 1)
    y = targets(x)
    model = BayesianModel(Offset(), NormalPrior(1.0), Gaussian(0.3))
    mean, _ = closed_form(
        x.numpy(), y.numpy() - 3 - x.square().squeeze().numpy(), mu=0.0, s=1.0, sigma=0.3
    )
    np.testing.assert_allclose(moments(fit(model, Exact, (x, y)))[0], mean, rtol=1e-9)


def test_float32_models_are_solved_in_float64() -> None:
    x = inputs(20, 1)
    y = targets(x)
    wide, narrow = (
        linear_regression(
            PolynomialBasis(degree=5), prior=NormalPrior(3.0), likelihood=0.3, dtype=d
        )
        for d in (F64, torch.float32)
    )
    ours, theirs = (moments(fit(m, Exact, (x, y))) for m in (narrow, wide))
    assert ours[0].dtype == np.float32
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-4, atol=1e-5)


def test_a_prior_alone_is_returned_where_the_features_vanish() -> None:
    basis = GaussianBasis(centers=[100.0, 200.0], scale=0.1)
    model = linear_regression(basis, prior=NormalPrior(1.7, loc=0.4), likelihood=0.3)
    x = inputs(12, 1)
    mean, covariance = moments(fit(model, Exact, (x, targets(x))))
    np.testing.assert_allclose(mean, [0.4, 0.4])
    np.testing.assert_allclose(covariance, 1.7**2 * np.eye(2), rtol=1e-12)


# ------------------------------------------------------------ the other guides, on these models


@pytest.mark.parametrize("kind", [Laplace, LinearizedLaplace])
@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_laplace_is_exact(
    conjugate: tuple[Case, float, float], kind: type[Laplace], curvature: str
) -> None:
    case, _, _ = conjugate
    data = (case.x, case.y)
    exact = fit(case.model, Exact, data)
    laplace = fit(
        case.model,
        lambda m: kind(m, curvature=curvature),
        data,
        epochs=20,
        optimizer="lbfgs",
        progress=False,
    )
    torch.testing.assert_close(laplace.guide.loc, exact.guide.loc, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        laplace.guide.scale_tril, exact.guide.scale_tril, rtol=1e-8, atol=1e-10
    )
    assert laplace.guide.log_evidence() == pytest.approx(exact.guide.log_evidence(), abs=1e-8)


def test_map_is_the_posterior_mean(conjugate: tuple[Case, float, float]) -> None:
    case, mu, s = conjugate
    mean, _ = closed_form(design(case), case.y.numpy(), mu=mu, s=s, sigma=0.3)
    delta = fit(case.model, Delta, (case.x, case.y), epochs=20, optimizer="lbfgs", progress=False)
    np.testing.assert_allclose(delta.guide.loc.detach(), mean, rtol=1e-8, atol=1e-8)


class CubatureMeanField(MeanFieldNormal):
    """Its loss is the mean over 2 P points whose second moments are the normal's: exact here."""

    deterministic_loss = True

    def loss(self, x: torch.Tensor, y: torch.Tensor, *, size: int) -> torch.Tensor:
        p = len(self.loc)
        axes = p**0.5 * torch.eye(p, dtype=self.loc.dtype)
        nodes = torch.cat([axes, -axes])
        return torch.stack([self.loss_at(e, x, y, size=size) for e in nodes]).mean()


def mean_field_optimum(exact: Posterior) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Its mean, precisions and ELBO: the exact precision's diagonal (Bishop 2006, eq. 10.13)."""
    precision = torch.cholesky_inverse(exact.guide.scale_tril)
    scale = precision.diagonal().rsqrt()
    gap = 0.5 * torch.logdet(scale[:, None] * precision * scale)
    return exact.guide.loc.detach(), precision.diagonal(), exact.guide.log_evidence() + gap.item()


def test_mean_field_has_its_closed_form_optimum(conjugate: tuple[Case, float, float]) -> None:
    case, _, _ = conjugate
    data = (case.x, case.y)
    loc, precision, best = mean_field_optimum(fit(case.model, Exact, data))
    fitted = fit(case.model, CubatureMeanField, data, epochs=15, optimizer="lbfgs", progress=False)
    torch.testing.assert_close(fitted.guide.loc.detach(), loc, rtol=1e-6, atol=1e-6)
    ours = (-2 * fitted.guide.log_scale.detach()).exp()
    torch.testing.assert_close(ours, precision, rtol=1e-6, atol=0)
    assert -fitted.info.losses[-1] * case.size == pytest.approx(best, abs=1e-8)
    estimate = elbo(fitted, *data, num_samples=4000)
    assert abs(estimate.value - best) < 5 * estimate.standard_error


def test_mean_field_fitted_by_single_draws_reaches_its_closed_form() -> None:
    """The gradient's noise leaves a few per cent; a KL of the wrong weight would be off by N."""
    case = CASES["linear"]()
    data = (case.x, case.y)
    loc, precision, best = mean_field_optimum(fit(case.model, Exact, data))
    options = {"epochs": 1500, "lr": 0.05, "schedule": "cosine", "progress": False}
    fitted = fit(case.model, MeanFieldNormal, data, **options)
    noise = 5 * (2 / 1000) ** 0.5  # each draw gives a log precision with variance 2
    ours = (-2 * fitted.guide.log_scale.detach()).exp()
    assert bool(((ours / precision).log().abs() < noise).all())
    assert bool(((fitted.guide.loc.detach() - loc).abs() * precision.sqrt() < noise).all())
    estimate = elbo(fitted, *data, num_samples=4000)
    assert abs(estimate.value - best) < 5 * estimate.standard_error + noise**2


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: BayesianModel(
                nn.Linear(1, 1), NormalPrior(1.0), Gaussian(dist.HalfNormal(1.0))
            ),
            r"Gaussian likelihood with known noise; got Gaussian\(scale~HalfNormal",
        ),
        (
            lambda: BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Bernoulli()),
            r"known noise; got Bernoulli",
        ),
        (
            lambda: BayesianModel(nn.Linear(1, 2), NormalPrior(1.0), HeteroscedasticGaussian()),
            r"known noise; got HeteroscedasticGaussian",
        ),
        (
            lambda: BayesianModel(nn.Linear(1, 1), StudentTPrior(), Gaussian(0.1)),
            r"normal or flat priors; 'weight' has StudentT",
        ),
    ],
)
def test_models_that_are_not_conjugate_are_refused(model: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exact(model())


@pytest.mark.parametrize("name", ["mlp", "mlp-2-targets", "tied", "residual"])
def test_nets_that_are_not_linear_are_refused(name: str) -> None:
    case = CASES[name]()
    with pytest.raises(ValueError, match="net linear in its parameters"):
        fit(case.model, Exact, (case.x, case.y))


def test_a_kink_that_the_first_points_do_not_show_is_refused() -> None:
    """A net may be linear on the first inputs and not on the others."""

    class Kink(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=F64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x * self.weight)

    x = torch.cat([torch.zeros(8, 1), torch.linspace(-2, 2, 12).unsqueeze(-1)]).double()
    model = BayesianModel(Kink(), NormalPrior(1.0), Gaussian(0.3))
    with pytest.raises(ValueError, match="net linear in its parameters"):
        fit(model, Exact, (x, torch.relu(x)))


def test_a_guide_that_is_not_fitted_says_so() -> None:
    case = CASES["linear"]()
    for call in (
        lambda g: g.sample(3),
        lambda g: g.log_evidence(),
        lambda g: g.kl(),
        lambda g: Posterior(g).predict(case.x),
    ):
        with pytest.raises(ValueError, match=r"exact guide has no covariance before it is fitted"):
            call(Exact(case.model))


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 3 parameters; .* has 4"):
        Exact(CASES["polynomial"]().model, max_params=3)


def test_linear_basis_is_a_polynomial_of_degree_one() -> None:
    x = inputs(5, 1)
    assert torch.equal(LinearBasis()(x), PolynomialBasis(degree=1)(x))
