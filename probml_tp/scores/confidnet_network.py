"""The network of ConfidNet: a head on features, and a copy of the encoder that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from probml_tp.copying import copy_module
from probml_tp.model import BayesianModel
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.scores.features import features_like
from probml_tp.scores.network_pass import NetworkPass, inputs_of, last_layer

__all__ = ["ConfidNetEncoder", "ConfidNetNetwork", "logit_of_largest"]

BATCH = 1000

LARGEST = 700.0
"""Logits beyond it have no logistic function in float64."""


class ConfidNetEncoder(nn.Module):
    """A copy of a classifier's net that returns the inputs of its last layer, to be trained.

    Args:
        model: the classifier; its net is copied, in the eval mode that it is in, so that layers
            such as dropout stay off.
        params: where the copy starts, ``{site: value}``.
        last: the name of the last layer, whose own parameters play no part.

    Example:
        >>> from probml_tp import BayesianModel, Categorical, NormalPrior
        >>> net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> model = BayesianModel(net, NormalPrior(1.0), Categorical(3))
        >>> ConfidNetEncoder(model, model.initial_params(), "2")(torch.zeros(4, 2)).shape
        torch.Size([4, 5])
    """

    def __init__(self, model: BayesianModel, params: Mapping[str, Tensor], last: str) -> None:
        super().__init__()
        self.last = last
        self.net = copy_module(model.net).requires_grad_(True)
        self.net.get_submodule(last).requires_grad_(False)
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                parameter.copy_(params[name])

    @classmethod
    def at_centre(cls, run: NetworkPass) -> ConfidNetEncoder:
        """The encoder at the centre of a posterior, which gives the features of its pass.

        Args:
            run: a pass with features.

        Returns:
            The copy.

        Raises:
            ValueError: the posterior has no centre, as an ensemble has none, or the features are
                not those at the centre.
        """
        posterior = run.posterior
        layer = last_layer(posterior.model, run.inputs[:1])
        last = next(n for n, m in posterior.model.net.named_modules() if m is layer)
        encoder = cls(posterior.model, posterior.guide.centre(), last)
        with torch.no_grad():
            features = encoder(run.inputs[:BATCH])
        if not torch.allclose(features, run.require_features()[:BATCH], rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"cloning starts from the features at the posterior's centre; those of this pass "
                f"of the {posterior.name} posterior are others, such as a mean over draws. Take "
                f"the features, or all of the pass, from Delta.at_centre(posterior.guide)."
            )
        return encoder

    def forward(self, x: Tensor) -> Tensor:
        """The features at ``x``, ``(batch, d)``."""
        with inputs_of(self.net.get_submodule(self.last)) as seen:
            self.net(x)
        return seen[0]


class ConfidNetNetwork(nn.Module):
    r"""The head, fully connected with ReLU, on features or after an encoder of its own.

    .. math:: f_n = \mathrm{head}\big((z_n - m) / s\big) \quad
              \big[{} + \mathrm{logit} \max_c \bar p_{nc}\big]

    Args:
        sizes: widths from the features to the last hidden layer; one output, the logit, follows.
        like: for type and device.
        from_probability: whether the largest probability is added, in which case the head is 0 at
            the start.

    Attributes:
        shift: :math:`m`, 0 unless :meth:`standardize` was called.
        scale: :math:`s`, 1 unless it was.

    Example:
        >>> ConfidNetNetwork((5, 400), like=torch.zeros(1))(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    encoder: ConfidNetEncoder | None
    shift: Tensor
    scale: Tensor

    def __init__(
        self, sizes: Sequence[int], *, like: Tensor, from_probability: bool = False
    ) -> None:
        super().__init__()
        self.sizes, self.from_probability = tuple(sizes), from_probability
        self.register_buffer("shift", like.new_zeros(sizes[0]))
        self.register_buffer("scale", like.new_ones(sizes[0]))
        self.head = nn.Sequential()
        for k, m in pairwise(sizes):
            self.head.append(nn.Linear(k, m, dtype=like.dtype)).append(nn.ReLU())
        last = nn.Linear(sizes[-1], 1, dtype=like.dtype)
        if from_probability:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.head.append(last).to(like.device)
        self.encoder = None

    def standardize(self, features: Tensor) -> None:
        """Take mean and standard deviation of these features, ``(N, d)``, out of all."""
        spread, self.shift = features.std(0, correction=0), features.mean(0)
        self.scale = torch.where(spread > 0, spread, 1.0)

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """The logits ``(batch,)``.

        Args:
            x: features, or inputs where there is an encoder.
            start: what :meth:`start` gives for these points; default: 0.
        """
        features = x if self.encoder is None else self.encoder(x)
        logits: Tensor = self.head((features - self.shift) / self.scale).squeeze(-1)
        return logits if start is None else logits + start

    def start(self, run: NetworkPass) -> Tensor:
        """What is added to the head's outputs at the points of a pass, ``(N,)``, float64."""
        if self.from_probability:
            return logit_of_largest(run.predictive)
        return torch.zeros_like(run.predictive.log_probs[:, 0])

    def inputs(self, run: NetworkPass) -> Tensor:
        """What it reads of a pass: the features, or the inputs where there is an encoder.

        Raises:
            ValueError: there are no features, or another number of them.
        """
        if self.encoder is not None:
            return run.inputs
        return features_like(run, self.sizes[0])

    @torch.no_grad()
    def logits(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """The logits of all of ``x``, ``(N,)``, in batches."""
        logits = torch.cat([self(part) for part in x.split(BATCH)])
        return logits if start is None else logits + start


def logit_of_largest(predictive: ClassificationPredictive) -> Tensor:
    r""":math:`\log p_k - \log\sum_{c \ne k} p_c` of the predicted class ``k``, ``(N,)``, float64.

    From log probabilities: no ties where ``p`` rounds to 1.

    Args:
        predictive: the predictions.

    Returns:
        The logits; 700 at most, where the other probabilities are 0.

    Example:
        >>> probs = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
        >>> predictive = ClassificationPredictive(1, None, probs, None, None)
        >>> logit_of_largest(predictive)
        tensor([  0., 700.], dtype=torch.float64)
    """
    log_probs, index = predictive.log_probs, predictive.log_probs.argmax(-1, keepdim=True)
    others = log_probs.scatter(1, index, -torch.inf).logsumexp(-1)
    return (log_probs.gather(1, index).squeeze(1) - others).clamp_max(LARGEST)
