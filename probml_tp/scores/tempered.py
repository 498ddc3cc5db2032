"""The maximum probability at a temperature."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from probml_tp.checks.values import positive
from probml_tp.scores.network_pass import NetworkPass
from probml_tp.scores.outputs import log_max_probability

__all__ = ["Tempered"]


@dataclass(frozen=True)
class Tempered:
    r"""The maximum class probability after temperature scaling (Guo et al. 2017).

    .. math:: \max_c \log p_{T,c}, \qquad p_{T,c} \propto \bar p_c^{\,1/T}

    of the mean :math:`\bar p` over draws, in float64. For a point posterior that is
    :math:`\mathrm{softmax}(f/T)`. With more than two classes the order of the points differs from
    that at :math:`T = 1`: the higher ``T``, the more the classes far down count.

    Args:
        temperature: ``T``, above 0; 1 is :func:`max_probability`.

    Raises:
        ValueError: the temperature is not a positive number.

    Example:
        >>> import torch
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> Tempered(2.0)(network_pass(Posterior(Delta(model)), torch.zeros(5, 2))).shape
        torch.Size([5])
    """

    temperature: float

    def __post_init__(self) -> None:
        """Check the temperature."""
        positive("temperature", self.temperature)

    def __call__(self, run: NetworkPass) -> Tensor:
        """The confidence in nats, at most 0, ``(N,)``."""
        scaled = run.predictive.log_probs / self.temperature
        return log_max_probability(scaled.log_softmax(-1))
