"""Where fits start: at random values, or from a posterior of the same model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.copying import copy_module
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, seeded, substream

__all__ = ["check_same_model", "random_start"]


@torch.no_grad()
def check_same_model(init: Posterior, model: BayesianModel) -> None:
    """Check that a fit or a chain of a model starts from a posterior of that model.

    Raises:
        ValueError: it is of another.
    """
    if differing := model.differences(init.model):
        raise ValueError(
            f"init must be a posterior of the same model; got one of {init.model.name!r}, whose "
            f"net, prior or likelihood differs from that of {model.name!r} in "
            f"{', '.join(differing)}. Fit Delta to this model first."
        )


@checked()
def random_start(model: BayesianModel) -> dict[str, Tensor]:
    """Initial values of every site, drawn with torch's global random numbers.

    Each module of the net draws its own parameters anew, by its ``reset_parameters()``. Parameters
    of modules that have none, and values outside their prior's support, are drawn from the prior.
    The likelihood's own sites keep their typical value.

    The numbers come from a stream of their own, seeded by the global one: a net that was itself
    initialised under the fit's seed is not drawn a second time.

    Args:
        model: the model; it is left untouched.

    Returns:
        A value for each site, in the sites' own (constrained) space.

    Raises:
        ValueError: a parameter would have to be drawn from an improper prior.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> bool((random_start(model)["weight"] != model.net.weight).all())
        True
    """
    net = copy_module(model.net)
    params = model.initial_params()
    with seeded(substream(int(torch.randint(2**31, ())), Stream.RANDOM_START), model.device):
        reset = {id(parameter) for parameter in _reset(net)}
        parameters = dict(net.named_parameters())
        for name in filter(parameters.__contains__, model.sites):  # after what they depend on
            parameter, support = parameters[name], model.sites[name].support
            fits = id(parameter) in reset and bool(support.check(parameter).all())
            params[name] = parameter.detach() if fits else _draw(model, name, params)
    return params


def _reset(net: nn.Module) -> Iterator[nn.Parameter]:
    """Draw the parameters of every module that knows how; which ones they are."""
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if own and callable(reset_parameters := getattr(module, "reset_parameters", None)):
            reset_parameters()
            yield from own


def _draw(model: BayesianModel, name: str, params: dict[str, Tensor]) -> Tensor:
    if not model.sites[name].is_proper:
        raise ValueError(
            f"a random start draws a parameter from its prior where its module cannot draw it; "
            f"that of {name!r} is improper. Give it a proper prior, or its module a method "
            f"reset_parameters()."
        )
    value: Tensor = model.prior(name, params).sample()
    return value
