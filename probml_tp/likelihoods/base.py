"""What every likelihood gives, and what those of regression and classification add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeGuard, TypeVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.priors import SiteDistribution

__all__ = ["ClassificationLikelihood", "Likelihood", "Params", "RegressionLikelihood", "is_exactly"]

Params = Mapping[str, Tensor]

LikelihoodT = TypeVar("LikelihoodT", bound="Likelihood")

_DEFINING = (
    "distribution", "fisher", "log_prob", "log_probs", "moments", "natural_inputs", "noise_scale",
)  # fmt: skip


class Likelihood(nn.Module, ABC):
    r"""The observation model, one point at a time.

    Subclasses give the distribution of a target, its pointwise log density written out (the fast
    path; tests hold it equal to the distribution's), and the Fisher information that the
    generalised Gauss-Newton matrix needs.
    """

    def site_distributions(self) -> dict[str, SiteDistribution]:
        """The priors of the likelihood's own parameters, by site name; most have none."""
        return {}

    @abstractmethod
    def distribution(self, outputs: Tensor, params: Params) -> TorchDistribution:
        """The distribution of the targets, batch shape ``(*draws, batch)``."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, y: Tensor, params: Params) -> Tensor:
        """Pointwise log density of ``y``, shape ``(*draws, batch)``, in nats."""

    @abstractmethod
    def check_outputs(self, shape: torch.Size) -> None:
        """Raise ``ValueError`` if a net's output shape ``(batch, ...)`` does not fit."""

    @abstractmethod
    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        """Return ``y`` in canonical shape and type; raise ``ValueError`` if it does not fit."""

    @abstractmethod
    def natural_inputs(self, outputs: Tensor, params: Params) -> Tensor:
        """The inputs ``g``, shape ``(batch, m)``, in which :meth:`fisher` is expressed.

        They are the net's outputs, followed by the likelihood's own parameters if it has any.
        """

    @abstractmethod
    def fisher(self, outputs: Tensor, params: Params) -> Tensor:
        r"""Fisher information :math:`E_{y|g}[-\nabla_g^2 \log p(y|g)]`, ``(batch, m, m)``."""

    def describe(self) -> str:
        """A text that identifies the likelihood in a model's spec."""
        return f"{type(self).__name__}({self.extra_repr()})"


class RegressionLikelihood(Likelihood):
    """A likelihood of real targets: it has a mean and a variance."""

    @abstractmethod
    def moments(self, outputs: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mean and variance of each target component, both ``(*draws, batch, d)``."""


class ClassificationLikelihood(Likelihood):
    """A likelihood of labels: it has class probabilities."""

    num_classes: int

    @abstractmethod
    def log_probs(self, outputs: Tensor) -> Tensor:
        """Log probabilities of the classes, ``(*draws, batch, C)``."""


def is_exactly(likelihood: object, kind: type[LikelihoodT]) -> TypeGuard[LikelihoodT]:
    """Whether a likelihood is of a kind, and of no subclass with methods of its own.

    Formulas that hold for one likelihood hold for no other that derives from it: a Student-t
    written as a subclass of :class:`~probml_tp.likelihoods.Gaussian` has neither its moments nor
    its conjugate posterior.

    Example:
        >>> from probml_tp.likelihoods import Bernoulli, Gaussian
        >>> is_exactly(Gaussian(scale=1.0), Gaussian), is_exactly(Bernoulli(), Gaussian)
        (True, False)
    """
    return isinstance(likelihood, kind) and all(
        getattr(type(likelihood), name, None) is getattr(kind, name, None) for name in _DEFINING
    )
