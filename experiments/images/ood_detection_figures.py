"""What the experiment ood-detection says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from probml_tp.experiments.images.score_rows import ODIN_CHOSEN, ODIN_LAB, row_style
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array, percent
from probml_tp.kit.comparisons import Reader, interval_words, spread_words
from probml_tp.metrics.over_runs import critical_difference, win_rates
from probml_tp.plots.detection import accepted_panels, distribution_panels, grid_panels
from probml_tp.plots.robustness import Panel, interval_panels, plot_critical_difference
from probml_tp.plots.style import GuideStyle, figure, house_style

SETS: Mapping[str, str] = {
    "kmnist": "KMNIST",
    "fashion-mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "letters": "Letters",
    "noise": "Uniform noise",
}
"""Foreign images, in the order of tables; the in-distribution set is left out."""

TEMPERATURES = (1.0, 5.0, 1000.0)
EPSILONS = (0.0, 0.0006, 0.0014, 0.0025, 0.005, 0.01, 0.02, 0.04)
ODIN_VALIDATED = "ODIN, T and ε by letters"
REFERENCE = "MCP"
GRID_REFERENCES = ("MCP", "MC dropout: entropy")
"""What ODIN on a grid is compared with: does it beat the one, and lose to the other?"""

RIVALS = (*GRID_REFERENCES, "MC dropout: variation ratio")
"""What all scores are compared with."""

SHOWN = (
    "MCP",
    "Energy",
    ODIN_CHOSEN,
    "Mahalanobis",
    "k-NN",
    "MC dropout: entropy",
    "MC dropout: mutual information",
    "MC dropout: variation ratio",
)
"""Whose distributions are drawn."""

RANKED = ("ViM", "Deep ensemble: entropy", "Laplace, last layer: mutual information")
"""Who is ranked besides."""


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    sets = _sets(results)
    return [
        *(_best(results, name) for name in sets),
        _answer(results),
        *_choice(results),
        f"Intervals are {interval_words(results.config.seeds)}; differences are paired. "
        f"{_missing(results)}".strip(),
    ]


def _sets(results: Results[Any]) -> list[str]:
    return [str(name) for name in results.arrays["sets"]]


def _scores(results: Results[Any], name: str) -> Reader:
    return Reader(results.arrays, f"scores.{name}", reference=REFERENCE)


def _best(results: Results[Any], name: str) -> str:
    scores = _scores(results, name)
    found = {label: float(ends[0]) for label, ends in scores.ends("auroc").items()}
    better, worse = (scores.apart("auroc", sign=sign) for sign in (1, -1))
    return (
        f"Against {SETS[name]} the AUROC runs {spread_words(found, percent)}; MCP has "
        f"{percent(found[REFERENCE])}. Of the other {len(found) - 1} scores {len(better)} are "
        f"better than MCP beyond their interval, {len(worse)} worse."
    )


def _answer(results: Results[Any]) -> str:
    """The question of the labs: ODIN beat MCP but lost to MC dropout. Should it be so?"""
    parts = []
    for name in _sets(results):
        scores = _scores(results, name)
        gaps = [scores.words(ODIN_LAB, "aupr_out", minus=rival) for rival in RIVALS]
        parts.append(f"on {SETS[name]} {', '.join(gaps)}")
    grid = _grid_counts(results)
    mcp, entropy = (
        f"above {rival} in {grid[f'above {rival}']} and below it in {grid[f'below {rival}']}"
        for rival in GRID_REFERENCES
    )
    return (
        f"Does ODIN beat MCP and lose to MC dropout? With T = 5 and ε = 0.0014 its AUPR-Out is "
        f"{'; '.join(parts)}. Over the grid of T, ε and foreign sets, {grid['cells']} cells, it is "
        f"{mcp}, and {entropy}, each beyond the interval of the paired difference. "
        f"{verdict(grid)}"
    )


def _grid_counts(results: Results[Any]) -> dict[str, int]:
    counts = {"cells": 0}
    for rival in GRID_REFERENCES:
        maps = [_grid(results, name, rival) for name in _sets(results)]
        counts["cells"] = sum(one[..., 0].size for one in maps)
        counts[f"above {rival}"] = sum(int((one[..., 1] > 0).sum()) for one in maps)
        counts[f"below {rival}"] = sum(int((one[..., 2] < 0).sum()) for one in maps)
    return counts


def verdict(grid: Mapping[str, int]) -> str:
    """Say which way round it is, by the cells beyond their intervals."""
    words = []
    for rival in GRID_REFERENCES:
        above, below = (grid[f"{side} {rival}"] for side in ("above", "below"))
        if 2 * max(above, below) > grid["cells"]:
            words.append(f"ODIN mostly {'beats' if above > below else 'loses to'} {rival}")
        elif 2 * (above + below) > grid["cells"]:
            words.append(f"whether ODIN beats {rival} depends on the foreign set, T and ε")
        else:
            words.append(f"in most cells whether ODIN beats {rival} cannot be told from chance")
    return f"So here {', and '.join(words)}."


def _grid(results: Results[Any], name: str, rival: str) -> Array:
    """Differences of ODIN from a rival over the grid, ``(temperatures, epsilons, 3)``."""
    scores = Reader(results.arrays, f"grid.{name}", reference=REFERENCE)
    found = scores.ends("aupr_out", minus=rival)
    cells = [found[f"{t:g}, {e:g}"] for t in TEMPERATURES for e in EPSILONS]
    return np.array(cells).reshape(len(TEMPERATURES), len(EPSILONS), 3)


def _choice(results: Results[Any]) -> list[str]:
    chosen = results.arrays["odin.chosen"]
    by_id, by_letters = (f"T = {t:g}, ε = {e:g}" for t, e in chosen)
    return [
        (
            f"Chosen without foreign images (largest mean score of validation images at T = 1000, "
            f"Hsu et al. 2020) ODIN has {by_id}; chosen to tell validation images from letters of "
            f"the training split, {by_letters}: its result on letters is not one on unknown kinds."
        )
    ]


def _missing(results: Results[Any]) -> str:
    wanted = set(SETS) - {results.config.dataset} - set(_sets(results))
    if not wanted:
        return ""
    names = ", ".join(SETS[name] for name in SETS if name in wanted)
    return f"Left out, as the images could not be had: {names}."


# --------------------------------------------------------------------------------------- figures


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the comparison, ODIN's grid, the ranking, the distributions, and what is accepted."""
    yield _comparison(results)
    yield _odin(results)
    yield from _ranking(results)
    yield _distributions(results)
    yield _accepted(results)


def _comparison(results: Results[Any]) -> Figure:
    readers = {name: _scores(results, name) for name in _sets(results)}
    labels = next(iter(readers.values())).labels
    families = results.arrays["families"]
    styles = {x: row_style(str(f)) for x, f in zip(labels, families, strict=True)}
    panels = [
        Panel(
            SETS[name],
            {x: 100 * ends for x, ends in reader.ends("auroc").items()},
            reference=100 * reader.value(REFERENCE, "auroc"),
        )
        for name, reader in readers.items()
    ]
    made = interval_panels(panels, families=styles, x="AUROC (%)")
    means = {
        label: float(np.mean([reader.value(label, "auroc") for reader in readers.values()]))
        for label in labels
    }
    title = f"Mean AUROC over the foreign sets runs {spread_words(means, percent)}"
    caption = (
        f"{interval_words(results.config.seeds).capitalize()}. The vertical line is MCP. Scores of "
        "the deterministic net (dropout off) above, those of draws below."
    )
    return Figure("auroc", title, caption, made)


def _odin(results: Results[Any]) -> Figure:
    sets = _sets(results)
    rows = {
        rival: {SETS[name]: 100 * _grid(results, name, rival) for name in sets}
        for rival in GRID_REFERENCES
    }
    made = grid_panels(rows, temperatures=TEMPERATURES, epsilons=EPSILONS)
    counts = _grid_counts(results)
    title = (
        f"Of {counts['cells']} choices of (T, ε, set) ODIN is beyond chance above MCP in "
        f"{counts['above MCP']} and above MC dropout's entropy in "
        f"{counts['above MC dropout: entropy']}; below in {counts['below MCP']} and "
        f"{counts['below MC dropout: entropy']}"
    )
    caption = (
        "Difference in AUPR-Out, in percentage points, on the same images and nets: blue where "
        "ODIN is better. Bold: the interval of the paired difference excludes 0 "
        f"({interval_words(results.config.seeds)})."
    )
    return Figure("odin-grid", title, caption, made)


@house_style()
def _ranking(results: Results[Any]) -> Iterator[Figure]:
    """Mean ranks of a few scores: more would make the critical difference of few sets useless."""
    sets = _sets(results)
    table = {
        label: [_scores(results, name).value(label, "auroc") for name in sets]
        for label in _scores(results, sets[0]).labels
        if label in (*SHOWN, *RANKED)
    }
    if len(sets) < 2 or len(table) < 3:
        return
    ranks = critical_difference(table)
    made, axes = figure(1, 1, height=0.14 * len(table) + 0.9)
    plot_critical_difference(ranks, ax=axes[0, 0], style=_label_only)
    first, *_, last = ranks.mean_ranks
    wins = win_rates(table)[first][REFERENCE] if first != REFERENCE else 1.0
    title = (
        f"{first} has the best mean rank by AUROC over {len(sets)} foreign sets, {last} the worst; "
        f"{first} beats MCP on {percent(wins, 0)} of them"
    )
    caption = (
        "Mean ranks, means over seeds ranked within each foreign set. Scores joined by a bar are "
        "nearer than the critical difference of Nemenyi's test at 5 % (Demšar 2006): with so few "
        f"sets only large differences show. Friedman's test of no difference: p = "
        f"{ranks.p_value:.2g}."
    )
    yield Figure("ranking", title, caption, made)


def _label_only(label: str) -> GuideStyle:
    return GuideStyle(label, "#5c6269", "-", "")


def _distributions(results: Results[Any]) -> Figure:
    arrays, name = results.arrays, _sets(results)[0]
    shown = {
        label: (arrays[f"inside.{label}"], arrays[f"outside.{name}.{label}"])
        for label in SHOWN
        if f"inside.{label}" in arrays
    }
    made = distribution_panels(shown)
    scores = _scores(results, name)
    found = {label: scores.value(label, "auroc") for label in shown}
    title = f"{SETS[name]}: the overlap behind AUROCs {spread_words(found, percent)}"
    caption = (
        "In-distribution and foreign images along the rank of each confidence among all of them: "
        f"a perfect score has no overlap, a useless one is flat. Seed {results.config.seed}."
    )
    return Figure("distributions", title, caption, made)


def _accepted(results: Results[Any]) -> Figure:
    arrays = results.arrays
    made = accepted_panels(
        {SETS[name]: arrays[f"accepted.{name}.images"] for name in _sets(results)}
    )
    title = "The foreign images that MCP is surest to be in-distribution"
    caption = (
        f"The eight of each set with the largest maximum probability. Seed {results.config.seed}."
    )
    return Figure("accepted", title, caption, made)
