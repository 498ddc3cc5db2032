"""The options of a fit, and what is chosen where none is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    non_negative,
    non_negative_integer,
    positive,
    positive_integer,
)
from probml_tp.guide import Guide
from probml_tp.inference.optimizers import (
    OptimizerFactory,
    OptimizerName,
    ScheduleName,
    callable_name,
    default_optimizer,
)

__all__ = ["EarlyStopping", "FitOptions", "chosen_options"]

DEFAULTS: dict[str, tuple[int, float, ScheduleName, int | None]] = {
    "adam": (1000, 1e-2, "constant", None),
    "scaled-adam": (4000, 0.1, "cosine", 1000),
    "lbfgs": (30, 1e-2, "constant", 1),
}
"""Of each optimiser: epochs at most, rate, schedule, and after how many epochs a fit may end."""


@checked()
@dataclass(frozen=True)
class EarlyStopping:
    """End a fit when the loss no longer falls, and keep the best epoch's parameters.

    The loss watched is that of the validation data if there are any, else of the training data,
    evaluated after each epoch at the same random numbers.

    Args:
        patience: epochs without improvement before stopping.
        min_delta: the least decrease that counts, in nats per data point.

    Raises:
        ValueError: ``patience`` is below 1, or ``min_delta`` negative or not finite.
    """

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("EarlyStopping.patience", self.patience)
        non_negative("EarlyStopping.min_delta", self.min_delta)


@dataclass(frozen=True)
class FitOptions:
    """The options of a fit, none of them left open.

    Args:
        epochs: at most so many.
        batch_size: points a step; ``None`` takes all.
        lr: the learning rate.
        optimizer: its name, or what makes it.
        schedule: of the learning rate.
        early_stopping: when to stop before the last epoch.
        checkpoint: a file written after each epoch.
        seed: of the fit.
        period: epochs after which a fit ends if it has settled; ``None``: it goes on to the last.
    """

    epochs: int
    batch_size: int | None
    lr: float
    optimizer: OptimizerName | OptimizerFactory
    schedule: ScheduleName
    early_stopping: EarlyStopping | None
    checkpoint: str | Path | None
    seed: int
    period: int | None = None

    def describe(self) -> dict[str, Any]:
        """The options in plain types."""
        named = isinstance(self.optimizer, str)
        own = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "optimizer": self.optimizer if named else callable_name(self.optimizer),
            "schedule": self.schedule,
            "early_stopping": self.early_stopping and asdict(self.early_stopping),
            "seed": self.seed,
        }
        return own if self.period is None else own | {"period": self.period}


def chosen_options(
    guide: Guide,
    size: int,
    *,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    optimizer: OptimizerName | OptimizerFactory | None,
    schedule: ScheduleName | None,
    early_stopping: EarlyStopping | None,
    checkpoint: str | Path | None,
    seed: int,
) -> FitOptions:
    """The options given, and what is chosen in place of the others.

    Args:
        guide: what is fitted.
        size: the number of points.
        epochs: this and what follows as for :func:`~probml_tp.inference.fitting.fit`.
        batch_size: see there.
        lr: see there.
        optimizer: see there.
        schedule: see there.
        early_stopping: see there.
        checkpoint: see there.
        seed: see there.

    Returns:
        All options.

    Raises:
        ValueError: one is out of its range.
    """
    if batch_size is not None:
        batch_size = min(positive_integer("batch_size", batch_size), size)
    whole_fit = epochs is None and early_stopping is None
    optimizer = optimizer or default_optimizer(
        guide, size, batch_size=batch_size, whole_fit=whole_fit,
        has_rate=lr is not None or schedule is not None,
    )  # fmt: skip
    count, rate, course, period = DEFAULTS.get(str(optimizer), DEFAULTS["adam"])
    return FitOptions(
        count if epochs is None else non_negative_integer("epochs", epochs),
        batch_size,
        rate if lr is None else positive("lr", lr),
        optimizer,
        schedule or course,
        early_stopping,
        checkpoint,
        seed,
        period if whole_fit else None,
    )
