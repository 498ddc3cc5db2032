"""A net, a prior over its parameters and a likelihood: what every guide approximates."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.nets import check_net, freeze, plain_net
from probml_tp.contracts import check_own_sites
from probml_tp.copying import copy_module
from probml_tp.digest import digest
from probml_tp.identity import behaves_alike, behaviour, named_functions
from probml_tp.likelihoods import Gaussian, Likelihood
from probml_tp.likelihoods.base import is_exactly
from probml_tp.model.log_joint import LogJoint
from probml_tp.model.parts import check_names, check_parts, check_support
from probml_tp.model.seen import SeenData
from probml_tp.priors import (
    ConditionalPrior,
    ConditionalSite,
    PriorSpec,
    resolve_priors,
)

__all__ = ["BayesianModel", "check_model"]


class BayesianModel(LogJoint):
    """Net, prior and likelihood: one log joint density.

    The net is copied and left untouched; the copy is in eval mode, so that layers such as dropout
    are deterministic (dropout as an approximate posterior is the guide ``MCDropout``). Sites are
    the net's parameters under their own names, then the likelihood's; in a hierarchical model
    (:class:`~probml_tp.priors.ConditionalPrior`) each comes after the sites that its prior
    depends on. Parameters that do not require gradients are constants of the net: they have no
    site and no prior.

    When the net first sees inputs of a shape and type it is probed: it has to be a function of its
    parameters and one row of ``x``, and to stay that function.

    Args:
        net: any module mapping ``x`` of shape ``(batch, ...)`` to outputs ``(batch, k)``.
        prior: a prior for every parameter, see :mod:`probml_tp.priors`.
        likelihood: the observation model, see :mod:`probml_tp.likelihoods`.
        name: what tables and files call the model; default: the net's class name.

    Raises:
        ValueError: a parameter has no prior or a prior no parameter; the net has no parameter,
            mixes dtypes, or has a layer whose output depends on the rest of the batch.

    Example:
        >>> import torch
        >>> from probml_tp.likelihoods import Gaussian
        >>> from probml_tp.priors import NormalPrior
        >>> model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> params = model.initial_params()
        >>> model.log_joint(params, torch.zeros(3, 1), torch.zeros(3)).shape
        torch.Size([])
    """

    @staticmethod
    def argument_rule(_: str, value: object) -> None:
        """What :func:`probml_tp.checks.arguments.checked` asks of an argument that is a model."""
        check_model(value)

    @checked(prior=None)
    def __init__(
        self,
        net: nn.Module,
        prior: PriorSpec,
        likelihood: Likelihood,
        *,
        name: str | None = None,
    ) -> None:
        check_parts(net, likelihood)
        net = plain_net(net)
        parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
        check_net(net, parameters)
        own_net = copy_module(net).eval()
        frozen = tuple(freeze(own_net))
        for module in own_net.modules():
            if hasattr(module, "inplace"):  # it would write to what other draws still read
                module.inplace = False  # type: ignore[assignment]
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                module.sparse = False  # gradients that no optimiser here and no vmap takes
        like = next(own_net.parameters())
        likelihood = copy.deepcopy(likelihood).to(device=like.device, dtype=like.dtype)
        check_own_sites(likelihood)
        own = likelihood.site_distributions()
        check_names(parameters, own)
        sites = resolve_priors(prior, parameters, own, constants=frozen)
        check_support(sites, parameters)
        super().__init__(own_net, likelihood, sites, net_sites=tuple(parameters))
        self.name = name or type(net).__name__
        self._frozen = frozen
        self._seen = SeenData()

    # ---------------------------------------------------------------- what the model consists of

    @property
    def constants(self) -> dict[str, Tensor]:
        """The net's frozen parameters, those that did not require gradients, by name."""
        buffers = dict(self.net.named_buffers())
        return {name: buffers[name] for name in self._frozen}

    def spec(self) -> dict[str, Any]:
        """What identifies the model, in plain JSON types.

        Once it has seen data, that includes what it returns at fixed places within their range; to
        compare two models use :meth:`differences`, which allows for rounding.
        """
        spec = self._parts()
        domains = self._seen.domains
        if "x" in domains:
            spec["behaviour"] = behaviour(self, domains["x"], domains.get("y"))
        return spec

    def _parts(self) -> dict[str, Any]:
        """What the model consists of."""
        tensors = [*self.net.buffers(), *self.likelihood.buffers(), *self._prior_tensors()]
        return {
            "name": self.name,
            "net": repr(self.net),
            "functions": named_functions(self.net),
            "likelihood": self.likelihood.describe(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "frozen": {n: list(c.shape) for n, c in self.constants.items()},
            "constants": digest(tensors),
            "sites": {
                n: {"shape": list(s.shape), "prior": s.describe()} for n, s in self.sites.items()
            },
        }

    def differences(self, other: BayesianModel | Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Where another model differs from this one.

        Args:
            other: a model, or the :meth:`spec` of one; this model is run where that one was.

        Returns:
            For each part that differs the other's and this one's; empty if they are the same.

        Example:
            >>> from probml_tp import Gaussian, NormalPrior
            >>> def of(scale):
            ...     return BayesianModel(nn.Linear(1, 1), NormalPrior(scale), Gaussian(scale=0.1))
            >>> list(of(1.0).differences(of(2.0)))
            ['constants', 'sites']
        """
        if isinstance(other, BayesianModel):
            back = other.differences(self.spec()) if self._seen.domains else {}
            return self.differences(other.spec()) or {k: v[::-1] for k, v in back.items()}
        own = self._parts()
        record = other.get("behaviour")
        if record is not None:
            del own["functions"]  # what they do counts, not what they are called
        found = {k: (str(other.get(k)), str(own[k])) for k in own if other.get(k) != own[k]}
        if not found and record is not None:
            differing = behaves_alike(self, record)
            found |= {} if differing is None else {"behaviour": differing}
        return found

    def _prior_tensors(self) -> Iterator[Tensor]:
        for site in self.sites.values():
            yield from site.buffers()

    @checked()
    def with_scales(
        self, scales: Mapping[str, Tensor], *, noise_scale: float | None = None
    ) -> BayesianModel:
        """The same model with other standard deviations: what evidence maximisation returns.

        Args:
            scales: for sites of the net with a normal prior, their new standard deviation, of the
                site's shape or broadcasting to it.
            noise_scale: a new known noise of a Gaussian likelihood.

        Returns:
            A new model with this one's net, means of the priors and name.

        Raises:
            ValueError: a site is not the net's or has no normal prior, or the noise is not known.
        """
        for name in scales:
            if name not in self.net_sites or not self.sites[name].is_normal:
                raise ValueError(
                    f"scales are those of normal priors of the net; {name!r} has none. The net's "
                    f"sites are {', '.join(self.net_sites)}."
                )
        likelihood = self.likelihood
        if noise_scale is not None:
            if not is_exactly(likelihood, Gaussian) or likelihood.noise_prior is not None:
                raise ValueError(
                    f"a new noise scale needs a Gaussian likelihood of known noise; got "
                    f"{likelihood.describe()}. Leave noise_scale out."
                )
            likelihood = Gaussian(scale=noise_scale)

        def prior(name: str, parameter: Tensor) -> TorchDistribution | ConditionalPrior:
            site = self.sites[name]
            if isinstance(site, ConditionalSite):
                return site.prior
            now = site.base()
            return dist.Normal(now.loc, scales[name]) if name in scales else now

        model = BayesianModel(self.net, prior, likelihood, name=self.name)
        model._frozen = self._frozen
        return model

    def fingerprint(self) -> str:
        """A short hash of what the model consists of: models with different ones are different.

        Those with the same may still compute differently; see :meth:`differences`.
        """
        return hashlib.sha256(json.dumps(self._parts()).encode()).hexdigest()[:16]

    def train(self, mode: bool = True) -> BayesianModel:
        """Set the mode of the module; the net stays in eval mode, a function of its parameters."""
        super().train(mode)
        self.net.eval()
        return self

    # --------------------------------------------------------------------------------- checks

    def check_inputs(self, x: object) -> Tensor:
        """Return ``x`` as a finite tensor of the model's type, on its device.

        Raises:
            ValueError: ``x`` is empty, not numeric or not finite, or the net cannot take it; or the
                net is not a function of its parameters and one row of ``x``.
        """
        return self._seen.inputs(self, x)[0]

    def check_data(self, x: object, y: object) -> tuple[Tensor, Tensor]:
        """Return inputs and targets in canonical shape and type, on the model's device.

        Raises:
            ValueError: they are empty, not finite, of unequal length, of a shape that the net or
                the likelihood does not take, or hold labels out of range; or the net is not a
                function of its parameters and one row of ``x``.
        """
        inputs, outputs = self._seen.inputs(self, x)
        return inputs, self._seen.targets(self, y, inputs, outputs)

    def work(self, points: int) -> int:
        """Multiply-adds of a pass over so many points; at least the parameters times these.

        Args:
            points: how many, like those that were checked before.
        """
        return points * max(self._seen.multiply_adds, self.num_params)


def check_model(model: object) -> BayesianModel:
    """Return ``model`` if it is a Bayesian model.

    Raises:
        ValueError: it is a bare module, a function or something else; how to make a model of it.
    """
    if isinstance(model, BayesianModel):
        return model
    if isinstance(model, nn.Module):
        what, remedy = f"the module {type(model).__name__}", "model = BayesianModel(net, "
    elif callable(model):
        kind = "class" if isinstance(model, type) else "function"
        what = f"the {kind} {getattr(model, '__name__', type(model).__name__)!r}"
        remedy = (
            "Make its parameters those of an nn.Module whose forward(self, x) returns the outputs, "
            "and pass BayesianModel(net, "
        )
    else:
        what, remedy = repr(model)[:80], "BayesianModel(net, "
    raise ValueError(
        f"model must be a BayesianModel, which says prior and likelihood; got {what}. "
        f"{'Pass ' if remedy.startswith(('model', 'Bayes')) else ''}{remedy}"
        f"NormalPrior(scale=1.0), Gaussian(scale=0.1)), say."
    )
