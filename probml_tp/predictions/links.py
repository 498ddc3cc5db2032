r"""From normal outputs to class probabilities: closed forms beside sampling.

The outputs of a linearised net at a point are normal, :math:`f \sim \mathcal N(m, V)`. The
predictive probabilities :math:`E[\mathrm{softmax}(f)]` have no closed form; these are the usual
approximations of it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from probml_tp.checks.arguments import checked, real_tensor
from probml_tp.likelihoods import Bernoulli, ClassificationLikelihood

__all__ = ["Link", "Linked", "laplace_bridge", "logistic_normal", "probit", "symmetric_root"]

Link = Literal["sampled", "probit", "laplace-bridge"]
"""How class probabilities follow from normal outputs."""


class Linked(NamedTuple):
    """Class probabilities of ``N`` points and what else the approximation knows.

    Args:
        log_probs: ``(N, C)``, float64.
        expected_entropy: of a label given the outputs, in nats, ``(N,)``, if it is known.
    """

    log_probs: Tensor
    expected_entropy: Tensor | None


@checked(mean=real_tensor(2), covariance=real_tensor(3))
def probit(likelihood: ClassificationLikelihood, mean: Tensor, covariance: Tensor) -> Linked:
    r"""MacKay's probit approximation (1992, "The evidence framework applied to classification").

    .. math:: p = \mathrm{sigmoid}\Big(\frac{m}{\sqrt{1 + \pi v / 8}}\Big)

    for a logit of variance ``v``; for several classes the softmax of the logits so scaled, each by
    its own variance (Gibbs 1997), which leaves their correlations out.

    Args:
        likelihood: Bernoulli or Categorical.
        mean: :math:`m`, ``(N, k)``.
        covariance: ``V``, ``(N, k, k)``.

    Returns:
        The probabilities; the expected entropy is not known.

    Example:
        >>> wide = probit(Bernoulli(), torch.tensor([[4.0]]), torch.tensor([[[100.0]]]))
        >>> round(float(wide.log_probs[0, 1].exp()), 2)
        0.65
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1).double()
    scaled = mean.double() / (1 + math.pi / 8 * variance).sqrt()
    return Linked(likelihood.log_probs(scaled), None)


@checked(mean=real_tensor(2), covariance=real_tensor(3))
def laplace_bridge(
    likelihood: ClassificationLikelihood, mean: Tensor, covariance: Tensor
) -> Linked:
    r"""The Laplace bridge (MacKay 1998; Hobbhahn, Kristiadi & Hennig 2022): a Dirichlet.

    With the outputs conditioned on summing to zero, as the softmax does not see their sum,

    .. math:: \alpha_k = \frac1{V_{kk}}\Big(1 - \frac2C
              + \frac{e^{m_k}}{C^2} \sum_l e^{-m_l}\Big), \qquad p_k = \alpha_k / \sum_l \alpha_l

    It uses the diagonal of ``V`` only. For two classes the two entries are equal and cancel: ``p``
    is then the softmax of the mean, as if there were no variance, and only the entropy knows it.
    The expected entropy is the Dirichlet's,
    :math:`\psi(\alpha_0 + 1) - \sum_k p_k\,\psi(\alpha_k + 1)`.

    Args:
        likelihood: Bernoulli (taken as two classes with logits :math:`\mp f/2`) or Categorical.
        mean: :math:`m`, ``(N, k)``.
        covariance: ``V``, ``(N, k, k)``.

    Returns:
        The probabilities and the expected entropy.

    Example:
        >>> linked = laplace_bridge(Bernoulli(), torch.tensor([[0.0]]), torch.tensor([[[1.0]]]))
        >>> linked.log_probs.exp()
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    mean, covariance = mean.double(), covariance.double()
    if isinstance(likelihood, Bernoulli):
        signs = mean.new_tensor([-0.5, 0.5])
        mean, covariance = mean * signs, covariance * signs.unsqueeze(-1) * signs
    else:
        mean, covariance = _sum_to_zero(mean, covariance)
    classes = mean.shape[-1]
    spread = mean.exp() * (-mean).exp().sum(-1, keepdim=True) / classes**2
    alpha = (1 - 2 / classes + spread) / covariance.diagonal(dim1=-2, dim2=-1)
    total = alpha.sum(-1, keepdim=True)
    probs = alpha / total
    entropy = torch.digamma(total.squeeze(-1) + 1) - (probs * torch.digamma(alpha + 1)).sum(-1)
    return Linked(probs.log(), entropy)


@checked(mean=real_tensor(1), variance=real_tensor(1))
def logistic_normal(mean: Tensor, variance: Tensor) -> Tensor:
    r"""The probability :math:`E[\mathrm{sigmoid}(f)]` for :math:`f \sim \mathcal N(m, v)`.

    By quadrature, as a reference for the approximations. A narrow normal is integrated by
    Gauss-Hermite. To a wide one the sigmoid is a step, which that would miss; as the distribution
    function of a logistic variable ``t`` it gives

    .. math:: E[\mathrm{sigmoid}(f)]
              = \int \mathrm{sigmoid}'(t)\,\Phi\Big(\frac{m - t}{\sqrt v}\Big)\,dt

    whose integrand is smooth, so that the trapezoidal rule converges exponentially.

    Args:
        mean: ``m``, ``(N,)``.
        variance: ``v``, ``(N,)``.

    Returns:
        The probabilities ``(N,)``, float64, to about 1e-12.

    Example:
        >>> logistic_normal(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]))
        tensor([0.5000, 0.9820], dtype=torch.float64)
    """
    m, s = mean.double().unsqueeze(-1), variance.double().sqrt().unsqueeze(-1)
    nodes, weights = (m.new_tensor(part) for part in hermegauss(100))
    narrow = torch.sigmoid(m + s * nodes) @ weights / math.sqrt(2 * math.pi)
    step = 0.125
    t = torch.arange(-40.0, 40.0 + step, step, dtype=m.dtype, device=m.device)
    density = step * torch.sigmoid(t) * torch.sigmoid(-t)
    wide: Tensor = torch.special.ndtr((m - t) / s.clamp_min(1.0)) @ density
    return torch.where(s.squeeze(-1) < 1, narrow, wide)


def _sum_to_zero(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Condition normal outputs on a sum of zero."""
    row = covariance.sum(-1)
    total = row.sum(-1, keepdim=True)
    mean = mean - row * mean.sum(-1, keepdim=True) / total
    return mean, covariance - row.unsqueeze(-1) * row.unsqueeze(-2) / total.unsqueeze(-1)


@checked(covariance=real_tensor(3))
def symmetric_root(covariance: Tensor) -> Tensor:
    r"""The symmetric ``R`` with :math:`RR = V`, for positive semi-definite ``(N, k, k)``.

    Example:
        >>> symmetric_root(torch.tensor([[[4.0]]]))
        tensor([[[2.]]])
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    root: Tensor = (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT
    return root.to(covariance.dtype)
