"""The rules of a recommendation, each on a report made for it, and on real posteriors."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from probml_tp import Delta, Exact, Laplace, MeanFieldNormal, NormalPrior, Posterior, fit
from probml_tp.gap import GapReport, Requirement, compare, recommend
from probml_tp.models import LinearBasis, linear_regression

DISTANCE = Requirement("total_variation", 0.1)
RATIO = Requirement("mutual_information_ratio", 1.25, kind="ratio", about="uncertainty")

Interval = tuple[float, float, float]
FLOOR = {"total_variation": (0.01, 0.0, 0.02), "mutual_information_ratio": (1.0, 0.95, 1.05)}


def report(
    rows: dict[str, dict[str, dict[str, Interval]]],
    *,
    seconds: dict[str, float],
    passes: dict[str, float] | None = None,
    floor: dict[str, Interval] | None = None,
    ess: float = 1000.0,
) -> GapReport:
    """A report with the given intervals: posterior to region to metric to (value, low, high)."""
    regions = list(next(iter(rows.values())))
    rows = {"noise floor": dict.fromkeys(regions, FLOOR | (floor or {})), **rows}
    lines = [
        {"posterior": name, "region": region, "metric": metric, "value": v, "low": lo, "high": hi}
        for name, by_region in rows.items()
        for region, by_metric in by_region.items()
        for metric, (v, lo, hi) in by_metric.items()
    ]
    costs = pd.DataFrame({"seconds": seconds, "r_hat": math.nan, "ess": math.nan})
    costs.loc["nuts", ["r_hat", "ess"]] = 1.0, ess
    if passes:
        costs["forward_passes"] = pd.Series(passes)
    empty = pd.DataFrame()
    return GapReport("nuts", 0.95, empty, pd.DataFrame(lines), empty, costs)


def both(tv: Interval, ratio: Interval) -> dict[str, Interval]:
    return {"total_variation": tv, "mutual_information_ratio": ratio}


GOOD = both((0.02, 0.01, 0.04), (1.05, 0.98, 1.12))
NARROW = both((0.03, 0.01, 0.05), (0.4, 0.3, 0.5))
VAGUE = both((0.09, 0.05, 0.15), (1.0, 0.9, 1.1))
FAR = both((0.3, 0.25, 0.35), (0.1, 0.05, 0.15))


def advise(gap: GapReport):
    return recommend(gap, requirements=(DISTANCE, RATIO))


def verdicts(advice) -> dict[tuple[str, str, str], str]:
    table = advice.table.set_index(["posterior", "region", "requirement"])
    return dict(table["verdict"])


# -------------------------------------------------------------------------------------- rules


def test_the_cheapest_that_meets_everything_is_recommended():
    gap = report(
        {"a": {"all": GOOD}, "b": {"all": GOOD}, "c": {"all": NARROW}},
        seconds={"a": 5.0, "b": 2.0, "c": 1.0, "nuts": 100.0},
    )
    advice = advise(gap)
    assert advice.choice == "b"
    assert advice.qualified == ("b", "a")
    assert not advice.provisional
    assert advice.cost_unit == "seconds"


def test_passes_of_the_net_count_before_seconds_where_all_are_known():
    rows = {"a": {"all": GOOD}, "b": {"all": GOOD}}
    seconds = {"a": 5.0, "b": 2.0, "nuts": 100.0}
    counted = report(rows, seconds=seconds, passes={"a": 10.0, "b": 20.0, "nuts": 1e4})
    assert (advise(counted).choice, advise(counted).cost_unit) == ("a", "forward passes")
    in_part = report(rows, seconds=seconds, passes={"a": 10.0, "b": 0.0, "nuts": 1e4})
    assert (advise(in_part).choice, advise(in_part).cost_unit) == ("b", "seconds")


def test_one_region_is_enough_to_fail_and_the_advice_says_where_it_would_do():
    gap = report({"a": {"all": GOOD, "data": GOOD, "far": NARROW}}, seconds={"a": 1.0, "nuts": 9.0})
    advice = advise(gap)
    assert advice.choice == "nuts"
    assert verdicts(advice)["a", "far", "mutual_information_ratio"] == "fails"
    assert "If only the region data mattered: a." in advice.changes
    assert not any("region far mattered" in line for line in advice.changes)
    assert any("If only predictions mattered" in line for line in advice.changes)


def test_an_interval_across_the_limit_is_open():
    gap = report({"a": {"all": VAGUE}}, seconds={"a": 1.0, "nuts": 9.0})
    advice = advise(gap)
    assert verdicts(advice)["a", "all", "total_variation"] == "open"
    assert (advice.choice, advice.qualified, advice.undecided) == ("nuts", (), ("a",))
    assert any("More draws" in line and "a" in line for line in advice.changes)


def test_a_gap_below_the_noise_floor_is_open_not_failed():
    noisy = {"total_variation": (0.4, 0.3, 0.5)}
    rows = {"a": {"all": both((0.3, 0.25, 0.35), (1.0, 0.9, 1.1))}}
    seconds = {"a": 1.0, "nuts": 9.0}
    key = "a", "all", "total_variation"
    assert verdicts(advise(report(rows, seconds=seconds)))[key] == "fails"
    assert verdicts(advise(report(rows, seconds=seconds, floor=noisy)))[key] == "open"


def test_a_reference_that_costs_least_is_its_own_recommendation():
    gap = report({"a": {"all": GOOD}}, seconds={"a": 10.0, "nuts": 1.0})
    advice = advise(gap)
    assert advice.choice == "nuts"
    assert advice.qualified == ("a",)
    assert any("costs least" in line for line in advice.reasons)


def test_all_is_provisional_on_a_reference_that_has_not_converged():
    gap = report({"a": {"all": GOOD}}, seconds={"a": 1.0, "nuts": 9.0}, ess=50.0)
    advice = advise(gap)
    assert advice.provisional
    assert "provisionally" in str(advice)
    assert any("has converged" in line for line in advice.changes)


def test_the_nearest_is_named_with_the_limit_that_it_would_need():
    gap = report(
        {"near": {"all": NARROW}, "far": {"all": FAR}},
        seconds={"near": 1.0, "far": 1.0, "nuts": 9.0},
    )
    advice = advise(gap)
    nearest = next(line for line in advice.reasons if "comes nearest" in line)
    assert nearest.startswith("near ")
    assert "a factor of 3.33" in nearest  # 1 / 0.3, the worse end of the interval
    needed = advice.table.set_index(["posterior", "requirement"])["needed"]
    assert needed["near", "mutual_information_ratio"] == pytest.approx(1 / 0.3)
    widened = (DISTANCE, Requirement("mutual_information_ratio", 3.4, kind="ratio"))
    assert recommend(gap, requirements=widened).choice == "near"


def test_where_the_reference_is_certain_a_ratio_is_not_required():
    nan = math.nan, math.nan, math.nan
    gap = report({"a": {"all": both((0.01, 0.0, 0.02), nan)}}, seconds={"a": 1.0, "nuts": 9.0})
    assert advise(gap).choice == "a"
    assert len(advise(gap).table) == 1


@pytest.mark.parametrize(
    ("requirement", "interval", "errors"),
    [
        (Requirement("m", 1.0), (0.2, 0.3), (0.2, 0.3)),
        (Requirement("m", 1.0), (0.0, 0.3), (0.0, 0.3)),
        (Requirement("m", 2.0, kind="ratio"), (0.5, 0.8), (1.25, 2.0)),
        (Requirement("m", 2.0, kind="ratio"), (0.5, 4.0), (1.0, 4.0)),
        (Requirement("m", 2.0, kind="ratio"), (0.0, 0.0), (math.inf, math.inf)),
        (Requirement("m", 0.1, kind="share"), (0.85, 0.90), (0.05, 0.10)),
        (Requirement("m", 0.1, kind="share"), (0.90, 1.0), (0.0, 0.05)),
    ],
)
def test_errors_over_an_interval(requirement, interval, errors):
    assert requirement.errors(*interval, level=0.95) == pytest.approx(errors)


def test_unknown_metrics_and_bad_limits_are_refused():
    gap = report({"a": {"all": GOOD}}, seconds={"a": 1.0, "nuts": 9.0})
    with pytest.raises(ValueError, match=r"a metric of the report, .*; got 'w3'\. Leave it out"):
        recommend(gap, requirements=(Requirement("w3", 1.0),))
    with pytest.raises(ValueError, match=r"limit of total_variation .*positive"):
        Requirement("total_variation", 0.0)
    with pytest.raises(ValueError, match=r"a factor above 1; got 0\.8 for epistemic_ratio"):
        Requirement("epistemic_ratio", 0.8, kind="ratio")


# --------------------------------------------------------------------------- real posteriors


@pytest.fixture(scope="module")
def line() -> GapReport:
    """A line whose data lie to one side, so that intercept and slope are correlated."""
    model = linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.3)
    x = torch.linspace(1, 2, 15, dtype=torch.float64).unsqueeze(-1)
    data = x, 0.5 * x.squeeze(-1) - 0.3
    fits: dict[str, Posterior] = {
        "exact": fit(model, Exact, data),
        "laplace": fit(model, Laplace, data, epochs=20, optimizer="lbfgs"),
        "mean-field": fit(model, MeanFieldNormal, data, epochs=1500, progress=False),
        "map": fit(model, Delta, data, epochs=20, optimizer="lbfgs"),
    }
    at = torch.cat([x, torch.tensor([[-3.0], [-2.0]], dtype=torch.float64)])
    far = at[:, 0] < 0
    return compare(fits, "exact", at, regions={"data": ~far, "far": far}, num_samples=4000)


def test_on_a_line_laplace_qualifies_and_mean_field_and_map_do_not(line):
    advice = recommend(line)
    assert "laplace" in advice.qualified
    assert set(advice.qualified).isdisjoint({"mean-field", "map"})
    found = verdicts(advice)
    assert found["mean-field", "far", "epistemic_ratio"] == "fails"
    assert found["map", "data", "epistemic_ratio"] == "fails"


def test_the_text_has_the_choice_first_and_every_sentence(line):
    advice = recommend(line)
    lines = str(advice).splitlines()
    assert lines[0] == f"Use {advice.choice}."
    assert set(advice.reasons) | set(advice.changes) <= set(lines)
