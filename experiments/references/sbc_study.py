r"""Simulation-based calibration of two small problems: who finds the posterior, on average?

**Linear regression**, :math:`y_n = w_0 + w_1 x_n + \varepsilon_n` at 15 inputs spread over [0, 2],
:math:`w \sim \mathcal N(0, \alpha^{-1} I)`. As the inputs are not centred, the weights correlate,
and the truth lies

.. math:: \Bigl(\tfrac1P \sum_i \Sigma_{ii} (\Sigma^{-1})_{ii}\Bigr)^{1/2}

standard deviations of the best mean-field normal (Bishop 2006, eq. 10.12) from its mean, in root
mean square, where a right posterior has 1. Two more are wrong on purpose, exact posteriors of other
models: with noise and prior half as wide, and with noise without bounds, which leaves the prior.

**Logistic regression** on 40 points in the plane, with a prior so wide that the posterior is skewed
towards steeper boundaries. Its steepness :math:`|w|` is ranked besides the parameters, whose own
bias cancels over a prior that is symmetric about 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from probml_tp.diagnostics import SbcResult, simulation_based_calibration
from probml_tp.diagnostics.sbc.run import Infer, Quantity
from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.guides import Exact, MeanFieldNormal
from probml_tp.guides.recipes import Chains, FitSettings, fit_all, guides_for
from probml_tp.harness.experiment import Progress
from probml_tp.inference import fit
from probml_tp.kit.common import Array, arrays_under, derived_seed
from probml_tp.model import BayesianModel
from probml_tp.models import LinearBasis, linear_regression, logistic_regression
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

Data = tuple[Tensor, Tensor]
NOISE, PRIOR_PRECISION = 0.2, 2.0
WITHOUT = ("laplace-diagonal", "correlated", "ensemble", "point")
"""Guides that are not ranked."""


@dataclass(frozen=True)
class SbcSize:
    """How much is run."""

    simulations: int
    nuts_simulations: int
    num_samples: int = 19
    epochs: int = 40

    def __post_init__(self) -> None:
        if not 1 <= self.nuts_simulations <= self.simulations:
            raise ValueError(
                f"nuts_simulations must be from 1 to simulations, of which NUTS takes the first; "
                f"got {self.nuts_simulations} of {self.simulations}. Lower nuts_simulations."
            )

    def of(self, method: str) -> int:
        """The number of data sets that a method is fitted to."""
        return self.nuts_simulations if method == "nuts" else self.simulations

    def how(self, lr: float, seed: int) -> FitSettings:
        """The settings of fits; NUTS takes short steps, for draws that are less correlated."""
        chains = Chains(
            chains=1, draws=5 * self.num_samples, warmup=20, target_accept=0.9,
            mass_matrix="laplace", start="laplace", per_batch=1, jobs=1,
        )  # fmt: skip
        return FitSettings(epochs=self.epochs, lr=lr, rounds=2, chains=chains, seed=seed)


@cache
def _line(noise: float = NOISE, precision: float = PRIOR_PRECISION) -> BayesianModel:
    prior = NormalPrior.from_precision(precision)
    return linear_regression(LinearBasis(), prior=prior, likelihood=noise)


@cache
def _boundary() -> BayesianModel:
    return logistic_regression(2, prior=NormalPrior(3.0))


def _line_inputs() -> Tensor:
    return torch.linspace(0, 2, 15, dtype=torch.float64).unsqueeze(-1)


def _plane_inputs() -> Tensor:
    rng = np.random.default_rng(derived_seed(0, "inputs in the plane"))
    return torch.from_numpy(rng.normal(0.7, 1.0, (40, 2)))


BROKEN: Mapping[str, Callable[[], BayesianModel]] = {
    "half-as-wide": partial(_line, NOISE / 2, 4 * PRIOR_PRECISION),
    "prior": partial(_line, 1e6),  # data of no weight
}
"""What is wrong on purpose on the line, by the model whose exact posterior it is."""


def _mean_field(model: BayesianModel, data: Data, how: FitSettings) -> Posterior:
    """From diagonal Laplace, which is the best mean-field normal where the posterior is normal."""
    start = fit_all(["laplace-diagonal"], model, data, how)["laplace-diagonal"]
    guide = MeanFieldNormal(model)
    variances = torch.tensor(np.diag(weight_moments(start)[1]).copy())
    guide.log_scale.data = 0.5 * variances.log().to(guide.loc)
    return fit(
        model, guide, data, init=start, epochs=how.epochs, lr=how.lr, schedule="cosine",
        seed=how.seed, progress=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A model, its inputs, and what is ranked."""

    title: str
    model: Callable[[], BayesianModel]
    inputs: Callable[[], Tensor]
    quantities: Mapping[str, Quantity]
    parameters: int
    telling: str
    lr: float
    methods: tuple[str, ...]

    def infer(self, method: str, size: SbcSize) -> Infer:
        """How a method comes to its posterior."""

        def infer(model: BayesianModel, data: Data, seed: int) -> Posterior:
            how = size.how(self.lr, seed)
            if method == "mean-field":
                return _mean_field(model, data, how)
            if method in BROKEN:
                return fit_all(["exact"], BROKEN[method](), data, how)["exact"]
            return fit_all([method], model, data, how)[method]

        return infer


PROBLEMS: Mapping[str, Problem] = {
    "linear": Problem(
        title="Linear regression",
        model=_line,
        inputs=_line_inputs,
        quantities={"intercept": lambda p: p["weight"][0], "slope": lambda p: p["weight"][1]},
        parameters=2,
        telling="slope",
        lr=0.01,
        methods=(*guides_for("conjugate", without=WITHOUT), *BROKEN),
    ),
    "logistic": Problem(
        title="Logistic regression",
        model=_boundary,
        inputs=_plane_inputs,
        quantities={
            "weight 1": lambda p: p["weight"][0, 0],
            "weight 2": lambda p: p["weight"][0, 1],
            "bias": lambda p: p["bias"][0],
            "steepness": lambda p: p["weight"].norm(),
        },
        parameters=3,
        telling="steepness",
        lr=0.1,
        methods=guides_for(without=WITHOUT),
    ),
}


def expected_distance(method: str) -> float:
    """How far the truth lies from the mean, on the line, in closed form."""
    if method == "mean-field":
        x = _line_inputs()
        _, precision = Exact(_line()).solve(x, torch.zeros(len(x), dtype=x.dtype))
        return float((precision.inverse().diagonal() * precision.diagonal()).mean().sqrt())
    return 2.0 if method == "half-as-wide" else 1.0


SbcStudy = Mapping[str, Mapping[str, SbcResult]]
"""Problem to method to its ranks."""


def run_sbc(size: SbcSize, *, progress: Progress, jobs: int | None = 1, seed: int = 0) -> SbcStudy:
    """Rank what was true among each method's draws, over data sets simulated from the prior.

    Every method of a problem sees the same data sets; NUTS, whose fits take longest, the first few.
    """
    study: dict[str, dict[str, SbcResult]] = {name: {} for name in PROBLEMS}
    for name, problem in PROBLEMS.items():
        for method in problem.methods:
            with progress.stage(f"ranks: {name}, {method}") as update:
                study[name][method] = simulation_based_calibration(
                    problem.model(),
                    problem.infer(method, size),
                    problem.inputs(),
                    simulations=size.of(method),
                    num_samples=size.num_samples,
                    quantities=problem.quantities,
                    jobs=jobs,
                    seed=derived_seed(seed, f"calibration {name}"),
                    progress=update,
                )
    return study


def sbc_arrays(study: SbcStudy) -> dict[str, Array]:
    """All of a study as plain arrays, named ``sbc.<problem>.<method>.<field>``."""
    return {
        f"sbc.{problem}.{method}.{field}": np.asarray(value)
        for problem, methods in study.items()
        for method, result in methods.items()
        for field, value in vars(result).items()
        if value is not None
    }


def sbc_study(arrays: Mapping[str, Array]) -> SbcStudy:
    """Take a study back from its arrays, which may stand among others."""
    return {
        name: {
            method: _restored(own)
            for method in problem.methods
            if (own := arrays_under(arrays, f"sbc.{name}.{method}"))
        }
        for name, problem in PROBLEMS.items()
    }


def _restored(own: dict[str, Array]) -> SbcResult:
    names = tuple(own.pop("quantities").tolist())
    num_samples, seed = (int(own.pop(name)) for name in ("num_samples", "seed"))
    return SbcResult(names, num_samples, seed=seed, **own)
