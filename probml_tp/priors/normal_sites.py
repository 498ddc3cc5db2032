"""All sites with normal priors as one vector: their log density in one operation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probml_tp.layout import Layout
from probml_tp.priors.sites import SiteDistribution

__all__ = ["LOG_2PI", "NormalSites"]

LOG_2PI = math.log(2 * math.pi)


class NormalSites(nn.Module):
    r"""All sites with normal priors at once: one vector operation instead of one a site.

    Args:
        layout: the order of the sites in the flat vector.
        sites: every site's prior; those that are not normal are left out.
        like: a tensor of the net's type, on its device.

    Attributes:
        log_normalizer: :math:`\sum_i \log\sigma_i + \tfrac12\log 2\pi`.
        others: the names of the other sites.
    """

    _loc: Tensor
    _scale: Tensor
    _positions: Tensor | None

    def __init__(
        self, layout: Layout, sites: Mapping[str, SiteDistribution], *, like: Tensor
    ) -> None:
        super().__init__()
        self.others = [name for name, site in sites.items() if not site.is_normal]
        normal = [name for name in sites if name not in self.others]
        self._size = sum(math.prod(sites[name].shape) for name in normal)
        first = normal == list(sites)[: len(normal)]
        positions = None if first else layout.positions(normal)
        self.register_buffer("_positions", positions, persistent=False)
        for argument in ("loc", "scale"):
            given = {name: cast("Tensor", getattr(sites[name], argument)) for name in normal}
            numbers = torch.cat([like.new_zeros(0), *(value.flatten() for value in given.values())])
            if not bool((numbers == numbers[:1]).all()):  # else one number stands for all
                values = [value.expand(sites[n].shape).flatten() for n, value in given.items()]
                numbers = torch.cat(values)
            else:
                numbers = numbers[:1].clone()
            self.register_buffer(f"_{argument}", numbers, persistent=False)
        log_scales = (
            sites[n].scale.double().log().expand(sites[n].shape).sum()  # type: ignore[operator]
            for n in normal
        )
        self.log_normalizer = float(sum(log_scales)) + self._size * (0.5 * LOG_2PI)

    @property
    def loc(self) -> Tensor:
        """Their prior means."""
        return self._loc.expand(self._size)

    @property
    def scale(self) -> Tensor:
        """Their prior standard deviations."""
        return self._scale.expand(self._size)

    @property
    def index(self) -> slice | Tensor:
        """Where their elements stand in the flat vector.

        A slice where they come first, as they do if only the likelihood's own sites are not
        normal; else their positions.
        """
        return slice(0, self._size) if self._positions is None else self._positions

    def log_prob(self, flat: Tensor) -> Tensor:
        """Log prior of the normal sites at flat vectors ``(*draws, P)``: ``(*draws,)``."""
        return -0.5 * self.squares(flat) - self.log_normalizer

    def squares(self, flat: Tensor) -> Tensor:
        r""":math:`\sum_i (u_i - \mu_i)^2/\sigma_i^2` over them at flat vectors: ``(*draws,)``.

        One mean and one scale for all, the usual case, need one pass over the parameters forward
        and one backward, where a step of a net of millions would otherwise spend a seventh.
        """
        whole = self._positions is None and flat.shape[-1] == self._size
        u = flat if whole else flat[..., self.index]
        if u.ndim == 1 and len(self._loc) == len(self._scale) == 1:
            return F.mse_loss(u, self.loc, reduction="sum") / self._scale[0] / self._scale[0]
        return ((u - self.loc) / self.scale).square().sum(-1)
