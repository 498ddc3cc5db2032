"""One valid call of every public callable, on models so small that each takes milliseconds."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import Normal
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import probml_tp as tp
from probml_tp import datasets, diagnostics, gap, scores
from probml_tp.gap.choosing import PosteriorPage
from probml_tp.gap.problem import GapOptions
from probml_tp.metrics.bootstrap import bootstrap
from probml_tp.metrics.calibration import TemperatureScaling
from probml_tp.models import (
    LinearBasis,
    PolynomialBasis,
    dugongs_line,
    mlp_classifier,
    mlp_regressor,
)

F64 = torch.float64

RECORDS = {
    "AIS", "Advice", "Bootstrap", "Classic", "ClassificationPredictive", "ConfidNet",
    "ConfidNetEpoch", "ConditionalSite", "Corruption", "CriticalDifference", "Difference", "ELBO",
    "Estimate", "FitInfo", "GapReport", "IWELBO", "ImageDataset", "Linked", "LogEvidence",
    "Mahalanobis", "MeanInterval", "NearestNeighbours", "NetworkPass", "NormalSites", "OdinChoice",
    "ParetoK", "PosteriorPage", "Predictive", "RankUniformity", "ReferencePosterior",
    "RegressionPredictive", "Reliability", "RiskCoverage", "SbcResult", "SelectiveThreshold",
    "SiteDistribution", "StepLeft", "TrustScore", "ViM",
    "Convergence", "Doubt", "MissingDataError", "NoBridgeError", "NotConvergedWarning",
    "UnfinishedFitError", "Basis", "Guide", "Likelihood", "ClassificationLikelihood",
    "RegressionLikelihood", "Delta",
}  # fmt: skip
"""Classes whose instances the package makes: users read them. And abstract ones."""


class World:
    """Small models, their posteriors and what is computed from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.x = torch.linspace(-1, 1, 24, dtype=F64).reshape(12, 2)
        self.y = torch.sin(3 * self.x[:, 0])
        self.labels = torch.arange(12) % 3
        prior = tp.NormalPrior(1.0)
        self.regressor = mlp_regressor(
            2, hidden=(3,), prior=prior, likelihood=tp.Gaussian(0.3), dtype=F64
        )
        self.classifier = mlp_classifier(2, hidden=(3,), num_classes=3, prior=prior, dtype=F64)
        linear = nn.Linear(2, 1, dtype=F64)
        self.linear = tp.BayesianModel(linear, prior, tp.Gaussian(0.3))
        self.data = (self.x, self.y)

    def fitted(
        self, model: tp.BayesianModel, guide: Any, data: Any, **options: Any
    ) -> tp.Posterior:
        return tp.fit(model, guide, data, epochs=2, progress=False, **options)

    @cached_property
    def posterior(self) -> tp.Posterior:
        return self.fitted(self.regressor, tp.MeanFieldNormal, self.data)

    @cached_property
    def point(self) -> tp.Posterior:
        return self.fitted(self.regressor, tp.Delta, self.data)

    @cached_property
    def laplace(self) -> tp.Posterior:
        return self.fitted(self.regressor, tp.Laplace, self.data)

    @cached_property
    def exact(self) -> tp.Posterior:
        return self.fitted(self.linear, tp.Exact, self.data)

    @cached_property
    def classified(self) -> tp.Posterior:
        return self.fitted(self.classifier, tp.MeanFieldNormal, (self.x, self.labels))

    @cached_property
    def chains(self) -> tp.Posterior:
        return tp.sample_nuts(
            self.linear, self.data, draws=50, warmup=50, chains=2, jobs=1, progress=False
        )

    @cached_property
    def predictive(self) -> Any:
        return self.classified.predict(self.x, num_samples=5, keep_outputs=True)

    @cached_property
    def regressed(self) -> Any:
        return self.posterior.predict(self.x, num_samples=5, keep_outputs=True)

    @cached_property
    def run(self) -> Any:
        return scores.network_pass(self.classified, self.x, num_samples=3, features=True)

    @cached_property
    def point_run(self) -> Any:
        point = self.fitted(self.classifier, tp.Delta, (self.x, self.labels))
        return scores.network_pass(point, self.x, features=True)

    @cached_property
    def report(self) -> Any:
        exact = self.exact
        laplace = self.fitted(self.linear, tp.Laplace, self.data, optimizer="lbfgs")
        return gap.compare(
            {"exact": exact, "laplace": laplace}, "exact", self.x, num_samples=100, resamples=10
        )

    @cached_property
    def sbc(self) -> Any:
        return diagnostics.simulation_based_calibration(
            self.linear, self.infer, self.x, simulations=4, num_samples=9, jobs=1, progress=False
        )

    def infer(self, model: Any, data: Any, seed: int) -> tp.Posterior:
        return tp.fit(model, tp.Exact, data, seed=seed, progress=False)

    @cached_property
    def images(self) -> datasets.ImageDataset:
        return datasets.noise_images("uniform", n=4)

    @cached_property
    def bootstrapped(self) -> Any:
        return bootstrap("auroc", {"a": self.score, "b": -self.score}, self.positive, resamples=5)

    @property
    def score(self) -> Tensor:
        return torch.linspace(0.05, 0.95, 12, dtype=F64)

    @property
    def positive(self) -> Tensor:
        return torch.tensor([False, True, False, True] * 3)

    @property
    def saved(self) -> Path:
        path = self.folder / "saved.safetensors"
        if not path.exists():
            self.posterior.save(path)
        return path

    @cached_property
    def dugongs(self) -> tp.Posterior:
        classic = dugongs_line()
        return self.fitted(classic.model, tp.Laplace, classic.data)

    @cached_property
    def confidnet(self) -> Any:
        return scores.fit_confidnet(
            self.point_run, self.labels, self.point_run, self.labels, hidden=(3,), epochs=1,
            progress=False,
        )  # fmt: skip

    @cached_property
    def confidnet_file(self) -> Path:
        return self.confidnet.save(self.folder / "saved-confidnet.safetensors")

    @cached_property
    def page(self) -> PosteriorPage:
        return tp.which_posterior(
            self.linear, self.data, guides=("map", "laplace"), progress=False,
            options=GapOptions(epochs=2, num_samples=100, resamples=20),
        )  # fmt: skip

    @cached_property
    def idx_root(self) -> Path:
        """A folder with four images in MNIST's layout."""
        raw = self.folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        images = struct.pack(">iiii", 2051, 4, 28, 28) + bytes(4 * 28 * 28)
        labels = struct.pack(">ii", 2049, 4) + bytes([0, 1, 2, 3])
        (raw / "train-images-idx3-ubyte").write_bytes(images)
        (raw / "train-labels-idx1-ubyte").write_bytes(labels)
        return self.folder

    def receivers(self, owner: str) -> tuple[Any, ...]:
        """Instances of a class: one, or several where what is checked depends on their kind."""
        found = RECEIVERS[owner](self)
        return found if isinstance(found, tuple) else (found,)

    def arguments(self, name: str, signature: inspect.Signature) -> dict[str, Any]:
        """A valid value of each argument that has no default, and cheap values of some others.

        Raises:
            LookupError: none is known.
        """
        found = {}
        for argument, parameter in signature.parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            for known in (SPECIAL.get(name, {}), USUAL):
                if argument in known:
                    found[argument] = known[argument](self)
                    break
            else:
                if parameter.default is parameter.empty:
                    raise LookupError(
                        f"no valid {argument} of {name} is known: add it to SPECIAL or USUAL in "
                        f"tests/support/valid_calls.py, or a class that users only read to RECORDS"
                    )
        return found


EXPENSIVE = {"PosteriorPage.save", "embedded_digits"}
"""Valid calls that take seconds, and are made in other tests."""

USUAL: dict[str, Callable[[World], Any]] = {
    "model": lambda w: w.regressor,
    "posterior": lambda w: w.posterior,
    "guide": lambda w: tp.MeanFieldNormal,
    "data": lambda w: w.data,
    "x": lambda w: w.x,
    "y": lambda w: w.y,
    "predictive": lambda w: w.predictive,
    "labels": lambda w: w.labels,
    "confidence": lambda w: w.score,
    "correct": lambda w: w.positive,
    "score": lambda w: w.score,
    "positive": lambda w: w.positive,
    "run": lambda w: w.run,
    "prior": lambda w: tp.NormalPrior(1.0),
    "likelihood": lambda w: tp.Gaussian(0.3),
    "progress": lambda w: False,
    "jobs": lambda w: 1,
    "epochs": lambda w: 1,
    "num_samples": lambda w: 4,
    "members": lambda w: 2,
    "n": lambda w: 4,
    "probs": lambda w: w.predictive.probs,
    "rates": lambda w: 0.2,
}
"""Values by the argument's name."""


def classified(**more: Callable[[World], Any]) -> dict[str, Callable[[World], Any]]:
    """Arguments of what takes a classifier."""
    return {
        "model": lambda w: w.classifier,
        "posterior": lambda w: w.classified,
        "y": lambda w: w.labels,
        **more,
    }


TABLE = {"a": [0.1, 0.2, 0.3], "b": [0.2, 0.1, 0.4], "c": [0.3, 0.3, 0.2]}

SPECIAL: dict[str, dict[str, Callable[[World], Any]]] = {
    **dict.fromkeys(
        (
            "adaptive_calibration_error", "brier_score", "classification_metrics",
            "classification_scores", "classwise_calibration_error", "expected_calibration_error",
            "network_pass", "reliability", "TemperatureScaling.fit", "true_class_probability",
            "ClassificationPredictive.log_prob", "ClassificationPredictive.check_labels",
        ),
        classified(),
    ),
    "TemperatureScaling": {"temperature": lambda w: 2.0},
    "Tempered": {"temperature": lambda w: 2.0},
    "critical_difference": {"table": lambda w: TABLE},
    "win_rates": {"table": lambda w: TABLE},
    "mean_interval": {"values": lambda w: w.score},
    "paired_seeds": {"a": lambda w: w.score, "b": lambda w: w.score**2},
    "resampled_interval": {
        "values": lambda w: w.score, "train_size": lambda w: 90, "test_size": lambda w: 10
    },
    "conformal_sets": classified(
        calibration=lambda w: w.predictive, test=lambda w: w.predictive, coverage=lambda w: 0.5
    ),
    "set_metrics": {"sets": lambda w: w.predictive.probs > 0.3, "y": lambda w: w.labels},
    "corrupt": {
        "data": lambda w: w.images, "corruption": lambda w: "brightness", "severity": lambda w: 2
    },
    "rotated": {"data": lambda w: w.images, "degrees": lambda w: 30.0},
    "load_images": {
        "name": lambda w: "mnist", "root": lambda w: w.idx_root, "download": lambda w: False,
    },
    "letters": {"n_per_class": lambda w: 1},
    "noise_images": {"kind": lambda w: "uniform"},
    "ImageDataset.subset": {"max_size": lambda w: 2},
    "ImageDataset.normalized": {"mean": lambda w: 0.5, "std": lambda w: 0.5},
    "ood_metrics": {
        "confidence_in": lambda w: w.score, "confidence_out": lambda w: w.score - 0.3,
        "positive": lambda w: "in",
    },
    "Requirement": {"metric": lambda w: "mean difference", "limit": lambda w: 0.1},
    "annealed_importance_sampling": {
        "model": lambda w: w.linear, "particles": lambda w: 4, "temperatures": lambda w: 3
    },
    "bridge_sampling": {"posterior": lambda w: w.chains},
    "compare": {
        "posteriors": lambda w: {"exact": w.exact, "nuts": w.chains},
        "reference": lambda w: "exact",
        "num_samples": lambda w: 100,
        "resamples": lambda w: 4,
    },
    "ecdf_band": {"simulations": lambda w: 5},
    "iwelbo": {"draws": lambda w: 2},
    "loo": {"num_samples": lambda w: 100},
    "pareto_k": {"num_samples": lambda w: 100},
    "moment_errors": {
        "posterior": lambda w: w.dugongs,
        "reference": lambda w: diagnostics.reference_posterior("dugongs-line"),
    },
    "rank_uniformity": {"ranks": lambda w: torch.arange(12) % 5},
    "uniform_p_value": {"ranks": lambda w: torch.arange(12) % 5},
    "symmetry_p_value": {"ranks": lambda w: torch.arange(12) % 5},
    "recommend": {"report": lambda w: w.report},
    "reference_posterior": {"name": lambda w: "dugongs-line"},
    "simulation_based_calibration": {
        "model": lambda w: w.linear, "infer": lambda w: w.infer, "simulations": lambda w: 2
    },
    "step_left": {},
    "PosteriorPage.save": {"folder": lambda w: w.folder / "page"},
    "which_posterior": {
        "model": lambda w: w.linear, "epochs": lambda w: 2, "guides": lambda w: ("map", "laplace"),
        "num_samples": lambda w: 100, "resamples": lambda w: 20,
    },
    "fit_evidence": {"guide": lambda w: tp.Laplace, "every": lambda w: 1, "burn_in": lambda w: 0},
    "implied_prior_precision": {
        "weight_decay": lambda w: 0.1, "rate": lambda w: 0.1, "size": lambda w: 10,
        "noise_precision": lambda w: 1.0,
    },
    "maximize_evidence": {"posterior": lambda w: w.laplace},
    "Mixture": {"member": lambda w: tp.Delta},
    "Mixture.of": {"members": lambda w: [tp.Delta(w.regressor), tp.Delta(w.regressor)]},
    "Delta.at_centre": {"guide": lambda w: w.posterior.guide},
    "Exact": {"model": lambda w: w.linear},
    "SWAG": {"rank": lambda w: 2},
    "AutoGuideAdapter": {"guide": lambda w: AutoNormal},
    "EarlyStopping": {},
    "sample_nuts": {"draws": lambda w: 2, "warmup": lambda w: 1, "chains": lambda w: 1},
    "Categorical": {"num_classes": lambda w: 3},
    "Gaussian": {"scale": lambda w: 0.3},
    "Gaussian.from_precision": {"precision": lambda w: 2.0},
    "laplace_bridge": {
        "likelihood": lambda w: w.classifier.likelihood, "mean": lambda w: torch.zeros(2, 3),
        "covariance": lambda w: torch.eye(3).expand(2, 3, 3),
    },
    "probit": {
        "likelihood": lambda w: w.classifier.likelihood, "mean": lambda w: torch.zeros(2, 3),
        "covariance": lambda w: torch.eye(3).expand(2, 3, 3),
    },
    "logistic_normal": {"mean": lambda w: torch.zeros(2), "variance": lambda w: torch.ones(2)},
    "symmetric_root": {"covariance": lambda w: torch.eye(3).expand(2, 3, 3)},
    "crps": {"predictive": lambda w: w.regressed},
    "regression_scores": {"predictive": lambda w: w.regressed},
    "total_variation": {"reference": lambda w: w.predictive.probs.flip(0)},
    "BasisRegression": {"basis": lambda w: LinearBasis()},
    "GaussianBasis": {"centers": lambda w: [0.0, 1.0], "scale": lambda w: 1.0},
    "GaussianBasis.evenly_spaced": {
        "low": lambda w: 0.0, "high": lambda w: 1.0, "num": lambda w: 3
    },
    "PolynomialBasis": {"degree": lambda w: 2},
    "eight_schools": {"centered": lambda w: True},
    "linear_regression": {"basis": lambda w: PolynomialBasis(degree=1)},
    "logistic_regression": {"num_features": lambda w: 2},
    "mlp": {"sizes": lambda w: (2, 3, 1)},
    "mlp_classifier": {"num_features": lambda w: 2, "hidden": lambda w: (3,)},
    "mlp_regressor": {"num_features": lambda w: 2, "hidden": lambda w: (3,)},
    "accumulator_for": {"num_points": lambda w: 3, "keep_outputs": lambda w: False},
    "RegressionPredictive.quantile": {"level": lambda w: 0.5},
    "RegressionPredictive.interval": {"level": lambda w: 0.5},
    "ConditionalPrior": {"family": lambda w: Normal, "given": lambda w: ("mu", "tau")},
    "NormalPrior.from_precision": {"precision": lambda w: 2.0},
    "resolve_priors": {"parameters": lambda w: dict(w.regressor.net.named_parameters())},
    "bootstrap": {
        "metric": lambda w: "auroc", "confidences": lambda w: {"a": w.score},
        "resamples": lambda w: 4,
    },
    "paired_difference": {
        "result": lambda w: w.bootstrapped, "a": lambda w: "a", "b": lambda w: "b"
    },
    "Mahalanobis.fit": {},
    "NearestNeighbours.fit": {"k": lambda w: 3},
    "TrustScore.fit": {"k": lambda w: 2},
    "ViM.fit": {"dim": lambda w: 1},
    "Odin.at_epsilons": {"epsilons": lambda w: (0.0, 0.1)},
    "choose_odin": {"validation": lambda w: w.run, "epsilons": lambda w: (0.0, 0.1)},
    "fit_confidnet": {
        "run_train": lambda w: w.point_run, "y_train": lambda w: w.labels,
        "run_validation": lambda w: w.point_run, "y_validation": lambda w: w.labels,
        "hidden": lambda w: (3,),
    },
    "ConfidNet.estimate": {"run": lambda w: w.point_run},
    "ConfidNet.save": {"path": lambda w: w.folder / "confidnet.safetensors"},
    "ConfidNet.load": {
        "path": lambda w: w.confidnet_file, "model": lambda w: w.classifier
    },
    "log_max_probability": {"log_probs": lambda w: w.predictive.log_probs},
    "perturbed": {
        "inputs": lambda w: w.x, "gradient": lambda w: -w.x, "epsilon": lambda w: 0.1
    },
    "selective_threshold": {"risk": lambda w: 0.5},
    "optimal_aurc": {"risk": lambda w: 0.5},
    "BayesianModel": {"net": lambda w: nn.Linear(2, 1)},
    "BayesianModel.with_scales": {
        "scales": lambda w: {n: torch.tensor(0.5) for n in w.regressor.initial_params()}
    },
    "Posterior": {"guide": lambda w: tp.Delta(w.regressor)},
    "Posterior.save": {"path": lambda w: w.folder / "again.safetensors"},
    "Posterior.load": {"path": lambda w: w.saved},
    "GapReport.table": {"space": lambda w: "functions"},
    "Requirement.error": {"value": lambda w: 0.1},
    "Requirement.errors": {"low": lambda w: 0.1, "high": lambda w: 0.2},
    "Requirement.text": {"error": lambda w: 0.1},
    "SbcResult.ranks_of": {"quantity": lambda w: "log_likelihood"},
    "SbcResult.ecdf_difference": {"quantity": lambda w: "log_likelihood"},
    "ClassificationLikelihood": {},
}  # fmt: skip
"""Values of the arguments of one callable, where they are not the usual ones."""

for _name in ("level",):
    USUAL.setdefault(_name, lambda w: 0.9)

RECEIVERS: dict[str, Callable[[World], Any]] = {
    "BayesianModel": lambda w: w.regressor,
    "ClassificationPredictive": lambda w: w.predictive,
    "ConfidNet": lambda w: w.confidnet,
    "GapReport": lambda w: w.report,
    "ImageDataset": lambda w: w.images,
    "Odin": lambda w: scores.Odin(epsilon=0.1, num_samples=2),
    "Posterior": lambda w: (w.posterior, w.point, w.exact),
    "PosteriorPage": lambda w: w.page,
    "RankUniformity": lambda w: diagnostics.rank_uniformity(torch.arange(12) % 5, 4),
    "RegressionPredictive": lambda w: w.regressed,
    "Requirement": lambda w: gap.Requirement("mean difference", 0.1),
    "SbcResult": lambda w: w.sbc,
    "TemperatureScaling": lambda w: TemperatureScaling(2.0),
}
"""An instance of each class whose methods users call."""
