"""The problems of the approximation gap: their regions, their references, their best fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch.nn.functional import logsigmoid

from probml_tp.diagnostics import elbo
from probml_tp.digest import digest
from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.experiments.references.gap_problems import (
    DRAWS,
    PROBLEMS,
    REGIONS,
    linear_problem,
    logistic_problem,
)
from probml_tp.gap.checks import check_reference
from probml_tp.gap.study import fit_problem

DEFAULT = {"epochs": 2000, "draws": DRAWS["logistic"], "warmup": 200}
SHORT = {"epochs": 3, "draws": 4, "warmup": 3}
GAPS = {"linear": 0.05, "logistic": 0.15, "moons": 0.09, "sine": 0.005}
"""How far the gap's points are from any of training, at least."""


@pytest.fixture(params=PROBLEMS)
def name(request):
    return request.param


def nearest(problem, region):
    return float(torch.cdist(problem.x[problem.regions[region]], problem.data[0]).min())


def fitted(problem, *guides):
    chosen = replace(problem, guides=[*guides, problem.reference])
    return fit_problem(chosen, update=lambda *_: None)


# ------------------------------------------------------------------------------------ problems


@pytest.mark.parametrize("seed", range(5))
def test_regions_are_where_they_say(name, seed):
    problem = PROBLEMS[name](**SHORT, seed=seed)
    assert list(problem.regions) == list(REGIONS)
    assert (np.stack(list(problem.regions.values())).sum(0) == 1).all()
    assert nearest(problem, "between") > GAPS[name]
    inputs, low = problem.data[0], problem.data[0].min(0).values
    width = float((inputs.max(0).values - low).max())
    assert nearest(problem, "far") > 0.25 * width
    between, data = (problem.x[problem.regions[r]] for r in ("between", "data"))
    assert (between >= low).all() and (between <= inputs.max(0).values).all()
    if name != "moons":  # whose gap is not much wider than the distance of its few points
        to_data = torch.cdist(data, inputs).min(1).values.median()
        assert to_data < torch.cdist(between, inputs).min(1).values.median()


def test_the_same_seed_gives_the_same_problem(name):
    first, again, other = (PROBLEMS[name](**SHORT, seed=seed) for seed in (3, 3, 4))
    assert digest([*first.data, first.x]) == digest([*again.data, again.x])
    assert digest([*first.data]) != digest([*other.data])
    assert first.model.fingerprint() == again.model.fingerprint()
    assert first.how == again.how


def test_every_guide_of_a_problem_can_be_fitted(name):
    problem = PROBLEMS[name](**SHORT, seed=0)
    done = fit_problem(problem, update=lambda *_: None)
    assert set(problem.guides) <= set(done) and problem.reference in problem.guides
    for posterior in done.values():
        assert posterior.predict(problem.x, num_samples=2).num_samples in (0, 1, 2, 5)


# ---------------------------------------------------------------------- references and optima


def test_the_reference_of_the_blobs_has_converged():
    problem = logistic_problem(**DEFAULT, seed=0)
    done = fitted(problem)["nuts"]
    check_reference("nuts", done, problem.x)
    assert not np.sum(done.info.sampler["diverging"])


def test_too_short_chains_of_the_blobs_have_not():
    problem = logistic_problem(**{**DEFAULT, "draws": 40}, seed=0)
    with pytest.raises(ValueError, match="must have converged"):
        check_reference("nuts", fitted(problem)["nuts"], problem.x)


def test_mean_field_of_the_line_is_at_its_optimum():
    done = fitted(linear_problem(**DEFAULT, seed=0), "mean-field")
    mean, covariance = weight_moments(done["exact"])
    own_mean, own_covariance = weight_moments(done["mean-field"])
    best = 1 / np.diag(np.linalg.inv(covariance))
    np.testing.assert_allclose(np.diag(own_covariance), best, rtol=0.15)
    assert np.abs((own_mean - mean) / np.sqrt(best)).max() < 0.15
    assert (best < np.diag(covariance)).all()


def test_a_low_rank_normal_of_the_line_is_the_posterior():
    problem = linear_problem(**DEFAULT, seed=1)
    done = fitted(problem, "low-rank-normal", "mean-field")
    evidence = done["exact"].guide.log_evidence()
    bound = elbo(done["low-rank-normal"], *problem.data, num_samples=4000)
    assert evidence - 0.03 < bound.value < evidence + 5 * bound.standard_error
    assert np.allclose(
        weight_moments(done["low-rank-normal"])[1], weight_moments(done["exact"])[1], atol=3e-4
    )


def bound_by_quadrature(mean, covariance, data, precision):
    """The ELBO of a normal in logistic regression: a Gauss-Hermite sum over each logit."""
    x, y = data
    phi = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    nodes, weights = (torch.from_numpy(a) for a in hermegauss(40))
    spread = torch.einsum("nd,de,ne->n", phi, covariance, phi).sqrt()
    logits = (phi @ mean)[:, None] + spread[:, None] * nodes
    signs = (2.0 * y - 1)[:, None]
    fit_term = (logsigmoid(signs * logits) @ (weights / weights.sum())).sum()
    prior = torch.eye(len(mean), dtype=x.dtype) * precision
    trace = (prior @ covariance).trace() + precision * mean @ mean
    kl = 0.5 * (trace - len(mean) - torch.logdet(prior) - torch.logdet(covariance))
    return fit_term - kl


def best_bound(data, precision, *, correlated):
    """The largest ELBO over normals, with independent weights or any covariance, by L-BFGS."""
    mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    root = torch.eye(3, dtype=torch.float64).mul(0.5).requires_grad_()
    optimizer = torch.optim.LBFGS([mean, root], max_iter=500, line_search_fn="strong_wolfe")

    def bound():
        scale = root.tril() if correlated else root.diagonal().diag()
        return bound_by_quadrature(mean, scale @ scale.T, data, precision)

    def closure():
        optimizer.zero_grad()
        loss = -bound()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(bound().detach())


def test_normals_of_the_blobs_are_at_their_optima():
    problem = logistic_problem(**DEFAULT, seed=0)
    done = fitted(replace(problem, reference="map"), "mean-field", "low-rank-normal")
    precision = 0.25
    for guide, correlated in (("mean-field", False), ("low-rank-normal", True)):
        moments = [torch.from_numpy(a) for a in weight_moments(done[guide])]
        own = float(bound_by_quadrature(*moments, problem.data, precision))
        best = best_bound(problem.data, precision, correlated=correlated)
        assert best - 0.1 < own < best + 1e-6
    short = replace(problem, how=replace(problem.how, epochs=5), reference="map")
    rough = fitted(short, "mean-field")
    moments = [torch.from_numpy(a) for a in weight_moments(rough["mean-field"])]
    assert float(bound_by_quadrature(*moments, problem.data, precision)) < best - 0.1
