"""The checks that make the guides' contract; each raises AssertionError where it is broken.

They are functions, so that the same check that accepts every guide of the package is seen to
reject broken ones.
"""

from __future__ import annotations

import pyro.poutine as poutine
import torch
from guide_cases import dense_draw
from torch import Tensor

from probml_tp import BayesianModel, Guide

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def model_trace(
    model: BayesianModel,
    params: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    *,
    size: int | None = None,
) -> poutine.Trace:
    """The Pyro program's trace at given parameters, with its log densities computed."""
    conditioned = poutine.condition(model, data=params)
    trace = poutine.trace(conditioned).get_trace(x, y, size=size)
    trace.compute_log_prob()
    return trace


def guide_trace(guide: Guide, params: dict[str, Tensor] | None = None) -> poutine.Trace:
    """The guide's Pyro trace, at a draw of its own or at given values."""
    program = guide if params is None else poutine.condition(guide, data=params)
    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    return trace


def check_trace_density(guide: Guide, *, draws: int = 3) -> None:
    """The Pyro program's log density is ``log_prob``: at its own draws and at ``sample``'s."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        traces = [guide_trace(guide) for _ in range(draws)]
    traces += [guide_trace(guide, dense_draw(guide, seed)) for seed in range(draws)]
    for trace in traces:
        values = {n: trace.nodes[n]["value"].unsqueeze(0) for n in guide.model.sites}
        assert torch.isfinite(trace.log_prob_sum())
        torch.testing.assert_close(guide.log_prob(values)[0], trace.log_prob_sum(), **TOLERANCE)


def check_sites(guide: Guide, *, num_samples: int = 4) -> None:
    """Draws and the Pyro program have the model's sites, shapes, type and supports."""
    model = guide.model
    draws = guide.sample(num_samples, generator=torch.Generator().manual_seed(0))
    program = guide_trace(guide)
    assert list(draws) == list(model.sites)
    assert program.stochastic_nodes == list(model.sites)
    for name, site in model.sites.items():
        assert draws[name].shape == (num_samples, *site.shape)
        assert draws[name].dtype == model.dtype
        assert not draws[name].requires_grad
        assert bool(site.support.check(draws[name]).all())
        node = program.nodes[name]
        assert node["value"].shape == site.shape
        assert node["value"].dtype == model.dtype
        assert node["log_prob"].shape == ()
    assert guide.log_prob(draws).shape == (num_samples,)


def check_seeds(guide: Guide) -> None:
    """A generator alone determines the draws, and torch's global state is not touched."""
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first = guide.sample(5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(100)
    again = guide.sample(5, generator=torch.Generator().manual_seed(7))
    for name in first:
        assert torch.equal(first[name], again[name])
    random = [n for n in first if n not in guide.constant_sites]
    if random:
        other = guide.sample(5, generator=torch.Generator().manual_seed(8))
        assert any(not torch.equal(first[n], other[n]) for n in random)
    for name in guide.constant_sites:
        assert torch.equal(first[name], first[name][:1].expand_as(first[name]))


def check_kl(guide: Guide, *, num_samples: int = 20_000) -> None:
    """The analytic KL divergence is the mean of log q - log p, within 5 standard errors."""
    with torch.no_grad():
        draws = guide.sample(num_samples, generator=torch.Generator().manual_seed(0))
        terms = guide.log_prob(draws) - guide.model.log_prior(draws)
        error = terms.std() / num_samples**0.5
        deviation = (terms.mean() - guide.kl()).abs()
    assert error > 0
    assert deviation < 5 * error, f"KL off by {deviation / error:.1f} standard errors"


def check_sampler_agrees_with_program(guide: Guide, *, num_samples: int = 400) -> None:
    """``sample`` and the Pyro program have the same distribution: equal means and variances of a
    random projection and of the log density, within 5 standard errors."""
    layout = guide.model.layout
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        program = [guide() for _ in range(num_samples)]
        direction = torch.randn(layout.size, dtype=guide.model.dtype)
    ours = guide.sample(num_samples, generator=torch.Generator().manual_seed(2))
    theirs = {n: torch.stack([p[n] for p in program]).detach() for n in guide.model.sites}
    for statistic in (
        lambda d: layout.ravel(guide.model.unconstrain(d)) @ direction,
        lambda d: guide.log_prob(d).detach(),
    ):
        a, b = statistic(ours), statistic(theirs)
        for u, v in ((a, b), ((a - a.mean()) ** 2, (b - b.mean()) ** 2)):
            error = ((u.var() + v.var()) / num_samples).sqrt()
            assert (u.mean() - v.mean()).abs() <= 5 * error + 1e-12
