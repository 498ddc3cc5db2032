"""What can be compared: posteriors of one model, with a reference that has converged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from probml_tp.checks.values import as_tensor, data_pair
from probml_tp.digest import digest
from probml_tp.empirical import Empirical
from probml_tp.gap.sample import Convergence, collect
from probml_tp.posterior import Posterior

__all__ = [
    "EVERYWHERE",
    "NOISE_FLOOR",
    "UnconvergedReferenceError",
    "check_converged",
    "check_reference",
    "check_same_data",
    "checked_inputs",
    "checked_regions",
    "has_converged",
]

Array = np.ndarray[Any, Any]

NOISE_FLOOR = "noise floor"
"""The name of the row that compares the reference with itself."""

EVERYWHERE = "all"
"""The region of all points."""

HIGHEST_R_HAT = 1.01
LEAST_ESS = 400


class UnconvergedReferenceError(ValueError):
    """The chains that others are to be compared with have not converged."""


def checked_inputs(posteriors: Mapping[str, Posterior], reference: str, x: object) -> Tensor:
    """Return the inputs, if the posteriors can be compared at them.

    Raises:
        ValueError: there is nothing to compare, the models differ, the reference consists of
            finitely many points, or the net does not take ``x``.
    """
    if reference not in posteriors:
        raise ValueError(
            f"the reference must be one of the posteriors, {', '.join(posteriors) or 'none'}; got "
            f"{reference!r}. Pass one of these names."
        )
    if len(posteriors) < 2 or NOISE_FLOOR in posteriors:
        raise ValueError(
            f"a comparison needs the reference and at least one other posterior, none of them "
            f"called {NOISE_FLOOR!r}; got {', '.join(posteriors)}. Pass a second one by another "
            f"name."
        )
    own = posteriors[reference]
    for name, posterior in posteriors.items():
        if differing := own.model.differences(posterior.model):
            raise ValueError(
                f"posteriors can be compared if they are of the same model, priors and likelihood "
                f"included; {name!r} is of {posterior.model.name!r}, the reference {reference!r} "
                f"of {own.model.name!r}, which differs in {', '.join(differing)}. Fit both to one "
                f"model."
            )
    if own.guide.num_atoms is not None:
        raise ValueError(
            f"the reference must be a distribution with draws to split in halves; {reference!r} "
            f"({own.name}) consists of {own.guide.num_atoms} point(s). Take NUTS or the exact "
            f"posterior as reference."
        )
    return own.model.check_inputs(x)


def check_same_data(
    posteriors: Mapping[str, Posterior], reference: str, data: tuple[object, object] | None
) -> None:
    """Check that posteriors were fitted to the same data, as far as they remember which.

    Args:
        posteriors: name to posterior.
        reference: the name of the one that the others are compared with.
        data: inputs and targets that are said to be those, if any.

    Raises:
        ValueError: they were not, or the data are others or do not fit the model.
    """
    known = {name: p.info.data for name, p in posteriors.items() if p.info.data}
    first = reference if reference in known else next(iter(known), reference)
    for name, found in known.items():
        if found != known[first]:
            raise ValueError(
                f"posteriors can be compared if they are of the same data; {name!r} was fitted to "
                f"data of digest {found}, {first!r} to {known[first]}. Fit both to the same data, "
                f"in the same order."
            )
    if data is None:
        return
    own = digest(posteriors[reference].model.check_data(*data_pair("data", data)))
    if known and own != known[first]:
        raise ValueError(
            f"data must be those that the posteriors were fitted to, in the same order; got data "
            f"of digest {own}, {first!r} was fitted to {known[first]}. Pass the training data, or "
            f"leave data out."
        )


def checked_regions(regions: Mapping[str, object] | None, num_points: int) -> dict[str, Array]:
    """The points of each region as indices, all points first.

    Raises:
        ValueError: a region is empty, is no boolean array nor indices of points, or has the name
            of all points.
    """
    places = {EVERYWHERE: np.arange(num_points)}
    for name, given in (regions or {}).items():
        index = as_tensor(f"region {name!r}", given).cpu().numpy()
        if index.dtype == bool and index.shape == (num_points,):
            index = np.flatnonzero(index)
        whole = np.issubdtype(index.dtype, np.integer) and index.ndim == 1
        in_range = whole and bool(((index >= 0) & (index < num_points)).all())
        if name == EVERYWHERE or not len(index) or not in_range:
            raise ValueError(
                f"a region must be named otherwise than {EVERYWHERE!r} and hold at least one of "
                f"the {num_points} points, by a boolean array of that length or indices from 0 to "
                f"{num_points - 1}; got {name!r} with {given!r}. Pass for example x[:, 0] > 1."
            )
        places[name] = np.unique(index)
    return places


def has_converged(found: Any) -> bool:
    """Whether chains know the function values; draws that are no chain's always do.

    Args:
        found: has ``r_hat`` and ``ess``, NaN where there is no chain.
    """
    if np.isnan(found.ess):
        return True
    return bool(found.r_hat <= HIGHEST_R_HAT and found.ess >= LEAST_ESS)


def check_converged(name: str, found: Convergence | None) -> None:
    """Check that a reference chain knows the function values.

    Raises:
        UnconvergedReferenceError: its R-hat is above 1.01 or unknown, or its effective sample size
            below 400.
    """
    if found is None or has_converged(found):
        return
    raise UnconvergedReferenceError(
        f"a reference chain must have converged: R-hat of at most {HIGHEST_R_HAT} and a bulk "
        f"effective sample size of at least {LEAST_ESS} for the function values at every x; "
        f"{name!r} has {found.r_hat:.3f} and {found.ess:.0f} at the worst. Run at least two "
        f"longer chains, or pass accept_reference=True and report both figures."
    )


def check_reference(name: str, posterior: Posterior, x: Tensor) -> None:
    """Check that a posterior can be a reference at these inputs, before others are fitted.

    Args:
        name: its name.
        posterior: the reference; only chains can fail.
        x: checked inputs.

    Raises:
        UnconvergedReferenceError: as for :func:`check_converged`.
    """
    if isinstance(posterior.guide, Empirical):
        check_converged(name, collect(posterior, x, sites=(), num_samples=1, seed=0).convergence)
