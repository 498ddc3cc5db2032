r"""The Mahalanobis distance of features to the classes, and the relative one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.scores.features import features_like, labelled_features
from probml_tp.scores.network_pass import NetworkPass

__all__ = ["Covariance", "Mahalanobis"]

Covariance = Literal["empirical", "ledoit-wolf"]
"""How covariances are estimated: by maximum likelihood, or shrunk towards a multiple of ``I``."""

ESTIMATORS = {"empirical": EmpiricalCovariance, "ledoit-wolf": LedoitWolf}


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    r"""Minus the squared Mahalanobis distance of the features to the nearest class.

    .. math:: -\min_c d_c(z), \qquad d_c(z) = (z - \mu_c)^\top \Sigma^{-1} (z - \mu_c)

    with the class means :math:`\mu_c` and the covariance :math:`\Sigma` within classes, shared by
    all, of the last layer's inputs on training data, divided by ``N`` (Lee et al. 2018, without
    their input step and their regression over layers). The relative distance (Ren et al. 2021)
    subtracts that to one normal of all training features, :math:`N(\mu_0, \Sigma_0)`:

    .. math:: -\min_c d_c(z) + d_0(z)

    :math:`\Sigma^{-1}` is scikit-learn's: the pseudo-inverse where :math:`\Sigma` is singular.
    Features that are constant on the training data, such as dead ReLU units, then do not count at
    all, whatever they are elsewhere. ``covariance="ledoit-wolf"`` (Ledoit & Wolf 2004) makes it
    regular, so that they do count.

    Args:
        means: :math:`\mu_c` of the classes that occur, ``(K, d)``, float64.
        precision: :math:`\Sigma^{-1}`, ``(d, d)``.
        background: :math:`\mu_0` and :math:`\Sigma_0^{-1}` of the relative distance, or ``None``.

    Example:
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> train = network_pass(Posterior(Delta(model)), torch.randn(30, 2), features=True)
        >>> Mahalanobis.fit(train, torch.arange(30) % 3, relative=True)(train).shape
        torch.Size([30])
    """

    means: Tensor
    precision: Tensor
    background: tuple[Tensor, Tensor] | None = None

    @classmethod
    @checked()
    def fit(
        cls,
        run: NetworkPass,
        labels: object,
        *,
        relative: bool = False,
        covariance: Covariance = "empirical",
    ) -> Mahalanobis:
        """Estimate means and covariances.

        Args:
            run: a pass over training data, with features.
            labels: their labels, ``(N,)``.
            relative: subtract the distance to all training features.
            covariance: how covariances are estimated.

        Returns:
            The score.

        Raises:
            ValueError: the labels do not fit or are of one class, there are no features, or they do
                not vary within classes.
        """
        if covariance not in get_args(Covariance):
            raise ValueError(f"covariance must be one of {get_args(Covariance)}; got {covariance}.")
        z, y = labelled_features(run, labels)
        z = z.double()
        classes, index = y.unique(return_inverse=True)
        means = torch.stack([z[index == k].mean(0) for k in range(len(classes))])
        residuals = z - means[index]
        if not bool(residuals.any()):
            raise ValueError(
                f"features must vary within classes; those of all {len(z)} points are their "
                f"class's mean. Pass more points than classes, or another layer's features."
            )
        centre = z.mean(0)
        background = (centre, _precision(z - centre, covariance)) if relative else None
        return cls(means, _precision(residuals, covariance), background)

    def __call__(self, run: NetworkPass) -> Tensor:
        """The confidence, ``(N,)``, float64: at most 0 unless it is relative."""
        z = features_like(run, self.means.shape[1]).double()
        distances = torch.stack([_distance(z, mean, self.precision) for mean in self.means])
        nearest = distances.amin(0)
        return -nearest if self.background is None else _distance(z, *self.background) - nearest


def _precision(residuals: Tensor, covariance: Covariance) -> Tensor:
    """The inverse covariance of centred features."""
    estimator = ESTIMATORS[covariance](assume_centered=True).fit(residuals.cpu().numpy())
    return torch.as_tensor(estimator.precision_).to(residuals)


def _distance(z: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """The squared Mahalanobis distance of each row."""
    residuals = z - mean
    return ((residuals @ precision) * residuals).sum(-1)
