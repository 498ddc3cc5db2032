r"""A Bayesian model: a net, a prior over its parameters and a likelihood, as one Pyro program.

.. math:: \log p(\theta, y \mid x) = \log p(\theta) + \sum_{n=1}^N \log p(y_n \mid f_\theta(x_n))

Everything in the package targets this log joint. The same object is a Pyro model (call it) and
the pure functions that runners, guides and tests use; tests hold the two equal, site by site.
"""

from probml_tp.model.bayesian import BayesianModel, check_model

__all__ = ["BayesianModel", "check_model"]
