"""The network of ConfidNet: a head on features, and a copy of the encoder that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from probml_tp.copying import copy_module
from probml_tp.model import BayesianModel
from probml_tp.scores.features import features_like
from probml_tp.scores.network_pass import NetworkPass, inputs_of, last_layer

__all__ = ["ConfidNetEncoder", "ConfidNetNetwork"]

BATCH = 1000


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
    """The head, fully connected with ReLU, on features or after an encoder of its own.

    Args:
        sizes: widths from the features to the last hidden layer; one output, the logit, follows.
        like: for type and device.

    Example:
        >>> ConfidNetNetwork((5, 400), like=torch.zeros(1))(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    encoder: ConfidNetEncoder | None

    def __init__(self, sizes: Sequence[int], *, like: Tensor) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.head = nn.Sequential()
        for k, m in pairwise(sizes):
            self.head.append(nn.Linear(k, m, dtype=like.dtype)).append(nn.ReLU())
        self.head.append(nn.Linear(sizes[-1], 1, dtype=like.dtype)).to(like.device)
        self.encoder = None

    def forward(self, x: Tensor) -> Tensor:
        """The logits ``(batch,)``: of features, or of inputs where there is an encoder."""
        logits: Tensor = self.head(x if self.encoder is None else self.encoder(x))
        return logits.squeeze(-1)

    def inputs(self, run: NetworkPass) -> Tensor:
        """What it reads of a pass: the features, or the inputs where there is an encoder.

        Raises:
            ValueError: there are no features, or another number of them.
        """
        if self.encoder is not None:
            return run.inputs
        return features_like(run, self.sizes[0])

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """The logits of all of ``x``, ``(N,)``, in batches."""
        return torch.cat([self(part) for part in x.split(BATCH)])
