"""Every guide, at a place away from its starting point, for every model that it applies to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from model_cases import CASES, CONJUGATE, HIERARCHICAL, NO_CURVATURE, Case, random_flat

from probml_tp import (
    SWAG,
    ConcreteDropout,
    Delta,
    Exact,
    GaussianDropout,
    Guide,
    Laplace,
    LinearizedLaplace,
    LowRankNormal,
    MCDropout,
    MeanFieldNormal,
    Mixture,
)


def _delta(case: Case) -> Guide:
    guide = Delta(case.model)
    guide.loc.data = random_flat(case.model, seed=10)
    return guide


def _mean_field(case: Case) -> Guide:
    guide = MeanFieldNormal(case.model, init_scale=0.1, estimator="shared")
    guide.loc.data = random_flat(case.model, seed=11)
    guide.log_scale.data = random_flat(case.model, seed=12) - 1.5
    return guide


def _low_rank(case: Case) -> Guide:
    rank = min(3, case.model.num_params)
    with torch.random.fork_rng():
        torch.manual_seed(15)
        guide = LowRankNormal(case.model, rank=rank, init_scale=0.1)
    guide.loc.data = random_flat(case.model, seed=11)
    guide.log_scale.data = random_flat(case.model, seed=12) - 1.5
    return guide


def _laplace(kind: type[Laplace], **options: Any) -> Callable[[Case], Guide]:
    def build(case: Case) -> Guide:
        guide = kind(case.model, **options)
        guide.loc.data = random_flat(case.model, seed=13)
        data = case.model.check_data(case.x, case.y)
        guide.prepare(*data)
        guide.take_curvature(*data)  # there, wherever the mode is
        return guide

    return build


def _dropout(case: Case) -> Guide:
    assert case.rates is not None
    guide = MCDropout(case.model, rates=case.rates)
    guide.loc.data = random_flat(case.model, seed=14)
    return guide


def _concrete_dropout(case: Case) -> Guide:
    assert case.rates is not None
    guide = ConcreteDropout(case.model, rates=case.rates)
    guide.loc.data = random_flat(case.model, seed=15)
    guide.logits.data += 0.5
    return guide


def _gaussian_dropout(case: Case) -> Guide:
    assert case.rates is not None
    guide = GaussianDropout(case.model, rates=case.rates)
    guide.loc.data = random_flat(case.model, seed=16)
    return guide


def _exact(case: Case) -> Guide:
    guide = Exact(case.model)
    guide.finalize(*case.model.check_data(case.x, case.y))
    return guide


def _swag(case: Case) -> Guide:
    """Six snapshots around a place."""
    guide = SWAG(case.model, rank=4)
    centre = random_flat(case.model, seed=15)
    for seed in range(6):
        guide.loc.data = centre + 0.3 * random_flat(case.model, seed=30 + seed)
        guide.end_epoch()
    guide.finalize(case.x, case.y)
    return guide


def _mixture(member: Callable[[Case], Guide]) -> Callable[[Case], Guide]:
    """Three members around different places."""

    def build(case: Case) -> Guide:
        members = [member(case) for _ in range(3)]
        for seed, guide in enumerate(members[1:]):
            guide.loc.data = random_flat(case.model, seed=20 + seed)
        return Mixture.of(members)

    return build


GUIDES: dict[str, Callable[[Case], Guide]] = {
    "map": _delta,
    "mean-field": _mean_field,
    "low-rank-normal": _low_rank,
    "laplace": _laplace(Laplace),
    "laplace-linearized": _laplace(LinearizedLaplace),
    "laplace-kronecker": _laplace(LinearizedLaplace, structure="kronecker"),
    "laplace-diagonal": _laplace(Laplace, structure="diagonal"),
    "laplace-last-layer": _laplace(Laplace, sites="last-layer"),
    "mc-dropout": _dropout,
    "exact": _exact,
    "deep-ensemble": _mixture(_delta),
    "mixture-of-mean-field": _mixture(_mean_field),
    "swag": _swag,
    "concrete-dropout": _concrete_dropout,
    "gaussian-dropout": _gaussian_dropout,
}

_EACH = {name: build() for name, build in CASES.items()}

RATES = {name: case.rates for name, case in _EACH.items()}

ALL_NORMAL = {
    name
    for name, case in _EACH.items()
    if all(site.is_normal for site in case.model.sites.values())
}
"""The models whose priors are all normal."""


def applies(guide: str, case: str) -> bool:
    """Whether the guide exists for the model."""
    if guide == "exact":
        return case in (*CONJUGATE, "flat-prior")
    if guide.endswith("dropout"):
        return RATES[case] is not None
    if guide in ("laplace-kronecker", "laplace-diagonal") and case in HIERARCHICAL:
        return False
    if guide == "laplace-kronecker" and case in NO_KRONECKER:
        return False
    if guide == "laplace-last-layer" and case in ONE_LAYER:
        return False
    return not (guide.startswith("laplace") and case in NO_CURVATURE)


NO_KRONECKER = ("mlp-heavy-tails",)
"""Several prior precisions in one layer."""

ONE_LAYER = (*CONJUGATE, "flat-prior", "logistic", "softmax", *HIERARCHICAL)
"""The last layer is all there is, or all that Laplace takes."""

PAIRS = [(g, c) for c in CASES for g in GUIDES if applies(g, c)]
"""Every guide with every model it applies to."""


def build(guide: str, case: str) -> tuple[Guide, Case]:
    """A fresh guide over the case's model, which all share (a net is probed once), and the case."""
    return GUIDES[guide](_EACH[case]), _EACH[case]


def dense_draw(guide: Guide, seed: int = 0) -> dict[str, torch.Tensor]:
    """One draw, without the leading dimension."""
    generator = torch.Generator().manual_seed(seed)
    return {n: v[0] for n, v in guide.sample(1, generator=generator).items()}
