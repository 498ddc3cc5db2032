"""Models: ready-made Bayesian models with explicit priors."""

from probml_tp.models.basis import Basis, GaussianBasis, LinearBasis, PolynomialBasis
from probml_tp.models.lenet import LENET_DROPOUT, lenet, lenet_net
from probml_tp.models.linear import BasisRegression, linear_regression
from probml_tp.models.logistic import logistic_regression
from probml_tp.models.mlp import mlp, mlp_classifier, mlp_regressor

__all__ = [
    "LENET_DROPOUT",
    "Basis",
    "BasisRegression",
    "GaussianBasis",
    "LinearBasis",
    "PolynomialBasis",
    "lenet",
    "lenet_net",
    "linear_regression",
    "logistic_regression",
    "mlp",
    "mlp_classifier",
    "mlp_regressor",
]
