r"""Simulation-based calibration of two small problems: who finds the posterior, on average?

**Linear regression**, :math:`y_n = w_0 + w_1 x_n + \varepsilon_n` at 15 inputs spread over [0, 2],
:math:`w \sim \mathcal N(0, \alpha^{-1} I)`. The inputs are not centred, so that intercept and
slope are correlated a posteriori, and the best mean-field normal has the standard deviations
:math:`(\Sigma^{-1})_{ii}^{-1/2}` (Bishop 2006, eq. 10.12): the truth then lies

.. math:: \Bigl(\tfrac1P \sum_i \Sigma_{ii} (\Sigma^{-1})_{ii}\Bigr)^{1/2}

of them from its mean, in root mean square, where a right posterior has 1. Two more are wrong on
purpose, each the exact posterior of another model: with noise and prior both half as wide it has
the right mean and half the standard deviations; with noise without bounds it is the prior.

**Logistic regression** on 40 points in the plane, with a prior wide enough (standard deviation 3)
that the posterior is skewed: towards steeper boundaries. Its steepness :math:`|w|` is ranked
besides the parameters, whose own bias cancels over a prior that is symmetric about 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from probml_tp.diagnostics.sbc.run import Infer, Quantity
from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.guides import Exact, Laplace, MeanFieldNormal
from probml_tp.inference import fit, sample_nuts
from probml_tp.kit.common import derived_seed
from probml_tp.model import BayesianModel
from probml_tp.models import LinearBasis, linear_regression, logistic_regression
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

Data = tuple[Tensor, Tensor]

NOISE, PRIOR_PRECISION = 0.2, 2.0
PRIOR_SCALE = 3.0
UNBOUNDED = 1e6
MODE_ROUNDS = 2
TARGET_ACCEPT = 0.9
"""Of NUTS: shorter steps than usual, for draws of the log likelihood that are less correlated."""


@dataclass(frozen=True)
class SbcSize:
    """How much is run."""

    simulations: int
    nuts_simulations: int
    num_samples: int = 19
    epochs: int = 40
    warmup: int = 20
    thin: int = 5

    def __post_init__(self) -> None:
        """Check that NUTS has data sets to share."""
        if not 1 <= self.nuts_simulations <= self.simulations:
            raise ValueError(
                f"nuts_simulations must be from 1 to simulations, of which NUTS takes the first; "
                f"got {self.nuts_simulations} of {self.simulations}. Lower nuts_simulations."
            )


# -------------------------------------------------------------------------------------- methods


@cache
def _line(noise: float = NOISE, precision: float = PRIOR_PRECISION) -> BayesianModel:
    prior = NormalPrior.from_precision(precision)
    return linear_regression(LinearBasis(), prior=prior, likelihood=noise)


@cache
def _boundary() -> BayesianModel:
    return logistic_regression(2, prior=NormalPrior(PRIOR_SCALE))


def _line_inputs() -> Tensor:
    return torch.linspace(0, 2, 15, dtype=torch.float64).unsqueeze(-1)


def _plane_inputs() -> Tensor:
    rng = np.random.default_rng(derived_seed(0, "inputs in the plane"))
    return torch.from_numpy(rng.normal(0.7, 1.0, (40, 2)))


def _exact(model: BayesianModel, data: Data, seed: int) -> Posterior:
    return fit(model, Exact, data, seed=seed, progress=False)


def _half_as_wide(model: BayesianModel, data: Data, seed: int) -> Posterior:
    """All precisions times four: the same mean, half the standard deviations."""
    return _exact(_line(NOISE / 2, 4 * PRIOR_PRECISION), data, seed)


def _prior(model: BayesianModel, data: Data, seed: int) -> Posterior:
    """Data of no weight."""
    return _exact(_line(UNBOUNDED), data, seed)


def _laplace(model: BayesianModel, data: Data, seed: int) -> Posterior:
    return fit(
        model, Laplace, data, epochs=MODE_ROUNDS, optimizer="lbfgs", seed=seed, progress=False
    )


def _mean_field(epochs: int, lr: float) -> Infer:
    """From diagonal Laplace, which is the best mean-field normal where the posterior is normal."""

    def infer(model: BayesianModel, data: Data, seed: int) -> Posterior:
        start = fit(
            model, lambda m: Laplace(m, structure="diagonal"), data,
            epochs=MODE_ROUNDS, optimizer="lbfgs", seed=seed, progress=False,
        )  # fmt: skip
        guide = MeanFieldNormal(model)
        variances = torch.tensor(np.diag(weight_moments(start)[1]).copy())
        guide.log_scale.data = 0.5 * variances.log().to(guide.loc)
        return fit(
            model, guide, data,
            init=start, epochs=epochs, lr=lr, schedule="cosine", seed=seed, progress=False,
        )  # fmt: skip

    return infer


def _nuts(size: SbcSize) -> Infer:
    def infer(model: BayesianModel, data: Data, seed: int) -> Posterior:
        return sample_nuts(
            model, data,
            num_samples=size.thin * size.num_samples, warmup=size.warmup, chains=1,
            target_accept=TARGET_ACCEPT, mass_matrix="laplace", init=_laplace(model, data, seed),
            chains_per_batch=1, jobs=1, seed=seed, progress=False,
        )  # fmt: skip

    return infer


# ------------------------------------------------------------------------------------- problems


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
    methods: Mapping[str, float]

    def infer(self, method: str, size: SbcSize) -> Infer:
        """How a method comes to its posterior."""
        if method == "mean-field":
            return _mean_field(size.epochs, self.lr)
        return {
            "exact": _exact,
            "nuts": _nuts(size),
            "laplace": _laplace,
            "half-as-wide": _half_as_wide,
            "prior": _prior,
        }[method]


PROBLEMS: Mapping[str, Problem] = {
    "linear": Problem(
        title="Linear regression",
        model=_line,
        inputs=_line_inputs,
        quantities={"intercept": lambda p: p["weight"][0], "slope": lambda p: p["weight"][1]},
        parameters=2,
        telling="slope",
        lr=0.01,
        methods={
            "exact": 0.01,
            "laplace": 0.016,
            "mean-field": 0.01,
            "nuts": 0.1,
            "half-as-wide": 0.01,
            "prior": 0.01,
        },
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
        methods={"laplace": 0.02, "mean-field": 0.03, "nuts": 0.18},
    ),
}


def expected_distance(method: str) -> float:
    """How far the truth lies from the mean, on the line, in closed form."""
    if method == "mean-field":
        x = _line_inputs()
        _, precision = Exact(_line()).solve(x, torch.zeros(len(x), dtype=x.dtype))
        return float((precision.inverse().diagonal() * precision.diagonal()).mean().sqrt())
    return 2.0 if method == "half-as-wide" else 1.0
