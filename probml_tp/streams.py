"""Streams of random numbers: one of its own for each purpose, all from the user's one seed."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from probml_tp.checks.values import valid_seed

__all__ = ["Stream", "seeded", "substream"]


@enum.unique
class Stream(enum.IntEnum):
    """What random numbers are for; a number, once given, stays, or seeded results change."""

    DRAWS = 1
    """Draws from a posterior."""

    REPLICATES = 2
    """Targets replicated for the record of a posterior."""

    VALIDATION = 3
    """The draws behind the validation loss, the same after each epoch."""

    CHAINS = 4
    """Chains of NUTS: next comes the chain's index, then 1 for its start."""

    MEMBERS = 5
    """Members of an ensemble: next comes the member's index, then whether it starts or trains."""

    RANDOM_START = 6
    """A net's parameters drawn anew."""

    PARETO_K = 7
    """Importance ratios behind k-hat: next comes 0 for all sites, or the layer's number."""

    CONFIDNET_ORDER = 8
    """The order in which ConfidNet's training sees the data."""

    BRIDGE = 9
    """The proposal of bridge sampling."""

    ANNEALING = 10
    """Annealed importance sampling: next comes which of its two runs."""

    SBC = 11
    """Simulation-based calibration: next come the simulation's index and a purpose within it."""

    TARGETS = 12
    """Draws of new targets from the predictive distribution: next comes the first point's index."""

    HYPERPARAMETERS = 13
    """Refits of a Laplace guide at other prior precisions: next comes the update's number."""

    EVIDENCE_BLOCKS = 14
    """Training between two updates of the hyperparameters: next comes the block's number."""

    CONFIDNET_HEAD = 15
    """Initial weights of ConfidNet's head."""

    COMPARISON = 16
    """Posteriors that are compared: next come the letters of a posterior's name, if it has one."""

    COMPARED_DRAWS = 17
    """Draws from a posterior that is compared with others."""

    COMPARED_TARGETS = 18
    """Targets replicated from a posterior that is compared with others."""

    RESAMPLES = 19
    """Which draws count how often in a bootstrap over draws."""

    CHAIN_CANDIDATES = 20
    """Draws that a chain's start is picked from, as posteriors are compared: next its index."""

    PROCESSES = 21
    """Noise by example where several processes train a guide: next come rank and epoch."""


def substream(seed: int, stream: Stream, *path: int) -> int:
    """A seed that follows from ``seed`` and gives numbers independent of it.

    Args:
        seed: the user's seed.
        stream: what the numbers are for.
        path: which part of the stream.

    Returns:
        A seed.

    Example:
        >>> substream(0, Stream.DRAWS) != substream(0, Stream.REPLICATES)
        True
    """
    return int(np.random.SeedSequence([valid_seed(seed), stream, *path]).generate_state(1)[0])


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within the block torch's global random numbers follow from ``seed``; restored after it.

    Args:
        seed: what the numbers follow from.
        device: whose numbers, besides those of the processor.

    Example:
        >>> with seeded(0):
        ...     a = torch.rand(2)
        >>> with seeded(0):
        ...     bool((torch.rand(2) == a).all())
        True
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(valid_seed(seed))
        yield
