r"""A Bayesian model: a net, a prior over its parameters and a likelihood, as one Pyro program.

.. math:: \log p(\theta, y \mid x) = \log p(\theta) + \sum_{n=1}^N \log p(y_n \mid f_\theta(x_n))

Everything in the package targets this log joint. The same object is a Pyro model (call it) and
the pure functions that runners, guides and tests use; tests hold the two equal, site by site.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from probml_tp.checks.arguments import checked
from probml_tp.checks.data import column_names
from probml_tp.checks.nets import (
    NetProbe,
    blame_for,
    check_logits,
    check_net,
    freeze,
    generic_values,
    plain_net,
)
from probml_tp.checks.values import as_tensor, finite, paired
from probml_tp.contracts import check_likelihood, check_own_sites, is_ours
from probml_tp.copying import copy_module
from probml_tp.digest import digest
from probml_tp.identity import Domain, behaves_alike, behaviour, named_functions
from probml_tp.layout import Layout
from probml_tp.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, is_exactly
from probml_tp.net_call import call_net
from probml_tp.priors import (
    ConditionalPrior,
    ConditionalSite,
    NormalSites,
    PriorSpec,
    SiteDistribution,
    resolve_priors,
)

__all__ = ["BayesianModel", "check_model"]

Params = Mapping[str, Tensor]

RESERVED = {
    "y": "the data use",
    "data": "the data use",
    "chain": "records of draws use as a dimension",
    "draw": "records of draws use as a dimension",
}

MAX_PROBES = 32
"""Shapes and types of inputs whose probes are kept."""


class BayesianModel(nn.Module):
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
        super().__init__()
        _check_parts(net, likelihood)
        net = plain_net(net)
        parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
        check_net(net, parameters)
        self.name = name or type(net).__name__
        self.net = copy_module(net).eval()
        self._frozen = tuple(freeze(self.net))
        for module in self.net.modules():
            if hasattr(module, "inplace"):  # it would write to what other draws still read
                module.inplace = False  # type: ignore[assignment]
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                module.sparse = False  # gradients that no optimiser here and no vmap takes
        self.likelihood = copy.deepcopy(likelihood).to(device=self.device, dtype=self.dtype)
        check_own_sites(self.likelihood)
        own = self.likelihood.site_distributions()
        _check_names(parameters, own)
        self._sites = resolve_priors(prior, parameters, own, constants=list(self._frozen))
        _check_support(self._sites, parameters)
        self._net_sites = tuple(parameters)
        self._net_priors = nn.ModuleList(self._sites[name] for name in parameters)
        real = type(torch.distributions.constraints.real)
        self._transforms = {
            name: biject_to(site.support)
            for name, site in self._sites.items()
            if not isinstance(site.support, real)
        }
        self.layout = Layout({n: s.shape for n, s in self._sites.items()})
        self.normal_sites = NormalSites(self.layout, self._sites, like=next(self.net.parameters()))
        self._probes: dict[tuple[object, ...], NetProbe] = {}
        self._domains: dict[str, Domain] = {}
        self._columns: tuple[str, ...] = ()

    # ---------------------------------------------------------------- what the model consists of

    @property
    def sites(self) -> dict[str, SiteDistribution]:
        """The prior of each site, in the order in which they are sampled."""
        return self._sites

    @property
    def constants(self) -> dict[str, Tensor]:
        """The net's frozen parameters, those that did not require gradients, by name."""
        buffers = dict(self.net.named_buffers())
        return {name: buffers[name] for name in self._frozen}

    @property
    def conditional_sites(self) -> list[str]:
        """The sites whose prior depends on other sites: none, unless the model is hierarchical."""
        return [name for name, site in self._sites.items() if site.given]

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the net's parameters, hence of draws and predictions."""
        return next(self.net.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the net's parameters live."""
        return next(self.net.parameters()).device

    @property
    def num_params(self) -> int:
        """``P``, the number of scalar parameters over all sites."""
        return self.layout.size

    @property
    def transforms(self) -> dict[str, Transform]:
        """For each site with a constrained support, the bijection from the real line."""
        return self._transforms

    def initial_params(self) -> dict[str, Tensor]:
        """The net's own (initial or pre-trained) values; the prior's typical value elsewhere."""
        params = {n: p.detach().clone() for n, p in self.net.named_parameters()}
        for name, site in self.likelihood.site_distributions().items():
            params[name] = _typical_value(site)
        return params

    def spec(self) -> dict[str, Any]:
        """What identifies the model, in plain JSON types.

        Once it has seen data, that includes what it returns at fixed places within their range; to
        compare two models use :meth:`differences`, which allows for rounding.
        """
        spec = self._parts()
        if "x" in self._domains:
            spec["behaviour"] = behaviour(self, self._domains["x"], self._domains.get("y"))
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
            back = other.differences(self.spec()) if self._domains else {}
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
            if name not in self._net_sites or not self.sites[name].is_normal:
                raise ValueError(
                    f"scales are those of normal priors of the net; {name!r} has none. The net's "
                    f"sites are {', '.join(self._net_sites)}."
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

    # ------------------------------------------------------------------------- the Pyro program

    def forward(self, x: Tensor, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """The Pyro program: sample each site, run the net, observe ``y`` in the plate ``data``.

        Args:
            x: inputs ``(batch, ...)``.
            y: targets in canonical shape (see :meth:`check_data`); ``None`` samples them.
            size: the number of points ``N`` that the batch stands for; default: the batch itself.

        Returns:
            The targets.
        """
        params: dict[str, Tensor] = {}
        for name in self.sites:
            params[name] = pyro.sample(name, self.prior(name, params))
        outputs = self.outputs(params, x)
        batch = torch.arange(len(x), device=x.device)
        with pyro.plate("data", size=size or len(x), subsample=batch):
            observed: Tensor = pyro.sample(
                "y", self.likelihood.distribution(outputs, params), obs=y
            )
            return observed

    # -------------------------------------------------------------------- the same, as functions

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """The net's outputs ``(batch, k)`` at the given parameters."""
        own = {name: params[name] for name in self._net_sites}
        outputs: Tensor = call_net(self.net, own, x)
        return outputs

    def prior(self, name: str, params: Params) -> TorchDistribution:
        """The prior of one site, at the values of those that it depends on."""
        site = self.sites[name]
        distribution: TorchDistribution = site(*(params[other] for other in site.given))
        return distribution

    def sample_prior(self) -> dict[str, Tensor]:
        """Draw every site from its prior, with torch's global random numbers.

        Raises:
            NotImplementedError: a prior is improper.
        """
        params: dict[str, Tensor] = {}
        for name in self.sites:
            params[name] = self.prior(name, params).sample()
        return params

    def log_prior(self, params: Params, *, sites: Iterable[str] | None = None) -> Tensor:
        r""":math:`\log p(\theta)` in nats.

        Args:
            params: values ``(*draws, *shape)`` of every site.
            sites: the sites whose terms are added up; default: all.

        Returns:
            The log density, ``(*draws,)``.
        """
        terms = []
        for name in self.sites if sites is None else sites:
            site = self.sites[name]
            terms.append(site.log_prob(params[name], *(params[other] for other in site.given)))
        return torch.stack(terms).sum(0)

    def log_likelihood(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        r"""Pointwise :math:`\log p(y_n \mid f_\theta(x_n))` in nats, shape ``(batch,)``."""
        return self.likelihood.log_prob(self.outputs(params, x), y, params)

    def log_joint(self, params: Params, x: Tensor, y: Tensor, *, size: int | None = None) -> Tensor:
        r""":math:`\log p(\theta) + \tfrac NB \sum_{n \in B} \log p(y_n|f_\theta(x_n))`, a scalar.

        Args:
            params: one value for each site.
            x: a batch of inputs ``(B, ...)``.
            y: its targets.
            size: ``N``; default ``B``, that is, the batch is the whole data set.
        """
        scale = 1.0 if size is None else size / len(x)
        return self.log_prior(params) + scale * self.log_likelihood(params, x, y).sum()

    # -------------------------------------------------------------------- unconstrained space

    def constrain(self, unconstrained: Params) -> dict[str, Tensor]:
        """Map every site from the real line to its support."""
        transforms = self.transforms
        return {n: transforms[n](u) if n in transforms else u for n, u in unconstrained.items()}

    def unconstrain(self, params: Params) -> dict[str, Tensor]:
        """Map every site from its support to the real line: the inverse of :meth:`constrain`."""
        transforms = self.transforms
        return {n: transforms[n].inv(v) if n in transforms else v for n, v in params.items()}

    def log_abs_det_jacobian(self, unconstrained: Params) -> Tensor:
        r""":math:`\log|\partial\theta/\partial u|` over the sites given, shape ``(*draws,)``."""
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        for name in self.transforms.keys() & unconstrained.keys():
            transform, u = self.transforms[name], unconstrained[name]
            log_det = transform.log_abs_det_jacobian(u, transform(u))
            event_dims = tuple(range(-len(self.layout.shapes[name]), 0))
            total = total + (log_det.sum(event_dims) if event_dims else log_det)
        return total

    def log_prior_flat(self, flat: Tensor) -> Tensor:
        r""":math:`\log p(\theta(u)) + \log|\partial\theta/\partial u|` at ``u``.

        Args:
            flat: unconstrained vectors ``(*draws, P)``.

        Returns:
            The log density in nats, ``(*draws,)``.
        """
        total = self.normal_sites.log_prob(flat)
        if self.normal_sites.others:
            u = self.layout.unravel(flat)
            params = self.constrain(u)
            total = total + self.log_prior(params, sites=self.normal_sites.others)
            total = total + self.log_abs_det_jacobian(u)
        return total

    def log_joint_flat(
        self, flat: Tensor, x: Tensor, y: Tensor, *, size: int | None = None
    ) -> Tensor:
        """The log density of the flat unconstrained vector ``(P,)`` and the data: a scalar."""
        params = self.constrain(self.layout.unravel(flat))
        scale = 1.0 if size is None else size / len(x)
        return self.log_prior_flat(flat) + scale * self.log_likelihood(params, x, y).sum()

    # --------------------------------------------------------------------------------- checks

    def check_inputs(self, x: object) -> Tensor:
        """Return ``x`` as a finite tensor of the model's type, on its device.

        Raises:
            ValueError: ``x`` is empty, not numeric or not finite, or the net cannot take it; or the
                net is not a function of its parameters and one row of ``x``.
        """
        return self._checked_inputs(x)[0]

    def check_data(self, x: object, y: object) -> tuple[Tensor, Tensor]:
        """Return inputs and targets in canonical shape and type, on the model's device.

        Raises:
            ValueError: they are empty, not finite, of unequal length, of a shape that the net or
                the likelihood does not take, or hold labels out of range; or the net is not a
                function of its parameters and one row of ``x``.
        """
        inputs, outputs = self._checked_inputs(x)
        targets = as_tensor("y", y).to(self.device)
        paired(inputs, targets)
        targets = self.likelihood.check_targets(finite("y", targets), outputs)
        if not is_ours(self.likelihood):
            params = self.initial_params()
            check_likelihood(
                self.likelihood, self.outputs(params, inputs[:2]), targets, params, size=len(inputs)
            )
        if targets.is_floating_point():
            targets = finite("y", targets.to(self.dtype))
        self._remember("y", targets)
        return inputs, targets

    def work(self, points: int) -> int:
        """Multiply-adds of a pass over so many points; at least the parameters times these.

        Args:
            points: how many, like those that were checked before.
        """
        known = max((probe.multiply_adds for probe in self._probes.values()), default=0)
        return points * max(known, self.num_params)

    def _checked_inputs(self, x: object) -> tuple[Tensor, torch.Size]:
        """The inputs as the net takes them, and the shape of its outputs at the first two."""
        tensor = as_tensor("x", x).to(self.device)
        self._check_columns(x)
        if tensor.is_floating_point():
            tensor = finite("x", tensor.to(self.dtype))
            return tensor, self._output_shape(tensor)
        try:  # whole numbers may be indices, for an embedding, or plain numbers
            return tensor, self._output_shape(tensor)
        except ValueError as error:
            try:
                return tensor.to(self.dtype), self._output_shape(tensor.to(self.dtype))
            except ValueError:
                raise error from None

    def _check_columns(self, x: object) -> None:
        """Tables have to have the columns of the first one, in its order."""
        names = column_names(x)
        if names and self._columns and names != self._columns:
            raise ValueError(
                f"x must have the columns that the model first saw, in their order: "
                f"{', '.join(self._columns)}; got {', '.join(names)}. Pass x[[...]] with those, or "
                f"x.to_numpy() to go by position."
            )
        self._columns = self._columns or names

    def _output_shape(self, x: Tensor) -> torch.Size:
        """The shape of the outputs at two points, having run all of them if they are indices."""
        if any(module.training for module in self.net.modules()):
            self.net.eval()
        shape = self._probe(x)
        if not x.is_floating_point():
            with torch.no_grad(), blame_for(self.net, x):
                for batch in x.split(1000):
                    self.outputs(self.initial_params(), batch)
        try:
            self.likelihood.check_outputs(shape)
        except ValueError as error:
            raise ValueError(f"{error} (x has shape {tuple(x.shape)}.)") from None
        if self._domains.get("x") is None and (
            is_exactly(self.likelihood, Bernoulli) or is_exactly(self.likelihood, Categorical)
        ):
            self._check_logits(x)
        self._remember("x", x)
        return shape

    @torch.no_grad()
    def _check_logits(self, x: Tensor) -> None:
        places = [self._net_values(generic=True), self._net_values(generic=False)]
        if not self.transforms:
            places.append({name: -value for name, value in places[0].items()})
        check_logits(self.net, [call_net(self.net, place, x[:4]) for place in places])

    def _probe(self, x: Tensor) -> torch.Size:
        """Probe the net on ``x``, or see that it has not changed since it was."""
        key = (*x.shape[1:], x.dtype, self.dtype, x.device)
        probe = self._probes.get(key)
        if probe is not None:
            probe.check_again(self.net, self._net_values(generic=probe.generic), x)
        if probe is None or len(probe.rows) == 1 < len(x):
            probe = NetProbe.of(self.net, self._net_values(generic=True), x)
            if not bool(probe.outputs.isfinite().all()):  # an odd place for this net
                probe = NetProbe.of(self.net, self._net_values(generic=False), x, generic=False)
            if len(self._probes) >= MAX_PROBES:
                del self._probes[next(iter(self._probes))]
            self._probes[key] = probe
        return torch.Size((min(2, len(x)), *probe.outputs.shape[1:]))

    def _net_values(self, *, generic: bool) -> dict[str, Tensor]:
        """The net's sites at generic values, or at its own."""
        if not generic:
            return {n: p.detach() for n, p in self.net.named_parameters()}
        shapes = {name: self.layout.shapes[name] for name in self._net_sites}
        return self.constrain(generic_values(shapes, dtype=self.dtype, device=self.device))

    def _remember(self, which: str, values: Tensor) -> None:
        """Keep where data lie, for the places at which models are compared."""
        known = self._domains.get(which)
        if known is None or known.count < min(len(values), 4):
            self._domains[which] = Domain.of(values)


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


def _typical_value(site: SiteDistribution) -> Tensor:
    """The median, or the value at 0 on the unconstrained line where there is no closed form."""
    like = next(site.buffers())
    try:
        start: Tensor = site.elementwise().icdf(like.new_full(site.shape, 0.5))
    except NotImplementedError:
        start = biject_to(site.support)(like.new_zeros(site.shape))
    return start.clone()


def _check_parts(net: object, likelihood: object) -> None:
    for name, part, kind, remedy in (
        ("net", net, nn.Module, "torch.nn.Linear(1, 1)"),
        ("likelihood", likelihood, Likelihood, "Gaussian(scale=0.1)"),
    ):
        if not isinstance(part, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__}; got {part!r}. Pass for example {remedy}."
            )


def _check_names(parameters: Iterable[str], own: Iterable[str]) -> None:
    for name in parameters:
        user = "the likelihood uses" if name in own else RESERVED.get(name)
        if user is not None:
            raise ValueError(
                f"site names must be unique; the net has a parameter named {name!r}, a name that "
                f"{user}. Rename the net's."
            )
        if "/" in name:
            raise ValueError(
                f"site names must be fit for files of draws, where / parts a group from what is in "
                f"it; got a parameter named {name!r}. Rename it."
            )


def _check_support(sites: Mapping[str, SiteDistribution], parameters: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        site, value = sites[name], parameter.detach()
        if not bool(site.support.check(value).all()):
            raise ValueError(
                f"a net's initial values must lie in their prior's support; {name!r} has "
                f"{site.describe()} and values from {float(value.min()):g} to "
                f"{float(value.max()):g}. Initialise {name!r} inside the support."
            )
