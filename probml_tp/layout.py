"""The order of a model's sites in one flat vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Sites laid one after the other in a vector of length ``size``.

    Flat vectors make a guide's step a handful of operations whatever the number of layers.

    Args:
        shapes: the shape of each site, in order.

    Example:
        >>> layout = Layout({"weight": torch.Size([2, 1]), "bias": torch.Size([2])})
        >>> layout.size
        4
        >>> layout.unravel(torch.arange(4.0))["bias"]
        tensor([2., 3.])
    """

    shapes: Mapping[str, torch.Size]

    @property
    def size(self) -> int:
        """The number of scalar parameters, ``P``."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def slices(self) -> dict[str, slice]:
        """The place of each site in the flat vector."""
        places, start = {}, 0
        for name, shape in self.shapes.items():
            places[name] = slice(start, start + prod(shape))
            start += prod(shape)
        return places

    def positions(self, names: Iterable[str]) -> Tensor:
        """Where the elements of some sites stand in the flat vector, ``(p,)``."""
        slices = self.slices
        places = [slices[name] for name in names]
        found = torch.empty(sum(p.stop - p.start for p in places), dtype=torch.long)
        start = 0
        for place in places:  # written in place: a slice of one range would keep all of it
            stop = start + place.stop - place.start
            torch.arange(place.start, place.stop, out=found[start:stop])
            start = stop
        return found

    def ravel(self, values: Mapping[str, Tensor]) -> Tensor:
        """Flatten sites of shape ``(*batch, *shape)`` into one tensor ``(*batch, P)``."""
        return torch.cat(
            [values[n].flatten(values[n].ndim - len(s)) if s else values[n].unsqueeze(-1)
             for n, s in self.shapes.items()],
            dim=-1,
        )  # fmt: skip

    def unravel(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut ``(*batch, P)`` into views ``(*batch, *shape)`` of the sites."""
        pieces = flat.split([prod(s) for s in self.shapes.values()], dim=-1)
        batch = flat.shape[:-1]
        return {
            name: piece.view(batch + shape)
            if piece.is_contiguous()
            else piece.reshape(batch + shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
