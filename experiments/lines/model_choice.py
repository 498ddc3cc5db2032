"""What each criterion of a model chooses, how well it ranks the others, and what that costs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from probml_tp.datasets import sine_data
from probml_tp.experiments.lines.evidence_curves import (
    CRITERIA,
    Candidate,
    ConjugateRegression,
    Judged,
    judge,
    plane,
    type_two,
)
from probml_tp.experiments.lines.kit import Data
from probml_tp.harness.experiment import Table, Update
from probml_tp.kit.common import Array, derived_seed
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.models import GaussianBasis, PolynomialBasis
from probml_tp.quiet_arviz import az

CHOICE = "model choice"
"""The stage, and the prefix of its arrays."""

FAMILIES = {
    "degree": "degree of the polynomial",
    "bumps": "number of Gaussian bumps",
    "alpha": "prior precision α",
    "beta": "noise precision β",
}
CRITERION_LABELS = {
    "evidence": "Evidence",
    "psis-loo": "PSIS-LOO",
    "loo": "Exact LOO",
    "held-out": "Held-out NLL",
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The candidates, and the data on which criteria choose among them."""

    n: int
    noise: float
    alpha: float
    max_degree: int
    max_bumps: int
    bumps: int
    sets: int
    draws: int
    seed: int

    def families(self) -> dict[str, list[Candidate]]:
        """The candidates by family."""
        alpha, beta = self.alpha, self.noise**-2
        basis = GaussianBasis.evenly_spaced(0.0, 1.0, num=self.bumps)
        degrees, bumps = range(1, self.max_degree + 1), range(2, self.max_bumps + 1)
        return {
            "degree": [Candidate(d, PolynomialBasis(degree=d), alpha, beta) for d in degrees],
            "bumps": [
                Candidate(m, GaussianBasis.evenly_spaced(0.0, 1.0, num=m), alpha, beta)
                for m in bumps
            ],
            "alpha": [Candidate(a, basis, a, beta) for a in np.logspace(-4, 2, 9).tolist()],
            "beta": [Candidate(b, basis, alpha, b) for b in np.logspace(0, 3, 9).tolist()],
        }

    def data(self, which: int) -> Data:
        """The training set number ``which``."""
        seed = derived_seed(self.seed, f"{CHOICE} {which}") if which else self.seed
        return sine_data(n=self.n, noise=self.noise, seed=seed, dtype=torch.float64)


def compare_choices(
    selection: Selection, test: Data, update: Update
) -> tuple[dict[str, Array], Table]:
    """Judge every candidate on every training set."""
    families, arrays, first = selection.families(), dict[str, Array](), dict[str, Judged]()
    found: dict[str, list[Judged]] = {name: [] for name in families}
    for which in range(selection.sets):
        for name, candidates in families.items():
            update(which, selection.sets, name)
            options: Any = {"draws": selection.draws, "seed": selection.seed + which}
            judged = judge(candidates, selection.data(which), test, **options)
            first.setdefault(name, judged)
            found[name].append(judged)
    for name, runs in found.items():
        arrays[f"{CHOICE}.{name}.values"] = runs[0].values
        arrays[f"{CHOICE}.{name}.criteria"] = np.stack([run.criteria for run in runs])
        arrays[f"{CHOICE}.{name}.k_hat"] = np.stack([run.k_hat for run in runs])
    return arrays | _plane(selection, test), _compare_table(first)


def _plane(selection: Selection, test: Data) -> dict[str, Array]:
    basis = GaussianBasis.evenly_spaced(0.0, 1.0, num=selection.bumps)
    alphas, betas = np.logspace(-4, 2, 25), np.logspace(0.5, 2.5, 25)
    data = selection.data(0)
    values = plane(basis, data, test, alphas=alphas, betas=betas)
    regression = ConjugateRegression.of(basis, data)
    best = type_two(regression, start=(selection.alpha, selection.noise**-2))
    arrays = {"alphas": alphas, "betas": betas, "type-two": np.array(best), **values}
    return {f"{CHOICE}.plane.{name}": value for name, value in arrays.items()}


# -------------------------------------------------------------------------------------- tables


def _compare_table(first: Mapping[str, Judged]) -> Table:
    """ArviZ's comparison of polynomials, beside the criteria in closed form."""
    judged = first["degree"]
    names = {int(value): f"degree {int(value)}" for value in judged.values}
    with warnings.catch_warnings():  # ArviZ sorts a pandas table in place
        warnings.filterwarnings("ignore", message="The inplace keyword")
        compared = az.compare(dict(zip(names.values(), judged.loo, strict=True)))
    rows: dict[str, dict[str, float]] = {}
    n = len(judged.loo[0].pareto_k)
    for place, name in enumerate(names.values()):
        own = compared.loc[name]
        rows[name] = {
            "rank": float(own["rank"]),
            "elpd": float(own["elpd_loo"]),
            "se": float(own["se"]),
            "diff": float(own["elpd_diff"]),
            "dse": float(own["dse"]),
            "weight": float(own["weight"]),
            "k_hat": float(judged.k_hat[place]),
            "loo": float(-n * judged.criteria[2, place]),
            "evidence": float(-n * judged.criteria[0, place]),
            "held_out": float(judged.criteria[3, place]),
        }
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
    return Table("Polynomials by ArviZ's compare and in closed form", "Model", rows, columns)


def choices(criteria: Array) -> tuple[Array, Array]:
    """What each criterion's choice costs, and how it ranks the candidates."""
    held_out = criteria[:, -1]
    chosen = criteria.argmin(-1)
    cost = np.take_along_axis(held_out, chosen, axis=-1) - held_out.min(-1, keepdims=True)
    rank = [[spearmanr(one, run[-1]).statistic for one in run] for run in criteria]
    return cost, np.array(rank)


def choice_tables(arrays: Mapping[str, Array]) -> Table:
    """What each criterion chooses on the first training set, and what choices cost over all."""
    rows: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for family, label in FAMILIES.items():
        values, criteria = (arrays[f"{CHOICE}.{family}.{n}"] for n in ("values", "criteria"))
        cost, rank = choices(criteria)
        for place, criterion in enumerate(CRITERIA):
            name = f"{label} · {CRITERION_LABELS[criterion]}"
            chosen = int(criteria[0, place].argmin())
            rows[name] = {
                "choice": float(values[chosen]),
                "held_out": float(criteria[0, -1, chosen]),
            }
            for metric, found in (("cost", cost[:, place]), ("rank", rank[:, place])):
                if criterion == "held-out":
                    continue
                one = mean_interval(found)
                rows[name][metric] = one.mean
                if one.interval is not None:
                    intervals.setdefault(name, {})[metric] = one.interval
    columns = {
        "choice": "Choice",
        "held_out": "Held-out NLL there (nats/point) ↓",
        "cost": "Cost of the choice, mean (nats/point) ↓",
        "rank": "Rank correlation with held-out NLL, mean ↑",
    }
    sets = len(arrays[f"{CHOICE}.degree.criteria"])
    title = f"What each criterion chooses; means over {sets} training sets with 95 % intervals"
    return Table(title, "Family · criterion", rows, columns, intervals)
