r"""Two moons: what each approximation of a small net's posterior knows about its own ignorance.

A net with one hidden layer, independent normal priors on its weights and biases, and every guide
against NUTS on the same log joint. The posterior of a net has many modes (hidden units can be
permuted, signs traded), so distances are taken between predictions, not between weights, and the
chains are judged by the log likelihood at the data. The reference is bounded in time: shorter
trajectories than NUTS would like, fewer draws than a statistician would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from probml_tp.datasets import two_moons
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane import kit, kit_figures, repeated_fits, single_draws
from probml_tp.guides.recipes import Chains, FitSettings, SwagPath, guides_for
from probml_tp.harness.experiment import Experiment, ExperimentConfig, Figure, Progress, Results
from probml_tp.inference.parallel import single_thread
from probml_tp.kit import sentences
from probml_tp.kit.common import derived_seed, percent
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_classifier
from probml_tp.priors import NormalPrior

NAME = "two-moons"
GUIDES = guides_for("layers", without=("laplace-diagonal",))


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    n: int = knob("n", 1000, minimum=4, remark="Of both moons together.")
    noise: float = knob("noise", 0.05)
    test_size: int = knob("test_size", 1000, full=2000, minimum=2)
    hidden: int = knob("hidden", 50)
    prior_scale: float = knob("prior_scale", 1.0, minimum=1e-3)
    guides: tuple[str, ...] = knob("guides", GUIDES, choices=GUIDES)
    epochs: int = knob("epochs", 1500, quick=250, full=10_000)
    lr: float = knob("lr", 0.05, remark="Of dropout and of the ensemble.")
    mean_field_lr: float = knob("lr", 0.1, remark="Of mean-field.")
    correlated_lr: float = knob("lr", 0.03, remark="Of the low-rank normal, from MAP.")
    rate: float = knob("rate", 0.2, remark="Concrete dropout learns it from there.")
    rank: int = knob("rank", 10)
    members: int = knob("members", 5, quick=3, full=10)
    swag_lr: float = knob("swag_lr", 1.0)
    swag_batch_size: int = knob("swag_batch_size", 50)
    swag_epochs: int = knob("swag_epochs", 100, quick=25, full=500)
    num_samples: int = knob("num_samples", 200, quick=50, full=1000)
    chains: int = knob("chains", 2, full=4)
    draws: int = knob("draws", 150, quick=30, full=1000, minimum=4)
    warmup: int = knob("warmup", 150, quick=40, full=1000, minimum=10)
    max_tree_depth: int = knob("max_tree_depth", 6, quick=4, full=10, maximum=12)
    extent: float = knob("extent", 4.0)
    radius: float = knob("radius", 6.0)
    seeds: int = knob("seeds", 3, quick=2, full=5, remark="Of mean-field and MC dropout.")
    resolution: int = knob("resolution", 61, quick=31, full=101)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to the moons, and compare what they predict with NUTS."""
    train = two_moons(n=config.n, noise=config.noise, seed=config.seed)
    test_seed = derived_seed(config.seed, "test data")
    test = two_moons(n=config.test_size, noise=config.noise, seed=test_seed)
    how = _settings(config)
    plane = kit.Plane((0.5, 0.25), config.extent, config.resolution, config.radius)
    results = Results(
        experiment=NAME,
        title="Two moons",
        config=config,
        main=kit.plane_table(plane),
        findings=[],
        data_source=(
            f"{config.n} points on scikit-learn's two moons, noise {config.noise:g} (seed "
            f"{config.seed}); {config.test_size:,} fresh points to test on"
        ),
    )
    model_of = partial(_model, config)
    views = kit.study_on_plane(
        results, model_of(config.seed), how, plane=plane, train=train, test=test, progress=progress
    )
    if kit.REFERENCE in views:
        with progress.stage("fit again") as update, single_thread():
            repeated_fits.repeat_fits(
                results, views, model_of, train, how, plane=plane, update=update
            )
    if set(single_draws.SINGLE) & set(views):
        with progress.stage("single draws"), single_thread():
            single_draws.single_draws(results, views, plane)
    results.findings = sentences.tell(FINDINGS, results)
    return results


def _model(config: Config, seed: int) -> BayesianModel:
    prior = NormalPrior(config.prior_scale)
    return mlp_classifier(2, hidden=(config.hidden,), prior=prior, seed=seed)


def _settings(config: Config) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        lrs={"factorised": config.mean_field_lr, "correlated": config.correlated_lr},
        rounds=20,
        init_scale=0.1,
        rank=config.rank,
        rates={"fc2": config.rate},
        members=config.members,
        swag=SwagPath.of(config),
        from_mode=("correlated",),
        chains=Chains.of(config),
        seed=config.seed,
    )


def _linearisation(results: Results[Any]) -> str | None:
    """What linearising the net saves of the Laplace approximation."""
    accuracy, nll = results.main.column("accuracy"), results.main.column("nll")
    if not {"laplace", "laplace-linearized"} <= set(nll):
        return None
    return (
        f"The same Laplace covariance has a test accuracy of {percent(accuracy['laplace'])} and an "
        f"NLL of {nll['laplace']:.3f} nats when the net itself is run at its draws, "
        f"{percent(accuracy['laplace-linearized'])} and {nll['laplace-linearized']:.3f} nats when "
        f"the net is linearised."
    )


FINDINGS = (
    kit.NEAREST,
    kit.FAR_AWAY,
    _linearisation,
    sentences.Range(
        "mi_correlation",
        "Correlation of the mutual information over the map with NUTS's: {each}.",
        write="{:.2f}".format,
    ),
    repeated_fits.repeated,
    repeated_fits.nearer,
    single_draws.rougher,
    sentences.Chains("the log likelihood at the training points", group="log_likelihood"),
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the maps, the confidence away from the data, repeated fits and single draws."""
    yield kit_figures.map_figure(
        results,
        "probability",
        title=kit.NEAREST(results) or "Probability of class 1",
    )
    information = kit_figures.spread_over_map(
        results, "mutual_information", np.asarray, "{:.3f}".format
    )
    yield kit_figures.map_figure(
        results,
        "mutual_information",
        title=f"Mean mutual information over the map, in nats, runs {information}",
        caption="Epistemic uncertainty: the mutual information of a label and the parameters, at "
        "most log 2 = 0.69 nats. It should grow away from the data, where nothing has been seen.",
    )
    dissent = kit_figures.spread_over_map(results, "variation_ratio", lambda ratio: ratio > 0.05)
    yield kit_figures.map_figure(
        results,
        "variation_ratio",
        title=f"The share of the map where over 5 % of the draws dissent runs {dissent}",
        caption="The share of draws whose most probable class is not the one that most draws vote "
        "for, at most 1/2.",
    )
    yield kit_figures.confidence_figure(
        results, ". Of many guides one of each family is drawn; the table has all."
    )
    if len(repeated_fits.repeated_values(results, repeated_fits.HALVES)):
        yield repeated_fits.repeat_figure(results)
    if title := single_draws.rougher(results):
        yield single_draws.single_figure(results, title)


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
