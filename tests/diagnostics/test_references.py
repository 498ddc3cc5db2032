"""Errors of moments: known ones are found, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from probml_tp import Exact, MeanFieldNormal, Posterior, fit
from probml_tp.diagnostics import moment_errors, reference_posterior
from probml_tp.models import dugongs_line, eight_schools

KNOWN = reference_posterior("dugongs-line")


def best_mean_field(shift: float = 0.0) -> Posterior:
    r"""The optimum: the exact mean, and :math:`s_i^{-2} = (\Sigma^{-1})_{ii}`."""
    classic = dugongs_line()
    exact = fit(classic.model, Exact, classic.data).guide
    guide = MeanFieldNormal(classic.model)
    covariance = exact.covariance()
    guide.loc.data = exact.loc.detach() + shift * covariance.diagonal().sqrt()
    guide.log_scale.data = -0.5 * torch.linalg.inv(covariance).diagonal().log()
    return Posterior(guide, seed=0)


def test_mean_field_is_too_narrow_by_the_correlation() -> None:
    classic = dugongs_line()
    covariance = fit(classic.model, Exact, classic.data).guide.covariance()
    correlation = covariance[0, 1] / covariance.diagonal().prod().sqrt()
    found = moment_errors(best_mean_field(), KNOWN)
    expected = float((1 - correlation**2).sqrt())
    assert expected < 0.5
    assert ((found["sd_ratio"] - expected).abs() < 5 * found["sd_ratio_se"]).all()
    assert (found["mean_error"].abs() < 5 * found["mean_error_se"]).all()


def test_a_shift_of_the_mean_is_found_in_units_of_the_true_spread() -> None:
    found = moment_errors(best_mean_field(shift=0.7), KNOWN)
    assert ((found["mean_error"] - 0.7).abs() < 5 * found["mean_error_se"]).all()
    assert (found["mean_error_se"] < 0.02).all()


def test_standard_errors_are_those_of_independent_draws() -> None:
    found = moment_errors(best_mean_field(), KNOWN, num_samples=4000)
    expected = found["sd"] / KNOWN.moments["sd"] / 4000**0.5
    assert (found["mean_error_se"] / expected).tolist() == pytest.approx([1, 1], rel=0.1)
    assert (found["sd_ratio_se"] / expected).tolist() == pytest.approx([0.71, 0.71], rel=0.2)


def test_the_same_seed_gives_the_same_errors() -> None:
    posterior = best_mean_field()
    first, again = (moment_errors(posterior, KNOWN, seed=3) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(moment_errors(posterior, KNOWN, seed=4))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        reference_posterior("nine-schools")
    with pytest.raises(ValueError, match="at least 4 draws"):
        moment_errors(best_mean_field(), KNOWN, num_samples=3)
    schools = Posterior(MeanFieldNormal(eight_schools(centered=False).model), seed=0)
    with pytest.raises(ValueError, match="quantities must be those of 'dugongs-line'"):
        moment_errors(schools, KNOWN)
    with pytest.raises(ValueError, match="Pass the quantities"):
        moment_errors(schools, reference_posterior("eight-schools-noncentered"))
