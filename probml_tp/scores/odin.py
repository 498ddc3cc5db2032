r"""ODIN: out-of-distribution detection by temperature and a step of the input (Liang et al. 2018).

With :math:`\hat y` the predicted class and :math:`p_T(y \mid x)` the predictive distribution at
temperature ``T``,

.. math::
    \tilde x = x - \frac{\varepsilon}{\sigma}\, s\big(\nabla_x \mathcal L(x)\big), \qquad
    \mathcal L(x) = -\log p_T(\hat y \mid x), \qquad
    \text{confidence} = \max_c \log p_T(c \mid \tilde x)

as in the paper and its code (facebookresearch/odin): the temperature is in the loss of the gradient
too, the step :math:`\varepsilon` is in units of the raw inputs and divided by the standard
deviation :math:`\sigma` that they were normalised by, and nothing is clipped.

Any posterior has it: :math:`p_T(y \mid x) = \tfrac1S\sum_s \mathrm{softmax}(f_s(x)/T)_y`, and the
gradient goes through the mean over the draws. For a point (MAP, the centre of a guide) that is the
paper's. A guide of dropout scores by its draws; ``Delta.at_centre(guide)`` has dropout off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked, real_tensor
from probml_tp.checks.values import positive, positive_integer
from probml_tp.likelihoods import ClassificationLikelihood
from probml_tp.predictions.draws import draw_batches, draw_chunks
from probml_tp.predictions.predictive import ClassificationPredictive, accumulator_for
from probml_tp.predictions.stages import Hidden, Prefix, Suffix, split_net, whole_net
from probml_tp.scores.network_pass import NetworkPass
from probml_tp.scores.outputs import log_max_probability

__all__ = [
    "Odin",
    "ZeroGradientSign",
    "input_gradient",
    "perturbed",
]

ZeroGradientSign = Literal["positive", "zero"]
"""The sign of a gradient of exactly 0: +1 as in the paper's code, or 0 as in ``torch.sign``."""


@checked()
@dataclass(frozen=True)
class Odin:
    r"""ODIN's confidence: the maximum probability at a temperature, after a step of the input.

    The value is :math:`\max_c \log p_T(c \mid \tilde x)` in float64: at ``T = 1000`` all
    probabilities are close to :math:`1/C` and would tie in float32. The passes are those of
    ``num_samples`` draws forward and backward, and again forward; layers before the first one whose
    weights vary between draws are run once. Without a step (:math:`\varepsilon = 0`) a point
    posterior needs no pass: the logits are there.

    Args:
        temperature: ``T``.
        epsilon: :math:`\varepsilon`, in units of the raw inputs: 0.0014 of images in [0, 1] is a
            third of a grey level in 256.
        std: :math:`\sigma`, the standard deviation that inputs were divided by: a number, or one
            for each channel (the second dimension of the inputs). 1: they are raw.
        zero_gradient_sign: see :data:`ZeroGradientSign`. It matters where a net ignores pixels.
        num_samples: draws ``S``; a guide of finitely many points uses each of them once instead.
        batch_size: points at a time.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import lenet
        >>> from probml_tp.scores import network_pass
        >>> posterior = Posterior(Delta(lenet(prior=NormalPrior(1.0))))
        >>> run = network_pass(posterior, torch.zeros(5, 1, 28, 28))
        >>> Odin(std=0.3081)(run).shape
        torch.Size([5])
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014
    std: float | Sequence[float] = 1.0
    zero_gradient_sign: ZeroGradientSign = "positive"
    num_samples: int = 10
    batch_size: int = 250

    def __post_init__(self) -> None:
        """Check the arguments."""
        positive("temperature", self.temperature)
        _check_step(self.epsilon, self.zero_gradient_sign)
        _channels(self.std)
        positive_integer("num_samples", self.num_samples)
        positive_integer("batch_size", self.batch_size)

    def __call__(self, run: NetworkPass) -> Tensor:
        """The confidence in nats, at most 0, ``(N,)``."""
        return self.at_epsilons(run, [self.epsilon])[0]

    @checked()
    def at_epsilons(self, run: NetworkPass, epsilons: Iterable[float]) -> Tensor:
        r"""The confidence for several steps :math:`\varepsilon`, from one gradient.

        Args:
            run: a pass.
            epsilons: the steps, in place of :attr:`epsilon`.

        Returns:
            ``(number of steps, N)``, in nats.
        """
        gradient: Tensor | None = None
        rows = []
        for epsilon in epsilons:
            _check_step(epsilon, self.zero_gradient_sign)
            if epsilon and gradient is None:
                gradient = input_gradient(
                    run,
                    temperature=self.temperature,
                    num_samples=self.num_samples,
                    batch_size=self.batch_size,
                )
            rows.append(log_max_probability(self._log_probs(run, epsilon, gradient)))
        return torch.stack(rows)

    def _log_probs(self, run: NetworkPass, epsilon: float, gradient: Tensor | None) -> Tensor:
        r""":math:`\log p_T(c \mid \tilde x)` in float64, ``(N, C)``."""
        guide = run.posterior.guide
        if not epsilon and guide.num_atoms == 1:
            return (run.logits.double() / self.temperature).log_softmax(-1)
        inputs = run.inputs
        if epsilon and gradient is not None:
            sign: ZeroGradientSign = self.zero_gradient_sign
            inputs = perturbed(
                inputs, gradient, epsilon=epsilon, std=self.std, zero_gradient_sign=sign
            )
        sums = accumulator_for(guide.model.likelihood, len(inputs), keep_outputs=False)
        for batch in draw_batches(
            guide,
            inputs,
            num_samples=guide.num_atoms or self.num_samples,
            seed=run.posterior.seed,
            batch_size=self.batch_size,
        ):
            sums.update(replace(batch, outputs=batch.outputs.double() / self.temperature))
        return cast("ClassificationPredictive", sums.result()).log_probs


@checked(temperature=positive)
def input_gradient(
    run: NetworkPass,
    *,
    temperature: float = 1000.0,
    num_samples: int = 10,
    batch_size: int = 250,
) -> Tensor:
    r"""The direction of ODIN's gradient :math:`\nabla_x \mathcal L`: a positive multiple of it.

    :math:`\mathcal L = \log(1 + e^\ell)` with the log odds against the predicted class at one draw,
    :math:`\ell_s = \log\frac{1 - p_s(\hat y)}{p_s(\hat y)}`. For a point this returns
    :math:`\nabla_x\ell`, which has the sign of :math:`\nabla_x\mathcal L` but does not vanish where
    :math:`p(\hat y)` rounds to 1. For draws it is their weighted mean,

    .. math:: \sum_s w_s \nabla_x \ell_s, \quad w_s \propto p_s(\hat y)\,(1 - p_s(\hat y)),
              \qquad\text{as}\quad
              -\nabla_x \log \tfrac1S\sum_s p_s(\hat y)
              = \frac{\sum_s p_s(\hat y) (1 - p_s(\hat y)) \nabla_x\ell_s}{\sum_s p_s(\hat y)}

    added up draw by draw, so that memory is flat in their number.

    Args:
        run: a pass; the predicted classes are its own.
        temperature: ``T``.
        num_samples: draws ``S``; a guide of finitely many points uses each of them once instead.
        batch_size: points at a time.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: the inputs are whole numbers, such as indices.

    Example:
        See :class:`Odin`.
    """
    guide, inputs = run.posterior.guide, _real_inputs(run.inputs)
    likelihood = cast("ClassificationLikelihood", guide.model.likelihood)
    count = guide.num_atoms or num_samples
    prefix, suffix = (
        split_net(guide, guide.outputs, inputs) if count > 1 else whole_net(guide.outputs)
    )
    parts, labels = inputs.split(batch_size), run.predictive.predicted_class.split(batch_size)
    sums = [_WeightedMean() for _ in parts]
    shared: dict[str, Tensor] = {}
    for _, draws in draw_chunks(guide, count, seed=run.posterior.seed):
        shared = {name: values[0] for name, values in draws.items()}
        for x, y, mean in zip(parts, labels, sums, strict=True):
            with torch.no_grad():
                hidden = prefix(shared, x)
            for s in range(len(next(iter(draws.values())))):
                params = {name: values[s] for name, values in draws.items()}
                mean.add(*_odds_gradient(likelihood, suffix, params, hidden, y, temperature))
    pulled = [_pull_back(prefix, shared, x, m.values) for x, m in zip(parts, sums, strict=True)]
    return torch.cat(pulled)


@checked(inputs=real_tensor(), gradient=real_tensor())
def perturbed(
    inputs: Tensor,
    gradient: Tensor,
    *,
    epsilon: float,
    std: float | Sequence[float] = 1.0,
    zero_gradient_sign: ZeroGradientSign = "positive",
) -> Tensor:
    r"""ODIN's step :math:`\tilde x = x - \varepsilon\, s(g) / \sigma`, which lowers the loss.

    Args:
        inputs: ``x``, ``(N, ...)``, normalised.
        gradient: ``g``, of the same shape.
        epsilon: :math:`\varepsilon`, in units of the raw inputs.
        std: :math:`\sigma`: a number, or one for each channel (the second dimension).
        zero_gradient_sign: ``s(0)``, see :data:`ZeroGradientSign`.

    Returns:
        A tensor of the same shape, not clipped.

    Raises:
        ValueError: the step is negative, or ``std`` does not fit the inputs.

    Example:
        >>> x, g = torch.zeros(1, 3), torch.tensor([[-2.0, 0.0, 2.0]])
        >>> perturbed(x, g, epsilon=0.1, std=0.5)
        tensor([[ 0.2000, -0.2000, -0.2000]])
    """
    _check_step(epsilon, zero_gradient_sign)
    if gradient.shape != inputs.shape:
        raise ValueError(
            f"inputs and gradient must have one shape; got {tuple(inputs.shape)} and "
            f"{tuple(gradient.shape)}. Take the gradient at these inputs."
        )
    scale = torch.tensor(_channels(std), dtype=inputs.dtype, device=inputs.device)
    if len(scale) not in (1, inputs.shape[1]):
        raise ValueError(
            f"std must be one number, or one for each of the {inputs.shape[1]} channels of the "
            f"inputs; got {len(scale)}. Pass those of the normalisation."
        )
    scale = scale.reshape(-1, *[1] * (inputs.ndim - 2))
    positive_sign = zero_gradient_sign == "positive"
    sign = torch.where(gradient >= 0, 1.0, -1.0) if positive_sign else gradient.sign()
    return inputs - epsilon * sign.to(inputs) / scale


class _WeightedMean:
    """A mean of gradients, point by point, whose weights are given by their logarithms."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self._log_total: Tensor | None = None

    def add(self, values: Sequence[Tensor], log_weight: Tensor) -> None:
        """Take in one draw's gradients, each ``(B, ...)``, and log weights ``(B,)``."""
        log_total = self._log_total
        if log_total is None:
            log_total = torch.full_like(log_weight, -torch.inf)
        self._log_total = torch.logaddexp(log_total, log_weight)
        old, new = ((part - self._log_total).exp() for part in (log_total, log_weight))

        def weighted(value: Tensor, weight: Tensor) -> Tensor:
            return value * weight.view(-1, *[1] * (value.ndim - 1))

        before = self.values or [torch.zeros_like(value) for value in values]
        self.values = [
            weighted(then, old) + weighted(now, new)
            for then, now in zip(before, values, strict=True)
        ]


@torch.enable_grad()
def _odds_gradient(
    likelihood: ClassificationLikelihood,
    forward: Suffix,
    params: Mapping[str, Tensor],
    hidden: Hidden,
    labels: Tensor,
    temperature: float,
) -> tuple[Sequence[Tensor], Tensor]:
    r""":math:`\nabla \ell_s` at the real tensors in ``hidden``, and :math:`\log p_s (1 - p_s)`."""
    leaves = tuple(v.detach().requires_grad_() if _is_real(v) else v for v in hidden)
    log_p = likelihood.log_probs(forward(params, leaves) / temperature)
    index = labels.unsqueeze(1)
    others = log_p.scatter(1, index, -torch.inf).logsumexp(-1)
    odds = others - log_p.gather(1, index).squeeze(1)
    gradients = torch.autograd.grad(
        odds.sum(), [v for v in leaves if _is_real(v)], materialize_grads=True
    )
    odds = odds.detach()
    logsigmoid = torch.nn.functional.logsigmoid
    return gradients, logsigmoid(odds) + logsigmoid(-odds)


@torch.enable_grad()
def _pull_back(
    prefix: Prefix, params: Mapping[str, Tensor], x: Tensor, gradients: Sequence[Tensor]
) -> Tensor:
    """The gradient at the inputs, from those at what the shared stage returns."""
    x = x.detach().requires_grad_()
    real = [value for value in prefix(params, x) if _is_real(value)]
    moved = [k for k, value in enumerate(real) if value.requires_grad]
    (gradient,) = torch.autograd.grad([real[k] for k in moved], x, [gradients[k] for k in moved])
    return gradient


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _real_inputs(inputs: Tensor) -> Tensor:
    if not inputs.is_floating_point():
        raise ValueError(
            f"ODIN takes a step of the inputs, which must be real numbers; got {inputs.dtype}. Use "
            f"another score, such as Tempered."
        )
    return inputs


def _check_step(epsilon: float, zero_gradient_sign: str) -> None:
    if isinstance(epsilon, bool) or not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(
            f"epsilon must be a finite number of at least 0; got {epsilon!r}. Pass 0.0014, say."
        )
    if zero_gradient_sign not in get_args(ZeroGradientSign):
        raise ValueError(
            f"zero_gradient_sign must be one of {get_args(ZeroGradientSign)}; got "
            f"{zero_gradient_sign!r}."
        )


def _channels(std: float | Sequence[float]) -> list[float]:
    """The standard deviations as a list of one or more."""
    each = list(std) if isinstance(std, Sequence) else [std]
    if not each:
        raise ValueError("std must hold a number for each channel; got none. Pass 1.0.")
    return [positive("std", value) for value in each]
