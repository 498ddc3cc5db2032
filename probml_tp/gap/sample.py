"""Draws to compare posteriors by: what is kept of each draw, and how draws are resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probml_tp.empirical import Empirical
from probml_tp.likelihoods import ClassificationLikelihood, RegressionLikelihood
from probml_tp.posterior import Posterior
from probml_tp.predictions.draws import DrawBatch, draw_batches
from probml_tp.quiet_arviz import az
from probml_tp.records import InOrder
from probml_tp.streams import Stream, seeded, substream

__all__ = ["Convergence", "Resampled", "Sample", "collect", "convergence"]

Array = np.ndarray[Any, Any]

MAX_ELEMENTS = 50_000_000
BLOCK = 4
"""Length of a block of consecutive draws, in autocorrelation times."""

REPLICATES = 2000
"""At least so many targets stand for a posterior of finitely many points."""


@dataclass(frozen=True)
class Convergence:
    """How well a chain knows the function values.

    Args:
        r_hat: the largest rank-normalised split R-hat over points and outputs.
        ess: the smallest bulk effective sample size.
        tail_ess: the smallest tail effective sample size.
    """

    r_hat: float
    ess: float
    tail_ess: float


@dataclass(frozen=True)
class Sample:
    """Draws of one posterior, in chains one after the other.

    Args:
        sites: each site's elements at every draw, ``(S, P_site)``.
        functions: what is kept of the functions at ``N`` points: of a classifier ``probs``
            ``(S, N, C)`` and ``entropy`` ``(S, N)``, of a regression ``mean`` and ``target``, the
            function and replicated targets, ``(S, N d)``: one a draw, or more where few points are
            all of the posterior.
        chains: how many chains the draws are; 1 where they are independent.
        is_whole: whether these are all the points that the posterior consists of, each equally
            likely: then there is nothing to resample.
        block: consecutive draws that are resampled together; 1 where they are independent.
        convergence: of a chain.
    """

    sites: Mapping[str, Array]
    functions: Mapping[str, Array]
    chains: int
    is_whole: bool
    block: int = 1
    convergence: Convergence | None = None

    @property
    def size(self) -> int:
        """The number of draws, ``S``."""
        return len(next(iter(self.functions.values())))

    def halves(self) -> tuple[Sample, Sample]:
        """The first half of every chain, and the second.

        Raises:
            ValueError: a chain has a single draw.
        """
        rows = np.arange(self.size).reshape(self.chains, -1)
        half = rows.shape[1] // 2
        if not half:
            raise ValueError(
                f"a reference needs at least 2 draws in every chain; got {self.size} in "
                f"{self.chains} chain(s). Run longer chains."
            )
        return self._take(rows[:, :half]), self._take(rows[:, half : 2 * half])

    def _take(self, rows: Array) -> Sample:
        index = rows.ravel()
        return Sample(
            {name: values[index] for name, values in self.sites.items()},
            {name: values[index] for name, values in self.functions.items()},
            self.chains,
            self.is_whole,
            min(self.block, rows.shape[1]),
        )

    def resample(self, resamples: int, seed: int) -> Resampled:
        """Resample the draws.

        Independent draws are drawn with replacement; chains as circular blocks of :attr:`block`
        consecutive draws of the same chain (Politis and Romano 1992), so that what is resampled
        has the autocorrelation of the chain. Where the draws are all of the posterior, only the
        targets replicated from them are resampled.

        Args:
            resamples: ``R``.
            seed: determines them.

        Returns:
            How often each draw counts.
        """
        rng = np.random.default_rng(substream(seed, Stream.RESAMPLES))
        once = np.ones((1, self.size), dtype=np.int64)
        if self.is_whole:
            draws = np.tile(once, (1 + resamples, 1))
            num_targets = len(self.functions.get("target", once[0]))
            targets = rng.multinomial(num_targets, np.full(num_targets, 1 / num_targets), resamples)
            return Resampled(self, draws, np.vstack([np.ones_like(targets[:1]), targets]))
        counts = np.vstack([once, *(self._blocks(rng) for _ in range(resamples))])
        return Resampled(self, counts, counts)

    def _blocks(self, rng: np.random.Generator) -> Array:
        """How often each draw counts in one resample, ``(S,)``."""
        length = self.size // self.chains
        start = rng.integers(length, size=(self.chains, -(-length // self.block), 1))
        place = ((start + np.arange(self.block)) % length).reshape(self.chains, -1)[:, :length]
        place = place + length * np.arange(self.chains)[:, None]
        return np.bincount(place.ravel(), minlength=self.size)


@dataclass(frozen=True)
class Resampled:
    """Draws and how often each counts: once in the first row, then in each resample.

    Args:
        sample: the draws.
        draws: their counts, ``(1 + R, S)``.
        targets: the counts of the replicated targets, ``(1 + R, number of targets)``.
    """

    sample: Sample
    draws: Array
    targets: Array


def collect(
    posterior: Posterior, x: Tensor, *, sites: Sequence[str], num_samples: int, seed: int
) -> Sample:
    """Run a posterior's draws over the points once and keep what comparisons need.

    Args:
        posterior: the posterior. A chain gives all its draws, a guide of finitely many points each
            of them once, any other ``num_samples`` independent draws.
        x: checked inputs ``(N, ...)``.
        sites: which sites to keep.
        num_samples: how many independent draws.
        seed: determines them.

    Returns:
        The draws.

    Raises:
        ValueError: they are more than 50 million numbers.
    """
    guide = posterior.guide
    chains, count = 1, guide.num_atoms or num_samples
    if isinstance(guide, Empirical):
        chains, count = guide.flat.shape[0], guide.flat.shape[0] * guide.flat.shape[1]
        guide = InOrder(guide)
    kept: dict[str, list[Array]] = {name: [] for name in sites}
    parts: dict[str, dict[int, list[Array]]] = {}
    with torch.no_grad(), seeded(substream(seed, Stream.COMPARED_TARGETS), x.device):
        for batch in draw_batches(
            guide, x, num_samples=count, seed=substream(seed, Stream.COMPARED_DRAWS), batch_size=250
        ):
            if batch.points.start == 0 and batch.draws.start == 0:
                _check_size(posterior, batch, count, len(x), sites)
            if batch.points.start == 0:
                for name in sites:
                    kept[name].append(
                        _numpy(batch.params[name].flatten()).reshape(len(batch.outputs), -1)
                    )
            for name, values in _functions(posterior, batch).items():
                parts.setdefault(name, {}).setdefault(batch.draws.start, []).append(values)
    functions = {
        name: np.concatenate([np.concatenate(row, axis=1) for row in rows.values()])
        for name, rows in parts.items()
    }
    is_chain = isinstance(posterior.guide, Empirical)
    found = convergence(functions, chains) if is_chain else None
    return Sample(
        {name: np.concatenate(values) for name, values in kept.items()},
        functions,
        chains,
        is_whole=posterior.guide.num_atoms is not None,
        block=_block(found, count, chains),
        convergence=found,
    )


def convergence(functions: Mapping[str, Array], chains: int) -> Convergence:
    """ArviZ's diagnostics of function values, the worst over points and outputs.

    Args:
        functions: of a :class:`Sample`: class probabilities, or the function of a regression.
            Values that never move, such as a probability of 1, say nothing and are left out.
        chains: how many chains the draws are.

    Returns:
        The worst of each; R-hat is NaN for a single chain.
    """
    values = functions["probs"] if "probs" in functions else functions["mean"]
    flat = values.reshape(len(values), -1)
    moving = flat[:, np.ptp(flat, axis=0) > 0]
    if not moving.size:
        return Convergence(np.nan, 0.0, 0.0)
    shaped = moving.reshape(chains, -1, moving.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # values of two levels, or stuck chains
        data = az.convert_to_dataset({"f": shaped})  # type: ignore[no-untyped-call]
        r_hat = az.rhat(data)["f"].max() if chains > 1 else np.nan  # type: ignore[no-untyped-call]
        ess, tail = (
            float(az.ess(data, method=method)["f"].min())  # type: ignore[no-untyped-call]
            for method in ("bulk", "tail")
        )
    return Convergence(float(r_hat), ess, tail)


def _block(found: Convergence | None, count: int, chains: int) -> int:
    """A few autocorrelation times, so that blocks are about independent of each other."""
    if found is None:
        return 1
    time = count / min((e for e in (found.ess, found.tail_ess) if e > 1), default=1.0)
    length = count // chains
    return 1 if time <= 1 else min(int(np.ceil(BLOCK * time)), length)


def _functions(posterior: Posterior, batch: DrawBatch) -> dict[str, Array]:
    likelihood = posterior.model.likelihood
    if isinstance(likelihood, ClassificationLikelihood):
        probs = likelihood.log_probs(batch.outputs).double().exp()
        return {"probs": _numpy(probs), "entropy": _numpy(torch.special.entr(probs).sum(-1))}
    mean, _ = cast("RegressionLikelihood", likelihood).moments(batch.outputs, batch.params)
    repeats = -(-REPLICATES // posterior.guide.num_atoms) if posterior.guide.num_atoms else 1
    target = likelihood.distribution(batch.outputs, batch.params).sample((repeats,)).flatten(0, 1)
    return {"mean": _numpy(mean.flatten(1)), "target": _numpy(target.flatten(1))}


def _numpy(values: Tensor) -> Array:
    array: Array = values.double().cpu().numpy()
    return array


def _check_size(
    posterior: Posterior, batch: DrawBatch, count: int, num_points: int, sites: Sequence[str]
) -> None:
    elements = num_points * batch.outputs.shape[-1]
    elements += sum(batch.params[name][0].numel() for name in sites)
    if count * elements > MAX_ELEMENTS:
        raise ValueError(
            f"a comparison may hold at most {MAX_ELEMENTS:,} numbers of a posterior; {count} draws "
            f"of the {posterior.name} posterior at {num_points} points and {len(sites)} sites make "
            f"{count * elements:,}. Pass fewer points or draws, or sites=() to leave out weights."
        )
