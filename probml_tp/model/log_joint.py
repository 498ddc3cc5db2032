"""The log joint density of a model: as a Pyro program, and as functions of the sites' values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from probml_tp.layout import Layout
from probml_tp.likelihoods import Likelihood
from probml_tp.net_call import call_net
from probml_tp.priors import (
    NormalSites,
    SiteDistribution,
)

__all__ = ["LogJoint", "Params"]

Params = Mapping[str, Tensor]


class LogJoint(nn.Module):
    r"""A density of sites and data, in the sites' own space and on the real line.

    Args:
        net: a function of its parameters and one row of inputs.
        likelihood: the observation model.
        sites: the prior of each site, in an order in which they can be sampled.
        net_sites: those that are parameters of the net.

    Attributes:
        layout: where each site stands in the flat unconstrained vector.
        normal_sites: the sites with normal priors, as one vector.
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood,
        sites: dict[str, SiteDistribution],
        net_sites: Sequence[str],
    ) -> None:
        super().__init__()
        self.net, self.likelihood = net, likelihood
        self._sites, self.net_sites = sites, tuple(net_sites)
        self._net_priors = nn.ModuleList(sites[name] for name in net_sites)
        real = type(torch.distributions.constraints.real)
        self._transforms = {
            name: biject_to(site.support)
            for name, site in sites.items()
            if not isinstance(site.support, real)
        }
        self.layout = Layout({n: s.shape for n, s in sites.items()})
        self.normal_sites = NormalSites(self.layout, sites, like=next(net.parameters()))

    @property
    def sites(self) -> dict[str, SiteDistribution]:
        """The prior of each site, in the order in which they are sampled."""
        return self._sites

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

    # ------------------------------------------------------------------------- the Pyro program

    def forward(self, x: Tensor, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """The Pyro program: sample each site, run the net, observe ``y`` in the plate ``data``.

        Args:
            x: inputs ``(batch, ...)``.
            y: targets in canonical shape (see
                :meth:`~probml_tp.model.BayesianModel.check_data`); ``None`` samples them.
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
        own = {name: params[name] for name in self.net_sites}
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


def _typical_value(site: SiteDistribution) -> Tensor:
    """The median, or the value at 0 on the unconstrained line where there is no closed form."""
    like = next(site.buffers())
    try:
        start: Tensor = site.elementwise().icdf(like.new_full(site.shape, 0.5))
    except NotImplementedError:
        start = biject_to(site.support)(like.new_zeros(site.shape))
    return start.clone()
