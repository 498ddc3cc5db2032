"""Likelihoods of labels: the net returns logits."""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor

from probml_tp.checks.values import positive_integer
from probml_tp.likelihoods.base import ClassificationLikelihood, Params

__all__ = ["Bernoulli", "Categorical"]


class Bernoulli(ClassificationLikelihood):
    r"""Binary classification; the net's one output is the logit of :math:`p(y = 1)`.

    The logit, never a probability: a net that ends in a sigmoid would be squashed twice.

    Example:
        >>> Bernoulli().log_prob(torch.zeros(2, 1), torch.tensor([0, 1]), {})
        tensor([-0.6931, -0.6931])
    """

    num_classes = 2

    def log_probs(self, outputs: Tensor) -> Tensor:
        """Log probabilities of classes 0 and 1, ``(*draws, batch, 2)``."""
        return torch.cat([F.logsigmoid(-outputs), F.logsigmoid(outputs)], dim=-1)

    def distribution(self, outputs: Tensor, params: Params) -> TorchDistribution:
        """Bernoulli over the labels."""
        return cast("TorchDistribution", dist.Bernoulli(logits=outputs.squeeze(-1)))

    def log_prob(self, outputs: Tensor, y: Tensor, params: Params) -> Tensor:
        r""":math:`y \log\mathrm{sigmoid}(f) + (1-y)\log\mathrm{sigmoid}(-f)`."""
        sign = 2 * y.to(outputs.dtype) - 1
        return F.logsigmoid(sign * outputs.squeeze(-1))

    def check_outputs(self, shape: torch.Size) -> None:
        """Outputs are ``(batch, 1)``."""
        if len(shape) != 2 or shape[-1] != 1:
            raise ValueError(
                f"Bernoulli needs one output, the logit of y = 1, of shape (batch, 1); the net "
                f"returns {tuple(shape)}. For several classes use Categorical."
            )

    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        """Targets are 0 or 1, ``(batch,)``; floating type, as Pyro's Bernoulli wants."""
        return _labels(y, 2).to(torch.get_default_dtype())

    def natural_inputs(self, outputs: Tensor, params: Params) -> Tensor:
        """The logit."""
        return outputs

    def fisher(self, outputs: Tensor, params: Params) -> Tensor:
        r""":math:`p (1 - p)`, also the exact Hessian in the logit."""
        return (torch.sigmoid(outputs) * torch.sigmoid(-outputs)).unsqueeze(-1)


class Categorical(ClassificationLikelihood):
    r"""Classification; the net's ``C`` outputs are logits, :math:`p(y) = \mathrm{softmax}(f)`.

    Args:
        num_classes: ``C``, at least 2.

    Raises:
        ValueError: ``num_classes`` is below 2.

    Example:
        >>> Categorical(4).log_prob(torch.zeros(1, 4), torch.tensor([3]), {})
        tensor([-1.3863])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = positive_integer("Categorical.num_classes", num_classes)
        if self.num_classes < 2:
            raise ValueError(f"Categorical needs at least two classes; got {num_classes}.")

    def log_probs(self, outputs: Tensor) -> Tensor:
        """Log probabilities of the classes, ``(*draws, batch, C)``."""
        return F.log_softmax(outputs, dim=-1)

    def distribution(self, outputs: Tensor, params: Params) -> TorchDistribution:
        """Categorical over the labels."""
        return dist.Categorical(logits=outputs)

    def log_prob(self, outputs: Tensor, y: Tensor, params: Params) -> Tensor:
        r""":math:`f_y - \log\sum_c e^{f_c}`."""
        index = y.expand(outputs.shape[:-1]).unsqueeze(-1)
        return self.log_probs(outputs).gather(-1, index).squeeze(-1)

    def check_outputs(self, shape: torch.Size) -> None:
        """Outputs are ``(batch, C)``."""
        if len(shape) != 2 or shape[-1] != self.num_classes:
            raise ValueError(
                f"Categorical({self.num_classes}) needs outputs of shape (batch, "
                f"{self.num_classes}); the net returns {tuple(shape)}. Change one of the two."
            )

    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        """Targets are labels 0 ... C-1, ``(batch,)``."""
        return _labels(y, self.num_classes)

    def natural_inputs(self, outputs: Tensor, params: Params) -> Tensor:
        """The logits."""
        return outputs

    def fisher(self, outputs: Tensor, params: Params) -> Tensor:
        r""":math:`\mathrm{diag}(p) - p p^\top`, also the exact Hessian in the logits."""
        p = torch.softmax(outputs, dim=-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)

    def extra_repr(self) -> str:
        """The number of classes."""
        return f"num_classes={self.num_classes}"


def _labels(y: Tensor, num_classes: int) -> Tensor:
    if y.ndim == 2 and y.shape[-1] == 1:
        y = y.squeeze(-1)
    if y.dtype == torch.bool:
        y = y.long()
    if y.ndim != 1:
        raise ValueError(
            f"labels must have shape (batch,); got {tuple(y.shape)}. "
            f"Pass class numbers, not one-hot rows."
        )
    wrong = (y < 0) | (y >= num_classes) | (y != y.round())
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels must be integers from 0 to {num_classes - 1}; {int(wrong.sum())} of {len(y)} "
            f"are not, the first is y[{index}] = {y[index].item():g}. "
            f"Renumber the classes from 0, or give the model more classes."
        )
    return y.long()
