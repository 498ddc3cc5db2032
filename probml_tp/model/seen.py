"""What a model has seen of inputs and targets, against which those that come next are checked."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from probml_tp.checks.data import column_names
from probml_tp.checks.generic_values import generic_values
from probml_tp.checks.net_probe import NetProbe, check_logits
from probml_tp.checks.net_runs import blame_for
from probml_tp.checks.values import as_tensor, finite, paired
from probml_tp.contracts import check_likelihood, is_ours
from probml_tp.identity import Domain
from probml_tp.likelihoods import Bernoulli, Categorical
from probml_tp.likelihoods.base import is_exactly
from probml_tp.model.log_joint import LogJoint
from probml_tp.net_call import call_net

__all__ = ["SeenData"]

MAX_PROBES = 32
"""Shapes and types of inputs whose probes are kept."""


@dataclass
class SeenData:
    """How the net behaved on inputs so far, where data lay, and what their columns were.

    Args:
        probes: of the net, by the inputs' shape and type.
        domains: where inputs and targets lie, for the places at which models are compared.
        columns: of the first table.
    """

    probes: dict[tuple[object, ...], NetProbe] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def multiply_adds(self) -> int:
        """Of a pass of the net over one point: the most so far."""
        return max((probe.multiply_adds for probe in self.probes.values()), default=0)

    def inputs(self, model: LogJoint, x: object) -> tuple[Tensor, torch.Size]:
        """The inputs as the net takes them, and the shape of its outputs at the first two.

        Args:
            model: whose.
            x: as the user gave them.

        Raises:
            ValueError: the net cannot take them, or is not a function of its parameters and one
                row.
        """
        tensor = as_tensor("x", x).to(model.device)
        self._check_columns(x)
        if tensor.is_floating_point():
            tensor = finite("x", tensor.to(model.dtype))
            return tensor, self._output_shape(model, tensor)
        try:  # whole numbers may be indices, for an embedding, or plain numbers
            return tensor, self._output_shape(model, tensor)
        except ValueError as error:
            try:
                return tensor.to(model.dtype), self._output_shape(model, tensor.to(model.dtype))
            except ValueError:
                raise error from None

    def targets(self, model: LogJoint, y: object, x: Tensor, outputs: torch.Size) -> Tensor:
        """The targets in canonical shape and type.

        Args:
            model: whose.
            y: as the user gave them.
            x: checked inputs.
            outputs: the shape of the net's outputs at the first two.

        Raises:
            ValueError: the likelihood does not take them, or they are not as many as the inputs.
        """
        targets = as_tensor("y", y).to(model.device)
        paired(x, targets)
        likelihood = model.likelihood
        targets = likelihood.check_targets(finite("y", targets), outputs)
        if not is_ours(likelihood):
            params = model.initial_params()
            check_likelihood(likelihood, model.outputs(params, x[:2]), targets, params, size=len(x))
        if targets.is_floating_point():
            targets = finite("y", targets.to(model.dtype))
        self._remember("y", targets)
        return targets

    def _check_columns(self, x: object) -> None:
        """Tables have to have the columns of the first one, in its order."""
        names = column_names(x)
        if names and self.columns and names != self.columns:
            raise ValueError(
                f"x must have the columns that the model first saw, in their order: "
                f"{', '.join(self.columns)}; got {', '.join(names)}. Pass x[[...]] with those, or "
                f"x.to_numpy() to go by position."
            )
        self.columns = self.columns or names

    def _output_shape(self, model: LogJoint, x: Tensor) -> torch.Size:
        """The shape of the outputs at two points, having run all of them if they are indices."""
        if any(module.training for module in model.net.modules()):
            model.net.eval()
        shape = self._probe(model, x)
        if not x.is_floating_point():
            with torch.no_grad(), blame_for(model.net, x):
                for batch in x.split(1000):
                    model.outputs(model.initial_params(), batch)
        try:
            model.likelihood.check_outputs(shape)
        except ValueError as error:
            raise ValueError(f"{error} (x has shape {tuple(x.shape)}.)") from None
        if self.domains.get("x") is None and (
            is_exactly(model.likelihood, Bernoulli) or is_exactly(model.likelihood, Categorical)
        ):
            _check_logits(model, x)
        self._remember("x", x)
        return shape

    def _probe(self, model: LogJoint, x: Tensor) -> torch.Size:
        """Probe the net on ``x``, or see that it has not changed since it was."""
        key = (*x.shape[1:], x.dtype, model.dtype, x.device)
        probe = self.probes.get(key)
        if probe is not None:
            probe.check_again(model.net, _net_values(model, generic=probe.generic), x)
        if probe is None or len(probe.rows) == 1 < len(x):
            probe = NetProbe.of(model.net, _net_values(model, generic=True), x)
            if not bool(probe.outputs.isfinite().all()):  # an odd place for this net
                probe = NetProbe.of(model.net, _net_values(model, generic=False), x, generic=False)
            if len(self.probes) >= MAX_PROBES:
                del self.probes[next(iter(self.probes))]
            self.probes[key] = probe
        return torch.Size((min(2, len(x)), *probe.outputs.shape[1:]))

    def _remember(self, which: str, values: Tensor) -> None:
        """Keep where data lie, for the places at which models are compared."""
        known = self.domains.get(which)
        if known is None or known.count < min(len(values), 4):
            self.domains[which] = Domain.of(values)


@torch.no_grad()
def _check_logits(model: LogJoint, x: Tensor) -> None:
    places = [_net_values(model, generic=True), _net_values(model, generic=False)]
    if not model.transforms:
        places.append({name: -value for name, value in places[0].items()})
    check_logits(model.net, [call_net(model.net, place, x[:4]) for place in places])


def _net_values(model: LogJoint, *, generic: bool) -> dict[str, Tensor]:
    """The net's sites at generic values, or at its own."""
    if not generic:
        return {n: p.detach() for n, p in model.net.named_parameters()}
    shapes = {name: model.layout.shapes[name] for name in model.net_sites}
    return model.constrain(generic_values(shapes, dtype=model.dtype, device=model.device))
