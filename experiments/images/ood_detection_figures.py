"""What the experiment ood-detection says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from probml_tp.experiments.images import score_rows
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array, percent, span
from probml_tp.kit.comparisons import interval_words, minus, with_ends
from probml_tp.kit.sentences import Finding, Gap, Range, tell, together
from probml_tp.metrics.over_runs import critical_difference, win_rates
from probml_tp.plots.detection import accepted_panels, distribution_panels, grid_panels
from probml_tp.plots.robustness import Panel, plot_critical_difference
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
    score_rows.ODIN_CHOSEN,
    "Mahalanobis",
    "k-NN",
    "MC dropout: entropy",
    "MC dropout: mutual information",
    "MC dropout: variation ratio",
)
"""Whose distributions are drawn."""

RANKED = ("ViM", "Deep ensemble: entropy", "Laplace, last layer: mutual information")
"""Who is ranked besides."""


def against(name: str) -> str:
    """The title of the table of a foreign set."""
    return f"Against {SETS[name]}"


def grid_title(name: str) -> str:
    """The title of the table of ODIN over its grid."""
    return f"ODIN over its grid, against {SETS[name]}"


def cell(temperature: float, epsilon: float) -> str:
    """The row of a cell of that grid."""
    return f"{temperature:g}, {epsilon:g}"


CELLS = tuple(cell(t, e) for t in TEMPERATURES for e in EPSILONS)


def findings(config: Any, sets: list[str]) -> list[Finding]:
    """What the numbers say, the most important first."""
    wanted = [SETS[name] for name in SETS if name not in (config.dataset, *sets)]
    missing = f"Left out, as the images could not be had: {', '.join(wanted)}." if wanted else None
    last = together(score_rows.paired_intervals, lambda results: missing)
    return [*map(_best, sets), _answer, _choice, last]


def _best(name: str) -> Finding:
    return together(
        Range(
            "auroc",
            f"Against {SETS[name]} the AUROC runs {{range}}; MCP has {{values[MCP]}}.",
            table=against(name),
            write=score_rows.in_percent,
            name=str,
        ),
        Gap(
            "auroc",
            "Of the other {n} scores {n_above} are better than MCP beyond their interval, "
            "{n_below} worse.",
            table=minus(against(name), REFERENCE),
            rows=lambda row: row != REFERENCE,
        ),
    )


def _answer(results: Results[Any]) -> str:
    """The question of the labs: ODIN beat MCP but lost to MC dropout. Should it be so?"""
    parts = []
    for name in results.main.columns:
        to = partial(score_rows.gap_to, metric="aupr_out", row=score_rows.ODIN_LAB)
        gaps = [to(rival, table=against(name)) for rival in RIVALS]
        parts.append(f"on {SETS[name]} {', '.join(tell(gaps, results))}")
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
        maps = [_grid(results, name, rival) for name in results.main.columns]
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
    found = with_ends(score_rows.table_named(minus(grid_title(name), rival), results), "aupr_out")
    return np.array([found[one] for one in CELLS]).reshape(len(TEMPERATURES), len(EPSILONS), 3)


def _choice(results: Results[Any]) -> str:
    by_id, by_letters = (f"T = {t:g}, ε = {e:g}" for t, e in results.arrays["odin.chosen"])
    return (
        f"Chosen without foreign images (largest mean score of validation images at T = 1000, "
        f"Hsu et al. 2020) ODIN has {by_id}; chosen to tell validation images from letters of "
        f"the training split, {by_letters}: its result on letters is not one on unknown kinds."
    )


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the comparison, ODIN's grid, the ranking, the distributions, and what is accepted."""
    yield _comparison(results)
    yield _odin(results)
    yield from _ranking(results)
    yield _distributions(results)
    yield _accepted(results)


def _comparison(results: Results[Any]) -> Figure:
    table = results.main
    panels = [
        Panel(SETS[name], with_ends(table, name), reference=table[REFERENCE, name])
        for name in table.columns
    ]
    means = {row: float(np.mean(list(table.row(row).values()))) for row in table.rows}
    return score_rows.interval_figure(
        "auroc",
        f"Mean AUROC over the foreign sets runs {span(means, score_rows.in_percent, name=str)}",
        f"{interval_words(results.config.seeds).capitalize()}. The vertical line is MCP. Scores of "
        "the deterministic net (dropout off) above, those of draws below.",
        panels,
        table.rows,
        x="AUROC (%)",
    )


def _odin(results: Results[Any]) -> Figure:
    rows = {
        rival: {SETS[name]: _grid(results, name, rival) for name in results.main.columns}
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
    main, sets = results.main, results.main.columns
    shown = [row for row in main.rows if row in (*SHOWN, *RANKED)]
    table = {row: list(main.row(row).values()) for row in shown}
    if len(sets) < 2 or len(table) < 3:
        return
    ranks = critical_difference(table)
    made, axes = figure(1, 1, height=0.14 * len(table) + 0.9)
    plot_critical_difference(
        ranks, ax=axes[0, 0], style=partial(GuideStyle, color="#5c6269", linestyle="-", marker="")
    )
    first, *_, last = ranks.mean_ranks
    wins = win_rates(table)[first][REFERENCE] if first != REFERENCE else 1.0
    title = (
        f"{first} has the best mean rank by AUROC over {len(sets)} foreign sets, {last} the worst; "
        f"{first} beats MCP on {percent(wins, 0)} of them"
    )
    caption = (
        "Means over seeds are ranked within each foreign set; scores joined by a bar are nearer "
        "than the critical difference of Nemenyi's test at 5 % (Demšar 2006). Friedman's test of "
        f"no difference: p = {ranks.p_value:.2g}."
    )
    yield Figure("ranking", title, caption, made)


def _distributions(results: Results[Any]) -> Figure:
    arrays, name = results.arrays, next(iter(results.main.columns))
    shown = {
        label: (arrays[f"inside.{label}"], arrays[f"outside.{name}.{label}"])
        for label in SHOWN
        if f"inside.{label}" in arrays
    }
    made = distribution_panels(shown)
    found = {row: results.main[row, name] for row in shown}
    overlap = span(found, score_rows.in_percent, name=str)
    title = f"{SETS[name]}: the overlap behind AUROCs {overlap}"
    caption = (
        "In-distribution and foreign images along the rank of each confidence among all of them: "
        f"a perfect score has no overlap, a useless one is flat. Seed {results.config.seed}."
    )
    return Figure("distributions", title, caption, made)


def _accepted(results: Results[Any]) -> Figure:
    arrays = results.arrays
    images = {SETS[name]: arrays[f"accepted.{name}.images"] for name in results.main.columns}
    return Figure(
        "accepted",
        "The foreign images that MCP is surest to be in-distribution",
        f"The eight of each set with the largest maximum probability. Seed {results.config.seed}.",
        accepted_panels(images),
    )
