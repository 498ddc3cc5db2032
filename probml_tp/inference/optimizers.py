"""The optimisers of ``fit``, its learning-rate schedules, and which of them it takes by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam, Optimizer
from torch.optim.adam import adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from probml_tp.guide import Guide
from probml_tp.inference.descent import WORK, make_lbfgs

__all__ = [
    "OptimizerFactory",
    "OptimizerName",
    "ScaledAdam",
    "ScheduleName",
    "callable_name",
    "default_optimizer",
    "describe_optimizer",
    "make_optimizer",
    "make_schedule",
]

OptimizerName = Literal["adam", "lbfgs", "scaled-adam"]
OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
ScheduleName = Literal["constant", "cosine", "linear"]


class ScaledAdam(Optimizer):
    r"""Adam (Kingma & Ba 2015) for a normal, in units of its own standard deviations.

    A step of a mean is :math:`\eta\,s_i\,\hat m_i/\sqrt{\hat v_i}` with the moments of the
    gradient with respect to :math:`u_i/s_i`, and of every other parameter Adam's own: so one rate
    suits a posterior of any width.

    Args:
        parameters: all of them.
        loc: the means among them.
        log_scale: the logarithms of their standard deviations, likewise.
        lr: the rate, in standard deviations a step.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-12

    def __init__(
        self, parameters: Iterable[Parameter], loc: Parameter, log_scale: Parameter, *, lr: float
    ) -> None:
        super().__init__(parameters, {"lr": lr})
        self._loc, self._log_scale = loc, log_scale

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            gradients = {p: p.grad for p in group["params"] if p.grad is not None}
            self._move(gradients, group["lr"])
        return loss

    def _move(self, gradients: dict[Parameter, Tensor], lr: float) -> None:
        scale, way = self._log_scale.exp(), torch.zeros_like(self._loc)
        states = [self._state_of(parameter) for parameter in gradients]
        adam(
            [way if p is self._loc else p for p in gradients],
            [g * scale if p is self._loc else g for p, g in gradients.items()],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.BETAS[0],
            beta2=self.BETAS[1],
            lr=lr,
            weight_decay=0.0,
            eps=self.EPSILON,
            maximize=False,
        )
        self._loc.addcmul_(scale, way)

    def _state_of(self, parameter: Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return state


def default_optimizer(
    guide: Guide, size: int, *, batch_size: int | None, whole_fit: bool, has_rate: bool
) -> OptimizerName:
    """The optimiser of a fit that names none.

    Args:
        guide: what is fitted.
        size: the number of data points.
        batch_size: points a step.
        whole_fit: whether the fit may go on until it has settled.
        has_rate: whether a learning rate or a schedule was given: then it is Adam's.

    Returns:
        On all data of a small problem L-BFGS for a mode, and Adam in units of the standard
        deviations for a normal; else Adam.
    """
    if has_rate or batch_size is not None or guide.model.work(size) > WORK:
        return "adam"
    if guide.seeks_mode and whole_fit:
        return "lbfgs"
    return "scaled-adam" if guide.scaled_parameters else "adam"


def make_optimizer(
    guide: Guide,
    optimizer: OptimizerName | OptimizerFactory,
    *,
    lr: float,
    batch_size: int | None,
) -> Optimizer:
    """The optimiser of a guide's parameters.

    Raises:
        ValueError: its name is unknown, or it does not suit the guide.
    """
    parameters = [p for p in guide.parameters() if p.requires_grad]
    if callable(optimizer):
        return optimizer(parameters)
    if optimizer not in get_args(OptimizerName):
        raise ValueError(
            f"optimizer must be one of {get_args(OptimizerName)} or a callable; got {optimizer!r}."
        )
    if optimizer == "adam":
        return Adam(parameters, lr=lr, fused=True)
    if optimizer == "scaled-adam":
        if guide.scaled_parameters is None:
            raise ValueError(
                f"scaled-adam is for guides that learn means and standard deviations; the "
                f"{guide.name} guide does not. Use optimizer='adam'."
            )
        return ScaledAdam(parameters, *guide.scaled_parameters, lr=lr)
    if not guide.deterministic_loss or batch_size is not None:
        raise ValueError(
            f"lbfgs needs a deterministic objective on all the data; the {guide.name} guide with "
            f"batch_size={batch_size} has none. Use optimizer='adam', or a MAP or Laplace "
            f"guide without batches."
        )
    return make_lbfgs(parameters)


def make_schedule(
    optimizer: Optimizer, schedule: ScheduleName, steps: int, *, repeated: bool
) -> LRScheduler:
    """The learning rate over steps.

    Args:
        optimizer: whose rate it is.
        schedule: its name.
        steps: until it is 0, if it falls.
        repeated: whether it then starts again.

    Raises:
        ValueError: its name is unknown.
    """
    if schedule == "cosine" and repeated:
        return LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * (k % steps) / steps)))
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if schedule == "linear":
        return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    if schedule == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    raise ValueError(f"schedule must be one of {get_args(ScheduleName)}; got {schedule!r}.")


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Class and settings of an optimiser, as text: what its name does not tell."""
    groups = [
        {key: len(value) if key == "params" else str(value) for key, value in group.items()}
        for group in optimizer.param_groups
    ]
    defaults = {key: str(value) for key, value in optimizer.defaults.items()}
    return {"class": callable_name(type(optimizer)), "defaults": defaults, "groups": groups}


def callable_name(function: object) -> str:
    """Module and name of a callable, with what a partial holds on to."""
    target = getattr(function, "func", function)
    name = f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"
    bound = [*getattr(function, "args", ()), *sorted(getattr(function, "keywords", {}).items())]
    return f"{name}{bound}" if bound else name
