r"""Virtual-logit matching: the energy less what the features have outside their usual space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.posterior import Posterior
from probml_tp.scores.features import features_like
from probml_tp.scores.network_pass import NetworkPass, last_layer
from probml_tp.scores.outputs import energy

__all__ = ["ViM"]


@dataclass(frozen=True, eq=False)
class ViM:
    r"""Virtual-logit matching (Wang et al. 2022).

    .. math:: \log\sum_c e^{f_c} - \alpha\,\lVert R^\top (z - o) \rVert_2, \qquad
              o = -W^{+} b, \qquad
              \alpha = \frac{\sum_n \max_c f_{nc}}{\sum_n \lVert R^\top (z_n - o) \rVert_2}

    with ``W``, ``b`` the last layer at the centre of the posterior, ``z`` its inputs, and ``R`` the
    eigenvectors of :math:`\sum_n (z_n - o)(z_n - o)^\top` less those of the ``dim`` largest
    eigenvalues; sums are over training data. The logits ``f`` are the posterior's mean outputs. The
    paper's probability of the virtual logit, :math:`e^{v} / (e^{v} + \sum_c e^{f_c})`, has the
    opposite order.

    Args:
        origin: ``o``, ``(d,)``, float64.
        residual: ``R``, ``(d, d - dim)``.
        alpha: :math:`\alpha`.

    Example:
        >>> from probml_tp import Delta, NormalPrior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> train = network_pass(Posterior(Delta(model)), torch.randn(30, 2), features=True)
        >>> ViM.fit(train)(train).shape
        torch.Size([30])
    """

    origin: Tensor
    residual: Tensor
    alpha: float

    @classmethod
    @checked()
    def fit(cls, run: NetworkPass, *, dim: int | None = None) -> ViM:
        r"""Find the usual space of the features and match the virtual logit to the largest one.

        Args:
            run: a pass over training data, with features; it needs no labels.
            dim: the dimension of the usual space, below ``d``; default: the paper's code, 1000 for
                :math:`d \ge 2048`, 512 for :math:`d \ge 768`, else half of ``d``.

        Returns:
            The score.

        Raises:
            ValueError: there are no features, the guide has no centre (an ensemble), ``dim`` is not
                below ``d``, the features have nothing outside the usual space, or the largest
                logits are negative on average.
        """
        z = run.require_features().double()
        weight, bias = _last_layer_at_centre(run.posterior, run.inputs[:1])
        dim = _dimension(z.shape[1], dim)
        origin = -torch.linalg.pinv(weight) @ bias
        centred = z - origin
        _, vectors = torch.linalg.eigh(centred.mT @ centred / len(z))  # eigenvalues ascend
        residual = vectors[:, : z.shape[1] - dim]
        length = float((centred @ residual).norm(dim=-1).mean())
        if length <= 1e-6 * float(centred.norm(dim=-1).mean()):
            raise ValueError(
                f"training features must have a part outside their usual space; there is none "
                f"outside the {dim} largest of {z.shape[1]} directions. Pass a smaller dim."
            )
        largest = float(run.logits.amax(-1).double().mean())
        if largest <= 0:
            raise ValueError(
                f"a virtual logit is matched to the largest one, which must be positive; on the "
                f"training data the mean of the largest logits is {largest:.3g}. Train the net "
                f"longer, or use another score of features."
            )
        return cls(origin, residual, largest / length)

    def __call__(self, run: NetworkPass) -> Tensor:
        """The confidence in nats, ``(N,)``, float64."""
        z = features_like(run, len(self.origin)).double()
        length: Tensor = ((z - self.origin) @ self.residual).norm(dim=-1)
        return energy(run) - self.alpha * length


def _dimension(width: int, dim: int | None) -> int:
    """The dimension of the usual space among so many features."""
    if dim is None:
        dim = 1000 if width >= 2048 else 512 if width >= 768 else max(1, width // 2)
    if positive_integer("dim", dim) >= width:
        raise ValueError(
            f"dim must be below the number of features; got dim={dim} for {width}. Pass half of "
            f"them, say."
        )
    return dim


@torch.no_grad()
def _last_layer_at_centre(posterior: Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
    """The weight ``(C, d)`` and bias ``(C,)`` of the last layer, in float64."""
    model = posterior.model
    layer = last_layer(model, x)
    centre = model.constants | posterior.guide.centre()
    name = next(name for name, module in model.net.named_modules() if module is layer)
    prefix = f"{name}." if name else ""
    weight = centre[f"{prefix}weight"].double()
    bias = centre.get(f"{prefix}bias")
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.double()
