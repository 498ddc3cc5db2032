"""What each criterion of a model chooses, how well it ranks the others, and what that costs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from scipy.stats import spearmanr

from probml_tp.datasets import sine_data
from probml_tp.experiments.lines import evidence_curves as curves
from probml_tp.experiments.lines.evidence_curves import CRITERIA, Candidate
from probml_tp.experiments.lines.kit import Data, RegressionConfig, put_mean
from probml_tp.harness.config import option
from probml_tp.harness.experiment import Figure, Results, Table, Update
from probml_tp.kit.common import Array, derived_seed
from probml_tp.kit.knobs import knob
from probml_tp.kit.sentences import Gap
from probml_tp.metrics.over_runs import paired_seeds
from probml_tp.models import GaussianBasis, PolynomialBasis
from probml_tp.plots.style import figure, house_style, number, shared_legend
from probml_tp.quiet_arviz import az

CHOICE = "model choice"
"""The stage, and the prefix of its arrays."""

CHOOSES = "What each criterion chooses"
"""What the title of the first table begins with."""

FAMILIES = {
    "degree": "degree of the polynomial",
    "bumps": "number of Gaussian bumps",
    "alpha": "prior precision α",
    "beta": "noise precision β",
}
LOOKS: dict[str, dict[str, Any]] = {
    "evidence": {"label": "Evidence", "color": "#0072B2", "linestyle": "-", "marker": "o"},
    "psis-loo": {"label": "PSIS-LOO", "color": "#D55E00", "linestyle": (0, (4, 2)), "marker": "s"},
    "loo": {"label": "Exact LOO", "color": "#009E73", "linestyle": (0, (1, 1)), "marker": "^"},
    "held-out": {
        "label": "Held-out NLL",
        "color": "#333333",
        "linestyle": (0, (6, 1, 1, 1)),
        "marker": "D",
    },
}


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(RegressionConfig):
    """Options of the candidates, and of the data on which criteria choose among them."""

    n: int = knob("n", 50, minimum=5)
    prior_precision: float = knob("prior_precision", 0.05, remark="Not of the net.")
    bumps: int = option(9, "Number of Gaussian basis functions.", minimum=1)
    max_degree: int = option(16, "Largest degree among which criteria choose.", minimum=3)
    max_bumps: int = option(14, "Largest number of bumps among which criteria choose.", minimum=3)
    training_sets: int = option(8, "Training sets to choose on.", quick=2, full=50, minimum=1)

    def families(self) -> dict[str, list[Candidate]]:
        """The candidates by family."""
        alpha, beta = self.prior_precision, self.noise**-2
        basis, degrees = bumps(self.bumps), range(1, self.max_degree + 1)
        return {
            "degree": [Candidate(d, PolynomialBasis(degree=d), alpha, beta) for d in degrees],
            "bumps": [Candidate(m, bumps(m), alpha, beta) for m in range(2, self.max_bumps + 1)],
            "alpha": [Candidate(a, basis, a, beta) for a in np.logspace(-4, 2, 9).tolist()],
            "beta": [Candidate(b, basis, alpha, b) for b in np.logspace(0, 3, 9).tolist()],
        }

    def data(self, which: int) -> Data:
        """The training set number ``which``."""
        seed = derived_seed(self.seed, f"{CHOICE} {which}") if which else self.seed
        return sine_data(n=self.n, noise=self.noise, seed=seed, dtype=torch.float64)


def bumps(count: int) -> GaussianBasis:
    """So many Gaussian bumps on the range of the data."""
    return GaussianBasis.evenly_spaced(0.0, 1.0, num=count)


def compare_choices(
    config: ChoiceConfig, test: Data, update: Update
) -> tuple[dict[str, Array], list[Table]]:
    """Judge every candidate on every training set."""
    families = config.families()
    found: dict[str, list[curves.Judged]] = {name: [] for name in families}
    for which in range(config.training_sets):
        data, seed = config.data(which), config.seed + which
        for name, candidates in families.items():
            update(which, config.training_sets, name)
            judged = curves.judge(candidates, data, test, draws=config.num_samples, seed=seed)
            found[name].append(judged)
    arrays: dict[str, Array] = {}
    for name, runs in found.items():
        arrays[f"{CHOICE}.{name}.values"] = runs[0].values
        arrays[f"{CHOICE}.{name}.criteria"] = np.stack([run.criteria for run in runs])
        arrays[f"{CHOICE}.{name}.k_hat"] = np.stack([run.k_hat for run in runs])
    arrays |= _plane(config, test)
    return arrays, [_choice_table(arrays), _compare_table(found["degree"][0])]


def _plane(config: ChoiceConfig, test: Data) -> dict[str, Array]:
    basis, data = bumps(config.bumps), config.data(0)
    axes = {"alphas": np.logspace(-4, 2, 25), "betas": np.logspace(0.5, 2.5, 25)}
    regression = curves.ConjugateRegression.of(basis, data)
    best = curves.type_two(regression, start=(config.prior_precision, config.noise**-2))
    arrays = axes | curves.plane(basis, data, test, **axes) | {"type-two": np.array(best)}
    return {f"{CHOICE}.plane.{name}": value for name, value in arrays.items()}


def _compare_table(judged: curves.Judged) -> Table:
    """ArviZ's comparison of polynomials, beside the criteria in closed form."""
    names = [f"degree {int(value)}" for value in judged.values]
    with warnings.catch_warnings():  # ArviZ sorts a pandas table in place
        warnings.filterwarnings("ignore", message="The inplace keyword")
        compared = az.compare(dict(zip(names, judged.loo, strict=True)))
    columns = {
        "rank": "Rank",
        "elpd": "PSIS-LOO elpd (nats) ↑",
        "se": "its SE",
        "diff": "Behind the best (nats) ↓",
        "dse": "SE of that",
        "weight": "Stacking weight",
        "k_hat": "Largest k-hat",
        "loo": "Exact LOO elpd (nats) ↑",
        "evidence": "Log evidence (nats) ↑",
        "held_out": "Held-out NLL (nats/point) ↓",
    }
    table = Table("Polynomials by ArviZ's compare and in closed form", "Model", columns=columns)
    theirs = {"elpd": "elpd_loo", "diff": "elpd_diff"}
    n = len(judged.loo[0].pareto_k)
    for name, k_hat, one in zip(names, judged.k_hat, judged.criteria.T, strict=True):
        own = {"k_hat": k_hat, "loo": -n * one[2], "evidence": -n * one[0], "held_out": one[3]}
        of_arviz = {m: compared.loc[name][theirs.get(m, m)] for m in columns if m not in own}
        table.put(name, of_arviz | own)
    return table


def choices(criteria: Array) -> tuple[Array, Array]:
    """What each criterion's choice costs, and how it ranks the candidates."""
    held_out = criteria[:, -1]
    chosen = criteria.argmin(-1)
    cost = np.take_along_axis(held_out, chosen, axis=-1) - held_out.min(-1, keepdims=True)
    rank = [[spearmanr(one, run[-1]).statistic for one in run] for run in criteria]
    return cost, np.array(rank)


def _choice_table(arrays: Mapping[str, Array]) -> Table:
    """What each criterion chooses on the first training set, and what choices cost over all."""
    sets = len(arrays[f"{CHOICE}.degree.criteria"])
    columns = {
        "choice": "Choice",
        "held_out": "Held-out NLL there (nats/point) ↓",
        "cost": "Cost of the choice, mean (nats/point) ↓",
        "rank": "Rank correlation with held-out NLL, mean ↑",
    }
    title = f"{CHOOSES}; means over {sets} training sets with 95 % intervals"
    table = Table(title, "Family · criterion", columns=columns)
    for family, label in FAMILIES.items():
        values, criteria = (arrays[f"{CHOICE}.{family}.{n}"] for n in ("values", "criteria"))
        cost, rank = choices(criteria)
        for place, criterion in enumerate(CRITERIA):
            name = f"{label} · {LOOKS[criterion]['label']}"
            chosen = int(criteria[0, place].argmin())
            table.put(name, {"choice": values[chosen], "held_out": criteria[0, -1, chosen]})
            if criterion != "held-out":
                put_mean(table, name, "cost", cost[:, place])
                put_mean(table, name, "rank", rank[:, place])
    return table


def _array(results: Results[Any], name: str) -> Array:
    return results.arrays[f"{CHOICE}.{name}"]


def _agreement(results: Results[Any]) -> str:
    parts, same, cases = [], np.zeros(3, dtype=int), 0
    for family, label in FAMILIES.items():
        evidence, psis, _, held_out = _array(results, f"{family}.criteria").argmin(-1).T
        pairs = ((evidence, psis), (evidence, held_out), (psis, held_out))
        equal = [int((one == other).sum()) for one, other in pairs]
        parts.append(f"{label} {'/'.join(map(str, equal))}")
        same, cases = same + equal, cases + len(evidence)
    return (
        f"Evidence and PSIS-LOO choose the same candidate in {same[0]} of {cases} cases; the one "
        f"that is best for fresh data the evidence chooses in {same[1]} and PSIS-LOO in "
        f"{same[2]} (in this order, of {len(evidence)} training sets: {'; '.join(parts)})."
    )


def _order(results: Results[Any]) -> str:
    better = []
    for family, label in FAMILIES.items():
        rank = choices(_array(results, f"{family}.criteria"))[1]
        found = paired_seeds(rank[:, 1], rank[:, 0])
        ends = ", ".join(number(end, "+.2f") for end in found.interval or ())
        better.append(f"{label} {number(found.mean, '+.2f')}{f' [{ends}]' if ends else ''}")
    return (
        "The rank correlation of PSIS-LOO with the held-out NLL, less that of the evidence on the "
        f"same training sets: {'; '.join(better)}."
    )


def _psis(results: Results[Any]) -> str:
    criteria, k_hat = (
        np.concatenate([_array(results, f"{family}.{name}") for family in FAMILIES], axis=-1)
        for name in ("criteria", "k_hat")
    )
    off, bad = np.abs(criteria[:, 1] - criteria[:, 2]), k_hat > 0.7
    worst = [f"{off[which].max():.3f}" if which.any() else "none" for which in (~bad, bad)]
    return (
        f"PSIS-LOO from {results.config.num_samples} draws is off the exact LOO by at most "
        f"{worst[0]} nats a point where no Pareto k-hat is above 0.7, and {worst[1]} where one is: "
        f"{int(bad.sum())} of {bad.size} fits."
    )


def _type_two(results: Results[Any]) -> str:
    alpha, beta = _array(results, "plane.type-two")
    evidence, loo, fresh = (
        _array(results, f"plane.{name}") for name in ("evidence", "loo", "held-out")
    )
    cost = [fresh.flat[values.argmin()] - fresh.min() for values in (evidence, loo)]
    return (
        f"Type-II maximum likelihood for {results.config.bumps} bumps finds α = {alpha:.2f} and a "
        f"noise SD of {beta**-0.5:.3f} ({results.config.noise:g} in truth); on the grid of α and "
        f"β the choice by evidence costs {cost[0]:.3f} nats a point of held-out NLL, by exact LOO "
        f"{cost[1]:.3f}."
    )


means = partial(Gap, table=CHOOSES, name=str, grouped=True)
CHOICE_FINDINGS = (
    _agreement,
    means(
        "rank",
        "Rank correlations with the held-out NLL over the candidates, means over "
        "{config.training_sets} training sets with 95 % intervals: {gaps}.",
        write=lambda value: number(min(max(value, -1.0), 1.0), ".2f"),
    ),
    _order,
    means(
        "cost",
        "What a choice costs against the best candidate in held-out NLL, in nats a point: {gaps}.",
        write=lambda value: number(value, ".3f"),
    ),
    _psis,
    _type_two,
)
"""Whether the criteria agree, and what their choices cost."""


@house_style()
def choice_figure(results: Results[Any]) -> Figure:
    """Every criterion over every family, on the first training set."""
    made, axes = figure(2, 2, height=5.6)
    for ax, family in zip(axes.flat, FAMILIES, strict=True):
        _family_panel(results, family, ax)
    shared_legend(made, [axes[0, 0]], columns=4)
    return Figure(
        "model-choice",
        _agreement(results).split(" (")[0],
        "Each criterion as nats a point above its own least value (large symbol), on the first "
        "training set: −log p(y)/n, mean negative log densities of points left out, and of fresh "
        "points; lower is better.",
        made,
    )


def _family_panel(results: Results[Any], family: str, ax: Axes) -> None:
    values, criteria = _array(results, f"{family}.values"), _array(results, f"{family}.criteria")
    for look, one in zip(LOOKS.values(), criteria[0], strict=True):
        ax.plot(values, one - one.min() + 1e-3, markersize=3.5, **look)
        best = values[one.argmin()]
        ax.plot(best, 1e-3, look["marker"], color=look["color"], markersize=9, alpha=0.6)
    unit = ""
    if family in ("alpha", "beta"):
        ax.set_xscale("log")
    if family == "beta":
        ax.axvline(results.config.noise**-2, color="#8a8f98", linewidth=1, linestyle=":")
        unit = " (1/units of y²; dotted: the truth)"
    ax.set(xlabel=f"{FAMILIES[family]}{unit}", ylabel="above the least (nats/point)")
    ax.set(yscale="log", ylim=(7e-4, None))


@house_style()
def plane_figure(results: Results[Any]) -> Figure:
    """Evidence, exact LOO and held-out NLL over alpha and beta."""
    made, axes = figure(1, 3, height=3.3, sharex=True, sharey=True)
    alphas, betas, best = (
        _array(results, f"plane.{name}") for name in ("alphas", "betas", "type-two")
    )
    levels = [0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    norm = BoundaryNorm(levels, ncolors=256, extend="max")
    shades: Any = {"levels": levels, "cmap": "Blues_r", "norm": norm, "extend": "max"}
    for ax, name in zip(axes[0], ("evidence", "loo", "held-out"), strict=True):
        values = _array(results, f"plane.{name}")
        shown = ax.contourf(alphas, betas, values - values.min(), **shades)
        row, column = np.unravel_index(values.argmin(), values.shape)
        ax.plot(alphas[column], betas[row], "o", color="#D55E00", label="least on the grid")
        ax.plot(*best, "P", color="#000000", markersize=8, label="type-II maximum likelihood")
        ax.axhline(results.config.noise**-2, color="#8a8f98", linestyle=":", label="true β")
        ax.set(xscale="log", yscale="log", xlabel="prior precision α", title=LOOKS[name]["label"])
    axes[0, 0].set_ylabel("noise precision β (1/units of y²)")
    made.colorbar(shown, ax=list(axes[0]), label="above the least (nats/point)")
    shared_legend(made, [axes[0, 0]], columns=3)
    return Figure(
        "evidence-plane",
        _type_two(results).split(";")[0],
        "The criteria for the Gaussian basis over both precisions, as nats a point above the least "
        "value, which a dot marks; the cross is the maximum of the evidence.",
        made,
    )
