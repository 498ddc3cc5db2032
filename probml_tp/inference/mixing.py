r"""Whether chains agree: the largest rank-normalised split R-hat, of parameters or of functions.

The halves of all chains are compared by :math:`\hat R = \sqrt{((n-1)W/n + B/n)/W}`, with variances
``W`` within and ``B`` between them, of the ranks turned normal and of those of the distance from
the median; the larger counts (Vehtari et al. 2021).

The weights of a net with hidden layers can be permuted without a change of its function, so that
its chains need not agree on them: there the outputs at some inputs are compared, and the log joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from probml_tp.convergence import Convergence
from probml_tp.model import BayesianModel

__all__ = ["chains_convergence", "largest_r_hat"]

LIMIT = 1.01
LEAST_DRAWS = 4
POINTS, DRAWS = 32, 250
"""Inputs that functions are compared at, and draws of each chain that they are compared by."""

REMEDY = "Draw more samples after a longer warm-up, or start the chains from a fit with init."

Array = np.ndarray[Any, np.dtype[np.float64]]


def largest_r_hat(chains: Array) -> float:
    """The largest R-hat over quantities, that of a constant left out.

    Args:
        chains: ``(chains, draws, quantities)``.

    Returns:
        It; NaN where every quantity is constant.

    Example:
        >>> far = np.arange(2.0)[:, None, None] + 0.01 * np.sin(np.arange(100.0))[None, :, None]
        >>> largest_r_hat(far) > 1.5
        True
    """
    half = chains.shape[1] // 2
    split = np.concatenate([chains[:, :half], chains[:, -half:]])
    folded = np.abs(split - np.median(split, axis=(0, 1)))
    with np.errstate(divide="ignore", invalid="ignore"):  # of a constant
        found = np.stack([_r_hat(_normal_ranks(values)) for values in (split, folded)])
    return float(np.nanmax(found)) if np.isfinite(found).any() else float("nan")


def _normal_ranks(values: Array) -> Array:
    flat = values.reshape(-1, values.shape[-1])
    ranks = (rankdata(flat, axis=0) - 0.375) / (len(flat) + 0.25)
    return np.asarray(ndtri(ranks)).reshape(values.shape)


def _r_hat(chains: Array) -> Array:
    n = chains.shape[1]
    within = chains.var(1, ddof=1).mean(0)
    between = n * chains.mean(1).var(0, ddof=1)
    return np.asarray(np.sqrt(((n - 1) * within + between) / n / within))


def chains_convergence(
    model: BayesianModel, x: Tensor, draws: Sequence[Array], log_joint: Sequence[Sequence[float]]
) -> Convergence | None:
    """Whether chains agree.

    Args:
        model: the model.
        x: checked inputs.
        draws: of each chain, unconstrained, ``(draws, P)``.
        log_joint: at each, ``(draws,)``.

    Returns:
        The record; ``None`` of a single chain, or of a few draws.
    """
    count = min(len(own) for own in draws)
    if len(draws) < 2 or count < LEAST_DRAWS:
        return None
    chains = np.stack([own[:count] for own in draws])
    layers = [m for m in model.net.modules() if any(True for _ in m.parameters(recurse=False))]
    if len(layers) < 2:
        return Convergence("R-hat of parameters", largest_r_hat(chains), LIMIT, REMEDY)
    kept = np.unique(np.linspace(0, count - 1, min(count, DRAWS)).astype(int))
    levels = np.stack([np.asarray(own)[:count] for own in log_joint])[:, kept, None]
    quantities = np.concatenate([_outputs(model, x, chains[:, kept]), levels], axis=-1)
    return Convergence("R-hat of functions", largest_r_hat(quantities), LIMIT, REMEDY)


@torch.no_grad()
def _outputs(model: BayesianModel, x: Tensor, chains: Array) -> Array:
    """The net's outputs at some inputs, ``(chains, draws, outputs)``."""
    places = torch.linspace(0, len(x) - 1, min(len(x), POINTS)).long().to(x.device)
    points = x[places]
    flat = torch.from_numpy(chains.reshape(-1, chains.shape[-1])).to(model.device, model.dtype)
    rows = [
        model.outputs(model.constrain(model.layout.unravel(row)), points).flatten() for row in flat
    ]
    outputs: Array = torch.stack(rows).double().cpu().numpy()
    return outputs.reshape(*chains.shape[:2], -1)
