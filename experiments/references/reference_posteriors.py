r"""Every guide against posteriors of known moments: eight schools, rats, the funnel and more.

An approximation is judged by its moments, quantity by quantity: the error of the mean in units of
the true standard deviation, and its standard deviation over the true one. The answers are in closed
form, by quadrature or of two samplers that agree; see :mod:`probml_tp.diagnostics.references`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probml_tp.diagnostics import StepLeft, moment_errors, reference_posterior, step_left
from probml_tp.experiments import EXPERIMENTS
from probml_tp.guides.recipes import Chains, FitSettings, Stage, fit_all, guides_for
from probml_tp.harness.config import ExperimentConfig, option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Figure, Progress, Results, Table
from probml_tp.kit.common import HALF_WIDTH, Array, labels_of
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import BestWorst, Finding, tell, together
from probml_tp.models import CLASSICS, Classic
from probml_tp.plots.style import figure, guide_style, house_style, shared_legend
from probml_tp.posterior import Posterior

NAME = "reference-posteriors"
POSTERIORS = tuple(CLASSICS)
NORMALS = guides_for(families=["normal"])
GUIDES = guides_for(without=("laplace-diagonal", "ensemble"))
FAST = tuple(name for name in POSTERIORS if name not in ("rats", "gaussian-process"))
QUICK = ("dugongs-line", "eight-schools-noncentered", "eight-schools-centered")
HARD = ("eight-schools-centered", "funnel")
"""Where NUTS fails by the geometry: a dense metric, adapted to it, only makes it slow."""
WITHOUT_MODE = ("rats", "eight-schools-centered")
WHY = (
    ", for there is no mode to expand around (the joint density grows without bound where the "
    "members of a group coincide and its scale goes to 0)"
)
ERROR = "Largest error of a mean, in true standard deviations"
NARROWEST = "Smallest standard deviation over the true one"
WIDEST = "Largest standard deviation over the true one"
LEFT = "Step left to the optimum of the guide's own kind, in its standard deviations"


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
    guides: tuple[str, ...] = knob("guides", GUIDES, choices=GUIDES)
    epochs: int = knob("epochs", 1000, quick=600, full=10_000)
    lr: float = knob("lr", 0.05, remark="Times the posterior's own.")
    rank: int = knob("rank", 2, minimum=1, maximum=2)
    num_samples: int = knob("num_samples", 4000, minimum=4)
    nuts_on: tuple[str, ...] = option(
        FAST,
        "Which posteriors NUTS samples.",
        choices=POSTERIORS,
        quick=QUICK[:2],
        full=POSTERIORS,
    )
    draws: int = knob("draws", 400, quick=150, full=4000)
    warmup: int = knob("warmup", 200, quick=75, full=2000, minimum=10)
    chains: int = knob("chains", 2, full=4)
    target_accept: float = knob("target_accept", 0.9)


def _how(name: str, config: Config) -> FitSettings:
    """The settings of the fits of one posterior."""
    start = STARTS[name]
    chains = Chains.of(config, mass_matrix="diagonal" if name in HARD else "dense")
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr * start.rate,
        rounds=10,
        init_scale=start.scale,
        rank=config.rank,
        curvature="hessian",
        from_mode=("normal",) if start.mode else (),
        chains=chains,
        seed=config.seed,
    )


def _fits(
    classic: Classic, config: Config, stage: Stage, refused: dict[str, str]
) -> dict[str, Posterior]:
    """Every guide of a posterior; normals perhaps from a short search for their centre."""
    guides = [g for g in config.guides if g != "nuts" or classic.name in config.nuts_on]
    how, search = _how(classic.name, config), STARTS[classic.name].search
    fit = partial(fit_all, model=classic.model, data=classic.data, stage=stage, refused=refused)
    normals = [guide for guide in guides if guide in NORMALS and search]
    found = fit([guide for guide in guides if guide not in normals], how=how)
    if normals:
        rough = fit(["mean-field"], how=replace(how, epochs=search, lr=10 * how.lr))["mean-field"]
        there = replace(how, from_mode=("normal",))
        begun = fit(normals, how=there, given={"map": rough})
        found |= {guide: begun[guide] for guide in normals if guide in begun}
    return {guide: found[guide] for guide in GUIDES if guide in found and guide in guides}


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to every posterior, and hold its moments against the known ones."""
    results = Results(
        NAME,
        "Posteriors with known answers",
        config,
        Table(MAIN_TABLE, ERROR),
        findings=[],
        data_source="; ".join(f"{name}: {CLASSICS[name]().source}" for name in config.posteriors),
        tables=[Table(title, "Posterior") for title in (NARROWEST, WIDEST, LEFT)],
    )
    said: list[str] = []
    left: dict[str, StepLeft] = {}
    for name in config.posteriors:
        classic, refused = CLASSICS[name](), dict[str, str]()
        with progress.stage(name) as update:
            fits = _fits(classic, config, lambda _: nullcontext(update), refused)
            for guide, posterior in fits.items():
                key = f"{name}-{guide}"
                results.posteriors[key] = posterior
                results.inference_data[key] = posterior.to_inference_data(*classic.data)
                asked: Any = {"quantities": classic.quantities, "num_samples": config.num_samples}
                errors = moment_errors(posterior, reference_posterior(name), **asked)
                _put(results, name, guide, errors)
                if posterior.guide.is_variational_normal:
                    step = step_left(posterior, classic.data, seed=config.seed)
                    _put_one(results.tables[2], name, guide, step.value, step.se)
                    left[f"{labels_of([guide])} on {name}"] = step
                if guide == "nuts":
                    said += _divergences(name, posterior, errors)
        why = WHY if name in WITHOUT_MODE else ""
        said += [f"{labels_of([g])} of {name} is refused{why}: {r}" for g, r in refused.items()]
    for table in results.all_tables:
        used = [guide for guide in GUIDES if table.column(guide)]
        table.columns = {guide: guide_style(guide).label for guide in used}
    if not left:
        results.tables.pop()
    results.findings = [*tell(map(_overall, GUIDES), results), *_settled(left), *said]
    return results


def _put(results: Results[Any], name: str, guide: str, errors: pd.DataFrame) -> None:
    """Enter the worst quantities, each with its standard error, and keep all for the figure."""
    narrowest, widest, _ = results.tables
    for table, column, at in (
        (results.main, "mean_error", errors["mean_error"].abs().idxmax()),
        (narrowest, "sd_ratio", errors["sd_ratio"].idxmin()),
        (widest, "sd_ratio", errors["sd_ratio"].idxmax()),
    ):
        _put_one(table, name, guide, abs(errors[column][at]), errors[f"{column}_se"][at])
    for column in ("mean_error", "sd_ratio"):
        results.arrays[f"{name}.{guide}.{column}"] = errors[column].to_numpy()


def _put_one(table: Table, name: str, guide: str, value: float, se: float) -> None:
    """Enter a number of at least 0 with its interval, but not that of a point where it is inf."""
    if np.isfinite(value):
        ends = max(0.0, value - HALF_WIDTH * se), value + HALF_WIDTH * se
        table.put(name, {guide: value}, {guide: ends} if se > 0 else None)


def _overall(guide: str) -> Finding:
    """Over which range the errors of a guide spread, by posterior."""
    label = labels_of([guide])
    off = f"{label}: the mean furthest off is {{value}} true standard deviations from the truth on "
    form = partial(BestWorst, guide, write="{:.2f}".format, name=str)
    spread = "its narrowest marginal has {value} times the true standard deviation, on {best}."
    if guide in guides_for(families=["point"]):
        spread = "it is a point, without a spread."
    return together(
        form(f"{off}{{best}}, {{last}} on {{worst}}", alone=f"{off}{{best}}"),
        form(spread, table=NARROWEST),
        joint="; ",
    )


def _settled(left: dict[str, StepLeft]) -> Iterator[str]:
    """Which variational fits would still move, and by how much."""
    moving = {fit: step for fit, step in left.items() if not step.is_settled}
    for fit, step in moving.items():
        yield (
            f"{fit} has not settled: a Newton step would still move a mean or a log standard "
            f"deviation by {step.value:.2f} of its own standard deviations (standard error "
            f"{step.se:.2f})."
        )
    if left and not moving:
        most = max(left, key=lambda fit: left[fit].value)
        yield (
            f"All {len(left)} variational fits have settled, to {left[most].value:.2f} of their "
            f"own standard deviations at most ({most})."
        )


def _divergences(name: str, nuts: Posterior, errors: pd.DataFrame) -> list[str]:
    """Where chains are wrong, by their divergences or by the known moments."""
    count = int(np.sum(nuts.info.sampler["diverging"]))
    off = int((errors["mean_error"].abs() > 5 * errors["mean_error_se"]).sum())
    text = (
        f"NUTS on {name} had {count} divergent transitions, and the means of {off} of "
        f"{len(errors)} quantities are off by more than five standard errors."
    )
    return [text] if count or off else []


@house_style()
def figures(results: Results[Config]) -> list[Figure]:
    """Draw errors of means on the left, ratios of standard deviations on the right."""
    names, guides = results.config.posteriors, results.config.guides
    made, ((left, right),) = figure(1, 2, height=1.35 + 0.55 * len(names), sharey=True)
    left.set(xlabel="Error of the mean (true standard deviations)", xlim=(-3, 3))
    right.set(xlabel="Standard deviation over the true one", xscale="log", xlim=(0.1, 10))
    for ax, column, truth in ((left, "mean_error", 0), (right, "sd_ratio", 1)):
        for place, name in enumerate(names):
            own = {g: results.arrays.get(f"{name}.{g}.{column}") for g in guides}
            _dots({g: v for g, v in own.items() if v is not None and v.any()}, place, guides, ax)
        ax.axvline(truth, color="black", linewidth=1)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    shared_legend(made, (left, right))
    caption = (
        "A point is a scalar quantity of a posterior: left, the error of its mean in units of its "
        "true standard deviation; right, its standard deviation over the true one, where left of 1 "
        "is overconfident. Values past the axis stand at its edge; MAP has no spread."
    )
    return [Figure("moment-errors", _title(results), caption, made)]


def _dots(values: Mapping[str, Array], place: int, guides: tuple[str, ...], ax: Axes) -> None:
    """A dot for each quantity of a posterior, guides one below the other."""
    if place:
        ax.axhline(place - 0.5, color="#c9ccd1", linewidth=0.7)
    for guide, value in values.items():
        look, shift = guide_style(guide), (guides.index(guide) + 0.5) / len(guides) - 0.5
        ax.plot(
            np.clip(value, *ax.get_xlim()), np.full(len(value), place + 0.72 * shift),
            look.marker, color=look.color, label=look.label, markersize=4, alpha=0.75,
            markeredgewidth=0, clip_on=False,
        )  # fmt: skip


def _title(results: Results[Config]) -> str:
    narrowest = results.tables[0]
    columns = {labels_of([guide]): narrowest.column(guide) for guide in narrowest.columns}
    narrow = {guide: np.median([*column.values()]) for guide, column in columns.items()}
    said = ", ".join(f"{guide} {value:.2f}" for guide, value in narrow.items() if value)
    return f"Narrowest marginal over the true one, median over the posteriors: {said or 'none'}"


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
