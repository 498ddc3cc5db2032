r"""Scores of distances to training features: deep nearest neighbours, and the trust score.

Neighbours are scikit-learn's, by comparison with all training points in blocks: memory is flat in
the number of points, and in a hundred dimensions trees are slower by far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer, probability
from probml_tp.scores.features import features_like, labelled_features, subsample
from probml_tp.scores.network_pass import NetworkPass

__all__ = ["NearestNeighbours", "TrustScore"]

TINY = 1e-12


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    r"""Minus the distance to the k-th nearest training feature (Sun et al. 2022).

    .. math:: -\lVert \bar z - \bar z_{(k)} \rVert_2, \qquad \bar z = z / \lVert z \rVert_2

    between features of unit length; a vector of zeros stays one. A training point is its own
    nearest neighbour.

    Args:
        features: :math:`\bar z` of training points, ``(n, d)``.
        k: which neighbour.

    Example:
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> train = network_pass(Posterior(Delta(model)), torch.randn(90, 2), features=True)
        >>> NearestNeighbours.fit(train, k=5)(train).shape
        torch.Size([90])
    """

    features: Tensor
    k: int

    @classmethod
    @checked()
    def fit(
        cls, run: NetworkPass, *, k: int = 50, max_points: int | None = None, seed: int = 0
    ) -> NearestNeighbours:
        """Keep the training features.

        Args:
            run: a pass over training data, with features.
            k: which neighbour; the paper's 50 is for 50,000 points.
            max_points: keep so many at random; default: all.
            seed: determines which.

        Returns:
            The score.

        Raises:
            ValueError: there are fewer than ``k`` points, or no features.
        """
        z = run.require_features()
        kept = _unit(z[subsample(len(z), max_points, seed).to(z.device)])
        if positive_integer("k", k) > len(kept):
            raise ValueError(
                f"k must be at most the number of training points; got k={k} for {len(kept)}. Pass "
                f"a smaller k."
            )
        return cls(kept, k)

    def __call__(self, run: NetworkPass) -> Tensor:
        """The confidence, from -2 to 0, ``(N,)``."""
        z = _unit(features_like(run, self.features.shape[1]).to(self.features))
        return -_distances(self.features, z, self.k)


@dataclass(frozen=True, eq=False)
class TrustScore:
    r"""How much nearer the predicted class is than the nearest other one (Jiang et al. 2018).

    .. math:: \frac{\min_{c \ne \hat y} d_c(z)}{d_{\hat y}(z) + 10^{-12}}

    with :math:`d_c` the distance of the features to the nearest training point of class ``c``. With
    :math:`\alpha > 0` the share :math:`\alpha` of each class with the largest distance to its
    ``k``-th nearest neighbour in the class, itself not counted, is left out first: the
    :math:`\alpha`-high-density set. A predicted class without training points scores 0. On the
    training data themselves distances are 0: judge other data.

    Args:
        features: for each class its training features, ``(n_c, d)``; empty ones for classes that do
            not occur.

    Example:
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> posterior = Posterior(Delta(model))
        >>> train = network_pass(posterior, torch.randn(90, 2), features=True)
        >>> test = network_pass(posterior, torch.randn(5, 2), features=True)
        >>> TrustScore.fit(train, torch.arange(90) % 3)(test).shape
        torch.Size([5])
    """

    features: tuple[Tensor, ...]

    @classmethod
    @checked()
    def fit(
        cls,
        run: NetworkPass,
        labels: object,
        *,
        k: int = 10,
        alpha: float = 0.0,
        max_points: int | None = None,
        seed: int = 0,
    ) -> TrustScore:
        r"""Keep the training features of each class, less the outliers.

        Args:
            run: a pass over training data, with features.
            labels: their labels, ``(N,)``.
            k: which neighbour's distance tells how dense the class is at a point.
            alpha: :math:`\alpha`, the share of each class left out, in [0, 1).
            max_points: keep so many of all points at random first; default: all.
            seed: determines which.

        Returns:
            The score.

        Raises:
            ValueError: the labels do not fit or are of one class, there are no features, or, with
                :math:`\alpha > 0`, a class has no more than ``k`` points.
        """
        positive_integer("k", k)
        probability("alpha", alpha)
        z, y = labelled_features(run, labels)
        kept = subsample(len(z), max_points, seed).to(z.device)
        z, y = z[kept], y[kept]
        classes = [z[y == c] for c in range(run.predictive.probs.shape[1])]
        if sum(len(own) > 0 for own in classes) < 2:
            raise ValueError(
                f"points of at least two classes must be kept; max_points={max_points} kept one. "
                f"Pass a larger number."
            )
        return cls(tuple(_dense_part(own, k, alpha) if alpha else own for own in classes))

    def __call__(self, run: NetworkPass) -> Tensor:
        """The confidence, at least 0, ``(N,)``, float64."""
        z = features_like(run, self.features[0].shape[1]).to(self.features[0])
        distances = torch.stack([_distances(own, z, 1) for own in self.features], 1)
        predicted = run.predictive.predicted_class.unsqueeze(1)
        others = distances.scatter(1, predicted, torch.inf).amin(1)
        return others / (distances.gather(1, predicted).squeeze(1) + TINY)


def _dense_part(z: Tensor, k: int, alpha: float) -> Tensor:
    r"""The points of a class without the share :math:`\alpha` farthest from their neighbours."""
    if not len(z):
        return z
    if len(z) <= k:
        raise ValueError(
            f"k must be below the number of points of each class; got k={k} for a class of "
            f"{len(z)}. Pass a smaller k, or alpha=0."
        )
    radius = _neighbours(z, k).kneighbors()[0][:, -1]  # of training points, themselves not counted
    radius = torch.as_tensor(radius)
    return z[(radius <= radius.quantile(1 - alpha)).to(z.device)]


def _distances(train: Tensor, z: Tensor, k: int) -> Tensor:
    """The distance of each row to the k-th nearest training point, float64; infinite if none."""
    if not len(train):
        return torch.full((len(z),), torch.inf, dtype=torch.float64, device=z.device)
    distances, _ = _neighbours(train, k).kneighbors(z.cpu().numpy())
    return torch.as_tensor(distances[:, -1]).double().to(z.device)


def _neighbours(train: Tensor, k: int) -> NearestNeighbors:
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train.cpu().numpy())


def _unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=1)
