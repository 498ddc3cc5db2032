"""The experiments, by the name they have on the command line.

Example:
    >>> from probml_tp.experiments import EXPERIMENTS
    >>> list(EXPERIMENTS)[:2]
    ['linear-regression', 'nonlinear-regression']
"""

from __future__ import annotations

from pathlib import Path

from probml_tp.harness.experiment import Entry, Registry

__all__ = ["EXPERIMENTS", "OPTIONS"]

OPTIONS = Path(__file__).with_name("options.json")
"""What is known of the options of each; ``python -m probml_tp.experiments`` writes it."""

EXPERIMENTS = Registry(
    {
        "linear-regression": Entry(
            "probml_tp.experiments.lines.linear_regression:EXPERIMENT",
            "Every guide against the exact posterior of Bayesian linear regression.",
        ),
        "nonlinear-regression": Entry(
            "probml_tp.experiments.lines.nonlinear_regression:EXPERIMENT",
            "A sine by two bases and a small network: how sure each is where there are no data.",
        ),
        "logistic-regression": Entry(
            "probml_tp.experiments.plane.logistic_regression:EXPERIMENT",
            "Guides against NUTS on logistic regression, where no exact posterior exists.",
        ),
        "two-moons": Entry(
            "probml_tp.experiments.plane.two_moons:EXPERIMENT",
            "Decision boundaries and the uncertainty around them on two moons.",
        ),
        "conjugate-calibration": Entry(
            "probml_tp.experiments.lines.conjugate_calibration:EXPERIMENT",
            "Do intervals hold what they promise? A conjugate model on many fresh data sets.",
        ),
        "laplace-vs-vi": Entry(
            "probml_tp.experiments.plane.laplace_vs_vi:EXPERIMENT",
            "Laplace or variational inference: nearness to NUTS, evidence, and cost with size.",
        ),
        "approximation-gap": Entry(
            "probml_tp.experiments.references.approximation_gap:EXPERIMENT",
            "How far each posterior is from the truth, at which cost, and which one to use.",
        ),
        "tabular-regression": Entry(
            "probml_tp.experiments.tables.tabular_regression:EXPERIMENT",
            "Real regression data with unknown noise: every guide beside scikit-learn.",
        ),
        "tabular-classification": Entry(
            "probml_tp.experiments.tables.tabular_classification:EXPERIMENT",
            "Breast cancer, wine and small digits: every guide of a net beside scikit-learn.",
        ),
        "reference-posteriors": Entry(
            "probml_tp.experiments.references.reference_posteriors:EXPERIMENT",
            "Every guide against posteriors of known moments: eight schools, rats, the funnel.",
        ),
        "mnist-uncertainty": Entry(
            "probml_tp.experiments.images.mnist_uncertainty:EXPERIMENT",
            "LeNet on MNIST: accuracy, and which digits it is least sure of.",
            shares="lenets",
        ),
        "failure-prediction": Entry(
            "probml_tp.experiments.images.failure_prediction:EXPERIMENT",
            "Which scores tell a classifier's mistakes from its hits: MCP, MC dropout, ConfidNet.",
            shares="lenets",
        ),
        "ood-detection": Entry(
            "probml_tp.experiments.images.ood_detection:EXPERIMENT",
            "Which scores tell foreign images from digits: MCP, ODIN, MC dropout, features.",
            shares="lenets",
        ),
        "calibration": Entry(
            "probml_tp.experiments.images.calibration:EXPERIMENT",
            "Whether probabilities can be acted on: calibration, selection, prediction sets.",
            shares="lenets",
        ),
        "distribution-shift": Entry(
            "probml_tp.experiments.images.distribution_shift:EXPERIMENT",
            "Corrupted and rotated images: which guide stays calibrated, and which one notices.",
            shares="lenets",
        ),
    },
    OPTIONS,
)
