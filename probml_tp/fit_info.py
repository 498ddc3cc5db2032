"""How a posterior was found: options, losses, time, passes of the net, convergence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from probml_tp.convergence import Convergence

__all__ = ["FitInfo"]


@dataclass
class FitInfo:
    """How a posterior was found.

    Args:
        options: the runner's arguments.
        losses: the training objective at each epoch, in nats per data point.
        validation_losses: the same on the validation data, if any.
        seconds: wall time of the fit, resumed parts included.
        peak_memory_mib: the process's peak resident memory so far, in MiB.
        stopped_early: whether early stopping ended the fit.
        sampler: diagnostics of a Markov chain, by name.
        members: losses, seconds and the like of each member of an ensemble.
        log_evidence: after each update of prior or noise by the evidence, in nats.
        data: digest of the training data, which tells whether two posteriors are of the same.
        forward_passes: of the net over as many points as there are training data, each with its
            gradient where there is one, evaluations on validation data and the closed-form part
            included. Each draw of a variational objective, each member of an ensemble and each step
            of a line search counts; a look at whether the fit has settled does not. 0 where they
            were not counted.
        start_seconds: wall time of the posterior that the fit started from, its own start included.
        start_passes: passes of that posterior, likewise.
        convergence: whether the fit has settled, by what figure; ``None`` where there is nothing to
            tell (the exact posterior, dropout) or where telling would cost too much.
    """

    options: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_mib: float = 0.0
    stopped_early: bool = False
    sampler: dict[str, Any] = field(default_factory=dict)
    members: list[dict[str, Any]] = field(default_factory=list)
    log_evidence: list[float] = field(default_factory=list)
    data: str = ""
    forward_passes: float = 0.0
    start_seconds: float = 0.0
    start_passes: float = 0.0
    convergence: Convergence | None = None

    def __post_init__(self) -> None:
        if isinstance(self.convergence, dict):  # as a file has it
            self.convergence = Convergence(**self.convergence)

    def begin_from(self, start: FitInfo) -> None:
        """Remember what another posterior cost that this fit started from."""
        self.start_seconds, self.start_passes = start.total_seconds, start.total_passes

    @property
    def total_seconds(self) -> float:
        """Wall time of the fit and of those that it started from."""
        return self.seconds + self.start_seconds

    @property
    def total_passes(self) -> float:
        """Passes of the fit and of those that it started from; 0 where its own are unknown."""
        return self.forward_passes + self.start_passes if self.forward_passes else 0.0
