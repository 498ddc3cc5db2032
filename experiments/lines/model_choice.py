"""What each criterion of a model chooses, how well it ranks the others, and what that costs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

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
from probml_tp.experiments.lines.kit import Data, RegressionConfig, put_mean
from probml_tp.harness.config import option
from probml_tp.harness.experiment import Table, Update
from probml_tp.kit.common import Array, derived_seed
from probml_tp.kit.knobs import knob
from probml_tp.models import GaussianBasis, PolynomialBasis
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
CRITERION_LABELS = {
    "evidence": "Evidence",
    "psis-loo": "PSIS-LOO",
    "loo": "Exact LOO",
    "held-out": "Held-out NLL",
}


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(RegressionConfig):
    """Options of the candidates, and of the data on which criteria choose among them."""

    n: int = knob("n", 50, minimum=5)
    prior_precision: float = knob("prior_precision", 0.05, remark="Those of a basis.")
    bumps: int = option(9, "Number of Gaussian basis functions.", minimum=1)
    max_degree: int = option(16, "Largest degree among which criteria choose.", minimum=3)
    max_bumps: int = option(14, "Largest number of bumps among which criteria choose.", minimum=3)
    training_sets: int = option(
        8, "Training sets on which criteria choose a model.", quick=3, full=50, minimum=1
    )

    def families(self) -> dict[str, list[Candidate]]:
        """The candidates by family."""
        alpha, beta = self.prior_precision, self.noise**-2
        basis, degrees = _bumps(self.bumps), range(1, self.max_degree + 1)
        return {
            "degree": [Candidate(d, PolynomialBasis(degree=d), alpha, beta) for d in degrees],
            "bumps": [Candidate(m, _bumps(m), alpha, beta) for m in range(2, self.max_bumps + 1)],
            "alpha": [Candidate(a, basis, a, beta) for a in np.logspace(-4, 2, 9).tolist()],
            "beta": [Candidate(b, basis, alpha, b) for b in np.logspace(0, 3, 9).tolist()],
        }

    def data(self, which: int) -> Data:
        """The training set number ``which``."""
        seed = derived_seed(self.seed, f"{CHOICE} {which}") if which else self.seed
        return sine_data(n=self.n, noise=self.noise, seed=seed, dtype=torch.float64)


def _bumps(count: int) -> GaussianBasis:
    return GaussianBasis.evenly_spaced(0.0, 1.0, num=count)


def compare_choices(
    config: ChoiceConfig, test: Data, update: Update
) -> tuple[dict[str, Array], list[Table]]:
    """Judge every candidate on every training set."""
    found: dict[str, list[Judged]] = {name: [] for name in config.families()}
    for which in range(config.training_sets):
        for name, candidates in config.families().items():
            update(which, config.training_sets, name)
            data, seed = config.data(which), config.seed + which
            found[name].append(judge(candidates, data, test, draws=config.num_samples, seed=seed))
    arrays: dict[str, Array] = {}
    for name, runs in found.items():
        arrays[f"{CHOICE}.{name}.values"] = runs[0].values
        arrays[f"{CHOICE}.{name}.criteria"] = np.stack([run.criteria for run in runs])
        arrays[f"{CHOICE}.{name}.k_hat"] = np.stack([run.k_hat for run in runs])
    arrays |= _plane(config, test)
    return arrays, [_choice_table(arrays), _compare_table(found["degree"][0])]


def _plane(config: ChoiceConfig, test: Data) -> dict[str, Array]:
    basis, data = _bumps(config.bumps), config.data(0)
    alphas, betas = np.logspace(-4, 2, 25), np.logspace(0.5, 2.5, 25)
    values = plane(basis, data, test, alphas=alphas, betas=betas)
    start = config.prior_precision, config.noise**-2
    best = type_two(ConjugateRegression.of(basis, data), start=start)
    arrays = {"alphas": alphas, "betas": betas, "type-two": np.array(best), **values}
    return {f"{CHOICE}.plane.{name}": value for name, value in arrays.items()}


# -------------------------------------------------------------------------------------- tables


def _compare_table(judged: Judged) -> Table:
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
    for name, k_hat, (evidence, _, loo, held_out) in zip(
        names, judged.k_hat, judged.criteria.T, strict=True
    ):
        own = {"k_hat": k_hat, "loo": -n * loo, "evidence": -n * evidence, "held_out": held_out}
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
            name = f"{label} · {CRITERION_LABELS[criterion]}"
            chosen = int(criteria[0, place].argmin())
            table.put(name, {"choice": values[chosen], "held_out": criteria[0, -1, chosen]})
            if criterion == "held-out":
                continue
            put_mean(table, name, "cost", cost[:, place])
            put_mean(table, name, "rank", rank[:, place])
    return table
