r"""Mixtures of guides: deep ensembles, multi-SWAG, mixtures of Laplace approximations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call

from probml_tp.batching import vmap
from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.convergence import Convergence, worst
from probml_tp.guide import Draws, Guide, Sites, check_num_samples
from probml_tp.inference.fitting import GuideFactory
from probml_tp.inference.starts import random_start
from probml_tp.inference.traced import Objective
from probml_tp.model import BayesianModel
from probml_tp.predictions.draws import is_dense

__all__ = ["Mixture", "MixtureOf"]

NAMES = {"map": "deep-ensemble", "swag": "multi-swag"}
"""What a mixture of such members is called; any other is a ``mixture-of-`` them."""


class Mixture(Guide):
    r"""An equally weighted mixture of ``M`` guides of one class, :math:`q = \tfrac1M\sum_m q_m`.

    Point masses make a deep ensemble (Lakshminarayanan et al. 2017), named ``"deep-ensemble"``;
    SWAG makes multi-SWAG (Wilson & Izmailov 2020), named ``"multi-swag"``; any other guide makes
    a ``"mixture-of-"`` it. Members are trained each on its own objective, not on the ELBO of the
    mixture. :func:`fit_ensemble` trains them apart, on batches of their own; here ``fit`` trains
    them together, on the same batches.

    **Starting points.** ``fit`` finds the members all alike and sets them apart: the first keeps
    the net's own values, each other one starts at :func:`random_start`. Members that differ
    already stay where they are.

    **Objective.** The value of ``loss`` is the mean :math:`\tfrac1M\sum_m \mathcal L_m` of the
    members' losses, in nats per data point like any guide's; its gradient is that of the sum
    :math:`\sum_m \mathcal L_m`, so that each member takes the very steps that it would take alone
    at the same learning rate, whatever the optimiser. (A line search needs both to agree:
    ``"lbfgs"`` is refused, :func:`fit_ensemble` takes it.) Where the net is fully connected and
    the members' loss draws no random numbers, it is computed for all members at once by ``vmap``.

    **Draws.** ``sample`` takes :math:`\lfloor S/M \rfloor` draws of each member, the rest from
    members picked at random without repetition, in random order: each draw has the distribution
    ``q``, and averages over draws vary less than over independent ones. Predictions of a deep
    ensemble use each member once. Its ``log_prob`` is a log mass, as MAP's is; whatever needs a
    density refuses.

    Args:
        model: the model.
        member: what makes a member from the model, such as ``Delta`` or
            ``partial(SWAG, rank=10)``; or the name of a guide.
        members: ``M``.
        options: keyword arguments of ``member``.

    Raises:
        ValueError: ``member`` is unknown or makes no guide of this package, has nothing to train,
            or predicts by another function than the net.

    Example:
        >>> from probml_tp import BayesianModel, Delta, Gaussian, NormalPrior, fit
        >>> from probml_tp.models import mlp_regressor
        >>> model = mlp_regressor(1, hidden=(8,), prior=NormalPrior(1.0), likelihood=0.1)
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, partial(Mixture, member=Delta, members=3), (x, x), epochs=5)
        >>> posterior.name, posterior.predict(x).num_samples
        ('deep-ensemble', 3)
    """

    name: ClassVar[str] = "mixture"
    members: nn.ModuleList

    @checked()
    def __init__(
        self,
        model: BayesianModel,
        *,
        member: GuideFactory | str,
        members: int = 5,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model)
        make = partial(_factory(member), **(options or {}))
        guides = [_checked(make(model), model) for _ in range(positive_integer("members", members))]
        first = guides[0]
        for guide in guides:
            if type(guide) is not type(first) or guide.options() != first.options():
                raise ValueError(
                    f"the members of a mixture must be guides of one class with the same options; "
                    f"got {first.name} {first.options()} and {guide.name} {guide.options()}."
                )
        self.members = nn.ModuleList(guides)
        kind = type(first).name
        self.name = NAMES.get(kind, f"mixture-of-{kind}")  # type: ignore[misc]
        if first.no_density:
            reason = f"{self.name} is a mixture without a density: {first.no_density}"
            self.no_density = reason  # type: ignore[misc]
        self.draws_are_stored = self.num_atoms is not None  # type: ignore[misc]
        self.replayable_loss = first.replayable_loss  # type: ignore[misc]

    @classmethod
    @checked()
    def of(cls, members: Sequence[Guide]) -> Mixture:
        """The mixture of guides that exist already.

        Args:
            members: guides of one class over one model.

        Returns:
            Their mixture; it owns them.

        Raises:
            ValueError: there are none, or they differ in class, options or model.
        """
        if not members:
            raise ValueError("a mixture needs at least one member; got none. Pass fitted guides.")
        guides = iter(members)
        return cls(members[0].model, member=lambda _: next(guides), members=len(members))

    @property
    def _guides(self) -> list[Guide]:
        return cast("list[Guide]", list(self.members))

    # ------------------------------------------------------------------------ the distribution

    def site_distributions(self) -> Sites:
        r"""Each site given the ones before it.

        .. math:: q(\theta_b \mid \theta_{<b}) = \sum_m r_m\, q_m(\theta_b \mid \theta_{<b}),
                  \qquad r_m \propto q_m(\theta_{<b})
        """
        log_r = self._log_weight.expand(len(self.members))
        programs = [guide.site_distributions() for guide in self._guides]
        sites = [next(program) for program in programs]
        while True:
            mixture = MixtureOf([distribution for _, distribution in sites], log_r)
            value = yield sites[0][0], mixture
            log_r = mixture.log_responsibilities(value)
            try:
                sites = [program.send(value) for program in programs]
            except StopIteration:
                return

    @property
    def _log_weight(self) -> Tensor:
        weight = -math.log(len(self.members))
        return torch.tensor(weight, dtype=self.model.dtype, device=self.model.device)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Draws balanced over the members, in random order."""
        count, many = check_num_samples(num_samples), len(self.members)
        device = self.model.device
        extra = torch.randperm(many, generator=generator, device=device)[: count % many].tolist()
        counts = [count // many + (m in extra) for m in range(many)]
        parts = [
            guide.sample(n, generator=generator)
            for guide, n in zip(self._guides, counts, strict=True)
            if n
        ]
        order = torch.randperm(count, generator=generator, device=device)
        return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}

    def log_prob(self, draws: Draws) -> Tensor:
        r""":math:`\log\tfrac1M\sum_m q_m(\theta)` of each draw in nats; for points, a log mass."""
        terms = torch.stack([guide.log_prob(draws) for guide in self._guides])
        return terms.logsumexp(0) + self._log_weight

    @property
    def constant_sites(self) -> frozenset[str]:
        """The member's, if there is one only; else none."""
        return self._guides[0].constant_sites if len(self.members) == 1 else frozenset()

    @property
    def num_atoms(self) -> int | None:
        """The points of all members together, if each consists of finitely many."""
        each = self._guides[0].num_atoms
        return None if each is None else each * len(self.members)

    # ----------------------------------------------------------------------------- fitting it

    def start_at(self, params: Mapping[str, Tensor]) -> None:
        """Refused for more than one member: they would all be the same."""
        if len(self.members) > 1:
            raise ValueError(
                f"the {len(self.members)} members of a mixture must start at different values; "
                f"init starts them all at one. Leave init out."
            )
        self._guides[0].start_at(params)

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Set members that are all alike apart, and prepare each."""
        first, *others = self._guides
        if all(torch.equal(_centre(guide), _centre(first)) for guide in others):
            for guide in others:
                guide.start_at(random_start(self.model))
        for guide in self._guides:
            guide.prepare(x, y)

    @property
    def noise_by_example(self) -> bool:
        """As of the members."""
        return self._guides[0].noise_by_example

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The mean of the members' losses, with the gradient of their sum; see the class."""
        losses = self.losses(x, y, size=size)
        total = losses.sum()
        return losses.mean().detach() + (total - total.detach())

    def losses(self, x: Tensor, y: Tensor, *, size: int, vectorize: bool | None = None) -> Tensor:
        """The loss of each member, ``(M,)``, in nats per data point.

        Args:
            x: inputs ``(B, ...)``.
            y: targets in canonical shape.
            size: ``N``.
            vectorize: compute them by ``vmap`` or in a loop; default: whichever suits the net.
        """
        first = self._guides[0]
        if vectorize is None:
            vectorize = first.deterministic_loss and is_dense(self.model.net)
        if not vectorize:
            return torch.stack([guide.loss(x, y, size=size) for guide in self._guides])
        objective = Objective(first, x, y, size)
        each = [dict(guide.named_parameters(prefix="guide")) for guide in self._guides]
        stacked = {name: torch.stack([own[name] for own in each]) for name in each[0]}
        losses: Tensor = vmap(lambda own: functional_call(objective, own, ()))(stacked)
        return losses

    @property
    def loss_passes(self) -> int:
        """Those of all members."""
        return sum(guide.loss_passes for guide in self._guides)

    @property
    def finalize_passes(self) -> int:
        """Those of all members."""
        return sum(guide.finalize_passes for guide in self._guides)

    def end_epoch(self) -> None:
        """Each member's own."""
        for guide in self._guides:
            guide.end_epoch()

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Each member's own."""
        for guide in self._guides:
            guide.finalize(x, y)

    def convergence(self, x: Tensor, y: Tensor) -> Convergence | None:
        """That of the member which has settled least."""
        return worst([guide.convergence(x, y) for guide in self._guides])

    def options(self) -> dict[str, Any]:
        """The members' class, by name, and options, and their number."""
        first = self._guides[0]
        return {
            "member": type(first).name,
            "options": first.options(),
            "members": len(self.members),
        }


class MixtureOf(TorchDistribution):
    r"""The mixture :math:`\sum_m w_m\, p_m` of distributions of one event shape.

    The components may be of different families, or point masses.

    Args:
        components: the distributions :math:`p_m`, with empty batch shape.
        log_weights: :math:`\log w_m`, ``(M,)``.

    Example:
        >>> import pyro.distributions as dist
        >>> parts = [dist.Normal(0.0, 1.0), dist.Normal(5.0, 1.0)]
        >>> mixture = MixtureOf(parts, torch.tensor([0.5, 0.5]).log())
        >>> mixture.log_responsibilities(torch.tensor(2.5)).exp()
        tensor([0.5000, 0.5000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, components: Sequence[TorchDistribution], log_weights: Tensor) -> None:
        self.components, self.log_weights = components, log_weights
        super().__init__(torch.Size(), components[0].event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The components'."""
        return self.components[0].support

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """A draw of a component picked by its weight."""
        shape = torch.Size(sample_shape)
        picks = self.log_weights.exp().multinomial(shape.numel(), replacement=True)
        draws = [self.components[m].sample() for m in picks.tolist()]
        return torch.stack(draws).reshape(shape + self.event_shape)

    def _joint(self, value: Tensor) -> Tensor:
        return torch.stack([c.log_prob(value) for c in self.components], -1) + self.log_weights

    def log_prob(self, value: Tensor) -> Tensor:
        r""":math:`\log\sum_m w_m p_m(\theta)`, exact."""
        return self._joint(value).logsumexp(-1)

    def log_responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`\log r_m`, the components' weights given a value; unchanged if it has no mass."""
        joint = self._joint(value)
        total = joint.logsumexp(-1, keepdim=True)
        return torch.where(torch.isneginf(total), self.log_weights, joint - total)


def _factory(member: GuideFactory | str) -> GuideFactory:
    if not isinstance(member, str):
        return member
    if member not in Guide.registry:
        raise ValueError(
            f"the members of a mixture must be of a known guide; got {member!r}, known are "
            f"{sorted(Guide.registry)}. Import the module that defines it."
        )
    return Guide.registry[member]


def _centre(guide: Guide) -> Tensor:
    return cast("Tensor", guide.loc)


def _checked(guide: object, model: BayesianModel) -> Guide:
    """A guide that can be a member; else ``ValueError``."""
    if not isinstance(guide, Guide) or guide.model is not model or guide.savable() is not guide:
        raise ValueError(
            f"a member of a mixture must be a guide of this package over the mixture's model; got "
            f"{type(guide).__name__}. Pass for example member=Delta."
        )
    if not guide.is_trainable or not isinstance(getattr(guide, "loc", None), nn.Parameter):
        raise ValueError(
            f"the members of a mixture must be trained from different starting points; the "
            f"{guide.name} guide is not, so that all would be the same. Use it alone."
        )
    if type(guide).outputs is not Guide.outputs:
        raise ValueError(
            f"a mixture predicts by the net itself; the {guide.name} guide by another function at "
            f"each member. Use a guide without linearisation, such as Laplace."
        )
    return guide
