r"""What a model believes where there are no data: bases and a small net on a noisy sine.

The data are those of the labs, :math:`y = \sin(2\pi x) + x + \varepsilon` on [0, 1]. A basis
regression has an exact posterior, but its epistemic variance :math:`\phi(x)^\top\Sigma\phi(x)` far
from the data says more of the basis than of the data: with Gaussian bumps it falls to zero and the
predictive variance to :math:`\sigma^2`; with powers of ``x`` of degree ``d`` it grows as
:math:`x^{2d}` (Bishop 2006, section 3.3.2). Beside them stands a net with one hidden layer of tanh
units, under every guide. All guides of the net
start at its MAP estimate, but for the members of the ensembles, which start at random.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probml_tp.datasets import sine_data
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines.far_field import (
    GaussianProcess,
    fit_gaussian_process,
    polynomial_law,
)
from probml_tp.experiments.lines.far_field_figures import GP, LAW
from probml_tp.experiments.lines.kit import (
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
from probml_tp.experiments.lines.model_choice import (
    CHOICE,
    Selection,
    choice_tables,
    compare_choices,
)
from probml_tp.experiments.lines.nonlinear_regression_figures import figures, findings
from probml_tp.guides import Exact
from probml_tp.guides.recipes import FitSettings, SwagPath, fit_one
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, Update
from probml_tp.inference import fit, sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.metrics.accuracy import regression_scores
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
from probml_tp.quiet_arviz import az

GUIDES = (
    "nuts",
    "laplace-linearized",
    "laplace-kronecker",
    "laplace-last-layer",
    "laplace",
    "mean-field",
    "low-rank-normal",
    "swag",
    "multi-swag",
    "mc-dropout",
    "concrete-dropout",
    "gaussian-dropout",
    "deep-ensemble",
    "map",
)
FAR_LOW, FAR_HIGH = -2.0, 3.0
MODE_ROUNDS = 5


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
        3000,
        "Gradient steps of the variational guides and of the ensemble.",
        quick=1000,
        full=20_000,
        minimum=1,
    )
    dropout: float = option(
        0.05,
        "Drop rate of the hidden units; concrete dropout learns it from there.",
        minimum=0.001,
        maximum=0.9,
    )
    rank: int = option(10, "Columns of the low-rank normal's factor.", minimum=0, maximum=10)
    members: int = option(5, "Members of the ensembles.", quick=3, full=10, minimum=2)
    swag_lr: float = option(
        0.01, "Learning rate of SWAG's gradient descent, on the mean loss.", minimum=1e-7
    )
    swag_batch: int = option(10, "Points a step of SWAG, fewer than all.", minimum=1)
    swag_epochs: int = option(300, "Passes over the data of SWAG.", quick=100, full=2000, minimum=2)
    warmup: int = option(200, "Warm-up steps of a NUTS chain.", quick=30, full=1000, minimum=1)
    chain_draws: int = option(150, "Draws of a NUTS chain.", quick=30, full=1000, minimum=4)
    tree_depth: int = option(
        6, "A NUTS draw takes at most 2 to this power steps.", quick=4, full=8, minimum=1
    )
    max_degree: int = option(16, "Largest degree among which criteria choose.", minimum=3)
    max_bumps: int = option(14, "Largest number of bumps among which criteria choose.", minimum=3)
    training_sets: int = option(
        8, "Training sets on which criteria choose a model.", quick=3, full=50, minimum=1
    )

    @property
    def selection(self) -> Selection:
        """The models among which criteria choose, and on which data."""
        return Selection(
            n=self.n,
            noise=self.noise,
            alpha=self.prior_precision,
            max_degree=self.max_degree,
            max_bumps=self.max_bumps,
            bumps=self.bumps,
            sets=self.training_sets,
            draws=self.draws,
            seed=self.seed,
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
    """The two bases, by the name of their rows."""
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
    """The same model with its net at a posterior's mode, where chains then start."""
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


def _recipes(config: Config) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=1e-2,
        rounds=MODE_ROUNDS,
        rank=config.rank,
        rates={"fc2": config.dropout},
        members=config.members,
        from_mode=set(GUIDES) - {"map", "deep-ensemble"},
        swag=SwagPath(lr=config.swag_lr, epochs=config.swag_epochs, batch_size=config.swag_batch),
        seed=config.seed,
    )


def _fit_net(config: Config, data: Data, progress: Progress) -> list[Row]:
    """MAP first, and from there the guides asked for."""
    model, recipes, done = mlp_model(config), _recipes(config), dict[str, Posterior]()
    for guide in recipes.order(config.guides):
        with progress.stage(_stage(guide)) as update:
            if guide == "nuts":
                done[guide] = _fit_nuts(start_at(model, done["map"]), data, config, update)
                done[guide].info.begin_from(done["map"].info)
            else:
                with single_thread():
                    done[guide] = fit_one(guide, model, data, recipes, done=done, update=update)
    return [
        Row(f"mlp-{g}", f"mlp · {g}", g, done[g], done[g].info.total_seconds) for g in config.guides
    ]


# ------------------------------------------------------------------------------------- running


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
        main=Table(MAIN_TABLE, "Posterior", {}, COLUMNS),
        findings=[],
        data_source=f"generated: y = sin(2πx) + x + noise of SD {config.noise:g}; {config.n} "
        f"points on [0, 1]",
    )
    problem = _problem(config)
    with progress.stage("bases") as update:
        rows = [_fit_basis(name, problem.train, config, update) for name in bases(config)]
    with progress.stage("gaussian process"):
        process = fit_gaussian_process(problem.train, noise=config.noise)
    rows += _fit_net(config, problem.train, progress)
    x, y = problem.train
    results.arrays |= {"x": to_numpy(x[:, 0]), "y": to_numpy(y)}
    with progress.stage("judge") as update:
        for done, row in enumerate(rows):
            update(done, len(rows), row.label)
            _judge(row, problem, results)
        _judge_process(process, problem, results)
    results.arrays |= polynomial_law(rows[0].posterior, prefix=LAW)
    with progress.stage(CHOICE) as update:
        arrays, compared = compare_choices(config.selection, problem.test, update)
    results.arrays |= arrays
    results.tables = [choice_tables(arrays), compared]
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
    results.main.put(row.label, metrics | {"seconds": row.seconds})
    results.posteriors[row.key], results.inference_data[row.key] = posterior, record
    results.arrays |= band.to_arrays(row.key)
    if row.guide == "nuts":
        r_hat = az.rhat(record["log_likelihood"])  # type: ignore[no-untyped-call]
        results.arrays[f"{row.key}.r_hat"] = r_hat["y"].to_numpy()


def _judge_process(process: GaussianProcess, problem: _Problem, results: Results[Config]) -> None:
    """Enter the Gaussian process into the results."""
    grid, (x, y) = even_grid(FAR_LOW, FAR_HIGH, num=301), problem.test
    band = Band.from_predictive(grid, process.predict(grid))
    metrics = row_metrics(band, regression_scores(process.predict(x), y), problem.train)
    own = {"log_evidence": process.log_evidence, "seconds": process.seconds}
    results.main.put("gp · rbf", metrics | own)
    results.arrays |= band.to_arrays(GP)
    results.arrays[f"{GP}.hyperparameters"] = np.array([process.variance, process.lengthscale])


EXPERIMENT = with_posterior_checks(
    Experiment(
        name="nonlinear-regression",
        summary=EXPERIMENTS.summary("nonlinear-regression"),
        config=Config,
        run=run,
        figures=figures,
    )
)
