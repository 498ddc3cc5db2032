r"""Simulation-based calibration: is an approximate posterior right, on average over the prior?

Let :math:`\theta^* \sim p(\theta)` and :math:`y \sim p(y \mid \theta^*, x)`. Then :math:`\theta^*`
is itself a draw from the posterior :math:`p(\theta \mid y)`: among ``L`` independent posterior
draws the rank of :math:`h(\theta^*)` is uniform on :math:`0, \dots, L`, for any quantity
:math:`h`. Ranks of an approximate posterior that are not uniform show how it is wrong: a U shape
that it is too narrow, a hump that it is too wide, a slope that it is biased (Talts et al. 2018,
"Validating Bayesian inference algorithms with simulation-based calibration").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer, valid_seed
from probml_tp.diagnostics.sbc.result import SbcResult
from probml_tp.empirical import Empirical
from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread
from probml_tp.inference.progress import ProgressCallback, progress_reporter
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.quiet_arviz import az
from probml_tp.streams import Stream, seeded, substream

__all__ = ["Infer", "Quantity", "simulation_based_calibration"]

Array = np.ndarray[Any, Any]

Infer: TypeAlias = Callable[[BayesianModel, tuple[Tensor, Tensor], int], Posterior]
"""A way to a posterior: ``(model, (x, y), seed) -> Posterior``."""

Quantity: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
"""A scalar function of one value of every site."""

DATA, FIT, DRAWS, TIES = range(4)

SMALL = 20
"""Up to so many scalar parameters each is a quantity by itself."""

LOG_LIKELIHOOD = "log_likelihood"

NEARLY_INDEPENDENT = 0.8
"""Effective over actual draws of a chain below which ranks of a right chain are not uniform."""

BEYOND_CHANCE = 0.99
"""Level of the interval, over the simulations, that has to lie below it."""


@checked(model=None, infer=None)
def simulation_based_calibration(
    model: BayesianModel,
    infer: Infer,
    x: object,
    *,
    simulations: int = 200,
    num_samples: int = 99,
    quantities: Mapping[str, Quantity] | None = None,
    jobs: int | None = None,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> SbcResult:
    r"""Rank parameters drawn from the prior among posterior draws given data simulated from them.

    For each simulation: :math:`\theta^* \sim p(\theta)`, :math:`y \sim p(y \mid \theta^*, x)`, a
    fit to ``(x, y)``, ``L`` draws, and the rank of each :math:`h(\theta^*)` among the draws'
    :math:`h(\theta)`.

    The **log likelihood** of the simulated data is always ranked besides the quantities given:
    ranks of functions of the parameters alone are uniform as well for a "posterior" that ignores
    the data and returns the prior (Modrák et al. 2023, "Simulation-based calibration checking for
    Bayesian computation: the choice of test quantities shapes sensitivity").

    **Chains.** Uniformity needs nearly independent draws. Of a chain's stored draws ``L`` evenly
    spaced ones are taken: let it store several times as many. The effective number of what was
    taken comes back in ``relative_ess``, with a warning where it is below 0.8 of the actual number
    (by a 99 % t interval over the simulations).

    **Functions** of the parameters are those of the model's net, at the draws of any guide: the
    draws of a linearised Laplace posterior are judged as the plain one's are.

    Calibration here is on average over the prior: use one that you believe. A prior so wide that
    its data look like nothing real tests the posterior where it does not matter.

    Args:
        model: the model; all its priors are proper.
        infer: ``(model, (x, y), seed) -> Posterior``, such as
            ``lambda model, data, seed: fit(model, Laplace, data, seed=seed, progress=False)``. It
            runs in processes of its own, on one thread.
        x: inputs ``(n, ...)``, the same in each simulation.
        simulations: data sets, ``N``.
        num_samples: posterior draws of each, ``L``.
        quantities: name to a scalar function of one value of every site. Default: every scalar
            parameter of a model of at most 20; of others the log prior and the first output at the
            first, the middle and the last input.
        jobs: processes; default: one a thread of torch (on a GPU: 1). 1 runs all here.
        seed: determines everything, however many processes run.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.

    Returns:
        The ranks, with tests of their uniformity.

    Raises:
        ValueError: a prior is improper, data simulated from the prior are not finite, a quantity is
            not a finite scalar, a chain stores fewer than ``num_samples`` draws, or ``infer``
            returns the posterior of other sites.

    Example:
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> net = torch.nn.Linear(1, 1).double()
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.5))
        >>> result = simulation_based_calibration(
        ...     model, lambda model, data, seed: fit(model, Exact, data, seed=seed, progress=False),
        ...     torch.linspace(-1, 1, 10).unsqueeze(-1), simulations=30, num_samples=19, jobs=1
        ... )
        >>> result.quantities, result.ranks.shape, result.p_value > 0.05
        (('weight[0,0]', 'bias[0]', 'log_likelihood'), (30, 3), True)
    """
    inputs = _checked_model(model, infer, x)
    runs, draws = positive_integer("simulations", simulations), _checked_draws(num_samples)
    chosen = _default_quantities(model, inputs) if quantities is None else dict(quantities)
    study = _Study(model, infer, inputs, draws, chosen, valid_seed(seed))
    study.check_quantities()
    jobs = number_of_jobs(1 if jobs is None and model.device.type == "cuda" else jobs, runs)
    rows: list[_Row] = []
    with progress_reporter(progress, "simulation-based calibration", unit="fit") as report:

        def done(row: _Row) -> None:
            rows.append(row)
            report(len(rows), runs, "")

        run_tasks((partial(study.run, index) for index in range(runs)), jobs=jobs, done=done)
    rows.sort(key=lambda row: row.index)
    return _result(study, rows)


@dataclass(frozen=True)
class _Row:
    """One simulation: an entry for each quantity, ``(Q,)``."""

    index: int
    ranks: Array
    truth: Array
    mean: Array
    sd: Array
    ess: Array | None


@dataclass(frozen=True)
class _Study:
    """What all simulations share."""

    model: BayesianModel
    infer: Infer
    x: Tensor
    num_samples: int
    quantities: Mapping[str, Quantity]
    seed: int

    def check_quantities(self) -> None:
        """Run them once, before anything is fitted."""
        if LOG_LIKELIHOOD in self.quantities:
            raise ValueError(
                f"quantities need names of their own; {LOG_LIKELIHOOD!r} is ranked always. Leave "
                f"it out."
            )
        params, y = self.simulate(0)
        self.evaluate(params, y)

    @torch.no_grad()
    def simulate(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        r""":math:`\theta^* \sim p(\theta)` and :math:`y \sim p(y \mid \theta^*, x)`."""
        model = self.model
        with seeded(self._stream(index, DATA), model.device):
            params = model.sample_prior()
            outputs = model.outputs(params, self.x)
            finite = bool(torch.isfinite(outputs).all())
            y = model.likelihood.distribution(outputs, params).sample() if finite else outputs
        if not bool(torch.isfinite(y).all()):
            raise ValueError(
                f"data simulated from the prior must be finite; those of simulation {index} are "
                f"not. Use a prior with lighter tails or a smaller scale, or a model in float64."
            )
        return params, model.check_data(self.x, y)[1]

    def run(self, index: int) -> _Row:
        """Simulate, fit and rank, in whatever process."""
        params, y = self.simulate(index)
        stream = self._stream(index, FIT)
        with single_thread(), torch.enable_grad(), seeded(stream, self.model.device):
            try:
                posterior = self.infer(self.model, (self.x, y), stream)
            except Exception as error:
                error.add_note(f"(in simulation {index}, fitted with seed {stream})")
                raise
        with single_thread(), torch.no_grad():
            return self._rank(index, params, y, posterior)

    def _rank(
        self, index: int, params: Mapping[str, Tensor], y: Tensor, posterior: Posterior
    ) -> _Row:
        draws, is_chain = self._draws(posterior, index)
        each = ({name: v[s] for name, v in draws.items()} for s in range(self.num_samples))
        values = np.stack([self.evaluate(draw, y) for draw in each])
        truth = self.evaluate(params, y)
        rng = np.random.default_rng(self._stream(index, TIES))
        ties = (values == truth).sum(0)
        ranks = (values < truth).sum(0) + rng.integers(ties + 1)
        ess = np.array([_ess(column) for column in values.T]) if is_chain else None
        return _Row(index, ranks, truth, values.mean(0), values.std(0, ddof=1), ess)

    def evaluate(self, params: Mapping[str, Tensor], y: Tensor) -> Array:
        """Every quantity at one value of every site, ``(Q,)``, the log likelihood last."""
        values = {name: _scalar(name, h(params)) for name, h in self.quantities.items()}
        log_likelihood = self.model.log_likelihood(params, self.x, y).sum()
        values[LOG_LIKELIHOOD] = _scalar(LOG_LIKELIHOOD, log_likelihood)
        return np.array(list(values.values()))

    def _draws(self, posterior: Posterior, index: int) -> tuple[dict[str, Tensor], bool]:
        """``L`` draws of every site, and whether they are of a chain: evenly spaced ones then."""
        _check_sites(self.model, posterior)
        guide = posterior.guide
        if not isinstance(guide, Empirical):
            return posterior.draws(self.num_samples, seed=self._stream(index, DRAWS)), False
        stored = guide.flat.flatten(0, 1)
        if len(stored) < self.num_samples:
            raise ValueError(
                f"a chain must store at least the {self.num_samples} draws that are ranked among; "
                f"got {len(stored)}. Store several times as many, or lower num_samples."
            )
        spaced = torch.arange(self.num_samples) * len(stored) // self.num_samples
        return guide.model.layout.unravel(stored[spaced]), True

    def _stream(self, index: int, purpose: int) -> int:
        return substream(self.seed, Stream.SBC, index, purpose)


def _result(study: _Study, rows: list[_Row]) -> SbcResult:
    names = (*study.quantities, LOG_LIKELIHOOD)
    ess = [row.ess for row in rows if row.ess is not None]
    relative = np.mean(ess, axis=0) / study.num_samples if ess else None
    if relative is not None and _below(NEARLY_INDEPENDENT, np.stack(ess) / study.num_samples):
        worst = int(relative.argmin())
        warnings.warn(
            f"ranks need nearly independent draws; the {study.num_samples} taken of each chain are "
            f"worth {relative[worst]:.0%} of that for {names[worst]!r}. Let the chain store more "
            f"draws, or lower num_samples.",
            stacklevel=3,
        )
    return SbcResult(
        quantities=names,
        num_samples=study.num_samples,
        ranks=np.stack([row.ranks for row in rows]),
        truth=np.stack([row.truth for row in rows]),
        mean=np.stack([row.mean for row in rows]),
        sd=np.stack([row.sd for row in rows]),
        relative_ess=relative,
        seed=study.seed,
    )


# ------------------------------------------------------------------------------------ quantities


def _default_quantities(model: BayesianModel, x: Tensor) -> dict[str, Quantity]:
    if model.num_params <= SMALL:
        return dict(_scalar_parameters(model))
    chosen: dict[str, Quantity] = {"log_prior": model.log_prior}
    for place in sorted({0, len(x) // 2, len(x) - 1}):
        chosen[f"f(x[{place}])"] = partial(_first_output, model, x[place : place + 1])
    return chosen


def _scalar_parameters(model: BayesianModel) -> Iterator[tuple[str, Quantity]]:
    for name, shape in model.layout.shapes.items():
        for place in np.ndindex(*shape):
            label = f"{name}[{','.join(map(str, place))}]" if place else name
            yield label, partial(_element, name, place)


def _element(name: str, place: tuple[int, ...], params: Mapping[str, Tensor]) -> Tensor:
    return params[name][place]


def _first_output(model: BayesianModel, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    return model.outputs(params, x)[0, 0]


def _scalar(name: str, value: object) -> float:
    tensor = torch.as_tensor(value)
    if tensor.numel() != 1 or not bool(torch.isfinite(tensor).all()):
        shown = f"{tensor.item()}" if tensor.numel() == 1 else f"shape {tuple(tensor.shape)}"
        raise ValueError(
            f"a quantity must be a finite scalar; {name!r} is {shown}. Return one number for one "
            f"value of every site, such as params['weight'][0, 0]."
        )
    return float(tensor)


def _below(limit: float, ess: Array) -> bool:
    """Whether the least average over simulations ``(N, Q)`` is below the limit beyond chance.

    The estimate from few draws scatters: of 19 independent draws by 0.3 of their number.
    """
    interval = mean_interval(ess[:, ess.mean(0).argmin()], BEYOND_CHANCE).interval
    return interval is not None and interval[1] < limit


def _ess(values: Array) -> float:
    """The effective number of draws ``(L,)``; draws that are all equal count as one."""
    if np.ptp(values) == 0:
        return 1.0
    return float(az.ess(values[None]))  # type: ignore[no-untyped-call]


# ---------------------------------------------------------------------------------------- checks


def _checked_model(model: object, infer: object, x: object) -> Tensor:
    if not isinstance(model, BayesianModel) or not callable(infer):
        raise ValueError(
            f"simulation-based calibration needs a BayesianModel and a callable (model, data, "
            f"seed) -> Posterior; got {type(model).__name__} and {type(infer).__name__}. Pass for "
            f"example lambda model, data, seed: fit(model, Laplace, data, seed=seed)."
        )
    for name, site in model.sites.items():
        if not site.is_proper:
            raise ValueError(
                f"simulation-based calibration draws parameters from the prior; that of {name!r} "
                f"is improper. Use a proper one, such as NormalPrior."
            )
    return model.check_inputs(x)


def _checked_draws(num_samples: int) -> int:
    count = positive_integer("num_samples", num_samples)
    if count < 4:
        raise ValueError(
            f"num_samples must be at least 4 for ranks to tell anything; got {count}. Pass 99."
        )
    return count


def _check_sites(model: BayesianModel, posterior: object) -> None:
    if not isinstance(posterior, Posterior):
        raise ValueError(
            f"infer must return a Posterior; got {type(posterior).__name__}. Return what fit or "
            f"sample_nuts returns."
        )
    if posterior.model.layout != model.layout:
        raise ValueError(
            f"infer must return a posterior of the model that the data come from, of the sites "
            f"{', '.join(model.sites)}; got {', '.join(posterior.model.sites)}. Fit the model that "
            f"it is given."
        )
