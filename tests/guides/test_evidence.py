"""Empirical Bayes: the evidence as a function of prior and noise, and where it is largest."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import CASES, F64, Case, inputs, labels, random_flat
from sklearn.linear_model import ARDRegression, BayesianRidge
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    Exact,
    Gaussian,
    Laplace,
    NormalPrior,
    Posterior,
    fit,
    fit_evidence,
    maximize_evidence,
)
from probml_tp.models import mlp

SILENT: dict[str, Any] = {"progress": False}
STRUCTURES = ["full", "kronecker", "diagonal"]


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y))


def at_a_point(case: Case, **options: Any) -> Posterior:
    guide = Laplace(case.model, **options)
    guide.loc.data = random_flat(case.model, seed=2)
    guide.take_curvature(case.x, case.y)
    return Posterior(guide)


def evidence_of(model: BayesianModel, like: Posterior, case: Case) -> float:
    """The evidence of another model at the same parameters, from scratch."""
    guide = Laplace(model, **like.guide.options())
    guide.loc.data = like.guide.loc.detach().clone()
    guide.take_curvature(case.x, case.y)
    return guide.log_evidence()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ["mlp", "classifier-3", "lenet-small", "mlp-2-targets"])
@pytest.mark.parametrize("precision", ["scalar", "layer"])
def test_the_result_is_a_maximum_and_knows_its_value(
    name: str, structure: str, precision: str
) -> None:
    """Any other factor, one at a time, gives a lower evidence, computed from scratch."""
    case = checked(name)
    noise = isinstance(case.model.likelihood, Gaussian)
    posterior = at_a_point(case, structure=structure)
    tuned = maximize_evidence(posterior, (case.x, case.y), precision=precision, noise=noise)
    before, best = tuned.info.log_evidence
    assert before == pytest.approx(posterior.guide.log_evidence(), rel=1e-9)
    assert best == pytest.approx(tuned.guide.log_evidence(), rel=1e-9)
    assert best > before
    model = tuned.model
    for factor in (0.8, 1.25):
        for site in list(model.sites)[:3]:
            other = model.with_scales({site: model.sites[site].scale * factor})
            if precision == "scalar":
                scales = {n: s.scale * factor for n, s in model.sites.items()}
                other = model.with_scales(scales)
            assert evidence_of(other, tuned, case) < best + 1e-9
        if noise:
            other = model.with_scales({}, noise_scale=float(model.likelihood.scale) * factor)
            assert evidence_of(other, tuned, case) < best + 1e-9


def test_the_parameters_stay_and_the_old_model_too() -> None:
    case = checked("mlp")
    posterior = at_a_point(case)
    spec = case.model.spec()
    tuned = maximize_evidence(posterior, (case.x, case.y), precision="layer", noise=True)
    assert torch.equal(tuned.guide.loc, posterior.guide.loc)
    assert case.model.spec() == spec
    assert tuned.model.spec() != spec
    assert tuned.name == "laplace"
    factors = tuned.info.options["scale_factors"]
    again = case.model.with_scales(
        {n: case.model.sites[n].scale * f for n, f in factors.items()},
        noise_scale=tuned.info.options["noise_scale"],
    )
    assert again.spec()["likelihood"] == tuned.model.spec()["likelihood"]
    for name, site in again.sites.items():
        torch.testing.assert_close(site.scale, tuned.model.sites[name].scale)


def test_a_tuned_posterior_saves_and_loads(tmp_path: Any) -> None:
    case = checked("mlp")
    tuned = maximize_evidence(at_a_point(case), (case.x, case.y), precision="parameter")
    path = tuned.save(tmp_path / "tuned")
    loaded = Posterior.load(path, tuned.model)
    assert loaded.info.log_evidence == tuned.info.log_evidence
    assert torch.equal(loaded.draws(3)["fc1.bias"], tuned.draws(3)["fc1.bias"])
    with pytest.raises(ValueError, match="loaded into the model it was fitted to"):
        Posterior.load(path, case.model)


def test_every_parameter_can_have_its_own_precision() -> None:
    case = checked("mlp")
    posterior = at_a_point(case, structure="diagonal")
    data = (case.x, case.y)
    each, one = (
        maximize_evidence(posterior, data, precision=p).guide.log_evidence()
        for p in ("parameter", "layer")
    )
    assert each > one
    with pytest.raises(ValueError, match="same prior precision for all weights"):
        maximize_evidence(at_a_point(case, structure="kronecker"), data, precision="parameter")


def test_only_the_random_sites_are_tuned() -> None:
    case = checked("mlp")
    posterior = at_a_point(case, sites="last-layer")
    tuned = maximize_evidence(posterior, (case.x, case.y), precision="layer")
    scales = {n: s.scale for n, s in tuned.model.sites.items()}
    old = {n: s.scale for n, s in case.model.sites.items()}
    changed = {n for n in scales if not torch.allclose(scales[n], old[n])}
    assert changed == {"fc3.weight", "fc3.bias"}


def test_priors_that_are_not_normal_stay() -> None:
    case = checked("mlp-heavy-tails")
    guide = Laplace(case.model)
    guide.take_curvature(case.x, case.y)
    tuned = maximize_evidence(Posterior(guide), (case.x, case.y), precision="layer")
    assert tuned.model.sites["fc1.weight"].describe() == case.model.sites["fc1.weight"].describe()
    assert tuned.model.sites["fc2.bias"].describe() != case.model.sites["fc2.bias"].describe()


def _linear_problem() -> tuple[Tensor, Tensor]:
    x = inputs(60, 4, seed=3)
    generator = torch.Generator().manual_seed(4)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=F64)
    return x, y + 0.3 * torch.randn(60, generator=generator, dtype=F64)


def test_training_under_the_evidence_is_scikit_learns_bayesian_ridge() -> None:
    """For a linear net Laplace is exact: the same precision, noise, evidence and mean."""
    x, y = _linear_problem()
    model = BayesianModel(nn.Linear(4, 1, bias=False).double(), NormalPrior(3.0), Gaussian(1.0))
    tuned = fit_evidence(
        model, (x, y), precision="layer", noise=True, epochs=60, burn_in=2, every=2,
        optimizer="lbfgs", **SILENT,
    )  # fmt: skip
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    ridge = BayesianRidge(fit_intercept=False, max_iter=5000, tol=1e-12, **flat)
    ridge.fit(x.numpy(), y.numpy())
    precision = tuned.model.sites["weight"].scale.item() ** -2
    assert precision == pytest.approx(ridge.lambda_, rel=1e-4)
    assert float(tuned.model.likelihood.scale) ** -2 == pytest.approx(ridge.alpha_, rel=1e-5)
    np.testing.assert_allclose(tuned.guide.loc.detach(), ridge.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tuned.guide.covariance(), ridge.sigma_, rtol=1e-4)
    exact = fit(tuned.model, Exact, (x, y), **SILENT).guide.log_evidence()
    assert tuned.guide.log_evidence() == pytest.approx(exact, rel=1e-9)
    assert tuned.info.log_evidence[-1] == pytest.approx(exact, rel=1e-9)
    assert all(b >= a - 1e-6 for a, b in pairwise(tuned.info.log_evidence))


def test_a_precision_for_each_weight_prunes_what_scikit_learns_ard_does() -> None:
    x, y = _linear_problem()
    model = BayesianModel(nn.Linear(4, 1, bias=False).double(), NormalPrior(3.0), Gaussian(1.0))
    tuned = fit_evidence(
        model, (x, y), precision="parameter", noise=True, epochs=200, burn_in=2, every=2,
        optimizer="lbfgs", **SILENT,
    )  # fmt: skip
    ard = ARDRegression(fit_intercept=False, max_iter=1000, tol=1e-9).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(tuned.guide.loc.detach()[:3], ard.coef_[:3], rtol=2e-3)
    precisions = tuned.model.sites["weight"].scale.flatten().pow(-2)
    np.testing.assert_allclose(precisions[:3], ard.lambda_[:3], rtol=1e-2)
    assert abs(tuned.guide.loc[3]) < 0.05
    assert precisions[3] > 100


def test_training_under_the_evidence_raises_it_and_counts_epochs() -> None:
    x = inputs(60, 2)
    y = labels(x, 3)
    model = BayesianModel(mlp((2, 8, 3), dtype=F64), NormalPrior(5.0), Categorical(3))
    heard: list[tuple[int, int]] = []
    guide = partial(Laplace, structure="kronecker")
    tuned = fit_evidence(
        model, (x, y), guide=guide, epochs=70, burn_in=20, every=20, lr=0.05, batch_size=20,
        progress=lambda done, total, _: heard.append((done, total)),
    )  # fmt: skip
    assert heard == [(i + 1, 70) for i in range(70)]
    assert len(tuned.info.losses) == 70
    assert len(tuned.info.log_evidence) == 4  # three updates and the end
    plain = fit(model, guide, (x, y), epochs=70, lr=0.05, batch_size=20, **SILENT)
    assert tuned.guide.log_evidence() > plain.guide.log_evidence() + 5
    again = fit_evidence(
        model, (x, y), guide=guide, epochs=70, burn_in=20, every=20, lr=0.05, batch_size=20,
        **SILENT,
    )  # fmt: skip
    assert torch.equal(again.guide.loc, tuned.guide.loc)


def test_updates_stand_between_blocks() -> None:
    case = checked("classifier-3")
    for epochs, burn_in, updates in ((10, 0, 5), (10, 4, 3), (3, 4, 0), (4, 4, 0), (5, 4, 1)):
        tuned = fit_evidence(
            case.model, (case.x, case.y), epochs=epochs, burn_in=burn_in, every=2, **SILENT
        )
        assert len(tuned.info.losses) == epochs
        assert len(tuned.info.log_evidence) == updates + 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "site"}, r"precision must be one of .*; got 'site'"),
        ({"precision": "fixed"}, "nothing to find"),
        ({"noise": True}, r"noise=True needs a Gaussian likelihood of known noise; got Categ"),
    ],
)
def test_what_cannot_be_found_is_refused(options: dict[str, Any], match: str) -> None:
    case = checked("classifier-3")
    with pytest.raises(ValueError, match=match):
        maximize_evidence(at_a_point(case), (case.x, case.y), **options)


def test_noise_needs_a_curvature_that_scales_with_it() -> None:
    case = checked("mlp")
    posterior = at_a_point(case, curvature="empirical-fisher")
    with pytest.raises(ValueError, match="fourth power"):
        maximize_evidence(posterior, (case.x, case.y), noise=True)


def test_the_evidence_needs_a_laplace_guide() -> None:
    case = checked("mlp")
    with pytest.raises(ValueError, match=r"Laplace guide; got map.*init=posterior"):
        maximize_evidence(Posterior(Delta(case.model)), (case.x, case.y))
    with pytest.raises(ValueError, match=r"Laplace guide; got map"):
        fit_evidence(case.model, (case.x, case.y), guide=Delta, **SILENT)


@pytest.mark.parametrize(
    ("scales", "noise", "match"),
    [
        ({"nothing": torch.ones(())}, None, "normal priors of the net; 'nothing' has none"),
        ({"noise_scale": torch.ones(())}, None, "normal priors of the net"),
        ({}, 0.5, "Gaussian likelihood of known noise"),
    ],
)
def test_scales_are_those_of_normal_priors(
    scales: dict[str, Tensor], noise: float | None, match: str
) -> None:
    model = CASES["mlp-half-normal"]().model
    with pytest.raises(ValueError, match=match):
        model.with_scales(scales, noise_scale=noise)
