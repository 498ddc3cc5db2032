"""Requirements: how far what a posterior predicts may be from what the reference predicts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive

__all__ = ["CLASSIFICATION", "REGRESSION", "Requirement", "in_words"]

Kind = Literal["distance", "ratio", "share"]


@checked()
@dataclass(frozen=True)
class Requirement:
    r"""How far a prediction may be from the reference's.

    Args:
        metric: one of a gap report's ``functions``.
        limit: the largest tolerable error. The error of a ``"distance"`` is its value; that of a
            ``"ratio"`` ``r`` the factor :math:`\max(r, 1/r)`; that of a ``"share"`` its difference
            from the report's level.
        kind: which of these the metric is.
        words: what it is called in a sentence.
        about: whether it is about ``"predictions"`` or about the ``"uncertainty"`` behind them.

    Raises:
        ValueError: the limit is not positive, or that of a ratio not above 1.

    Example:
        >>> Requirement("epistemic_ratio", 1.25, kind="ratio").error(0.5, level=0.95)
        2.0
    """

    metric: str
    limit: float
    kind: Kind = "distance"
    words: str = ""
    about: Literal["predictions", "uncertainty"] = "predictions"

    def __post_init__(self) -> None:
        """Check the limit."""
        positive(f"the limit of {self.metric}", self.limit)
        if self.kind == "ratio" and self.limit <= 1:
            raise ValueError(
                f"the limit of a ratio is a factor above 1; got {self.limit} for {self.metric}. "
                f"Pass 1.25 for a quarter more or a fifth less."
            )

    @property
    def name(self) -> str:
        """What it is called."""
        return self.words or self.metric.replace("_", " ")

    @checked()
    def error(self, value: float, *, level: float) -> float:
        """The error of one value, to be held against the limit.

        Args:
            value: of the metric.
            level: the report's, that shares are to be near to.

        Returns:
            At least 0, of a ratio at least 1.
        """
        if self.kind == "distance":
            return value
        if self.kind == "share":
            return abs(value - level)
        return max(value, 1 / value) if value > 0 else math.inf

    def errors(self, low: float, high: float, *, level: float) -> tuple[float, float]:
        """The least and the largest error over an interval of values.

        Args:
            low: its lower end.
            high: its upper end.
            level: the report's.

        Returns:
            Both.
        """
        ends = sorted(self.error(end, level=level) for end in (low, high))
        perfect = {"distance": 0.0, "ratio": 1.0, "share": level}[self.kind]
        none = 1.0 if self.kind == "ratio" else 0.0
        return (none if low <= perfect <= high else ends[0]), ends[1]

    @checked()
    def text(self, error: float) -> str:
        """Write an error with its sense.

        Args:
            error: as :meth:`error` gives it.

        Returns:
            Such as "a factor of 1.3" or "2.1 points".
        """
        if self.kind == "ratio":
            return f"a factor of {error:.3g}"
        return f"{100 * error:.2g} points" if self.kind == "share" else f"{error:.2g}"


CLASSIFICATION = (
    Requirement("total_variation", 0.02, words="total variation of the predictive"),
    Requirement(
        "mutual_information_ratio",
        1.25,
        kind="ratio",
        words="epistemic uncertainty (mutual information)",
        about="uncertainty",
    ),
)
"""Probabilities within 2 points of the reference's, epistemic uncertainty within a quarter."""

REGRESSION = (
    Requirement("target_coverage", 0.02, kind="share", words="coverage of targets"),
    Requirement(
        "function_coverage", 0.05, kind="share", words="coverage of functions", about="uncertainty"
    ),
    Requirement(
        "epistemic_ratio",
        1.25,
        kind="ratio",
        words="epistemic uncertainty (standard deviation)",
        about="uncertainty",
    ),
)
"""Intervals that hold 95 % of targets to 2 points and of functions to 5, their width to a quarter.
"""


def in_words(requirements: Iterable[Requirement]) -> str:
    """Write requirements with their limits.

    Args:
        requirements: at least one.

    Returns:
        Such as "total variation of the predictive to 0.02".
    """
    return "; ".join(f"{r.name} to {r.text(r.limit)}" for r in requirements)
