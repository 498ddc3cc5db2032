"""What all experiments share: seeds, headings, names in prose, the health of a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.style import guide_style

if TYPE_CHECKING:
    import arviz as az

__all__ = [
    "CLASSIFICATION_COLUMNS",
    "FIT_COLUMN",
    "HALF_WIDTH",
    "Array",
    "ChainHealth",
    "Intervals",
    "Rows",
    "arrays_under",
    "by_guide",
    "chain_health",
    "derived_seed",
    "labels_of",
    "listed",
    "over_seeds",
    "percent",
    "span",
]

Array = np.ndarray[Any, Any]

Rows = dict[str, dict[str, float]]
"""Row to metric to value."""

Intervals = dict[str, dict[str, tuple[float, float]]]
"""Row to metric to the ends of its interval."""

CLASSIFICATION_COLUMNS = {
    "accuracy": "Accuracy ↑",
    "nll": "NLL (nats) ↓",
    "brier": "Brier (0 to 2) ↓",
    "ece": "ECE ↓",
}
"""Headings of what :func:`probml_tp.metrics.classification_scores` gives."""

FIT_COLUMN = {"seconds": "Fit (s) ↓"}
"""Heading of the seconds that a fit took."""


HALF_WIDTH = 1.96
"""Half the width of a 95 % interval of a normal, in standard errors."""


def derived_seed(seed: int, purpose: str) -> int:
    """Make a seed for one purpose, unrelated to those for others and to ``seed`` itself.

    Args:
        seed: the experiment's seed.
        purpose: what the random numbers are for.

    Returns:
        A seed below 2**32.

    Example:
        >>> derived_seed(0, "test data") != derived_seed(1, "test data")
        True
    """
    words = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def labels_of(guides: Iterable[str]) -> str:
    """List guides in prose.

    Args:
        guides: their names.

    Returns:
        Their labels, as figures have them but without commas.

    Example:
        >>> labels_of(["map", "laplace-linearized", "nuts"])
        'MAP, linearised Laplace and NUTS'
    """
    return listed(" ".join(reversed(guide_style(guide).label.split(", "))) for guide in guides)


def listed(parts: Iterable[str]) -> str:
    """Join words in a sentence.

    Args:
        parts: at least one.

    Returns:
        The parts with commas, and an "and" before the last.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def percent(share: float, digits: int = 1) -> str:
    """Write a share as a percentage.

    Args:
        share: a share of 1.
        digits: decimals.

    Returns:
        The number and the sign, with a space between them that does not break.

    Example:
        >>> percent(0.1234).split()
        ['12.3', '%']
    """
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def span(
    values: Mapping[str, float],
    write: Callable[[float], str],
    *,
    reference: str | None = None,
    name: Callable[[str], str] = lambda guide: labels_of([guide]),
) -> str:
    """Say over which range guides spread, and where one of them stands.

    Args:
        values: guide to value, not empty.
        write: how to write a value.
        reference: the guide to mention in any case, if it is there.
        name: what to call a guide; ``str`` for names that are labels already.

    Returns:
        Words to follow "runs" or "ranges".

    Example:
        >>> span({"map": 0.99, "laplace": 0.8, "nuts": 0.9}, "{:.2f}".format, reference="nuts")
        'from 0.80 (Laplace) to 0.99 (MAP); NUTS: 0.90'
        >>> span({"map": 0.99}, "{:.2f}".format)
        'at 0.99 (MAP)'
    """
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if len(values) == 1:
        return f"at {write(values[low])} ({name(low)})"
    text = f"from {write(values[low])} ({name(low)}) to "
    text += f"{write(values[high])} ({name(high)})"
    if reference is not None and reference in set(values) - {low, high}:
        text += f"; {name(reference)}: {write(values[reference])}"
    return text


def over_seeds(
    runs: Sequence[Mapping[str, Mapping[str, float]]], *, level: float = 0.95
) -> tuple[Rows, Intervals]:
    """Average metrics over runs from several seeds, with Student's t intervals of the means.

    Args:
        runs: of each seed: row to metric to value.
        level: of the intervals.

    Returns:
        Row to metric to mean, over the runs that have it; and to the ends of its interval, where
        there are at least two.

    Example:
        >>> means, intervals = over_seeds([{"map": {"nll": 1.0}}, {"map": {"nll": 3.0}}])
        >>> means, [round(end, 1) for end in intervals["map"]["nll"]]
        ({'map': {'nll': 2.0}}, [-10.7, 14.7])
    """
    means: Rows = {}
    intervals: Intervals = {}
    for row in dict.fromkeys(name for run in runs for name in run):
        cells = [run[row] for run in runs if row in run]
        for metric in dict.fromkeys(name for cell in cells for name in cell):
            values = [cell[metric] for cell in cells if metric in cell]
            found = mean_interval(values, level=level)
            means.setdefault(row, {})[metric] = found.mean
            if found.interval is not None:
                intervals.setdefault(row, {})[metric] = found.interval
    return means, intervals


def arrays_under(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    """Pick the arrays of one part.

    Args:
        arrays: an experiment's arrays, those of the part under ``"<name>.<rest>"``.
        name: of the part.

    Returns:
        The rest of the name to array.

    Example:
        >>> arrays_under({"a.x": np.zeros(1), "b.x": np.ones(1)}, "b")
        {'x': array([1.])}
    """
    prefix = f"{name}."
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def by_guide(arrays: Mapping[str, Array], guides: Iterable[str], name: str) -> dict[str, Array]:
    """Pick one array of each guide.

    Args:
        arrays: an experiment's arrays, those of a guide under ``"<guide>.<name>"``.
        guides: the guides.
        name: which array.

    Returns:
        Guide to array, for the guides that have it.
    """
    keys = {guide: f"{guide}.{name}" for guide in guides}
    return {guide: arrays[key] for guide, key in keys.items() if key in arrays}


@dataclass(frozen=True)
class ChainHealth:
    """Whether Markov chains have converged, by the worst of the quantities watched.

    Args:
        r_hat: the largest rank-normalised split R-hat (Vehtari et al. 2021).
        ess: the smallest bulk effective sample size, in draws.
        divergences: the number of divergent transitions.
    """

    r_hat: float
    ess: float
    divergences: int

    def sentence(self, watched: str) -> str:
        """Say it in words.

        Args:
            watched: what the numbers were taken over.

        Returns:
            A sentence for the findings.
        """
        verdict = "usable as the reference" if self.r_hat < 1.05 else "a provisional reference only"
        return (
            f"NUTS is {verdict}: over {watched} the largest R-hat is {self.r_hat:.3f} and the "
            f"smallest bulk effective sample size {self.ess:.0f}; divergent transitions: "
            f"{self.divergences}."
        )


def chain_health(record: az.InferenceData, *, group: str = "posterior") -> ChainHealth:
    """Judge the chains of an ArviZ record.

    Args:
        record: of chains, with ``sample_stats``.
        group: ``"posterior"`` to watch the parameters, ``"log_likelihood"`` to watch the function
            at the data, which the permutations of a net's hidden units leave alone.

    Returns:
        The worst R-hat and effective sample size over the group.
    """
    from probml_tp.diagnostics.record import divergences, worst_convergence

    r_hat, ess = worst_convergence(record[group])
    return ChainHealth(r_hat=r_hat, ess=ess, divergences=divergences(record))
