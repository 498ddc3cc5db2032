r"""MAP estimation as a guide: a point mass at the posterior mode."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.convergence import Convergence
from probml_tp.guide import Draws, Guide, Sites, check_num_samples, matches
from probml_tp.guides.newton import mode_convergence
from probml_tp.guides.sites import point_mass
from probml_tp.model import BayesianModel

__all__ = ["Delta", "map_loss"]

REMEDY = (
    "Leave out lr, optimizer and epochs, or train longer. A hierarchical density may have no mode: "
    "write it without centring."
)


class Delta(Guide):
    r"""Maximum a posteriori: :math:`q(\theta) = \delta(\theta - \hat\theta)`.

    The mode is sought in unconstrained space, where Laplace also works, so that the two agree:

    .. math:: \hat u = \arg\max_u \log p(y \mid \theta(u)) + \log p(\theta(u))
              + \log|\partial\theta/\partial u|

    For sites on the real line this is the usual MAP; ``loss`` is the negative of the objective
    divided by ``N``. The optimisation starts at the net's own parameters.

    Args:
        model: the model.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> Delta(model).sample(5)["weight"].shape
        torch.Size([5, 1, 1])
    """

    name: ClassVar[str] = "map"
    no_density: ClassVar[str | None] = "MAP is a point mass: it has no density"
    deterministic_loss: ClassVar[bool] = True
    replayable_loss: ClassVar[bool] = True
    seeks_mode: ClassVar[bool] = True

    def __init__(self, model: BayesianModel) -> None:
        super().__init__(model)
        self.loc = nn.Parameter(model.layout.ravel(model.unconstrain(model.initial_params())))

    @classmethod
    @checked()
    def at_centre(cls, guide: Guide) -> Delta:
        """The point mass at the centre of another guide: of dropout, the net with dropout off.

        Args:
            guide: a guide with a centre.

        Returns:
            A guide of the same model.

        Raises:
            ValueError: the guide has no centre.
        """
        point = cls(guide.model)
        point.start_at(guide.centre())
        return point

    def _point(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        u = self.model.layout.unravel(self.loc)
        return u, self.model.constrain(u)

    def site_distributions(self) -> Sites:
        r"""Delta sites, with log density :math:`-\log|\partial\theta/\partial u|`."""
        for name, u in self.model.layout.unravel(self.loc).items():
            yield name, point_mass(self.model, name, u)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The mode, repeated without using memory."""
        _, values = self._point()
        shape = (check_num_samples(num_samples),)
        return {n: v.detach().clone().expand(*shape, *v.shape) for n, v in values.items()}

    def log_prob(self, draws: Draws) -> Tensor:
        r""":math:`-\log|\partial\theta/\partial u|` at the mode, minus infinity elsewhere."""
        u, values = self._point()
        hits = [matches(draws[name], value) for name, value in values.items()]
        log_density = -self.model.log_abs_det_jacobian(u)
        return torch.where(torch.stack(hits).all(0), log_density, -torch.inf)

    @property
    def constant_sites(self) -> frozenset[str]:
        """All sites."""
        return frozenset(self.model.sites)

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative log joint in unconstrained space, divided by ``N``."""
        return map_loss(self.model, self.loc, x, y, size=size)

    def convergence(self, x: Tensor, y: Tensor) -> Convergence | None:
        """The Newton decrement, where it is cheap."""
        return mode_convergence(self.model, self.loc, x, y, REMEDY)


def map_loss(model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor, *, size: int) -> Tensor:
    r"""The MAP objective on a batch, per data point.

    .. math:: -\frac1N \log p(u) - \frac1B \sum_{n \in B} \log p(y_n \mid f_{\theta(u)}(x_n))

    Args:
        model: the model.
        flat: the unconstrained parameters ``u``, shape ``(P,)``.
        x: inputs ``(B, ...)``.
        y: targets in canonical shape.
        size: ``N``.

    Returns:
        A scalar, in nats per data point.
    """
    return -model.log_joint_flat(flat, x, y, size=size) / size
