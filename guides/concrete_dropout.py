r"""Concrete dropout: MC dropout whose drop rates are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from probml_tp.checks.values import positive
from probml_tp.guides.dropout import MCDropout
from probml_tp.guides.multiplicative import NoiseMode, NoisyUnits
from probml_tp.model import BayesianModel

__all__ = ["ConcreteDropout", "RelaxedUnits"]

MAX_LOGIT = 16.0


class ConcreteDropout(MCDropout):
    r"""MC dropout with learned drop rates (Gal, Hron & Kendall 2017, "Concrete dropout").

    The distribution and its KL term are those of :class:`MCDropout`, with the rate of each layer
    :math:`p_l = \sigma(a_l)` a parameter. For a prior :math:`\mathcal N(0, s^2)`

    .. math:: \mathrm{KL} = \sum_l \frac{\|\hat W_l\|^2}{2 s^2 (1-p_l)} - K_l H(p_l)
              + \mathrm{const},

    whose entropy term pulls :math:`p_l` to 1/2 and whose weight penalty, like the data, pulls it
    down: rates fall as ``N`` grows. Its weight must be exactly 1/N, else the rates mean nothing.

    The loss needs derivatives with respect to the rates, which masks do not have. Training
    replaces them by their concrete relaxation (Maddison et al. 2017; Jang et al. 2017)

    .. math:: \tilde z = \sigma\big((\mathrm{logit}(u) - a) / t\big), \qquad
              u \sim \mathcal U(0, 1)

    with temperature ``t``, off from the mask :math:`[\mathrm{logit}(u) > a]` by at most
    :math:`t \log(2)/2` on average; ``loss`` is
    :math:`-\frac1B\sum_{n\in B}\log p(y_n|\hat W\mathrm{diag}(\tilde z)/(1-p)) +
    \frac1N\mathrm{KL}`. Draws, predictions and ``log_prob`` have Bernoulli masks at the learned
    rates. As a Pyro program it holds the rates fixed: Pyro's own ELBO trains the weights only.

    Logits are kept within :math:`\pm 16` after each epoch: rates stay above 1e-7 and below
    1 - 1e-7.

    Args:
        model: the model; weights start at the net's own.
        rates: the drop rate in (0, 1) that each layer starts from, by name, as in
            :class:`MCDropout`; a number goes to every layer but the first.
        temperature: ``t``; lower is nearer to masks (at 0.1 the rates learned are somewhat too
            high), with gradients of larger variance.
        masks: in training, relaxed masks for each example or one set a step.

    Raises:
        ValueError: a rate or the temperature is out of range, or a layer unknown or of another
            kind.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> {layer: round(rate, 3) for layer, rate in ConcreteDropout(model).rates.items()}
        {'2': 0.1}
    """

    name: ClassVar[str] = "concrete-dropout"
    no_density: ClassVar[str | None] = (
        "concrete dropout is a discrete distribution over masks: it has no density"
    )

    def __init__(
        self,
        model: BayesianModel,
        *,
        rates: Mapping[str, float] | float = 0.1,
        temperature: float = 0.1,
        masks: NoiseMode = "per-example",
    ) -> None:
        super().__init__(model, rates=rates, masks=masks)
        for layer, rate in self._initial_rates.items():
            if rate == 0:
                raise ValueError(
                    f"a learned drop rate must start strictly between 0 and 1; got {rate!r} for "
                    f"layer {layer!r}. Pass 0.1, say, or leave the layer out of rates."
                )
        self.temperature = positive("temperature", temperature)
        start = torch.tensor(list(self._initial_rates.values()), dtype=torch.float64)
        self.logits = nn.Parameter(start.logit().clamp(-MAX_LOGIT, MAX_LOGIT).to(self.loc))

    def _logit(self, layer: str) -> Tensor:
        return self.logits[list(self._initial_rates).index(layer)]

    @property
    def rates(self) -> dict[str, float]:
        """The drop rate of each layer by name, as learned so far."""
        rates = self.logits.detach().double().sigmoid().tolist()
        return dict(zip(self._initial_rates, rates, strict=True))

    def drop_and_keep(self, layer: str) -> tuple[Tensor, Tensor]:
        r""":math:`p = \sigma(a)` and :math:`1 - p = \sigma(-a)`, without cancellation."""
        logit = self._logit(layer).double()
        return logit.sigmoid(), (-logit).sigmoid()

    def training_units(self, layer: str, weight: Tensor) -> RelaxedUnits:
        """Weights under relaxed masks, differentiable in the rate."""
        return RelaxedUnits(weight, self._logit(layer), self.temperature)

    def _keep(self, layers: Sequence[str]) -> None:
        kept = [self._logit(layer).detach() for layer in layers]
        super()._keep(layers)
        self.logits = nn.Parameter(torch.stack(kept))

    def end_epoch(self) -> None:
        """Keep rates strictly between 0 and 1."""
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def options(self) -> dict[str, Any]:
        """The rates at the start (the learned ones are parameters), and how they are trained."""
        return {**super().options(), "temperature": self.temperature}


class RelaxedUnits(NoisyUnits):
    r"""Weights under the concrete relaxation of :class:`~probml_tp.guides.dropout.MaskedUnits`.

    Args:
        weight: :math:`\hat W`, shape ``(out, in, ...)``.
        logit: :math:`a = \mathrm{logit}(p)`, a scalar.
        temperature: ``t``.

    Example:
        >>> relaxed = RelaxedUnits(torch.ones(2, 3), torch.tensor(0.0), 1e-6)
        >>> set(relaxed.rsample().unique().tolist()) <= {0.0, 2.0}
        True
    """

    def __init__(self, weight: Tensor, logit: Tensor, temperature: float) -> None:
        super().__init__(weight)
        self.logit, self.temperature = logit, temperature

    def multipliers(
        self, shape: Sequence[int], *, generator: torch.Generator | None = None
    ) -> Tensor:
        r""":math:`\tilde z / (1 - p)`, with :math:`1/(1-p) = 1 + e^a`."""
        like = self.weight
        u = torch.rand(tuple(shape), generator=generator, dtype=like.dtype, device=like.device)
        keep = torch.sigmoid((u.logit() - self.logit) / self.temperature)
        return keep * (1 + self.logit.exp())
