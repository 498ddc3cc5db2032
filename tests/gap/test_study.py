"""The study of one problem: what is fitted in which order, and what its page says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probml_tp.gap import UnconvergedReferenceError
from probml_tp.gap.page import overview, page_arrays, page_figures, page_findings
from probml_tp.gap.study import Comparison, GapProblem, GapStudy, study_gap
from probml_tp.gap.tables import (
    evidence_table,
    limits_table,
    predictions_table,
    weights_table,
)
from probml_tp.guides.recipes import Chains, FitSettings, SwagPath
from probml_tp.harness.experiment import no_update
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.priors import NormalPrior

X = torch.linspace(1, 3, 20, dtype=torch.float64).unsqueeze(-1)
DATA = X, X.squeeze(-1) + 0.2 * torch.cos(9 * X.squeeze(-1))
GRID = torch.linspace(-3, 7, 30, dtype=torch.float64).unsqueeze(-1)
INSIDE = ((GRID > 1) & (GRID < 3)).squeeze(-1)
PROBLEM = GapProblem(
    name="line",
    title="A line",
    model=linear_regression(LinearBasis(), prior=NormalPrior(2.0), likelihood=0.2),
    data=DATA,
    x=GRID,
    regions={"data": INSIDE, "far": ~INSIDE},
    guides=("map", "laplace", "mean-field", "exact"),
    how=FitSettings(
        epochs=400,
        lr=0.05,
        rounds=3,
        init_scale=0.1,
        from_mode=("mean-field",),
        swag=SwagPath(lr=0.1, epochs=1, batch_size=1),
    ),
    reference="exact",
    identified=True,
)
COMPARISON = Comparison(num_samples=2000, resamples=50)


@pytest.fixture(scope="module")
def study() -> GapStudy:
    return study_gap(PROBLEM, comparison=COMPARISON, seed=0, update=no_update)


def test_starts_come_first_then_the_reference():
    assert PROBLEM.order() == ["exact", "map", "laplace", "mean-field"]
    chains = replace(PROBLEM, reference="nuts", guides=("mean-field", "nuts"))
    assert chains.order() == ["nuts", "map", "mean-field"]
    started = replace(chains, how=replace(chains.how, chains=Chains(start="laplace")))
    assert started.order() == ["map", "laplace", "nuts", "mean-field"]


def test_what_is_given_needs_no_start():
    given = replace(PROBLEM, guides=("laplace", "exact"))
    assert given.order(["laplace"]) == ["exact"]


def test_progress_grows_to_its_end():
    told: list[tuple[int, int, str]] = []
    study_gap(PROBLEM, comparison=COMPARISON, seed=0, update=lambda *step: told.append(step))
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert any(message.startswith("mean-field") for *_, message in told)


def test_a_guide_that_refuses_takes_those_that_start_from_it_along():
    away = replace(PROBLEM.how, rounds=None, lrs={"map": 1e200})  # out of the real numbers
    problem = replace(PROBLEM, how=replace(away, from_mode=()))
    found = study_gap(problem, comparison=COMPARISON, tolerant=True, seed=0, update=no_update)
    assert list(found.posteriors) == ["mean-field", "exact"]
    assert found.refused["laplace"] == "it starts from map, which was refused"
    assert any("MAP is left out, because" in sentence for sentence in page_findings(found))
    with pytest.raises(ValueError, match=r"all refuse the model. map: .*laplace: it starts from"):
        study_gap(
            replace(problem, how=away), comparison=COMPARISON, tolerant=True, seed=0,
            update=no_update,
        )  # fmt: skip


def test_chains_that_have_not_converged_are_refused():
    problem = replace(
        PROBLEM,
        guides=("map", "nuts"),
        reference="nuts",
        how=replace(PROBLEM.how, chains=Chains(chains=2, draws=20, warmup=5)),
    )
    with pytest.raises(UnconvergedReferenceError, match="'nuts' has"):
        study_gap(problem, comparison=COMPARISON, seed=0, update=no_update)


def test_the_advice_is_the_reference_where_it_costs_least(study):
    assert study.advice.choice == "exact"
    assert study.advice.qualified == ("laplace",)


def test_predictions_have_the_floor_the_regions_and_intervals(study):
    table = predictions_table(study)
    assert table.rows == ["noise floor", "map", "laplace", "mean-field"]
    assert set(table.columns) == {
        f"{metric}.{region}"
        for metric in ("w2", "epistemic_ratio", "function_coverage", "target_coverage")
        for region in ("data", "far")
    }
    ratio = table["mean-field", "epistemic_ratio.data"]
    assert table.ends("epistemic_ratio.data")["mean-field"][0] < ratio
    assert table["map", "epistemic_ratio.far"] == 0


def test_weights_show_what_is_too_narrow_by_the_closed_form(study):
    x = torch.cat([torch.ones_like(X), X], 1)
    precision = x.T @ x / 0.2**2 + torch.eye(2, dtype=torch.float64) / 2.0**2
    expected = (1 / precision.diag() / precision.inverse().diag()).tolist()  # both the same
    table = weights_table(study)
    for site in PROBLEM.model.sites:
        found = table["mean-field", f"{site}.variance_ratio"]
        assert found == pytest.approx(np.mean(expected), rel=0.2)


def test_evidence_and_costs_are_finite_or_left_out(study):
    table = evidence_table(study)
    assert ("map", "elbo") not in table
    assert table["exact", "log_evidence"] == pytest.approx(
        table["laplace", "log_evidence"], abs=1e-6
    )
    low, high = table.ends("elbo")["mean-field"]
    assert low < table["mean-field", "elbo"] < high
    assert table["mean-field", "forward_passes"] > 400  # the mode that it starts from too


def test_limits_count_what_is_shown_to_be_met(study):
    table = limits_table([study], "Limits")
    assert table["laplace", "line"] == 6
    assert "of 6" in table.columns["line"]
    verdicts = study.advice.table
    met = verdicts[(verdicts["posterior"] == "map") & (verdicts["verdict"] == "meets")]
    assert table["map", "line"] == len(met)


def test_findings_say_what_and_why_and_what_no_reference_would_have_told(study):
    findings = page_findings(study)
    assert findings[0] == "Use exact."
    assert any(finding.startswith("Without a reference one would choose") for finding in findings)
    several = overview([study, replace(study, problem=replace(PROBLEM, title="Another"))])
    assert several[-1].startswith("Required in every region: coverage of targets to 2 points")
    assert any(finding.startswith("Another: Use exact.") for finding in several)


def test_figures_are_drawn_from_saved_arrays(study, tmp_path):
    np.savez(tmp_path / "a.npz", allow_pickle=False, **page_arrays([study]))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        made = list(page_figures({name: archive[name] for name in archive.files}))
    assert [f.name for f in made] == ["verdicts", "gap", "weights", "k-hat", "evidence"]
    assert "Exact" in made[0].title
    other = replace(study, problem=replace(PROBLEM, name="other", identified=False))
    names = [f.name for f in page_figures(page_arrays([study, other]))]
    assert names == [
        "verdicts", "gap-line", "weights-line", "k-hat-line", "evidence-line",
        "gap-other", "k-hat-other", "evidence-other",
    ]  # fmt: skip
