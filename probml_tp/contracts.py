r"""What a likelihood or a guide of one's own has to return, checked at its first use.

A wrong shape need not fail: a ``moments`` of shape ``(batch,)`` broadcasts with ``(batch, 1)`` to a
matrix of every point with every other one. So each method is called on two points, and on two
draws of these, and its results are compared with the shapes that the rest of the package counts on,
and with each other. What the package itself defines is held to the same by its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from probml_tp.likelihoods import ClassificationLikelihood, Likelihood, RegressionLikelihood
from probml_tp.priors import SiteDistribution

__all__ = ["check_likelihood", "check_own_sites", "is_ours", "require_shape"]

RTOL, ATOL = 1e-3, 1e-4
DRAWS = 2


def is_ours(part: object) -> bool:
    """Whether a class is of this package, whose tests hold it to its contract.

    Example:
        >>> is_ours(torch.nn.Linear(1, 1))
        False
    """
    return type(part).__module__.split(".")[0] == __name__.split(".")[0]


def require_shape(owner: str, method: str, value: object, shape: Sequence[int], what: str) -> None:
    """Check the shape of what a method returned.

    Args:
        owner: whose it is.
        method: its name.
        value: what came.
        shape: what is wanted.
        what: the shape in symbols, such as ``(draws, batch, d)``.

    Raises:
        ValueError: it is no tensor, or one of another shape.
    """
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if got != tuple(shape):
        raise ValueError(
            f"{method} of {owner} must return a tensor of shape {what}, here {tuple(shape)}; got "
            f"{got}. Keep every dimension, those of length 1 too (unsqueeze(-1), keepdim=True)."
        )


def check_own_sites(likelihood: Likelihood) -> None:
    """Check that a likelihood gives the priors of its parameters by name.

    Raises:
        ValueError: it gives something else.
    """
    sites = likelihood.site_distributions()
    kinds = sites.values() if isinstance(sites, Mapping) else [sites]
    wrong = [type(site).__name__ for site in kinds if not isinstance(site, SiteDistribution)]
    if wrong:
        raise ValueError(
            f"site_distributions of {_name(likelihood)} must map names to SiteDistribution, such "
            f"as {{'noise_scale': SiteDistribution('noise_scale', HalfNormal(1.0), "
            f"torch.zeros(()))}}; got {wrong[0]}. Wrap the prior."
        )


@torch.no_grad()
def check_likelihood(
    likelihood: Likelihood,
    outputs: Tensor,
    y: object,
    params: Mapping[str, Tensor],
    *,
    size: int,
) -> None:
    r"""Call every method of a likelihood and hold the results against each other.

    Args:
        likelihood: of a user.
        outputs: of the net at the first few points, ``(n, k)``.
        y: the targets of all points, as ``check_targets`` returned them.
        params: one value of every site.
        size: how many points there are.

    Raises:
        ValueError: a method fails, or returns another shape or value than it has to.
    """
    owner, n = _name(likelihood), len(outputs)
    if not isinstance(y, Tensor) or y.shape[:1] != (size,) or y.ndim > 2:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"check_targets of {owner} must return the targets, of shape (batch,) or (batch, d); "
            f"got {got} for {size} points. End it by returning y."
        )
    y = y[:n]
    many = torch.stack([outputs, 0.9 * outputs])
    own = {name: torch.stack([params[name]] * DRAWS) for name in params}
    for f, values, shape, what in (
        (outputs, params, (n,), "(batch,)"),
        (many, own, (DRAWS, n), "(draws, batch)"),
    ):
        if isinstance(likelihood, ClassificationLikelihood):
            _check_classes(likelihood, f, y, values, shape, what)
        _check_density(likelihood, f, y, values, shape, what)
        if isinstance(likelihood, RegressionLikelihood):
            _check_moments(likelihood, f, y, values, shape, what)
    _check_curvature(likelihood, outputs, params)


def _check_density(
    likelihood: Likelihood,
    f: Tensor,
    y: Tensor,
    params: Mapping[str, Tensor],
    shape: tuple[int, ...],
    what: str,
) -> None:
    owner = _name(likelihood)
    distribution: Any = _called(likelihood, "distribution", f, params)
    if not isinstance(distribution, TorchDistributionMixin):
        raise ValueError(
            f"distribution of {owner} must return one of pyro.distributions; got "
            f"{type(distribution).__name__}. Use for example pyro.distributions.Poisson(rate)."
        )
    if distribution.batch_shape != shape or distribution.event_shape != y.shape[1:]:
        raise ValueError(
            f"distribution of {owner} must have batch shape {what}, here {shape}, and the event "
            f"shape of one target, {tuple(y.shape[1:])}; got {tuple(distribution.batch_shape)} "
            f"and {tuple(distribution.event_shape)} for outputs of shape {tuple(f.shape)}. Take "
            f"the last dimension of the outputs away (outputs[..., 0]), or join several targets "
            f"by to_event(1)."
        )
    log_prob: Any = _called(likelihood, "log_prob", f, y, params)
    require_shape(owner, "log_prob", log_prob, shape, what)
    expected = distribution.log_prob(y)
    _require_equal(owner, "log_prob", log_prob, expected, "the log density of its distribution")


def _check_moments(
    likelihood: RegressionLikelihood,
    f: Tensor,
    y: Tensor,
    params: Mapping[str, Tensor],
    shape: tuple[int, ...],
    what: str,
) -> None:
    owner, d = _name(likelihood), y.shape[1] if y.ndim == 2 else 1
    moments = _called(likelihood, "moments", f, params)
    if not isinstance(moments, tuple | list) or len(moments) != 2:
        raise ValueError(
            f"moments of {owner} must return two tensors, the mean and the variance of each "
            f"target; got {type(moments).__name__}. Return both."
        )
    distribution: Any = likelihood.distribution(f, params)
    for name, value in zip(("mean", "variance"), moments, strict=True):
        what_now = what.replace(")", " d)" if what.endswith(",)") else ", d)")
        require_shape(owner, f"the {name} in moments", value, (*shape, d), what_now)
        try:
            expected = getattr(distribution, name).reshape(*shape, d)
        except (NotImplementedError, RuntimeError):
            continue
        _require_equal(owner, f"the {name} in moments", value, expected, "that of its distribution")


def _check_classes(
    likelihood: ClassificationLikelihood,
    f: Tensor,
    y: Tensor,
    params: Mapping[str, Tensor],
    shape: tuple[int, ...],
    what: str,
) -> None:
    owner, classes = _name(likelihood), getattr(likelihood, "num_classes", None)
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(
            f"num_classes of {owner} must be an integer of at least 2; got {classes!r}. Set it in "
            f"the class or its constructor."
        )
    log_probs: Any = _called(likelihood, "log_probs", f)
    what_now = what.replace(")", " C)" if what.endswith(",)") else ", C)")
    require_shape(owner, "log_probs", log_probs, (*shape, classes), what_now)
    total = log_probs.logsumexp(-1)
    _require_equal(owner, "the logarithm of the sum of log_probs.exp()", total, 0 * total, "0")
    index = y.long().expand(shape).unsqueeze(-1)
    at_labels = log_probs.gather(-1, index).squeeze(-1)
    found = likelihood.log_prob(f, y, params)
    _require_equal(owner, "log_prob", found, at_labels, "log_probs at the labels")


def _check_curvature(likelihood: Likelihood, f: Tensor, params: Mapping[str, Tensor]) -> None:
    """The inputs and the matrix that Laplace needs, where there are any."""
    owner, n = _name(likelihood), len(f)
    try:
        g: Any = likelihood.natural_inputs(f, params)
        fisher: Any = likelihood.fisher(f, params)
    except NotImplementedError:
        return
    if not isinstance(g, Tensor) or g.ndim != 2:
        require_shape(owner, "natural_inputs", g, tuple(f.shape), "(batch, m)")
    require_shape(owner, "fisher", fisher, (n, g.shape[1], g.shape[1]), "(batch, m, m)")
    _require_equal(owner, "fisher", fisher, fisher.mT, "its transpose")


def _called(likelihood: Likelihood, method: str, *arguments: object) -> object:
    call: Callable[..., object] = getattr(likelihood, method)
    try:
        return call(*arguments)
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        first = arguments[0]
        shape = tuple(first.shape) if isinstance(first, Tensor) else ()
        raise ValueError(
            f"{method} of {_name(likelihood)} must take outputs (*draws, batch, k); for shape "
            f"{shape} it failed: {reason}. Index them from the end, as in outputs[..., 0]."
        ) from error


def _require_equal(owner: str, what: str, value: Tensor, expected: Tensor, rule: str) -> None:
    relative = max(RTOL, 20 * max(torch.finfo(v.dtype).eps for v in (value, expected)))
    value, expected = value.double(), expected.double()
    known = expected.isfinite() & value.isfinite()
    if not torch.allclose(value[known], expected[known], rtol=relative, atol=ATOL):
        off = (value - expected).abs().where(known, 0.0)
        at = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
        raise ValueError(
            f"{what} of {owner} must equal {rule}; got {value[at].item():.6g} against "
            f"{expected[at].item():.6g}. Make them one distribution."
        )


def _name(likelihood: Likelihood) -> str:
    return type(likelihood).__name__
