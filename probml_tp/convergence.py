"""Whether a fit has settled: one figure, the limit that it is held against, and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Convergence", "NotConvergedWarning", "worst"]


class NotConvergedWarning(UserWarning):
    """A posterior is not what its method is defined by, because the fit has not settled."""


@dataclass(frozen=True)
class Convergence:
    """How far a posterior is from what its method converges to.

    Args:
        measure: what is measured, with its unit, such as ``"Newton decrement (nats)"``.
        value: the figure; not finite where it could not be found.
        limit: up to which it counts as settled.
        remedy: what to do where it has not, as a sentence.

    Example:
        >>> Convergence("R-hat", 1.2, 1.01, "Draw more samples.").converged
        False
    """

    measure: str
    value: float
    limit: float
    remedy: str

    @property
    def converged(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        """In a few words, such as ``"not settled: R-hat 1.2 > 1.01"``."""
        sign, word = ("<=", "settled") if self.converged else (">", "not settled")
        return f"{word}: {self.measure} {self.value:.3g} {sign} {self.limit:.3g}"


def worst(records: Sequence[Convergence | None]) -> Convergence | None:
    """Of several parts' records the one farthest above its limit; none if a part has none."""
    known = [record for record in records if record is not None]
    if not known or len(known) < len(records):
        return None
    return max(known, key=lambda own: own.value / own.limit if own.value >= 0 else math.inf)
