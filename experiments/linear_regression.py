r"""Every guide on the one problem whose posterior is known: Bayesian linear regression.

The data are those of the labs: a noisy line, whole or with a hole in the middle. With
:math:`\phi(x) = (1, x)`, prior :math:`w \sim \mathcal N(0, \alpha^{-1} I)` and noise precision
:math:`\beta` the posterior is :math:`\mathcal N(m, \Sigma)`,

.. math:: \Sigma^{-1} = \alpha I + \beta\Phi^\top\Phi, \qquad m = \beta\Sigma\Phi^\top y

(Bishop 2006, eqs. 3.53-3.54), and the epistemic variance of a prediction is a parabola,

.. math:: \phi(x)^\top\Sigma\,\phi(x) = \Sigma_{11}(x - x_0)^2 + c, \qquad
          x_0 = -\Sigma_{01} / \Sigma_{11}

whose vertex is the mean of the training inputs, up to the pull of the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import torch
from torch import Tensor

from probml_tp.config import option
from probml_tp.datasets import linear_data, linear_data_with_hole
from probml_tp.diagnostics import elbo
from probml_tp.experiment import Progress, Results, Update
from probml_tp.experiments.regression import (
    COLUMNS,
    Data,
    RegressionConfig,
    Row,
    even_grid,
    predictive_band,
    row_metrics,
)
from probml_tp.guides import Delta, Exact, Laplace, MeanFieldNormal
from probml_tp.guides.gaussian import FullNormal
from probml_tp.inference import fit, sample_nuts
from probml_tp.model import BayesianModel
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

__all__ = ["EXPERIMENT", "Config", "figures", "run", "stages"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Arrays = Mapping[str, Array]

GUIDES = ("exact", "nuts", "laplace", "mean-field", "map")
TRUE_WEIGHTS = (-0.3, 0.5)
SEQUENCE = "sequence"
NO_DROPOUT = (
    "MC dropout is not among the guides: it drops the hidden units of a net, and a regression on "
    "basis functions has none."
)


@dataclass(frozen=True, kw_only=True)
class Config(RegressionConfig):
    """Options of the experiment."""

    n: int = option(25, "Points on the line.", minimum=3)
    n_per_side: int = option(10, "Points on each side of the hole.", minimum=2)
    data: tuple[str, ...] = option(
        ("line", "hole"),
        "Data sets: the line seen throughout, or with a hole in the middle.",
        choices=("line", "hole"),
    )
    guides: tuple[str, ...] = option(GUIDES, "Guides to compare.", choices=GUIDES)
    prior_precision: float = option(2.0, "Prior precision alpha of both weights.", minimum=1e-9)
    noise_precision: str = option(
        "standard",
        "The model's beta: 'standard' is 1/noise^2, 'labs' the labs' 1/(2 noise^2).",
        choices=("standard", "labs"),
    )
    epochs: int = option(
        2000, "Gradient steps of the mean-field fit.", quick=1000, full=10_000, minimum=1
    )
    warmup: int = option(300, "Warm-up steps of a NUTS chain.", quick=100, full=1000, minimum=1)
    chain_draws: int = option(500, "Draws of a NUTS chain.", quick=100, full=1000, minimum=4)

    def __post_init__(self) -> None:
        """Check the values, and that the exact posterior is there to compare with.

        Raises:
            ValueError: a value breaks a rule of its option, or the exact guide is left out.
        """
        super().__post_init__()
        if "exact" not in self.guides:
            raise ValueError(
                f"Option guides must include exact, which the others are measured by; "
                f"got {', '.join(self.guides)}. Add exact."
            )

    @property
    def noise_scale(self) -> float:
        r"""The model's noise standard deviation, :math:`\beta^{-1/2}`."""
        return self.noise * (math.sqrt(2) if self.noise_precision == "labs" else 1.0)


@dataclass(frozen=True)
class _Problem:
    """One data set and what is done with it."""

    name: str
    title: str
    train: Data
    test: Data
    grid: Tensor


def _problem(name: str, config: Config) -> _Problem:
    """Make the training data, the fresh data, and the grid over the labs' prediction range."""
    kind: dict[str, Any] = {"noise": config.noise, "dtype": torch.float64}
    if name == "line":
        train = linear_data(n=config.n, seed=config.seed, **kind)
        test = linear_data(n=config.test_points, seed=config.test_seed, **kind)
        return _Problem(name, "Line", train, test, even_grid(-10, 10, num=401))
    half = -(-config.test_points // 2)
    train = linear_data_with_hole(n_per_side=config.n_per_side, seed=config.seed, **kind)
    test = linear_data_with_hole(n_per_side=half, seed=config.test_seed, **kind)
    return _Problem(name, "Line with a hole", train, test, even_grid(-12, 12, num=401))


# ----------------------------------------------------------------------------------- fitting


def _fit_nuts(model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
    return sample_nuts(
        model,
        data,
        num_samples=config.chain_draws,
        warmup=config.warmup,
        chains=config.chains,
        dense_mass=True,
        jobs=config.jobs,
        seed=config.seed,
        progress=update,
    )


def _fit_by(guide: Callable[[BayesianModel], Any], **options: Any) -> Callable[..., Posterior]:
    def fit_guide(model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
        chosen = {"epochs": config.epochs} | options
        return fit(model, guide, data, seed=config.seed, progress=update, **chosen)

    return fit_guide


_FITTERS: Mapping[str, Callable[[BayesianModel, Data, Config, Update], Posterior]] = {
    "exact": _fit_by(Exact),
    "nuts": _fit_nuts,
    "laplace": _fit_by(Laplace, epochs=3, optimizer="lbfgs"),
    "mean-field": _fit_by(MeanFieldNormal, lr=1e-2, schedule="cosine"),
    "map": _fit_by(Delta, epochs=3, optimizer="lbfgs"),
}


def stages(config: Config) -> dict[str, float]:
    """Name the stages with their expected seconds on 2 cores.

    Args:
        config: the options.

    Returns:
        Stage to seconds, in the order of the run.
    """
    chains_a_core = config.chains / min(config.chains, config.jobs or 2)
    draw = 4e-3 * (config.warmup + config.chain_draws)
    seconds = {"exact": 0.5, "laplace": 0.2, "map": 0.1, "mean-field": 7e-4 * config.epochs}
    seconds["nuts"] = chains_a_core * draw + 1
    plan = {}
    for name in config.data:
        plan |= {_stage(name, guide): seconds[guide] for guide in config.guides}
        plan[_stage(name, "judge")] = 1e-3 * config.test_points + 1
    return plan


def _stage(data: str, what: str) -> str:
    return f"{data}: {what}"


# ------------------------------------------------------------------------- measuring posteriors


def weight_moments(posterior: Posterior) -> tuple[Array, Array]:
    """Mean ``(P,)`` and covariance ``(P, P)`` of the weights.

    Args:
        posterior: of a model whose sites are all on the real line.

    Returns:
        The moments: in closed form where the guide has them, else those of the stored draws.
    """
    guide = posterior.guide
    if isinstance(guide, FullNormal):
        return _numpy(guide.loc), _numpy(guide.scale_tril @ guide.scale_tril.mT)
    if isinstance(guide, MeanFieldNormal):
        return _numpy(guide.loc), _numpy(torch.diag((2 * guide.log_scale).exp()))
    if isinstance(guide, Delta):
        return _numpy(guide.loc), np.zeros((guide.model.num_params,) * 2)
    draws = stored_draws(posterior)
    return draws.mean(0), np.cov(draws, rowvar=False)


def stored_draws(posterior: Posterior) -> Array:
    """All draws of a Markov chain posterior, ``(S, P)``."""
    layout, chains = posterior.model.layout, posterior.guide.chains
    return _numpy(layout.ravel(chains).flatten(0, 1))


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def _distances(moments: tuple[Array, Array], exact: tuple[Array, Array]) -> dict[str, float]:
    """How far mean and standard deviations lie from the exact ones; see ``COLUMNS``."""
    sd, exact_sd = (np.sqrt(np.diag(m[1])) for m in (moments, exact))
    return {
        "mean_distance": float(np.abs((moments[0] - exact[0]) / exact_sd).max()),
        "sd_distance": 100 * float(np.abs(sd / exact_sd - 1).max()),
    }


def _evidence(posterior: Posterior, data: Data, draws: int) -> dict[str, float]:
    """ELBO and log evidence, for the guides that have them."""
    guide = posterior.guide
    if guide.no_density:
        return {}
    values = {"elbo": elbo(posterior, *data, num_samples=draws).value}
    if isinstance(guide, FullNormal):
        values["log_evidence"] = guide.log_evidence()
    return values


def _monte_carlo_error(record: az.InferenceData, exact: tuple[Array, Array]) -> Array:
    """Standard error of a chain's means, in exact standard deviations, ``(P,)``."""
    error = az.mcse(record, var_names=["weight"])["weight"].to_numpy()
    return np.asarray(error / np.sqrt(np.diag(exact[1])))


# ------------------------------------------------------------------------------------- running


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to every data set and measure it against the exact posterior.

    Args:
        config: the options.
        progress: who watches.

    Returns:
        Metrics, findings, and the arrays of the figures.
    """
    results = Results(
        experiment="linear-regression",
        title="Bayesian linear regression: every guide against the exact posterior",
        config=config,
        metrics={},
        columns=COLUMNS,
        findings=[],
        data_source=_data_source(config),
    )
    for name in config.data:
        problem = _problem(name, config)
        rows = _fit_all(problem, config, progress)
        with progress.stage(_stage(name, "judge")) as update:
            _judge(problem, rows, results, update)
    results.findings = [*_findings(results), NO_DROPOUT]
    return results


def _data_source(config: Config) -> str:
    sizes = {"line": f"{config.n} points", "hole": f"{2 * config.n_per_side} beside a hole"}
    chosen = " and ".join(sizes[name] for name in config.data)
    return f"generated: y = −0.3 + 0.5 x + noise of SD {config.noise:g}; {chosen}"


def _fit_all(problem: _Problem, config: Config, progress: Progress) -> list[Row]:
    prior = NormalPrior.from_precision(config.prior_precision)
    rows = []
    for guide in config.guides:
        model = linear_regression(LinearBasis(), prior=prior, likelihood=config.noise_scale)
        with progress.stage(_stage(problem.name, guide)) as update:
            posterior = _FITTERS[guide](model, problem.train, config, update)
        key, label = f"{problem.name}-{guide}", f"{problem.name} · {guide}"
        rows.append(Row(key, label, guide, posterior, posterior.info.seconds))
    return rows


def _judge(problem: _Problem, rows: list[Row], results: Results[Config], update: Update) -> None:
    """Enter the rows of one data set into the results."""
    config = results.config
    name, (x, y) = problem.name, problem.train
    results.arrays |= {f"{name}.x": _numpy(x[:, 0]), f"{name}.y": _numpy(y)}
    exact = weight_moments(next(row for row in rows if row.guide == "exact").posterior)
    for done, row in enumerate(rows):
        update(done, len(rows), row.guide)
        _judge_one(row, problem, exact, results)
    if name == config.data[0]:
        results.arrays |= _sequence(problem, config)


def _judge_one(
    row: Row, problem: _Problem, exact: tuple[Array, Array], results: Results[Config]
) -> None:
    draws = results.config.draws
    posterior, train = row.posterior, problem.train
    band = predictive_band(posterior, problem.grid, num_samples=draws)
    moments = weight_moments(posterior)
    metrics = row_metrics(row, band, train=train, test=problem.test, draws=draws)
    metrics |= {} if row.guide == "exact" else _distances(moments, exact)
    results.metrics[row.label] = metrics | _evidence(posterior, train, draws)
    record = posterior.to_inference_data(*train, num_samples=draws)
    results.posteriors[row.key], results.inference_data[row.key] = posterior, record
    results.arrays |= band.to_arrays(row.key)
    results.arrays |= {f"{row.key}.mean": moments[0], f"{row.key}.covariance": moments[1]}
