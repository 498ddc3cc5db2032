"""Predicted class probabilities and the measures of their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from probml_tp.checks.values import (
    as_tensor,
    finite,
)
from probml_tp.predictions.predictive.base import Predictive

__all__ = ["ClassificationPredictive"]


@dataclass(frozen=True)
class ClassificationPredictive(Predictive):
    r"""Class probabilities and the measures of their uncertainty, all in nats.

    With :math:`p_s` the class probabilities at draw ``s`` and :math:`\bar p` their mean (never
    the softmax of a mean logit):

    .. math:: \underbrace{H(\bar p)}_{\text{predictive}} =
              \underbrace{\tfrac1S\sum_s H(p_s)}_{\text{expected (aleatoric)}} +
              \underbrace{I(y; \theta)}_{\text{mutual information (epistemic)}}

    (Depeweg et al. 2018; Houlsby et al. 2011). The variation ratio is the share of draws whose
    most probable class is not the most voted one (Gal 2016, section 3.3.1); it has only ``S``
    levels, so ties are many.

    Args:
        probs: :math:`\bar p`, shape ``(N, C)``.
        expected_entropy: shape ``(N,)``; ``None`` where it is not known.
        votes: how many draws have each class on top, ``(N, C)``; ``None`` where none were taken.
        log_probs: :math:`\log\bar p` in float64, ``(N, C)``, summed in log space: finite where
            ``probs`` has underflowed to 0. By default the logarithm of ``probs``.
        mean_outputs: the mean over draws of the net's outputs, ``(N, k)``: for scores of logits
            such as the energy, never for probabilities; ``None`` where it is not known.
    """

    probs: Tensor
    expected_entropy: Tensor | None
    votes: Tensor | None
    log_probs: Tensor = field(default_factory=lambda: torch.empty(0))
    mean_outputs: Tensor | None = None

    def __post_init__(self) -> None:
        """Fill in the log probabilities."""
        if not len(self.log_probs):
            object.__setattr__(self, "log_probs", self.probs.double().log())

    def log_prob(self, y: object) -> Tensor:
        r""":math:`\log\bar p_{n, y_n}` of the labels ``y`` in nats, ``(N,)``, float64.

        Raises:
            ValueError: ``y`` is not one label from 0 to C - 1 for each point.
        """
        labels = self.check_labels(y)
        return self.log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)

    def check_labels(self, y: object) -> Tensor:
        """Return ``y`` as integer labels on the predictions' device.

        Raises:
            ValueError: ``y`` is not one label from 0 to C - 1 for each point.
        """
        labels = finite("y", as_tensor("y", y)).to(self.probs.device)
        labels = labels.long() if labels.dtype == torch.bool else labels
        num_points, num_classes = self.probs.shape
        in_range = (labels >= 0) & (labels < num_classes) & (labels == labels.round())
        if labels.shape != (num_points,) or not bool(in_range.all()):
            raise ValueError(
                f"y must hold one label from 0 to {num_classes - 1} for each of the {num_points} "
                f"points predicted; got shape {tuple(labels.shape)} with values from "
                f"{labels.min().item():g} to {labels.max().item():g}. Pass the labels of the "
                f"points that were predicted."
            )
        return labels.long()

    @property
    def predicted_class(self) -> Tensor:
        """The most probable class, ``(N,)``."""
        return self.probs.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """The probability of the predicted class, ``(N,)``."""
        return self.probs.amax(-1)

    @property
    def predictive_entropy(self) -> Tensor:
        r""":math:`H(\bar p)`, total uncertainty, ``(N,)``."""
        terms: Tensor = torch.special.entr(self.probs)
        return terms.sum(-1)

    @property
    def mutual_information(self) -> Tensor:
        r""":math:`H(\bar p) - \tfrac1S\sum_s H(p_s) \ge 0`, epistemic uncertainty, ``(N,)``.

        Raises:
            ValueError: only the mean probabilities are known.
        """
        if self.expected_entropy is None:
            raise ValueError(
                "mutual information needs the spread of the class probabilities; the probit link "
                "and temperature scaling give their mean only. Call predict(..., link='sampled'), "
                "or use the predictions before scaling."
            )
        return (self.predictive_entropy - self.expected_entropy).clamp_min(0.0)

    def require_votes(self) -> Tensor:
        """How many draws have each class on top, ``(N, C)``.

        Raises:
            ValueError: the probabilities are in closed form, without draws.
        """
        if self.votes is None:
            raise ValueError(
                "votes need draws; these probabilities are in closed form. Call "
                "predict(..., link='sampled')."
            )
        return self.votes

    @property
    def voted_class(self) -> Tensor:
        """The class on top in most draws, ``(N,)``."""
        return self.require_votes().argmax(-1)

    @property
    def variation_ratio(self) -> Tensor:
        """One minus the share of votes of the voted class, ``(N,)``."""
        votes = self.require_votes()
        return 1 - votes.amax(-1).to(self.probs) / votes.sum(-1)
