"""What a comparison tells of each posterior by itself, and which data it takes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from model_cases import CASES, inputs, targets
from torch import Tensor

from probml_tp import (
    Delta,
    Exact,
    FlatPrior,
    Laplace,
    LinearizedLaplace,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.diagnostics import bridge_sampling, elbo, loo, pareto_k
from probml_tp.empirical import Empirical
from probml_tp.gap import GapReport, compare, recommend
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.streams import Stream, substream

X = inputs(30, 1)
DATA = (X, targets(X))
NUMBERS = ["pareto_k", "elbo", "iwelbo", "log_evidence", "elpd_loo"]


@cache
def posteriors() -> dict[str, Posterior]:
    model = linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.3)
    exact = fit(model, Exact, DATA)
    draws = {n: v.unflatten(0, (2, -1)) for n, v in exact.draws(600).items()}
    chain = Posterior(Empirical(model, method="nuts", draws=draws))
    chain.info.data = exact.info.data
    mean_field = fit(model, MeanFieldNormal, DATA, epochs=400, lr=0.05, progress=False)
    return {
        "exact": exact,
        "nuts": chain,
        "mean-field": mean_field,
        "map": fit(model, Delta, DATA, epochs=5, optimizer="lbfgs", progress=False),
    }


@cache
def report() -> GapReport:
    return compare(posteriors(), "exact", X, data=DATA, num_samples=500, resamples=5)


def test_each_posterior_has_a_row_of_what_is_defined_for_it():
    table = report().evidence
    assert list(table.index) == list(posteriors())
    has = {name: [n for n in NUMBERS if np.isfinite(table[n][name])] for name in table.index}
    assert has["exact"] == ["elbo", "iwelbo", "log_evidence", "elpd_loo"]
    assert table["pareto_k"]["exact"] == -np.inf
    assert has["nuts"] == ["log_evidence", "elpd_loo"]
    assert has["mean-field"] == ["pareto_k", "elbo", "iwelbo", "elpd_loo"]
    assert has["map"] == []
    for name in NUMBERS[1:]:
        assert list(table[name].isna()) == list(table[f"{name}_error"].isna())
    assert table["k_threshold"]["exact"] == pytest.approx(1 - 1 / np.log10(500))
    assert table["loo_worst_k"].notna().tolist() == [True, True, True, False]


def test_the_numbers_are_those_of_the_functions():
    table, fits = report().evidence, posteriors()
    seed = substream(0, Stream.COMPARISON, *b"mean-field")
    assert tuple(table.loc["mean-field", ["elbo", "elbo_error"]]) == pytest.approx(
        elbo(fits["mean-field"], *DATA, num_samples=500, seed=seed)
    )
    found = pareto_k(fits["mean-field"], *DATA, num_samples=500, seed=seed)
    assert table["pareto_k"]["mean-field"] == found.k
    assert report().layers.loc["mean-field"].to_dict() == dict(found.layers)
    bridge = bridge_sampling(fits["nuts"], *DATA, seed=substream(0, Stream.COMPARISON, *b"nuts"))
    assert tuple(table.loc["nuts", ["log_evidence", "log_evidence_error"]]) == bridge
    assert table["elpd_loo"]["nuts"] == loo(fits["nuts"], *DATA)["elpd_loo"]


def test_the_numbers_agree_with_each_other():
    table, exact = report().evidence, posteriors()["exact"].guide.log_evidence()
    for name in ("elbo", "iwelbo", "log_evidence"):
        assert table[name]["exact"] == pytest.approx(exact, abs=1e-9)
    assert table["log_evidence_error"]["exact"] == 0
    value, error = table.loc["nuts", ["log_evidence", "log_evidence_error"]]
    assert abs(value - exact) < 5 * error
    row = table.loc["mean-field"]
    assert row["elbo"] < row["iwelbo"] < exact + 5 * row["iwelbo_error"]


def test_without_data_there_is_no_evidence():
    found = compare(posteriors(), "exact", X[:3], num_samples=50, resamples=2)
    assert found.evidence.empty
    assert found.layers.empty


def test_passes_of_the_net_are_among_the_costs():
    passes = report().costs["forward_passes"]
    assert passes["mean-field"] == 400
    assert passes["exact"] == 13
    assert np.isnan(passes["nuts"])
    assert passes["map"] >= 5


def test_a_flat_prior_has_no_evidence_but_the_rest():
    model = linear_regression(LinearBasis(), prior=FlatPrior(), likelihood=0.3)
    fits = {g.name: fit(model, g, DATA, epochs=5, optimizer="lbfgs") for g in (Exact, Laplace)}
    table = compare(fits, "exact", X[:3], data=DATA, num_samples=200, resamples=2).evidence
    assert table[["elbo", "iwelbo", "log_evidence"]].isna().all(axis=None)
    assert table[["pareto_k", "elpd_loo"]].notna().all(axis=None)


def test_laplace_has_its_own_evidence_and_layers():
    case = CASES["mlp"]()
    data, options = (case.x, case.y), {"epochs": 30, "optimizer": "lbfgs"}
    fits = {
        "laplace": fit(case.model, Laplace, data, **options),
        "laplace-linearized": fit(case.model, LinearizedLaplace, data, **options),
        "laplace-last-layer": fit(
            case.model, Laplace(case.model, sites="last-layer"), data, **options
        ),
    }
    found = compare(fits, "laplace", case.x, data=data, num_samples=200, resamples=2)
    evidence = found.evidence["log_evidence"]
    assert evidence["laplace"] == fits["laplace"].guide.log_evidence()
    assert np.isnan(evidence["laplace-last-layer"])
    assert list(found.layers.columns) == ["fc1", "fc2", "fc3"]
    assert list(found.layers.index) == ["laplace", "laplace-linearized"]


def test_a_chain_too_short_for_a_bridge_has_no_evidence():
    fits = posteriors()
    few = {n: v[:, :150] for n, v in fits["nuts"].guide.chains.items()}
    stuck = {n: v[:, :1].expand_as(v) for n, v in few.items()}
    fits = {"exact": fits["exact"], "stuck": Posterior(Empirical(fits["nuts"].model, draws=stuck))}
    table = compare(fits, "exact", X[:3], data=DATA, num_samples=200, resamples=2).evidence
    assert np.isnan(table["log_evidence"]["stuck"])


# ------------------------------------------------------------------------------------ which data


def others() -> tuple[Tensor, Tensor]:
    return X, DATA[1] + 1


def test_posteriors_of_different_data_are_not_compared():
    fits = posteriors()
    other = fit(fits["exact"].model, Exact, others())
    with pytest.raises(ValueError, match=r"of the same data; 'b' was fitted to data of digest \w+"):
        compare({"a": fits["exact"], "b": other}, "a", X)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="data must be those that the posteriors were fitted to"):
        compare(posteriors(), "exact", X, data=others())
    with pytest.raises(ValueError, match="data"):
        compare(posteriors(), "exact", X, data=X)


def test_posteriors_that_do_not_know_their_data_are_let_through():
    fits = posteriors()
    unknown = Posterior(fits["mean-field"].guide)
    found = compare(
        {"a": unknown, "b": Posterior(fits["map"].guide)},
        "a",
        X[:3],
        data=others(),
        num_samples=200,
        resamples=2,
    )
    assert np.isfinite(found.evidence["elbo"]["a"])
    with pytest.raises(ValueError, match="data must be those"):
        compare({"a": unknown, "b": fits["map"]}, "a", X, data=others())


def test_the_same_data_in_other_types_are_the_same():
    data = (X.numpy().tolist(), DATA[1].numpy())
    found = compare(posteriors(), "exact", X[:3], data=data, num_samples=200, resamples=2)
    assert found.evidence["elbo"].notna().any()


def test_a_chain_too_short_to_leave_points_out_has_no_elpd():
    draws = {name: chains[:, :30] for name, chains in posteriors()["nuts"].guide.chains.items()}
    few = Posterior(Empirical(posteriors()["map"].model, method="nuts", draws=draws))
    found = compare(
        {"nuts": few, "map": posteriors()["map"]},
        "nuts",
        X,
        data=DATA,
        resamples=20,
        accept_reference=True,
    )
    assert np.isnan(found.evidence["elpd_loo"]["nuts"])


def test_a_fit_that_stopped_short_is_told_from_one_that_has_settled():
    model = posteriors()["exact"].model
    fits = {
        name: fit(
            model, MeanFieldNormal, DATA, epochs=epochs, lr=0.05, schedule="cosine", progress=False
        )
        for name, epochs in {"long": 1000, "short": 3}.items()
    }
    fits["exact"] = posteriors()["exact"]
    found = compare(fits, "exact", X, data=DATA, num_samples=1000, resamples=20)
    step = found.evidence["step_left"]
    assert step["long"] < 0.3 < step["short"]
    assert np.isnan(step["exact"])
    told = [sentence for sentence in recommend(found).changes if "not settled" in sentence]
    assert len(told) == 1
    assert "fit of short" in told[0]
