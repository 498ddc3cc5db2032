"""Ranks of what was true among posterior draws, and what they tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probml_tp.diagnostics.sbc.ranks import (
    RankUniformity,
    ecdf_band,
    rank_uniformity,
    uniform_p_value,
)

__all__ = ["SbcResult"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SbcResult:
    """Ranks of what was true among draws of the posterior, over simulated data sets.

    Args:
        quantities: their names, ``Q``.
        num_samples: draws that each true value was ranked among, ``L``.
        ranks: the number of draws below the true value, ties broken at random, ``(N, Q)``.
        truth: the true values, drawn from the prior, ``(N, Q)``.
        mean: means over the posterior's draws, ``(N, Q)``.
        sd: standard deviations over the posterior's draws, ``(N, Q)``.
        relative_ess: of a chain's draws, the effective over the actual number, averaged over the
            simulations, ``(Q,)``; ``None`` where draws are independent.
        seed: of the run.
    """

    quantities: tuple[str, ...]
    num_samples: int
    ranks: Array
    truth: Array
    mean: Array
    sd: Array
    relative_ess: Array | None = None
    seed: int = 0

    @property
    def simulations(self) -> int:
        """The number of simulated data sets, ``N``."""
        return len(self.ranks)

    def uniformity(self) -> dict[str, RankUniformity]:
        """Test each quantity's ranks; see :func:`rank_uniformity`."""
        return {
            name: rank_uniformity(self.ranks_of(name), self.num_samples, seed=self.seed)
            for name in self.quantities
        }

    @property
    def p_value(self) -> float:
        """Of all quantities together: the least of their p-values times their number, at most 1."""
        each = (uniform_p_value(ranks, self.num_samples) for ranks in self.ranks.T)
        return min(1.0, len(self.quantities) * min(each))

    def ranks_of(self, quantity: str) -> Array:
        """The ranks of one quantity, ``(N,)``.

        Raises:
            ValueError: there is no such quantity.
        """
        if quantity not in self.quantities:
            raise ValueError(
                f"a quantity must be one that was ranked; got {quantity!r}. They are "
                f"{', '.join(self.quantities)}."
            )
        ranks: Array = self.ranks[:, self.quantities.index(quantity)]
        return ranks

    def ecdf_difference(self, quantity: str) -> Array:
        """The share of ranks below ``i``, less ``i / (L + 1)``, at ``i = 0, ..., L + 1``."""
        counts = np.bincount(self.ranks_of(quantity), minlength=self.num_samples + 1)
        return np.append(0, counts.cumsum()) / self.simulations - self.grid

    def ecdf_band(self, *, level: float = 0.95) -> tuple[Array, Array]:
        """Bounds of :meth:`ecdf_difference` that hold at once, with probability ``level``.

        Args:
            level: how likely the whole difference of uniform ranks stays within them.

        Returns:
            Lower and upper bound at ``i = 0, ..., L + 1``.
        """
        bounds = ecdf_band(self.simulations, self.num_samples, level=level)
        lower, upper = (np.concatenate([[0.0], bound, [1.0]]) - self.grid for bound in bounds)
        return lower, upper

    @property
    def grid(self) -> Array:
        """``i / (L + 1)`` at ``i = 0, ..., L + 1``."""
        return np.arange(self.num_samples + 2) / (self.num_samples + 1)

    @property
    def z_scores(self) -> Array:
        r""":math:`(E_q[h] - h^*) / \mathrm{sd}_q[h]`, ``(N, Q)`` (Schad et al. 2021)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z: Array = (self.mean - self.truth) / self.sd
        return z

    @property
    def contraction(self) -> Array:
        r""":math:`1 - \mathrm{var}_q[h] / \mathrm{var}_{p(\theta)}[h]`, ``(N, Q)``.

        The prior's variance is that of the true values. Near 1 the data have told almost
        everything, near 0 nothing (Schad et al. 2021, "Toward a principled Bayesian workflow in
        cognitive science"). For the log likelihood, which depends on the data, it means little.
        """
        shrunk: Array = 1 - self.sd**2 / self.truth.var(0, ddof=1)
        return shrunk
