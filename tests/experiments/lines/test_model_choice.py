"""Evidence, LOO and held-out NLL: against the exact guide, refits, ArviZ and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm, spearmanr
from sklearn.linear_model import BayesianRidge

from probml_tp import Exact, Laplace, NormalPrior, fit, fit_evidence
from probml_tp.datasets import sine_data
from probml_tp.experiments.lines.evidence_curves import (
    CRITERIA,
    ConjugateRegression,
    judge,
    plane,
    psis_loo,
    type_two,
)
from probml_tp.experiments.lines.model_choice import (
    CHOICE,
    FAMILIES,
    ChoiceConfig,
    choices,
    compare_choices,
)
from probml_tp.harness.experiment import no_update
from probml_tp.models import GaussianBasis, PolynomialBasis, linear_regression

DATA = sine_data(n=30, dtype=torch.float64)
TEST = sine_data(n=200, seed=1, dtype=torch.float64)
BASES = {
    "polynomial": PolynomialBasis(degree=5),
    "more features than points": GaussianBasis.evenly_spaced(0, 1, num=40),
    "gaussian": GaussianBasis.evenly_spaced(0, 1, num=6),
}
CONFIG = ChoiceConfig(n=30, max_degree=5, max_bumps=5, bumps=6, training_sets=3, num_samples=200)


def exact(basis, data=DATA, *, alpha=0.3, beta=20.0):
    model = linear_regression(basis, prior=NormalPrior.from_precision(alpha), likelihood=beta**-0.5)
    return fit(model, Exact, data, progress=False)


def log_density(posterior, x, y):
    p = posterior.predict(x)
    return norm.logpdf(y, p.mean, (p.epistemic_variance + p.aleatoric_variance).sqrt())


@pytest.fixture(scope="module")
def compared():
    return compare_choices(CONFIG, TEST, no_update)


@pytest.mark.parametrize("name", BASES)
def test_the_evidence_is_that_of_the_exact_guide(name):
    own = ConjugateRegression.of(BASES[name], DATA)
    value = float(own.log_evidence(0.3, 20.0))
    assert value == pytest.approx(exact(BASES[name]).guide.log_evidence(), abs=1e-6)
    covariance = np.eye(30) / 20 + own.features @ own.features.T / 0.3
    assert value == pytest.approx(multivariate_normal(cov=covariance).logpdf(own.y), abs=1e-6)


def test_the_evidence_takes_arrays():
    own = ConjugateRegression.of(BASES["gaussian"], DATA)
    alphas, betas = np.array([0.1, 1.0, 5.0]), np.array([[10.0], [30.0]])
    grid = own.log_evidence(alphas, betas)
    assert grid.shape == (2, 3)
    assert grid[1, 2] == pytest.approx(float(own.log_evidence(5.0, 30.0)))


@pytest.mark.parametrize("name", BASES)
def test_exact_loo_is_that_of_refits(name):
    x, y = DATA
    own = ConjugateRegression.of(BASES[name], DATA).log_loo(0.3, 20.0)
    for i in (0, 7, 29):
        keep = torch.arange(30) != i
        refit = exact(BASES[name], (x[keep], y[keep]))
        assert own[i] == pytest.approx(float(log_density(refit, x[i : i + 1], y[i])[0]), abs=1e-6)


@pytest.mark.parametrize("name", BASES)
def test_held_out_densities_are_those_of_the_exact_guide(name):
    own = ConjugateRegression.of(BASES[name], DATA)
    features = BASES[name](TEST[0]).numpy()
    density = own.log_predictive(features, TEST[1].numpy(), 0.3, 20.0)
    np.testing.assert_allclose(density, log_density(exact(BASES[name]), *TEST), atol=1e-6)


def test_draws_are_those_of_the_exact_posterior():
    own, guide = ConjugateRegression.of(BASES["gaussian"], DATA), exact(BASES["gaussian"]).guide
    record = own.record(0.3, 20.0, draws=4000, seed=0)
    draws = record.posterior["weight"].to_numpy()[0]
    covariance = guide.covariance().numpy()
    error = np.sqrt(np.diag(covariance) / 4000)
    assert (np.abs(draws.mean(0) - guide.loc.numpy()) < 5 * error).all()
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / 4000)
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * spread).all()
    density = norm.logpdf(own.y, own.features @ draws[5], 20**-0.5)
    np.testing.assert_allclose(record.log_likelihood["y"][0, 5], density)


def test_psis_loo_is_near_the_exact_one_where_its_k_hats_are_small():
    own = ConjugateRegression.of(PolynomialBasis(degree=3), DATA)
    found = psis_loo(own.record(0.3, 2.0, draws=4000, seed=0))
    assert float(found.pareto_k.max()) < 0.7
    assert float(found.elpd_loo) == pytest.approx(own.log_loo(0.3, 2.0).sum(), abs=0.3)
    plain = np.log(np.mean(np.exp(own.record(0.3, 2.0, draws=4000, seed=0).log_likelihood["y"])))
    assert abs(float(plain) - own.log_loo(0.3, 2.0).mean()) > 0.01


def test_type_two_is_what_scikit_learn_finds():
    own = ConjugateRegression.of(BASES["gaussian"], DATA)
    alpha, beta = type_two(own, start=(0.05, 25.0))
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    peer = BayesianRidge(fit_intercept=False, max_iter=5000, tol=1e-10, compute_score=True, **flat)
    peer.fit(own.features, own.y)
    assert alpha == pytest.approx(peer.lambda_, rel=1e-3)
    assert beta == pytest.approx(peer.alpha_, rel=1e-3)
    assert float(own.log_evidence(alpha, beta)) == pytest.approx(peer.scores_[-1], abs=1e-5)


def test_type_two_is_what_fit_evidence_finds():
    own = ConjugateRegression.of(BASES["gaussian"], DATA)
    alpha, beta = type_two(own, start=(0.05, 25.0))
    model = linear_regression(BASES["gaussian"], prior=NormalPrior(1.0), likelihood=0.5)
    tuned = fit_evidence(
        model, DATA, guide=Laplace, precision="scalar", noise=True,
        epochs=60, burn_in=2, every=2, optimizer="lbfgs", progress=False,
    )  # fmt: skip
    assert float(tuned.model.likelihood.scale) == pytest.approx(beta**-0.5, rel=1e-2)
    scale = float(torch.as_tensor(tuned.model.sites["weight"].scale).flatten()[0])
    assert scale == pytest.approx(alpha**-0.5, rel=1e-2)


def test_no_neighbour_has_more_evidence():
    own = ConjugateRegression.of(BASES["polynomial"], DATA)
    best = np.array(type_two(own, start=(1.0, 1.0)))
    top = float(own.log_evidence(*best))
    for factors in ((1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99)):
        assert float(own.log_evidence(*(best * factors))) < top


def test_the_plane_holds_the_criteria():
    basis, alphas, betas = BASES["gaussian"], np.array([0.1, 1.0]), np.array([10.0, 20.0, 40.0])
    values = plane(basis, DATA, TEST, alphas=alphas, betas=betas)
    own = ConjugateRegression.of(basis, DATA)
    assert {value.shape for value in values.values()} == {(3, 2)}
    assert values["evidence"][2, 0] == pytest.approx(-float(own.log_evidence(0.1, 40.0)) / 30)
    assert values["loo"][1, 1] == pytest.approx(-own.log_loo(1.0, 20.0).mean())
    assert values["held-out"][0, 1] == pytest.approx(
        -log_density(exact(basis, alpha=1.0, beta=10.0), *TEST).mean(), abs=1e-6
    )


def test_every_family_is_judged_on_every_training_set(compared):
    arrays, _ = compared
    for family, candidates in CONFIG.families().items():
        criteria = arrays[f"{CHOICE}.{family}.criteria"]
        assert criteria.shape == (3, len(CRITERIA), len(candidates)) and np.isfinite(criteria).all()
        assert not np.allclose(criteria[0], criteria[1])
    again = judge(CONFIG.families()["bumps"], CONFIG.data(0), TEST, draws=200, seed=0)
    np.testing.assert_array_equal(again.criteria, arrays[f"{CHOICE}.bumps.criteria"][0])


def test_all_criteria_reject_a_straight_line(compared):
    criteria = compared[0][f"{CHOICE}.degree.criteria"]
    assert (criteria[:, :, 0] > criteria[:, :, 2] + 0.5).all()
    assert (criteria.argmin(-1) >= 2).all()


def test_the_table_says_what_is_chosen_and_what_it_costs(compared):
    arrays, (table, _) = compared
    criteria = arrays[f"{CHOICE}.bumps.criteria"]
    assert len(table.rows) == len(FAMILIES) * len(CRITERIA)
    row = table.row("number of Gaussian bumps · Evidence")
    chosen = criteria[:, 0].argmin(-1)
    assert row["choice"] == arrays[f"{CHOICE}.bumps.values"][chosen[0]]
    cost = [run[-1, k] - run[-1].min() for run, k in zip(criteria, chosen, strict=True)]
    assert row["cost"] == pytest.approx(np.mean(cost))
    rank = np.mean([spearmanr(run[0], run[-1]).statistic for run in criteria])
    assert row["rank"] == pytest.approx(rank)
    low, high = table.ends("cost")["number of Gaussian bumps · Evidence"]
    assert low <= row["cost"] <= high
    assert ("number of Gaussian bumps · Held-out NLL", "cost") not in table


def test_the_choice_of_held_out_data_costs_nothing():
    criteria = np.random.default_rng(0).random((4, 4, 7))
    cost, rank = choices(criteria)
    assert (cost[:, -1] == 0).all() and np.allclose(rank[:, -1], 1)
    assert (cost[:, :-1] >= 0).all() and cost[:, :-1].max() > 0


def test_arviz_ranks_by_its_own_loo(compared):
    table = compared[1][1]
    assert table.rows == [f"degree {d}" for d in range(1, 6)]
    rank, elpd = table.column("rank"), table.column("elpd")
    ordered = [elpd[row] for row in sorted(rank, key=rank.__getitem__)]
    assert ordered == sorted(ordered, reverse=True)
    assert sum(table.column("weight").values()) == pytest.approx(1)
    psis = -30 * compared[0][f"{CHOICE}.degree.criteria"][0, 1]
    np.testing.assert_allclose(list(elpd.values()), psis)
