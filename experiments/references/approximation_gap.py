"""How far each posterior is from the truth, whether it matters, and which one to use.

Four problems, from a line to small nets, each with data on two sides of a gap. Every approximation
is held against the exact posterior or converged chains, in its predictions and its weights, by what
needs no reference, and by its cost; what follows from stated limits is a recommendation for each
problem. On the two simplest simulation-based calibration tells which inference is right on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probml_tp.diagnostics import to_inference_data
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.references.gap_problems import DRAWS, PROBLEMS
from probml_tp.experiments.references.sbc_figures import sbc_figures
from probml_tp.experiments.references.sbc_judging import sbc_findings, sbc_table
from probml_tp.experiments.references.sbc_study import SbcSize, run_sbc, sbc_arrays
from probml_tp.gap import UnconvergedReferenceError
from probml_tp.gap.page import TITLE, overview, page_arrays, page_figures
from probml_tp.gap.study import Comparison, GapStudy, study_gap
from probml_tp.gap.tables import evidence_table, limits_table, predictions_table, weights_table
from probml_tp.harness.config import ExperimentConfig, option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Figure, Progress, Results, Table
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks

NAME = "approximation-gap"
NAMES = tuple(PROBLEMS)


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    problems: tuple[str, ...] = option(NAMES, "Which problems.", choices=NAMES)
    epochs: int = knob("epochs", 2000, quick=150, full=10_000)
    draws: int | None = knob("draws", None, quick=50, full=4000, remark="Default: by problem.")
    warmup: int = knob("warmup", 200, quick=50, full=1000)
    accept_reference: bool = option(False, "Allow unconverged references.", quick=True)
    num_samples: int = knob("num_samples", 1000, quick=100, full=4000, minimum=100)
    resamples: int = knob("resamples", 100, quick=20, full=1000, minimum=20)
    simulations: int = option(60, "Data sets of the ranks.", quick=8, full=1000, minimum=4)
    nuts_simulations: int = option(12, "Of these with NUTS.", quick=4, full=200, minimum=4)
    rank_draws: int = option(19, "Draws to rank the truth among.", full=39, minimum=4)
    jobs: int | None = knob("jobs", None)

    @property
    def sbc(self) -> SbcSize:
        """How much of simulation-based calibration is run."""
        return SbcSize(self.simulations, self.nuts_simulations, self.rank_draws)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Study each problem, then calibrate by simulation."""
    comparison = Comparison(
        num_samples=config.num_samples,
        resamples=config.resamples,
        accept_reference=config.accept_reference,
    )
    studies: list[GapStudy] = []
    refused: dict[str, str] = {}
    for name in config.problems:
        size: Any = {n: getattr(config, n) for n in ("epochs", "warmup", "seed")}
        problem = PROBLEMS[name](draws=config.draws or DRAWS[name], **size)
        with progress.stage(f"fit and compare {name}") as update:
            try:
                study = study_gap(problem, comparison=comparison, seed=config.seed, update=update)
                studies.append(study)
            except UnconvergedReferenceError as error:
                refused[problem.title] = str(error)
    if not studies:
        raise UnconvergedReferenceError(" ".join(refused.values()))
    calibration = run_sbc(config.sbc, jobs=config.jobs, seed=config.seed, progress=progress)
    points = (f"{s.problem.title}: {len(s.problem.data[0])} points" for s in studies)
    results = Results(
        NAME,
        TITLE,
        config,
        limits_table(studies, MAIN_TABLE),
        findings=[],
        data_source="; ".join(points),
        arrays=page_arrays(studies) | sbc_arrays(calibration),
        tables=[*_tables(studies), sbc_table(calibration)],
    )
    for study in studies:
        name, data = study.problem.name, study.problem.data
        results.posteriors |= {f"{name}-{guide}": p for guide, p in study.posteriors.items()}
        if nuts := study.posteriors.get("nuts"):
            results.inference_data[f"{name}-nuts"] = to_inference_data(nuts, *data)
    left_out = [f"{title} is left out. {reason}" for title, reason in refused.items()]
    results.findings = [*overview(studies), *left_out, *sbc_findings(results)]
    return results


def _tables(studies: list[GapStudy]) -> Iterator[Table]:
    for study in studies:
        yield predictions_table(study)
        yield evidence_table(study)
        if study.problem.identified:
            yield weights_table(study)


def figures(results: Results[Config]) -> Iterator[Figure]:
    """Draw what each problem showed, and the ranks."""
    yield from page_figures(results.arrays)
    yield from sbc_figures(results.arrays)


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
