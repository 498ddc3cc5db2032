r"""Annealed importance sampling: the log evidence without a chain, and without a good guide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from probml_tp.batching import OverRows
from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer, valid_seed
from probml_tp.diagnostics.evidence.importance import check_density, check_proper
from probml_tp.diagnostics.evidence.iwelbo import log_mean_exp
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, seeded, substream

__all__ = ["AIS", "annealed_importance_sampling"]

PILOT, MAIN = 0, 1

PRIOR_POWER, GUIDE_POWER = 4.0, 1.0
ACCEPTANCE = 0.8
JITTER = 0.2
"""By how much a move's step size may differ: against paths that return to where they began."""

GAIN = 0.5
"""How fast the pilot's step size follows the acceptance rate."""


class AIS(NamedTuple):
    """An estimate of the log evidence by annealing.

    Args:
        value: in nats.
        standard_error: its Monte Carlo standard error.
        ess: effective number of particles, of their weights.
        acceptance_rate: of the moves, over all temperatures.
    """

    value: float
    standard_error: float
    ess: float
    acceptance_rate: float


@checked()
def annealed_importance_sampling(
    model: BayesianModel,
    x: object,
    y: object,
    *,
    start: Posterior | None = None,
    particles: int = 200,
    temperatures: int = 200,
    leapfrog_steps: int = 5,
    seed: int = 0,
) -> AIS:
    r"""Estimate the log evidence by annealed importance sampling (Neal 2001).

    In unconstrained space, along :math:`\pi_\beta \propto \pi_0^{1-\beta}\,\tilde p^{\,\beta}` with
    :math:`\tilde p(u) = p(\theta(u), y \mid x)\,|\partial\theta/\partial u|` and :math:`\pi_0` the
    prior, or a guide that was fitted before. Each particle starts at :math:`u_0 \sim \pi_0`, and

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1})
              \log\frac{\tilde p(u_{t-1})}{\pi_0(u_{t-1})}, \qquad E[w] = p(y \mid x),

    where :math:`u_t` is moved from :math:`u_{t-1}` by one step of Hamiltonian Monte Carlo that
    leaves :math:`\pi_{\beta_t}` invariant. :math:`\beta_t = (t/T)^4` from the prior, whose
    tempered densities change most near :math:`\beta = 0` (Friel & Pettitt 2008), and
    :math:`t/T` from a guide. The step size (towards an acceptance rate of 0.8) and the scale of
    each parameter at each temperature are found by a pilot run with particles of its own, so that
    the estimate is unbiased for the evidence itself. All particles are moved at once by ``vmap``,
    in memory proportional to their number times ``N``.

    Args:
        model: the model.
        x: all inputs.
        y: all targets.
        start: the posterior to start from; default: the prior.
        particles: independent runs.
        temperatures: ``T``.
        leapfrog_steps: of each move; 1 is the Metropolis-adjusted Langevin algorithm.
        seed: determines everything.

    Returns:
        The estimate with the standard error :math:`\mathrm{sd}(w)/(\sqrt S\,\bar w)`, to be
        believed where ``ess`` is a good part of the particles; take more temperatures if not.

    Raises:
        ValueError: a prior is improper, ``start`` is of another model or has no density, or the
            data do not fit.

    Example:
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.5))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> found = annealed_importance_sampling(model, x, x, particles=100, temperatures=20)
        >>> exact = fit(model, Exact, (x, x)).guide.log_evidence()
        >>> abs(found.value - exact) < 5 * found.standard_error
        True
    """
    check_proper(check_model(model), "annealed importance sampling")
    inputs, targets = model.check_data(x, y)
    counts = {"particles": particles, "temperatures": temperatures, "steps": leapfrog_steps}
    particles, temperatures, steps = (positive_integer(n, v) for n, v in counts.items())
    if start is not None:
        check_density(start, "the start of annealing")
        _check_model(start, model)
    path = _Path(model, inputs, targets, start)
    power = PRIOR_POWER if start is None else GUIDE_POWER
    betas = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64) ** power
    seed = valid_seed(seed)
    with seeded(substream(seed, Stream.ANNEALING, PILOT), model.device):
        tuning = _Tuning()
        _anneal(path, particles, betas, steps, tuning)
    with seeded(substream(seed, Stream.ANNEALING, MAIN), model.device):
        log_w, acceptance = _anneal(path, particles, betas, steps, tuning.fixed())
    w = (log_w - log_w.max()).exp()
    return AIS(*log_mean_exp(log_w), float(w.sum() ** 2 / w.square().sum()), acceptance)


def _check_model(start: Posterior, model: BayesianModel) -> None:
    if differing := model.differences(start.model):
        raise ValueError(
            f"annealing must start at a posterior of the same model; got one of "
            f"{start.model.name!r}, which differs from {model.name!r} in {', '.join(differing)}. "
            f"Fit it to this model, or leave start out."
        )


class _Path:
    """The two ends of the path, as densities of flat unconstrained vectors."""

    def __init__(self, model: BayesianModel, x: Tensor, y: Tensor, start: Posterior | None) -> None:
        self.model, self.x, self.y, self.start = model, x, y, start

    def draw(self, count: int) -> Tensor:
        """Draws of the start, ``(S, P)``, by the global generator."""
        if self.start is None:
            shape = (count,)
            draws = {n: s.elementwise().sample(shape) for n, s in self.model.sites.items()}
        else:
            seed = int(torch.randint(2**31, ()))
            generator = torch.Generator(self.model.device).manual_seed(seed)
            draws = self.start.guide.sample(count, generator=generator)
        return self.model.layout.ravel(self.model.unconstrain(draws))

    def log_ends(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log\pi_0` and :math:`\log\tilde p/\pi_0`, each ``(S,)``, with gradients."""
        prior = self.model.log_prior_flat(flat)
        log_likelihood = OverRows(self._log_likelihood)(flat)
        if self.start is None:
            return prior, log_likelihood
        u = self.model.layout.unravel(flat)
        log_q = self.start.guide.log_prob(self.model.constrain(u))
        start = log_q + self.model.log_abs_det_jacobian(u)
        return start, prior + log_likelihood - start

    def _log_likelihood(self, flat: Tensor) -> Tensor:
        params = self.model.constrain(self.model.layout.unravel(flat))
        return self.model.log_likelihood(params, self.x, self.y).sum()


@dataclass
class _Tuning:
    """Step size and scales by temperature: found by the pilot, then kept.

    Args:
        step: the pilot's present step size.
        is_fixed: whether they are no longer changed.
        steps: the step size of each temperature.
        scales: the scale of each parameter at each temperature, ``(P,)``.
    """

    step: float = 0.5
    is_fixed: bool = False
    steps: list[float] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)

    def at(self, temperature: int, u: Tensor) -> tuple[float, Tensor]:
        """The step size and scales at a temperature; the pilot's scales are its particles'."""
        if not self.is_fixed:
            self.steps.append(self.step)
            spread = u.std(0) if len(u) > 1 else torch.ones_like(u[0])
            self.scales.append(spread.clamp_min(torch.finfo(u.dtype).tiny))
        return self.steps[temperature], self.scales[temperature]

    def learn(self, acceptance: float) -> None:
        """Follow the acceptance rate."""
        if not self.is_fixed:
            self.step *= float(torch.tensor(GAIN * (acceptance - ACCEPTANCE)).exp())

    def fixed(self) -> _Tuning:
        """The same, to be used as it is."""
        return _Tuning(self.step, True, self.steps, self.scales)


def _anneal(
    path: _Path, particles: int, betas: Tensor, steps: int, tuning: _Tuning
) -> tuple[Tensor, float]:
    """Run all particles down the path: their log weights, float64, and the acceptance rate."""
    u = path.draw(particles)
    log_w = torch.zeros(particles, dtype=torch.float64, device=u.device)
    with torch.no_grad():
        log_ratio = path.log_ends(u)[1].double()
    rates = []
    for t, (before, beta) in enumerate(zip(betas[:-1].tolist(), betas[1:].tolist(), strict=True)):
        log_w += (beta - before) * log_ratio
        step, scale = tuning.at(t, u)
        u, log_ratio, rate = _hmc(path, u, beta, step * scale, steps)
        tuning.learn(rate)
        rates.append(rate)
    return log_w.cpu(), sum(rates) / len(rates)


def _hmc(
    path: _Path, u: Tensor, beta: float, step: Tensor, steps: int
) -> tuple[Tensor, Tensor, float]:
    r"""One move of each particle that leaves :math:`\pi_\beta` invariant."""

    def tempered(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = flat.detach().requires_grad_()
        with torch.enable_grad():
            start, ratio = path.log_ends(flat)
            density = start + beta * ratio
            (gradient,) = torch.autograd.grad(density.sum(), flat)
        return density.detach(), ratio.detach(), gradient

    density, ratio, gradient = tempered(u)
    momentum = torch.randn_like(u)
    step = step * (1 + JITTER * (2 * torch.rand_like(u[:, :1]) - 1))
    moved, kinetic = u, -0.5 * momentum.square().sum(-1)
    new_density, new_ratio = density, ratio
    for _ in range(steps):
        momentum = momentum + 0.5 * step * gradient
        moved = moved + step * momentum
        new_density, new_ratio, gradient = tempered(moved)
        momentum = momentum + 0.5 * step * gradient
    new_kinetic = -0.5 * momentum.square().sum(-1)
    log_accept = (new_density + new_kinetic - density - kinetic).nan_to_num(-torch.inf)
    probability = log_accept.clamp_max(0).exp()
    accepted = torch.rand_like(probability) < probability
    u = torch.where(accepted.unsqueeze(-1), moved, u).detach()
    return u, torch.where(accepted, new_ratio, ratio).double(), float(probability.mean())
