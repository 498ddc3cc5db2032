"""Running a net at many draws: memory flat in draws and points, nothing computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from probml_tp.batching import vmap
from probml_tp.checks.values import positive_integer
from probml_tp.guide import Draws, Guide, check_draws, check_num_samples
from probml_tp.predictions.stages import Hidden, Suffix, split_net
from probml_tp.streams import Stream, substream

__all__ = [
    "DrawBatch",
    "Vectorize",
    "draw_batches",
    "draw_chunks",
    "is_dense",
]

Vectorize = Literal["auto", "loop", "vmap"]
"""How draws are run: one after the other, or several at a time by ``torch.func.vmap``."""

MAX_DRAW_ELEMENTS = 2**25
MAX_OUTPUT_ROWS = 2**19
VMAP_CHUNK = 10
LARGEST_CHUNK = 100
CHUNK_WORK = 50_000
"""Parameters times points that ``vmap`` runs at a time, within the bounds above."""

SMALL = 1000
"""Up to so many parameters any net is run by ``vmap`` that can be."""


@dataclass(frozen=True)
class DrawBatch:
    """The net's outputs for a chunk of draws and a batch of points.

    Args:
        draws: which of all draws.
        points: which of all points.
        params: the draws' parameters, ``{site: (num_draws, *shape)}``.
        outputs: the net's outputs, ``(num_draws, batch, k)``.
    """

    draws: slice
    points: slice
    params: Draws
    outputs: Tensor


def draw_chunks(guide: Guide, num_samples: int, *, seed: int) -> Iterator[tuple[slice, Draws]]:
    """Take draws in chunks of bounded size; the seed alone determines them.

    The chunk's size depends on the model only, so the draws are the same whoever asks.

    Args:
        guide: the posterior.
        num_samples: how many draws.
        seed: determines them.

    Yields:
        The chunk's place among all draws, and its draws.
    """
    check_num_samples(num_samples)
    generator = torch.Generator(device=guide.model.device)
    generator.manual_seed(substream(seed, Stream.DRAWS))
    layout, constant = guide.model.layout, guide.constant_sites
    varying = sum(prod(s) for n, s in layout.shapes.items() if n not in constant)
    chunk = max(1, MAX_DRAW_ELEMENTS // max(1, varying))
    chunk = num_samples if guide.draws_are_stored else chunk
    for start in range(0, num_samples, chunk):
        stop = min(start + chunk, num_samples)
        draws = guide.sample(stop - start, generator=generator)
        yield slice(start, stop), check_draws(guide, draws, stop - start)


def draw_batches(
    guide: Guide,
    x: Tensor,
    *,
    num_samples: int,
    seed: int,
    batch_size: int = 250,
    vectorize: Vectorize = "auto",
    own_net: bool = False,
) -> Iterator[DrawBatch]:
    """Run the net at every draw and every point, chunk by chunk.

    What no weight reaches that varies between draws is run once per batch, in any net that can be
    traced (:func:`~probml_tp.predictions.stages.split_net`); if none varies, one draw stands for
    all.

    Args:
        guide: the posterior.
        x: inputs ``(N, ...)``.
        num_samples: how many draws.
        seed: determines the draws.
        batch_size: points at a time; a few hundred keep a convolution's inputs and outputs in the
            cache of a core.
        vectorize: ``"auto"`` runs draws of fully connected sequential nets and of small ones by
            vmap, others, and those that vmap does not take, in a loop.
        own_net: run the model's net even where the guide predicts by another function, such as the
            linearised net.

    Returns:
        Outputs by chunk of draws and batch of points, as they are found.
    """
    positive_integer("batch_size", batch_size)
    if vectorize not in get_args(Vectorize):
        raise ValueError(f"vectorize must be one of {get_args(Vectorize)}; got {vectorize!r}.")
    prefix, suffix = split_net(guide, guide.model.outputs if own_net else guide.outputs, x)
    one_by_one = _Run(suffix, guide, vectorize)

    def run(params: Draws, x: Tensor) -> Tensor:
        outputs = None if own_net else guide.outputs_of_draws(params, x)
        if outputs is not None:
            return outputs
        return one_by_one(params, prefix({n: v[0] for n, v in params.items()}, x), len(x))

    @torch.no_grad()
    def batches() -> Iterator[DrawBatch]:
        for chunk, params in _bounded_chunks(guide, num_samples, seed, batch_size):
            for start in range(0, len(x), batch_size):
                points = slice(start, min(start + batch_size, len(x)))
                yield DrawBatch(chunk, points, params, run(params, x[points]))

    return batches()


def _bounded_chunks(
    guide: Guide, num_samples: int, seed: int, batch_size: int
) -> Iterator[tuple[slice, Draws]]:
    """Draws in chunks small enough for their outputs at a batch of points."""
    size = max(VMAP_CHUNK, MAX_OUTPUT_ROWS // batch_size)
    for chunk, params in draw_chunks(guide, num_samples, seed=seed):
        for start in range(chunk.start, chunk.stop, size):
            part = slice(start, min(start + size, chunk.stop))
            inside = slice(part.start - chunk.start, part.stop - chunk.start)
            yield part, {name: values[inside] for name, values in params.items()}


class _Run:
    """The net at many draws, by vmap or in a loop."""

    def __init__(self, forward: Suffix, guide: Guide, vectorize: Vectorize) -> None:
        self.forward, self.num_params = forward, guide.model.num_params
        self.may_loop = vectorize == "auto"
        pays = self.num_params <= SMALL or is_dense(guide.model.net)
        self.use_vmap = pays if self.may_loop else vectorize == "vmap"

    def __call__(self, params: Draws, shared: Hidden, num_points: int) -> Tensor:
        if self.use_vmap:
            try:
                return self._by_vmap(params, shared, num_points)
            except Exception:  # what vmap cannot batch; what is wrong raises again in the loop
                if not self.may_loop:
                    raise
                self.use_vmap = False
        num_draws = len(next(iter(params.values())))
        return torch.stack(
            [self.forward({n: v[s] for n, v in params.items()}, shared) for s in range(num_draws)]
        )

    def _by_vmap(self, params: Draws, shared: Hidden, num_points: int) -> Tensor:
        work = self.num_params * num_points
        chunk = min(max(CHUNK_WORK // work, VMAP_CHUNK), LARGEST_CHUNK)
        outputs: Tensor = vmap(self.forward, in_dims=(0, None), chunk_size=chunk)(params, shared)
        return outputs


def is_dense(net: nn.Module) -> bool:
    """Whether a net is sequential with fully connected layers only: ``vmap`` pays there.

    Example:
        >>> is_dense(nn.Sequential(nn.Linear(1, 2), nn.Tanh())), is_dense(nn.Linear(1, 2))
        (True, False)
    """
    layers = [m for m in net.modules() if any(True for _ in m.parameters(recurse=False))]
    return isinstance(net, nn.Sequential) and all(isinstance(m, nn.Linear) for m in layers)
