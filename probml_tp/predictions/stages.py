"""A net in two stages: what is the same at every draw, and what is left to run for each.

A net is traced by ``torch.fx``, so that its class does not matter: residual and parallel branches,
recurrent layers, attention. All that no varying parameter reaches is the first stage; what passes
from it to the second are the few tensors that the latter reads. Nets that cannot be traced (control
flow that depends on data or shapes) are run as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from probml_tp.checks.generic_values import generic_values
from probml_tp.checks.net_runs import close, same
from probml_tp.guide import Guide
from probml_tp.model import BayesianModel
from probml_tp.net_call import call_net

__all__ = ["Forward", "Hidden", "Prefix", "Suffix", "split_net", "whole_net"]

Params = Mapping[str, Tensor]
Forward = Callable[[Params, Tensor], Tensor]

Hidden = tuple[Any, ...]
"""What passes from the first stage to the second: tensors, and sizes that were read of some."""

Prefix = Callable[[Params, Tensor], Hidden]
Suffix = Callable[[Params, Hidden], Tensor]

PROBES = 2
"""Points at which the two stages are compared with the whole net."""

_stages: WeakKeyDictionary[nn.Module, dict[Any, tuple[_Cut, _Cut] | None]] = WeakKeyDictionary()


def split_net(guide: Guide, forward: Forward, x: Tensor) -> tuple[Prefix, Suffix]:
    """Cut the net where the first parameters come in that vary between draws.

    Args:
        guide: the posterior.
        forward: what maps parameters and inputs to outputs; a function other than the net, such
            as the linearised net, is not cut.
        x: inputs, of which the first two are run to see that the stages make up the net.

    Returns:
        Two functions of the whole net's parameters that make up ``forward``: the first is to be run
        once, at any draw, the second once for each draw on what the first returned.

    Example:
        >>> from probml_tp import BayesianModel, Delta, Gaussian, NormalPrior
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> guide = Delta(BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1)))
        >>> x = torch.zeros(5, 2)
        >>> prefix, suffix = split_net(guide, guide.outputs, x)  # of a point: all is run once
        >>> prefix(guide.centre(), x)[0].shape
        torch.Size([5, 1])
    """
    model = guide.model
    is_net = forward == model.outputs or type(guide).outputs is Guide.outputs
    varying = frozenset(model.net_sites) - guide.constant_sites
    if is_net and not varying:
        return (lambda params, x: (forward(params, x),)), (lambda _, hidden: hidden[0])
    cuts = _cuts(model, varying, x) if is_net and varying < set(model.net_sites) else None
    if cuts is None:
        return whole_net(forward)
    first, second = (_Stage(model.net, cut) for cut in cuts)
    sites = model.net_sites
    return (
        lambda params, x: first.at({name: params[name] for name in sites}, x),
        lambda params, hidden: second.at({name: params[name] for name in sites}, *hidden)[0],
    )


def whole_net(forward: Forward) -> tuple[Prefix, Suffix]:
    """The same for a function that is not cut: all of it is in the second stage.

    Args:
        forward: maps parameters and inputs to outputs.
    """
    return (lambda _, x: (x,)), (lambda params, hidden: forward(params, hidden[0]))


def _cuts(model: BayesianModel, varying: frozenset[str], x: Tensor) -> tuple[_Cut, _Cut] | None:
    """The two stages, found once for a net; ``None`` where there is nothing to share.

    Hooks that come and go change what is traced, for a layer that is watched has to be called, but
    not what the net computes: it is tried once for all of them.
    """
    hooked = frozenset(name for name, m in model.net.named_modules() if _has_hooks(m))
    known = _stages.setdefault(model.net, {})
    place = (varying, x.shape[1:], x.dtype, x.device)
    if (place, hooked) not in known:
        is_new = all(place != earlier for earlier, _ in known)
        try:
            cuts = None if "" in hooked else _cut(model.net, varying)
            if cuts and is_new and not _makes_up(model, varying, x[:PROBES], cuts):
                cuts = None
        except Exception:  # whatever a net does that a tracer does not take
            cuts = None
        refused = any(cuts is None for (earlier, _), cuts in known.items() if earlier == place)
        known[place, hooked] = None if refused else cuts
    return known[place, hooked]


class _Cut:
    """Some nodes of a traced net.

    Args:
        nodes: what is run, in order.
        given: the nodes whose values are its arguments.
        wanted: those whose values it returns.
        constants: tensors that the net makes of nothing, by name.
    """

    def __init__(
        self,
        nodes: list[fx.Node],
        given: list[fx.Node],
        wanted: list[fx.Node],
        constants: Mapping[str, Any],
    ) -> None:
        self.nodes, self.given, self.wanted, self.constants = nodes, given, wanted, constants
        self.last_uses: dict[fx.Node, list[fx.Node]] = {}
        last = {used: node for node in nodes for used in node.all_input_nodes}
        for used, node in last.items():
            if used not in wanted:
                self.last_uses.setdefault(node, []).append(used)


class _Stage(nn.Module):
    """A cut of a net, run on the net itself."""

    def __init__(self, net: nn.Module, cut: _Cut) -> None:
        super().__init__()
        self.net, self.cut = net, cut
        self.run = _Run(net, graph=cut.given[0].graph, garbage_collect_values=False)
        self.run.constants = cut.constants

    def at(self, params: Params, *values: Any) -> Hidden:
        """What the cut returns at values of the net's parameters."""
        found: Hidden = call_net(self, {f"net.{n}": v for n, v in params.items()}, *values)
        return found

    def forward(self, *values: Any) -> Hidden:
        """Run the nodes; each value is dropped after its last use."""
        cut, run = self.cut, self.run
        env = run.env = dict(zip(cut.given, values, strict=True))
        for node in cut.nodes:
            env[node] = run.run_node(node)
            for used in cut.last_uses.get(node, ()):
                del env[used]
        run.env = {}
        return tuple(env[node] for node in cut.wanted)


class _Run(fx.Interpreter):
    constants: Mapping[str, Any]

    def fetch_attr(self, target: str) -> Any:
        """A parameter or buffer of the net as it is now, or a constant of the trace."""
        return self.constants[target] if target in self.constants else super().fetch_attr(target)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers are called; of a composite module that nobody watches the parts are."""
        is_layer = next(m.children(), None) is None
        return is_layer or _has_hooks(m) or super().is_leaf_module(m, module_qualified_name)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _cut(net: nn.Module, varying: frozenset[str]) -> tuple[_Cut, _Cut] | None:
    """Trace a net and part its nodes; ``None`` where none can be shared."""
    before = set(vars(net))
    try:
        graph = _Tracer().trace(net)
    finally:  # tensors made in forward() are left in the net
        constants = {name: vars(net).pop(name) for name in set(vars(net)) - before}
    names = {id(p): name for name, p in net.named_parameters()}
    of_draw: set[fx.Node] = set()
    of_x: set[fx.Node] = set()
    for node in graph.nodes:
        if any(names.get(id(p)) in varying for p in _tensors_of(net, node, constants)) or any(
            used in of_draw for used in node.all_input_nodes
        ):
            of_draw.add(node)
        if node.op == "placeholder" or any(used in of_x for used in node.all_input_nodes):
            of_x.add(node)
    *nodes, end = graph.nodes
    given = [node for node in nodes if node.op == "placeholder"]
    (output,) = end.args
    shared = [node for node in nodes if node not in of_draw and node not in given]
    passed = [n for n in nodes if n in of_x - of_draw and (of_draw & n.users.keys() or n == output)]
    if len(given) != 1 or not (of_x & set(shared)) or not isinstance(output, fx.Node):
        return None
    rest = [node for node in nodes if node in of_draw or node not in of_x]
    return _Cut(shared, given, passed, constants), _Cut(rest, passed, [output], constants)


def _tensors_of(net: nn.Module, node: fx.Node, constants: Mapping[str, Any]) -> Iterator[Tensor]:
    """The parameters that a node itself reads."""
    target = cast("str", node.target)
    if node.op == "call_module":
        yield from net.get_submodule(target).parameters()
    elif node.op == "get_attr" and target not in constants:
        owner, _, own = target.rpartition(".")
        yield getattr(net.get_submodule(owner), own)


@torch.no_grad()
def _makes_up(
    model: BayesianModel, varying: frozenset[str], x: Tensor, cuts: tuple[_Cut, _Cut]
) -> bool:
    """Whether the stages give what the net does where only the second has other parameters."""
    own = {n: p.detach() for n, p in model.net.named_parameters()}
    shapes = {name: model.layout.shapes[name] for name in varying}
    moved = own | model.constrain(generic_values(shapes, dtype=model.dtype, device=model.device))
    first, second = (_Stage(model.net, cut) for cut in cuts)
    hidden = first.at(own, x)
    before = [value.clone() if isinstance(value, Tensor) else value for value in hidden]
    (outputs,) = second.at(moved, *hidden)
    return close(outputs, call_net(model.net, moved, x)) and all(
        not isinstance(now, Tensor) or same(now, then)
        for now, then in zip(hidden, before, strict=True)
    )
