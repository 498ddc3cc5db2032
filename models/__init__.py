"""Models: ready-made Bayesian models with explicit priors."""

from probml_tp.models.basis import Basis, GaussianBasis, LinearBasis, PolynomialBasis
from probml_tp.models.classic import Classic
from probml_tp.models.classics import CLASSICS
from probml_tp.models.curves import breast_cancer, dugongs, dugongs_line, gaussian_process
from probml_tp.models.hierarchical import eight_schools, funnel, rats
from probml_tp.models.lenet import LENET_DROPOUT, lenet, lenet_net
from probml_tp.models.linear import BasisRegression, linear_regression
from probml_tp.models.logistic import logistic_regression
from probml_tp.models.mlp import mlp, mlp_classifier, mlp_regressor

__all__ = [
    "CLASSICS",
    "LENET_DROPOUT",
    "Basis",
    "BasisRegression",
    "Classic",
    "GaussianBasis",
    "LinearBasis",
    "PolynomialBasis",
    "breast_cancer",
    "dugongs",
    "dugongs_line",
    "eight_schools",
    "funnel",
    "gaussian_process",
    "lenet",
    "lenet_net",
    "linear_regression",
    "logistic_regression",
    "mlp",
    "mlp_classifier",
    "mlp_regressor",
    "rats",
]
