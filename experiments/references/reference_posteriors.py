r"""Every guide against posteriors of known moments: eight schools, rats, the funnel and more.

An approximation is judged by its moments, quantity by quantity: the error of the mean in units of
the true standard deviation, and its standard deviation over the true one. The answers are in closed
form, by quadrature or of two samplers that agree; see :mod:`probml_tp.diagnostics.references`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from probml_tp.diagnostics import StepLeft, moment_errors, reference_posterior, step_left
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.references.moment_panels import moments_figure
from probml_tp.guides import Delta, Laplace, LowRankNormal, MeanFieldNormal
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    SavesNetcdf,
    Table,
    option,
)
from probml_tp.inference import GuideFactory, fit, sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import HALF_WIDTH, labels_of
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.models import CLASSICS, Classic
from probml_tp.plots.style import guide_style
from probml_tp.posterior import Posterior

NAME = "reference-posteriors"
POSTERIORS = tuple(CLASSICS)
GUIDES = ("map", "laplace", "mean-field", "low-rank-normal", "nuts")
FAST = (
    "dugongs-line",
    "breast-cancer",
    "dugongs",
    "eight-schools-noncentered",
    "eight-schools-centered",
    "funnel",
)
QUICK = ("dugongs-line", "eight-schools-noncentered", "eight-schools-centered")
HARD = ("eight-schools-centered", "funnel")
"""Where NUTS fails by the geometry: a dense metric, adapted to it, only makes it slow."""
WITHOUT_MODE = ("rats", "eight-schools-centered")
STEP = {"rats": 4e-3, "gaussian-process": 3e-3}
"""Seconds of a variational step, where it is not two milliseconds."""
TRANSITION = {
    "dugongs-line": 2e-3,
    "breast-cancer": 2e-3,
    "gaussian-process": 8e-3,
    "rats": 2e-2,
    "eight-schools-centered": 8e-3,
    "funnel": 1e-2,
}
"""Seconds of a transition of NUTS, where it is not four milliseconds."""
HEADINGS = {
    "error": "Largest error of a mean, in true standard deviations",
    "narrowest": "Smallest standard deviation over the true one",
    "widest": "Largest standard deviation over the true one",
}
LEFT = "Step left to the optimum of the guide's own kind, in its standard deviations"
VARIATIONAL = ("mean-field", "low-rank-normal")
Errors = Mapping[str, Mapping[str, pd.DataFrame]]
Steps = Mapping[str, Mapping[str, StepLeft]]


@dataclass(frozen=True)
class Start:
    """How the variational fits of a posterior begin."""

    scale: float = 0.3
    rate: float = 1.0
    mode: bool = False
    search: int = 0


STARTS = {
    "dugongs-line": Start(0.02, rate=0.4, mode=True),
    "breast-cancer": Start(0.3, mode=True),
    "dugongs": Start(0.1, mode=True),
    "rats": Start(0.1, search=300),
    "gaussian-process": Start(0.3, mode=True),
    "eight-schools-noncentered": Start(1.0, rate=2.0),
    "eight-schools-centered": Start(0.2, rate=2.0),
    "funnel": Start(0.5),
}


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    posteriors: tuple[str, ...] = option(
        POSTERIORS, "Which posteriors.", choices=POSTERIORS, quick=QUICK
    )
    guides: tuple[str, ...] = option(GUIDES, "Which guides.", choices=GUIDES)
    epochs: int = option(
        1000, "Steps of the variational fits, on all data.", quick=600, full=10_000, minimum=1
    )
    lr: float = option(
        0.05,
        "First learning rate (Adam, cosine), times the posterior's.",
        minimum=1e-5,
    )
    rank: int = option(2, "Columns of the low-rank normal's factor.", minimum=1, maximum=2)
    num_samples: int = option(4000, "Draws of each guide that its moments are of.", minimum=4)
    nuts_on: tuple[str, ...] = option(
        FAST, "Which posteriors NUTS samples.", choices=POSTERIORS, quick=QUICK, full=POSTERIORS
    )
    nuts_samples: int = option(600, "Draws kept of each chain.", quick=300, full=4000, minimum=10)
    nuts_warmup: int = option(300, "Warm-up steps of each.", quick=150, full=2000, minimum=10)
    nuts_chains: int = option(2, "NUTS chains.", full=4, minimum=2)
    target_accept: float = option(0.9, "Acceptance that NUTS aims at.", minimum=0.5, maximum=0.999)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to every posterior, and hold its moments against the known ones."""
    errors: dict[str, dict[str, pd.DataFrame]] = {}
    refused: dict[str, dict[str, str]] = {}
    divergences: dict[str, int] = {}
    posteriors: dict[str, Posterior] = {}
    records: dict[str, SavesNetcdf] = {}
    left: dict[str, dict[str, StepLeft]] = {}
    for name in config.posteriors:
        classic = CLASSICS[name]()
        errors[name], refused[name], left[name] = {}, {}, {}
        guides = [g for g in config.guides if g != "nuts" or name in config.nuts_on]
        with progress.stage(name) as update:
            for done, guide in enumerate(guides):
                update(done, len(guides), guide)
                try:
                    posterior = _fit(guide, classic, config, posteriors.get(f"{name}-map"))
                except ValueError as error:
                    refused[name][guide] = str(error)
                    continue
                posteriors[f"{name}-{guide}"] = posterior
                records[f"{name}-{guide}"] = posterior.to_inference_data(*classic.data)
                errors[name][guide] = moment_errors(
                    posterior,
                    reference_posterior(name),
                    quantities=classic.quantities,
                    num_samples=config.num_samples,
                )
                if guide in VARIATIONAL:
                    left[name][guide] = step_left(posterior, classic.data, seed=config.seed)
                if guide == "nuts":
                    divergences[name] = int(np.sum(posterior.info.sampler["diverging"]))
    tables = [_table(key, errors) for key in HEADINGS]
    if any(left.values()):
        tables.append(_steps_table(left))
    return Results(
        experiment=NAME,
        title="Posteriors with known answers",
        config=config,
        main=Table(
            MAIN_TABLE, HEADINGS["error"], tables[0].metrics, tables[0].columns, tables[0].intervals
        ),
        findings=_findings(config, errors, left, refused, divergences),
        data_source="; ".join(f"{name}: {CLASSICS[name]().source}" for name in config.posteriors),
        arrays=_arrays(errors),
        posteriors=dict(posteriors),
        inference_data=records,
        tables=tables[1:],
    )


def _fit(guide: str, classic: Classic, config: Config, mode: Posterior | None) -> Posterior:
    """One guide; Laplace around the mode found before, or one found here."""
    model, data, seed = classic.model, classic.data, config.seed
    if guide == "nuts":
        return sample_nuts(
            model, data, num_samples=config.nuts_samples, warmup=config.nuts_warmup,
            chains=config.nuts_chains, target_accept=config.target_accept, seed=seed,
            mass_matrix="diagonal" if classic.name in HARD else "dense", progress=False,
        )  # fmt: skip
    with single_thread():
        one = partial(fit, model, data=data, seed=seed, progress=False)
        if guide in ("map", "laplace"):
            mode = mode or one(Delta, epochs=10, optimizer="lbfgs")
            if guide == "map":
                return mode
            return one(partial(Laplace, curvature="hessian"), init=mode, epochs=0)
        start = STARTS[classic.name]
        lr = config.lr * start.rate
        made: dict[str, GuideFactory] = {
            "mean-field": partial(MeanFieldNormal, init_scale=start.scale),
            "low-rank-normal": partial(LowRankNormal, rank=config.rank, init_scale=start.scale),
        }
        init = None
        if start.mode:
            init = mode or one(Delta, epochs=10, optimizer="lbfgs")
        if start.search:
            search = partial(one, epochs=start.search, lr=10 * lr, schedule="cosine")
            init = search(made["mean-field"])
        return one(made[guide], epochs=config.epochs, lr=lr, schedule="cosine", init=init)


def _summaries(found: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """The worst quantities, each with its standard error."""
    worst = found["mean_error"].abs().idxmax()
    low, high = found["sd_ratio"].idxmin(), found["sd_ratio"].idxmax()
    return {
        "error": (abs(found["mean_error"][worst]), found["mean_error_se"][worst]),
        "narrowest": (found["sd_ratio"][low], found["sd_ratio_se"][low]),
        "widest": (found["sd_ratio"][high], found["sd_ratio_se"][high]),
    }


def _table(key: str, errors: Errors) -> Table:
    metrics: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for name, guides in errors.items():
        metrics[name], intervals[name] = {}, {}
        for guide, found in guides.items():
            value, se = _summaries(found)[key]
            if not np.isfinite(value):  # of a point at which a derived quantity is infinite
                continue
            metrics[name][guide] = float(value)
            if se > 0:
                ends = (max(0.0, float(value - HALF_WIDTH * se)), float(value + HALF_WIDTH * se))
                intervals[name][guide] = ends
    used = [guide for guide in GUIDES if any(guide in row for row in metrics.values())]
    columns = {guide: guide_style(guide).label for guide in used}
    return Table(HEADINGS[key], "Posterior", metrics, columns, intervals)


def _steps_table(left: Steps) -> Table:
    metrics = {n: {g: step.value for g, step in row.items()} for n, row in left.items()}
    intervals = {
        n: {
            g: (max(0.0, step.value - HALF_WIDTH * step.se), step.value + HALF_WIDTH * step.se)
            for g, step in row.items()
        }
        for n, row in left.items()
    }
    used = [guide for guide in VARIATIONAL if any(guide in row for row in left.values())]
    columns = {guide: guide_style(guide).label for guide in used}
    return Table(LEFT, "Posterior", metrics, columns, intervals)


def _arrays(errors: Errors) -> dict[str, np.ndarray]:
    return {
        f"{name}.{guide}.{column}": found[column].to_numpy()
        for name, guides in errors.items()
        for guide, found in guides.items()
        for column in found.columns
    }


# -------------------------------------------------------------------------------------- findings


def _findings(
    config: Config,
    errors: Errors,
    left: Steps,
    refused: Mapping[str, Mapping[str, str]],
    divergences: Mapping[str, int],
) -> list[str]:
    found = [_overall(guide, errors) for guide in config.guides]
    sentences = [sentence for sentence in found if sentence]
    sentences += _settled(left)
    for name, count in divergences.items():
        table = errors[name]["nuts"]
        off = int((table["mean_error"].abs() > 5 * table["mean_error_se"]).sum())
        if count or off:
            sentences.append(
                f"NUTS on {name} had {count} divergent transitions, and the means of {off} of "
                f"{len(table)} quantities are off by more than five standard errors."
            )
    sentences += [
        f"{labels_of([guide])} of {name} is refused{_why(name)}: {reason}"
        for name, guides in refused.items()
        for guide, reason in guides.items()
    ]
    return sentences


def _why(name: str) -> str:
    if name not in WITHOUT_MODE:
        return ""
    return (
        ", for there is no mode to expand around (the joint density grows without bound where the "
        "members of a group coincide and its scale goes to 0; the point where the search for a "
        "mode stopped has no meaning)"
    )


def _settled(left: Steps) -> Iterator[str]:
    """Which variational fits would still move, and by how much."""
    steps = [(name, guide, step) for name, row in left.items() for guide, step in row.items()]
    moving = [found for found in steps if not found[2].is_settled]
    for name, guide, step in moving:
        yield (
            f"{labels_of([guide])} on {name} has not settled: a Newton step would still move a "
            f"mean or a log standard deviation by {step.value:.2f} of its own standard deviations "
            f"(standard error {step.se:.2f}). Its errors are those of a short fit, not of its kind."
        )
    if steps and not moving:
        name, guide, step = max(steps, key=lambda found: found[2].value)
        yield (
            f"All {len(steps)} variational fits have settled, to {step.value:.2f} of their own "
            f"standard deviations at most ({labels_of([guide])} on {name}). That is a stationary "
            f"point of the evidence lower bound, not always its highest."
        )


def _overall(guide: str, errors: Errors) -> str | None:
    """Over which range the errors of a guide spread, by posterior."""
    tables = {name: _summaries(row[guide]) for name, row in errors.items() if guide in row}
    if not tables:
        return None
    finite = {n: t for n, t in tables.items() if np.isfinite(t["error"][0])}
    tables = finite or tables
    worst = max(tables, key=lambda name: tables[name]["error"][0])
    best = min(tables, key=lambda name: tables[name]["error"][0])
    narrow = min(tables, key=lambda name: tables[name]["narrowest"][0])
    text = (
        f"{labels_of([guide])}: the mean furthest off is {tables[best]['error'][0]:.2f} true "
        f"standard deviations from the truth on {best}"
    )
    if worst != best:
        text += f", {tables[worst]['error'][0]:.2f} on {worst}"
    if guide == "map":
        return f"{text}; it is a point, without a spread."
    return (
        f"{text}; its narrowest marginal has {tables[narrow]['narrowest'][0]:.2f} times the true "
        f"standard deviation, on {narrow}."
    )


# --------------------------------------------------------------------------------------- figures


def figures(results: Results[Config]) -> Iterator[Figure]:
    """Draw the errors of every quantity."""
    config, arrays = results.config, results.arrays
    made = moments_figure(arrays, posteriors=config.posteriors, guides=config.guides)
    caption = (
        "A point is a scalar quantity of a posterior. Left: the error of its mean in units of its "
        "true standard deviation. Right: its standard deviation over the true one, on a log axis; "
        "left of 1 is overconfident. Values past the axis stand at its edge. Wrong by known "
        "reasons: MAP has no spread and is left out on the right; independent normals are too "
        "narrow where parameters are correlated."
    )
    yield Figure("moment-errors", _title(results), caption, made)


def _title(results: Results[Config]) -> str:
    rows = results.tables[0].metrics
    narrow = {
        guide: float(np.median([row[guide] for row in rows.values() if guide in row]))
        for guide in results.config.guides
        if guide != "map" and any(guide in row for row in rows.values())
    }
    if not narrow:
        return "How far the means are from the true ones"
    said = ", ".join(f"{labels_of([guide])} {value:.2f}" for guide, value in narrow.items())
    return f"Narrowest marginal over the true one, median over the posteriors: {said}"


EXPERIMENT = with_posterior_checks(
    Experiment(
        name=NAME,
        summary=EXPERIMENTS.summary(NAME),
        config=Config,
        run=run,
        figures=figures,
    )
)
