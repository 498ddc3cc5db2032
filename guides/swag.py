r"""SWAG: a normal fitted to the path of stochastic gradient descent around a mode."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import non_negative_integer, positive_integer
from probml_tp.guides.delta import map_loss
from probml_tp.guides.low_rank import LowRankPlusDiagonal
from probml_tp.model import BayesianModel

__all__ = ["SWAG"]

FLOOR = 1e-6
"""The least variance of a parameter, as a fraction of the mean variance over parameters."""


class SWAG(LowRankPlusDiagonal):
    r"""Stochastic weight averaging, Gaussian (Maddox et al. 2019).

    "A simple baseline for Bayesian uncertainty in deep learning", algorithm 1. Training minimises
    the MAP objective in unconstrained space (``loss``, per data point); the iterate at the end of
    each epoch after the first ``burn_in`` is a snapshot :math:`u_1, \ldots, u_T`. Then

    .. math:: q(u) = \mathcal N\Bigl(\bar u,\; \tfrac12\,\mathrm{diag}(\overline{u^2} - \bar u^2)
              + \tfrac{1}{2(K-1)} D D^\top\Bigr)

    with means over all snapshots, and :math:`D` the last :math:`K = \min(T, \text{rank})` columns
    :math:`u_t - \bar u_t`, each with the running mean :math:`\bar u_t` of its time. Variances are
    at least 1e-6 of their mean over parameters (a thousandth of the standard deviation): a
    parameter that never moves, such as a dead unit's, would leave ``q`` without a density, and an
    absolute floor as small as the authors' 1e-30 would drown the density in rounding.

    **How to train it.** The spread is that of the iterates under gradient noise, so it depends on
    the learning rate and the batch size: it estimates the posterior's only where these suit
    (Mandt, Hoffman & Blei 2017, "Stochastic gradient descent as approximate Bayesian inference").
    Take plain SGD at a constant rate, high enough to wander, from a mode that was found before:

        fit(model, SWAG, data, init=map_posterior, epochs=60, batch_size=100,
            optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))

    Without ``init`` let ``burn_in`` epochs pass first. Under a schedule that ends at 0 the last
    snapshots are all the same. While it trains, ``loc`` is the iterate; the fit ends by moving it
    to the mean :math:`\bar u`. Another fit of the same guide collects anew.

    Args:
        model: the model; training starts at the net's own parameters, unless ``init`` is given.
        rank: the largest number ``K`` of deviations kept, at least 2.
        burn_in: epochs before the first snapshot.

    Raises:
        ValueError: ``rank`` or ``burn_in`` is out of range.

    Example:
        >>> from functools import partial
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.5))
        >>> x = torch.linspace(-1, 1, 40).unsqueeze(-1)
        >>> sgd = partial(torch.optim.SGD, lr=0.02)
        >>> posterior = fit(model, SWAG, (x, 2 * x), epochs=20, batch_size=4, optimizer=sgd)
        >>> posterior.guide.snapshots
        tensor(20)
    """

    name: ClassVar[str] = "swag"
    deterministic_loss: ClassVar[bool] = True

    epochs: Tensor
    snapshots: Tensor
    mean: Tensor
    scatter: Tensor
    deviations: Tensor
    scale: Tensor

    @checked()
    def __init__(self, model: BayesianModel, *, rank: int = 20, burn_in: int = 0) -> None:
        super().__init__(model)
        self.rank = positive_integer("rank", rank)
        if rank == 1:
            raise ValueError("rank must be at least 2: one deviation has no variance; got 1.")
        self.burn_in = non_negative_integer("burn_in", burn_in)
        self.loc = nn.Parameter(model.layout.ravel(model.unconstrain(model.initial_params())))
        zeros, count = torch.zeros_like(self.loc.data), torch.zeros((), dtype=torch.long)
        self.register_buffer("epochs", count.to(zeros.device))
        self.register_buffer("snapshots", count.to(zeros.device).clone())
        self.register_buffer("mean", zeros)
        self.register_buffer("scatter", zeros.clone())
        self.register_buffer("deviations", zeros.new_zeros(self.rank, len(zeros)))
        self.register_buffer("scale", zeros.new_zeros(0))

    # ------------------------------------------------------------------------ the distribution

    def scale_and_factor(self) -> tuple[Tensor, Tensor]:
        r""":math:`d` of the diagonal and :math:`V = D / \sqrt{2(K-1)}`.

        Raises:
            ValueError: the guide is not fitted.
        """
        if not len(self.scale):
            raise ValueError(
                "the swag guide has no covariance before it is fitted. Call fit(model, SWAG, data, "
                "batch_size=...) first."
            )
        K = min(int(self.snapshots), self.rank)
        return self.scale, self.deviations[:K].mT / (2 * (K - 1)) ** 0.5

    # ----------------------------------------------------------------------------- fitting it

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Forget the snapshots of an earlier fit."""
        for buffer in (self.epochs, self.snapshots, self.mean, self.scatter, self.deviations):
            buffer.zero_()
        self.scale = self.scale.new_zeros(0)

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The MAP objective per data point.

        Raises:
            ValueError: a step is taken on all the data at once.
        """
        if torch.is_grad_enabled() and len(x) == size:
            raise ValueError(
                f"SWAG needs the noise of gradients on batches, for on all the data at once its "
                f"spread is the optimiser's path alone; got a batch of all {size} points. Pass "
                f"fit a batch_size, such as {max(1, size // 10)}."
            )
        return map_loss(self.model, self.loc, x, y, size=size)

    def end_epoch(self) -> None:
        r"""Take a snapshot: update the mean, :math:`\sum_t (u_t - \bar u)^2`, the deviations."""
        self.epochs += 1
        if self.epochs <= self.burn_in:
            return
        self.snapshots += 1
        T, u = int(self.snapshots), self.loc.detach()
        before = u - self.mean
        self.mean += before / T
        self.scatter += before * (u - self.mean)  # Welford: nothing cancels
        self.deviations[(T - 1) % self.rank] = u - self.mean

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Move to the mean of the snapshots, and set the diagonal.

        Raises:
            ValueError: there are fewer than 2 snapshots, or they are all the same.
        """
        T = int(self.snapshots)
        if T < 2:
            raise ValueError(
                f"SWAG needs at least 2 snapshots, one for each epoch after burn_in; got {T} from "
                f"{int(self.epochs)} epochs with burn_in={self.burn_in}. Train for more epochs."
            )
        variance = self.scatter / T
        if not bool(variance.mean() > 0):
            raise ValueError(
                f"SWAG needs iterates that move; the {T} snapshots are all the same. Raise the "
                f"learning rate, and keep it constant."
            )
        self.scale = (0.5 * variance.clamp_min(FLOOR * variance.mean())).sqrt()
        self.loc.data = self.mean.clone()

    def options(self) -> dict[str, Any]:
        """The rank and the burn-in."""
        return {"rank": self.rank, "burn_in": self.burn_in}
