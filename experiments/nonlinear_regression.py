r"""What a model believes where there are no data: bases and a small net on a noisy sine.

The data are those of the labs, :math:`y = \sin(2\pi x) + x + \varepsilon` on [0, 1]. A basis
regression has an exact posterior, but its epistemic variance :math:`\phi(x)^\top\Sigma\phi(x)` far
from the data says more of the basis than of the data: with Gaussian bumps it falls to zero and the
predictive variance to :math:`\sigma^2`; with powers of ``x`` of degree ``d`` it grows as
:math:`x^{2d}` (Bishop 2006, section 3.3.2). Beside them stands a net with one hidden layer of tanh
units, under every guide. All guides of the net start at its MAP estimate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import torch

from probml_tp.config import option
from probml_tp.datasets import sine_data
from probml_tp.experiment import Experiment, Progress, Results, Update
from probml_tp.experiments.nonlinear_regression_figures import figures, findings
from probml_tp.experiments.regression import (
    COLUMNS,
    Data,
    RegressionConfig,
    Row,
    even_grid,
    evidence,
    predict,
    row_metrics,
    to_numpy,
)
from probml_tp.guides import (
    Delta,
    Exact,
    Laplace,
    LinearizedLaplace,
    MCDropout,
    MeanFieldNormal,
)
from probml_tp.inference import fit, sample_nuts
from probml_tp.metrics import regression_scores
from probml_tp.model import BayesianModel
from probml_tp.models import (
    Basis,
    GaussianBasis,
    PolynomialBasis,
    linear_regression,
    mlp_regressor,
)
from probml_tp.plots.regression import Band
from probml_tp.posterior import Posterior
from probml_tp.priors import FanInNormalPrior, NormalPrior, Prior

__all__ = ["EXPERIMENT", "Config", "run", "stages"]

GUIDES = ("nuts", "laplace-linearized", "laplace", "mean-field", "mc-dropout", "map")
FAR_LOW, FAR_HIGH = -2.0, 3.0


@dataclass(frozen=True, kw_only=True)
class Config(RegressionConfig):
    """Options of the experiment."""

    n: int = option(50, "Training points.", minimum=5)
    prior_precision: float = option(
        0.05, "Prior precision alpha of the weights of a basis.", minimum=1e-9
    )
    degree: int = option(10, "Degree of the polynomial basis.", minimum=1)
    bumps: int = option(9, "Number of Gaussian basis functions.", minimum=1)
    hidden: int = option(20, "Hidden units of the net.", quick=10, full=50, minimum=1)
    weight_scale: float = option(
        4.0, "Prior SD of the net's first layer, in units of 1/x.", minimum=1e-3
    )
    output_scale: float = option(
        2.0, "Prior SD of the net's output without its bias, in units of y.", minimum=1e-3
    )
    guides: tuple[str, ...] = option(GUIDES, "Guides of the net.", choices=GUIDES)
    epochs: int = option(
        3000, "Gradient steps of mean-field and MC dropout.", quick=1000, full=20_000, minimum=1
    )
    dropout: float = option(
        0.05, "Drop rate of the hidden units under MC dropout.", minimum=0.001, maximum=0.9
    )
    warmup: int = option(200, "Warm-up steps of a NUTS chain.", quick=30, full=1000, minimum=1)
    chain_draws: int = option(150, "Draws of a NUTS chain.", quick=30, full=1000, minimum=4)
    tree_depth: int = option(
        6, "A NUTS draw takes at most 2 to this power steps.", quick=4, full=8, minimum=1
    )


@dataclass(frozen=True)
class _Problem:
    """Training data, fresh data and a grid five times as wide as the training range."""

    train: Data
    test: Data


def _problem(config: Config) -> _Problem:
    kind: dict[str, Any] = {"noise": config.noise, "dtype": torch.float64}
    return _Problem(
        train=sine_data(n=config.n, seed=config.seed, **kind),
        test=sine_data(n=config.test_points, seed=config.test_seed, **kind),
    )


# ------------------------------------------------------------------------------------ the bases


def bases(config: Config) -> dict[str, Basis]:
    """The two bases, by the name of their rows.

    Args:
        config: the options.

    Returns:
        Powers of ``x``, and Gaussian bumps evenly spaced over the training range.
    """
    return {
        "polynomial": PolynomialBasis(degree=config.degree),
        "gaussian": GaussianBasis.evenly_spaced(0.0, 1.0, num=config.bumps),
    }


def _fit_basis(name: str, data: Data, config: Config, update: Update) -> Row:
    prior = NormalPrior.from_precision(config.prior_precision)
    model = linear_regression(bases(config)[name], prior=prior, likelihood=config.noise)
    posterior = fit(model, Exact, data, seed=config.seed, progress=update)
    return Row(f"{name}-exact", f"{name} · exact", "exact", posterior, posterior.info.seconds)


# -------------------------------------------------------------------------------------- the net


def mlp_model(config: Config) -> BayesianModel:
    r"""The net :math:`f(x) = c + \sum_{j=1}^H v_j\tanh(w_j x + b_j)` with its priors.

    :math:`w_j, b_j \sim \mathcal N(0, s^2)`, :math:`v_j \sim \mathcal N(0, r^2/H)`,
    :math:`c \sim \mathcal N(0, 1)`, so that the prior over functions has a limit as ``H`` grows.

    Args:
        config: the options ``hidden`` (``H``), ``weight_scale`` (``s``), ``output_scale`` (``r``).

    Returns:
        The model, in float64.
    """
    prior: dict[str, Prior] = {
        "fc1.*": NormalPrior(config.weight_scale),
        "fc2.*": FanInNormalPrior(config.output_scale, bias_scale=1.0),
    }
    return mlp_regressor(
        1,
        hidden=(config.hidden,),
        prior=prior,
        likelihood=config.noise,
        seed=config.seed,
        dtype=torch.float64,
    )


def start_at(model: BayesianModel, posterior: Posterior) -> BayesianModel:
    """The same model with its net at a posterior's mode, where guides and chains then start.

    Args:
        model: the model.
        posterior: a MAP estimate of it.

    Returns:
        A copy.
    """
    started = copy.deepcopy(model)
    values = posterior.draws(1)
    with torch.no_grad():
        for name, parameter in started.net.named_parameters():
            parameter.copy_(values[name][0])
    return started


def _fit_nuts(model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
    return sample_nuts(
        model,
        data,
        num_samples=config.chain_draws,
        warmup=config.warmup,
        chains=config.chains,
        max_tree_depth=config.tree_depth,
        jobs=config.jobs,
        seed=config.seed,
        progress=update,
    )


def _fit_mode(guide: Callable[[BayesianModel], Any], *, epochs: int) -> Callable[..., Posterior]:
    """A mode by quasi-Newton steps, up to 100 of them an epoch."""

    def fit_mode(model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
        return fit(
            model,
            guide,
            data,
            epochs=epochs,
            optimizer="lbfgs",
            seed=config.seed,
            progress=update,
        )

    return fit_mode


def _fit_variational(
    guide: Callable[[BayesianModel, Config], Any],
) -> Callable[..., Posterior]:
    """An optimum of a noisy objective, by a step size that falls to zero."""

    def fit_guide(model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
        return fit(
            model,
            lambda chosen: guide(chosen, config),
            data,
            epochs=config.epochs,
            lr=1e-2,
            schedule="cosine",
            seed=config.seed,
            progress=update,
        )

    return fit_guide


_FITTERS: Mapping[str, Callable[[BayesianModel, Data, Config, Update], Posterior]] = {
    "map": _fit_mode(Delta, epochs=5),
    "nuts": _fit_nuts,
    "laplace-linearized": _fit_mode(LinearizedLaplace, epochs=1),
    "laplace": _fit_mode(Laplace, epochs=1),
    "mean-field": _fit_variational(lambda model, config: MeanFieldNormal(model)),
    "mc-dropout": _fit_variational(
        lambda model, config: MCDropout(model, rates={"fc2": config.dropout})
    ),
}


def _fit_net(config: Config, data: Data, progress: Progress) -> list[Row]:
    """MAP first, and from there the guides asked for, in their order."""
    model = mlp_model(config)
    with progress.stage(_stage("map")) as update:
        mode = _FITTERS["map"](model, data, config, update)
    model, rows = start_at(model, mode), []
    for guide in config.guides:
        posterior, seconds = mode, mode.info.seconds
        if guide != "map":
            with progress.stage(_stage(guide)) as update:
                posterior = _FITTERS[guide](model, data, config, update)
            seconds += posterior.info.seconds
        rows.append(Row(f"mlp-{guide}", f"mlp · {guide}", guide, posterior, seconds))
    return rows


# ------------------------------------------------------------------------------------- running


def stages(config: Config) -> dict[str, float]:
    """Name the stages with their expected seconds on 2 cores.

    Args:
        config: the options.

    Returns:
        Stage to seconds, in the order of the run.
    """
    chains_a_core = config.chains / min(config.chains, config.jobs or 2)
    steps = 2**config.tree_depth * (config.warmup + config.chain_draws)
    seconds = {"laplace-linearized": 0.3, "laplace": 0.3, "mean-field": 7e-4 * config.epochs}
    seconds |= {"nuts": 1e-3 * chains_a_core * steps + 1, "mc-dropout": 9e-4 * config.epochs}
    plan = {"bases": 1.0, _stage("map"): 1.0}
    plan |= {_stage(guide): seconds[guide] for guide in config.guides if guide != "map"}
    return plan | {"judge": 0.3 * (2 + len(config.guides))}


def _stage(guide: str) -> str:
    return f"mlp: {guide}"


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the bases exactly and the net by every guide, and measure both near and far.

    Args:
        config: the options.
        progress: who watches.

    Returns:
        Metrics, findings, and the arrays of the figures.
    """
    results = Results(
        experiment="nonlinear-regression",
        title="Nonlinear regression: what is believed where there are no data",
        config=config,
        metrics={},
        columns=COLUMNS,
        findings=[],
        data_source=f"generated: y = sin(2πx) + x + noise of SD {config.noise:g}; {config.n} "
        f"points on [0, 1]",
    )
    problem = _problem(config)
    with progress.stage("bases") as update:
        rows = [_fit_basis(name, problem.train, config, update) for name in bases(config)]
    rows += _fit_net(config, problem.train, progress)
    x, y = problem.train
    results.arrays |= {"x": to_numpy(x[:, 0]), "y": to_numpy(y)}
    with progress.stage("judge") as update:
        for done, row in enumerate(rows):
            update(done, len(rows), row.label)
            _judge(row, problem, results)
    results.findings = findings(results)
    return results


def _judge(row: Row, problem: _Problem, results: Results[Config]) -> None:
    """Enter one row into the results."""
    posterior, train, draws = row.posterior, problem.train, results.config.draws
    grid = even_grid(FAR_LOW, FAR_HIGH, num=301)
    band = Band.from_predictive(grid, predict(posterior, grid, num_samples=draws))
    x, y = problem.test
    scores = regression_scores(predict(posterior, x, num_samples=draws), y)
    metrics = row_metrics(band, scores, train) | evidence(posterior, train, num_samples=draws)
    record = posterior.to_inference_data(*train, num_samples=draws)
    if row.key == "polynomial-exact":
        del metrics["epistemic_far"]  # it diverges: the number would be that of the grid's end
    results.metrics[row.label] = metrics | {"seconds": row.seconds}
    results.posteriors[row.key], results.inference_data[row.key] = posterior, record
    results.arrays |= band.to_arrays(row.key)
    if row.guide == "nuts":
        r_hat = az.rhat(record["log_likelihood"])  # type: ignore[no-untyped-call]
        results.arrays[f"{row.key}.r_hat"] = r_hat["y"].to_numpy()


EXPERIMENT = Experiment(
    name="nonlinear-regression",
    summary="A sine by two bases and a small network: how sure each is where there are no data.",
    config=Config,
    stages=stages,
    run=run,
    figures=figures,
)
