"""The classical posteriors: the densities that they say they are, and the moments known of them."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import scipy.stats
import torch
from contract import model_trace

from probml_tp import Delta, Exact, Laplace, fit, sample_nuts
from probml_tp.diagnostics import moment_errors, reference_names, reference_posterior
from probml_tp.models import CLASSICS, dugongs_line, eight_schools, funnel
from probml_tp.models.hierarchical import SCHOOLS_SIGMA, SCHOOLS_Y


@pytest.mark.parametrize("name", CLASSICS)
def test_pure_functions_are_the_programs_density(name: str) -> None:
    classic = CLASSICS[name]()
    model, (x, y) = classic.model, classic.model.check_data(*classic.data)
    generator = torch.Generator().manual_seed(0)
    flat = model.layout.ravel(model.unconstrain(model.initial_params()))
    flat = flat + 0.1 * torch.randn(len(flat), generator=generator, dtype=torch.float64)
    params = model.constrain(model.layout.unravel(flat))
    trace = model_trace(model, params, x, y)
    torch.testing.assert_close(model.log_joint(params, x, y), trace.log_prob_sum())
    log_det = model.log_abs_det_jacobian(model.layout.unravel(flat))
    torch.testing.assert_close(model.log_joint_flat(flat, x, y), trace.log_prob_sum() + log_det)


def _schools_by_hand() -> None:
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0, dtype=torch.float64)))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        sigma = torch.tensor(SCHOOLS_SIGMA, dtype=torch.float64)
        y = torch.tensor(SCHOOLS_Y, dtype=torch.float64)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def test_eight_schools_is_the_program_that_one_would_write() -> None:
    classic = eight_schools(centered=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(3):
            params = classic.model.sample_prior()
            trace = poutine.trace(poutine.condition(_schools_by_hand, params)).get_trace()
            ours = classic.model.log_joint(params, *classic.data)
            torch.testing.assert_close(ours, trace.log_prob_sum())


def test_the_funnel_is_scipys_and_its_data_say_nothing() -> None:
    classic = funnel()
    v, z = torch.tensor(1.3, dtype=torch.float64), torch.linspace(-2, 2, 9, dtype=torch.float64)
    expected = scipy.stats.norm(0, 3).logpdf(1.3)
    expected += scipy.stats.norm(0, np.exp(0.65)).logpdf(z.numpy()).sum()
    nothing = scipy.stats.norm(0, 1).logpdf(0)
    ours = classic.model.log_joint({"v": v, "z": z}, *classic.data)
    assert float(ours) == pytest.approx(expected + nothing)


# -------------------------------------------------------------------------- the moments in the file


def test_every_classic_has_a_reference() -> None:
    assert reference_names() == list(CLASSICS)


@pytest.mark.parametrize("name", CLASSICS)
def test_references_name_the_quantities_of_their_models(name: str) -> None:
    classic = CLASSICS[name]()
    point = fit(classic.model, Delta, classic.data, epochs=0, progress=False)
    found = moment_errors(point, reference_posterior(name), quantities=classic.quantities)
    assert (found["sd_ratio"] == 0).all()
    assert (found["sd_ratio_se"] <= found["sd_ratio"] + 1e-12).all()


def test_both_forms_of_eight_schools_have_the_same_moments() -> None:
    centered, other = (reference_posterior(f"eight-schools-{c}centered") for c in ("", "non"))
    assert centered.moments.equals(other.moments)
    published = {"mu": (4.4, 3.3), "tau": (3.6, 3.2), "theta[0]": (6.2, 5.6)}  # posteriordb's
    for name, (mean, sd) in published.items():
        row = other.moments.loc[name]
        assert (round(row["mean"], 1), round(row["sd"], 1)) == (mean, sd)


def test_samplers_agree_with_the_references_but_where_they_are_known_to_fail() -> None:
    hard = {"eight-schools-centered", "funnel"}
    for name in reference_names():
        agreement = reference_posterior(name).agreement
        assert set(agreement) == {"numpyro", "probml_tp"}
        if name not in hard:
            assert all(found["deviation"] < 5 for found in agreement.values())
            assert agreement["probml_tp"]["r_hat"] < 1.01
            assert agreement["probml_tp"]["ess"] > 400
    for name in hard:
        assert reference_posterior(name).agreement["numpyro"]["divergences"] > 0


def test_the_exact_guide_has_the_reference_moments() -> None:
    classic, known = dugongs_line(), reference_posterior("dugongs-line")
    guide = fit(classic.model, Exact, classic.data).guide
    sd = guide.covariance().diagonal().sqrt()
    assert guide.loc.tolist() == pytest.approx(known.moments["mean"].tolist(), rel=1e-5)
    assert sd.tolist() == pytest.approx(known.moments["sd"].tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["dugongs-line", "breast-cancer"])
def test_nuts_reproduces_the_reference(name: str) -> None:
    classic = CLASSICS[name]()
    posterior = sample_nuts(
        classic.model, classic.data, draws=150, warmup=150, chains=2, jobs=1, progress=False
    )
    found = moment_errors(posterior, reference_posterior(name), quantities=classic.quantities)
    assert (found["mean_error"].abs() < 5 * found["mean_error_se"]).all()
    assert ((found["sd_ratio"] - 1).abs() < 5 * found["sd_ratio_se"]).all()
    assert (found["mean_error_se"] < 0.25).all()  # else anything would pass


def test_laplace_of_centred_schools_is_refused_for_there_is_no_mode() -> None:
    classic = eight_schools(centered=True)
    with pytest.raises(ValueError, match="positive definite"):
        fit(classic.model, Laplace, classic.data, epochs=4, optimizer="lbfgs", progress=False)
