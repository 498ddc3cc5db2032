r"""What a model believes where there are no data: bases and a small net on a noisy sine.

The data are those of the labs, :math:`y = \sin(2\pi x) + x + \varepsilon` on [0, 1]. A basis
regression has an exact posterior, but its epistemic variance :math:`\phi(x)^\top\Sigma\phi(x)` far
from the data is that of its largest feature: with Gaussian bumps it falls to zero, with powers of
``x`` of degree ``d`` it tends to :math:`\Sigma_{dd}\,x^{2d}` (Bishop 2006, section 3.3.2). A
Gaussian process returns to its prior (Rasmussen & Williams 2006, section 2.2). Beside them stands a
net with one hidden layer of tanh units, whose guides start at its MAP estimate, but for ensembles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.contrib.gp.kernels import RBF
from pyro.contrib.gp.models import GPRegression
from pyro.infer import Trace_ELBO
from torch import Tensor

from probml_tp.datasets import sine_data
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines import kit
from probml_tp.experiments.lines.model_choice import CHOICE, ChoiceConfig, bumps, compare_choices
from probml_tp.experiments.lines.nonlinear_regression_figures import FINDINGS, GP, LAW, figures
from probml_tp.guides import Exact
from probml_tp.guides.recipes import Chains, FitSettings, SwagPath, fit_all, guides_for
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table
from probml_tp.inference import fit
from probml_tp.kit.common import Array
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import tell
from probml_tp.model import BayesianModel
from probml_tp.models import Basis, PolynomialBasis, linear_regression, mlp_regressor
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.priors import FanInNormalPrior, NormalPrior

NAME = "nonlinear-regression"
GUIDES = guides_for("layers", without=("laplace-diagonal",))


@dataclass(frozen=True, kw_only=True)
class Config(ChoiceConfig):
    """Options of the experiment."""

    degree: int = option(10, "Degree of the polynomial basis.", minimum=1)
    hidden: int = knob("hidden", 20, quick=10, full=50)
    guides: tuple[str, ...] = knob("guides", GUIDES, choices=GUIDES)
    epochs: int = knob("epochs", 1500, quick=500, full=20_000)
    rate: float = knob("rate", 0.05, remark="Concrete dropout learns it from there.")
    rank: int = knob("rank", 10, maximum=10)
    members: int = knob("members", 5, quick=3, full=10)
    swag_lr: float = knob("swag_lr", 0.01)
    swag_batch_size: int = knob("swag_batch_size", 10)
    warmup: int = knob("warmup", 200, quick=30, full=1000)
    draws: int = knob("draws", 150, quick=30, full=1000)
    max_tree_depth: int = knob("max_tree_depth", 6, quick=4, full=8)

    @property
    def settings(self) -> FitSettings:
        """How the guides of the net are fitted: all start at its mode, but for the ensemble."""
        return FitSettings(
            epochs=self.epochs,
            lrs={"normal": 0.02, "dropout": 0.02},
            rounds=5,
            rank=self.rank,
            rates={"fc2": self.rate},
            members=self.members,
            from_mode=("normal", "dropout"),
            swag=SwagPath.of(self),
            chains=Chains.of(self, start="map"),
            seed=self.seed,
        )


def bases(config: Config) -> dict[str, Basis]:
    """The two bases, by the name of their rows."""
    return {"polynomial": PolynomialBasis(degree=config.degree), "gaussian": bumps(config.bumps)}


def mlp_model(config: Config) -> BayesianModel:
    r"""The net :math:`f(x) = c + \sum_{j=1}^H v_j\tanh(w_j x + b_j)` with its priors.

    :math:`w_j, b_j \sim \mathcal N(0, 4^2)`, :math:`v_j \sim \mathcal N(0, 2^2/H)`,
    :math:`c \sim \mathcal N(0, 1)`, so that the prior over functions has a limit as ``H`` grows.
    """
    prior: Any = {"fc1.*": NormalPrior(4.0), "fc2.*": FanInNormalPrior(2.0, bias_scale=1.0)}
    kind: Any = {"prior": prior, "likelihood": config.noise, "dtype": torch.float64}
    return mlp_regressor(1, hidden=(config.hidden,), seed=config.seed, **kind)


@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process with its hyperparameters, and the data it is conditioned on."""

    regression: GPRegression
    variance: float
    lengthscale: float
    noise: float
    log_evidence: float
    seconds: float

    @torch.no_grad()
    def predict(self, x: Tensor) -> RegressionPredictive:
        """The predictive distribution, in closed form."""
        with pyro.get_param_store().scope():
            mean, variance = self.regression(x)
        noise = torch.full_like(mean, self.noise**2)
        return RegressionPredictive(0, None, mean, variance.clamp(min=0), noise)


def fit_gaussian_process(data: kit.Data, *, noise: float, steps: int = 100) -> GaussianProcess:
    """Fit the variance and the length scale of an RBF kernel by the evidence, the noise known."""
    start = time.perf_counter()
    x, y = data
    kernel = RBF(1, variance=y.var(), lengthscale=x.std())
    with pyro.get_param_store().scope():
        gp = GPRegression(x, y, kernel, noise=y.new_tensor(noise**2), jitter=1e-10)
        gp.noise_unconstrained.requires_grad_(False)
        loss: Callable[[object, object], Tensor] = Trace_ELBO().differentiable_loss
        free = [parameter for parameter in gp.parameters() if parameter.requires_grad]
        optimizer = torch.optim.LBFGS(free, max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(gp.model, gp.guide)
            value.backward()
            return value

        optimizer.step(closure)
        evidence = -float(closure().detach())
        variance, lengthscale = (
            float(torch.as_tensor(v).detach()) for v in (kernel.variance, kernel.lengthscale)
        )
    seconds = time.perf_counter() - start
    return GaussianProcess(gp, variance, lengthscale, noise, evidence, seconds)


def polynomial_law(posterior: Posterior, *, prefix: str, decades: float = 3.0) -> dict[str, Array]:
    r"""The epistemic variance of a polynomial far out, beside its limit."""
    x = torch.logspace(0, decades, 81, dtype=torch.float64)
    variance = posterior.predict(x[:, None]).epistemic_variance
    covariance = kit.weight_moments(posterior)[1]
    limit = covariance[-1, -1] * kit.to_numpy(x) ** (2 * len(covariance) - 2)
    values = {"x": kit.to_numpy(x), "variance": kit.to_numpy(variance), "limit": limit}
    return {f"{prefix}.{name}": value for name, value in values.items()}


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the bases exactly and the net by every guide, and measure both near and far."""
    results = Results(
        NAME,
        "Nonlinear regression: what is believed where there are no data",
        config,
        Table(MAIN_TABLE, "Posterior", columns=kit.COLUMNS),
        findings=[],
        data_source=f"generated: y = sin(2πx) + x + noise of SD {config.noise:g}; {config.n} "
        f"points on [0, 1]",
    )
    kind: dict[str, Any] = {"noise": config.noise, "dtype": torch.float64}
    data = sine_data(n=config.n, seed=config.seed, **kind)
    test = sine_data(n=config.test_size, seed=config.test_seed, **kind)
    problem = kit.Problem(data, test, kit.even_grid(-2.0, 3.0, num=301))
    results.arrays |= {"x": kit.to_numpy(data[0][:, 0]), "y": kit.to_numpy(data[1])}
    with progress.stage("bases") as update:
        prior = NormalPrior.from_precision(config.prior_precision)
        for name, basis in bases(config).items():
            regression = linear_regression(basis, prior=prior, likelihood=config.noise)
            exact = fit(regression, Exact, data, seed=config.seed, progress=update)
            diverges = name == "polynomial"
            kit.enter(results, name, "exact", problem, exact, diverges=diverges)
            if diverges:
                results.arrays |= polynomial_law(exact, prefix=LAW)
    model, how = mlp_model(config), config.settings
    posteriors = fit_all(
        config.guides, model, data, how, stage=lambda guide: progress.stage(f"mlp: {guide}")
    )
    with progress.stage("judge") as update:
        for done, guide in enumerate(config.guides):
            update(done, len(config.guides), guide)
            kit.enter(results, "mlp", guide, problem, posteriors[guide])
    with progress.stage("gaussian process"):
        process = fit_gaussian_process(data, noise=config.noise)
        own = {"log_evidence": process.log_evidence, "seconds": process.seconds}
        kit.enter(results, "gp", "rbf", problem, predictor=process.predict, own=own)
        found = np.array([process.variance, process.lengthscale])
        results.arrays[f"{GP}.hyperparameters"] = found
    with progress.stage(CHOICE) as update:
        arrays, results.tables = compare_choices(config, test, update)
    results.arrays |= arrays
    results.findings = tell(FINDINGS, results)
    return results


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
