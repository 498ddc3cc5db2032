r"""Mean-field variational inference with independent normal factors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, get_args

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive
from probml_tp.convergence import Convergence
from probml_tp.guide import Draws, Guide, Sites, check_num_samples
from probml_tp.guides.pathfinder import start_on_path
from probml_tp.guides.weight_noise import ExampleNoise, Noise, treatments
from probml_tp.inference.settling import normal_convergence
from probml_tp.model import BayesianModel
from probml_tp.priors.normal_sites import LOG_2PI

__all__ = ["INIT_SCALE", "MeanFieldNormal", "independent_kl", "sampled_kl"]

INIT_SCALE = 0.01
"""The first standard deviation where nothing tells."""

Estimator = Literal["auto", "shared", "local-reparameterization", "flipout"]
"""Whether a batch shares a step's weight draw, or how its examples get noise of their own."""


class MeanFieldNormal(Guide):
    r"""Independent normals in unconstrained space, :math:`q(u)=\prod_i\mathcal N(u_i; m_i, s_i^2)`.

    Trained by the evidence lower bound (Blundell et al. 2015, "Weight uncertainty in neural
    networks"), with the KL term in closed form:

    .. math:: \mathrm{KL} = \sum_i \log\frac{\sigma_i}{s_i}
              + \frac{s_i^2 + (m_i - \mu_i)^2}{2\sigma_i^2} - \frac12

    for prior :math:`\mathcal N(\mu_i, \sigma_i^2)`. For sites whose prior is not normal the
    entropy is exact and the cross term uses the step's draw. ``loss`` is
    :math:`-\frac1B\sum_{n \in B}\log p(y_n|\theta) + \frac TN\mathrm{KL}`: each data point
    carries T/N of the KL, whatever the batch size.

    **The estimator** decides which draws the log likelihoods of a batch are taken at. Its
    expectation is the same for all of them, the gradient's variance is not:
    :mod:`~probml_tp.guides.weight_noise` has the derivation.

    - ``"auto"``: local reparameterisation where it is exact and the shared draw elsewhere, hence
      never refused. It is the default because the trace of the gradient's covariance times the
      time of a step was 0.02 to 0.07 of the shared draw's for the means of a 1-50-50-1 regressor,
      and 0.4 to 0.6 for those of LeNet, at the start, in the middle and at the end of training,
      and lower still for the log scales (docs/benchmarks.md).
    - ``"shared"``: one draw of the weights for the whole batch.
    - ``"local-reparameterization"`` (Kingma, Salimans & Welling 2015): the outputs of linear layers
      are drawn for each example. Convolutions, and linear layers at several positions of an
      example, keep the shared draw: noise of its own at each position is another objective.
    - ``"flipout"`` (Wen et al. 2018): each example has the shared perturbation under random signs.

    Layers so treated (``nn.Linear``; by flipout convolutions too) have normal weights of their own,
    neither tied nor constrained, and are called once in a forward pass on whole examples. Other
    weights take the shared draw.

    **The temperature** T other than 1 makes this a *tempered* approximation, not one of the model's
    posterior: the optimum over all ``q`` is :math:`\propto p(y|\theta)^{1/T}p(\theta)`, cold for
    T < 1 (Wenzel et al. 2020, "How good is the Bayes posterior in deep neural networks really?").

    All sites live in two flat vectors ``loc`` and ``log_scale`` of length ``P``, so that a step
    costs a few operations whatever the number of layers.

    Args:
        model: the model; means start at the net's own parameters.
        init_scale: the initial standard deviation of every factor, in unconstrained units. Default:
            where :func:`probml_tp.fit` chooses the rate too, means and standard deviations start
            at the best normal on a descent to the mode, by the curvature there; else 0.01.
        estimator: how the batch's expected log likelihood is estimated.
        temperature: ``T``, the weight of the KL term; 1 for the posterior.

    Raises:
        ValueError: ``init_scale`` or ``temperature`` is not positive, or the estimator unknown;
            on the first data, that one other than ``"auto"`` can treat no layer of the net.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> guide = MeanFieldNormal(model)
        >>> guide.log_prob(guide.sample(7)).shape
        torch.Size([7])
    """

    name: ClassVar[str] = "mean-field"
    replayable_loss: ClassVar[bool] = True

    @checked(init_scale=None, estimator=None, temperature=None)
    def __init__(
        self,
        model: BayesianModel,
        *,
        init_scale: float | None = None,
        estimator: Estimator = "auto",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(model)
        self.init_scale = init_scale if init_scale is None else positive("init_scale", init_scale)
        self.temperature = positive("temperature", temperature)
        if estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {get_args(Estimator)}; got {estimator!r}.")
        self.estimator = estimator
        self._example_noise: ExampleNoise | None = None
        self._is_prepared = False
        loc = model.layout.ravel(model.unconstrain(model.initial_params()))
        self.loc = nn.Parameter(loc)
        self.log_scale = nn.Parameter(torch.full_like(loc, init_scale or INIT_SCALE).log())

    def site_distributions(self) -> Sites:
        """Normal sites, pushed through the site's bijection where its support is constrained."""
        locs = self.model.layout.unravel(self.loc)
        scales = self.model.layout.unravel(self.log_scale.exp())
        for name, loc in locs.items():
            base: TorchDistribution = dist.Normal(loc, scales[name])
            if name in self.model.transforms:
                base = dist.TransformedDistribution(base, [self.model.transforms[name]])
            yield name, base.to_event(loc.ndim)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r""":math:`\theta(m + s \odot \varepsilon)`."""
        shape = (check_num_samples(num_samples), *self.loc.shape)
        epsilon = torch.randn(
            shape, generator=generator, dtype=self.loc.dtype, device=self.loc.device
        )
        flat = epsilon.mul_(self.log_scale.exp()).add_(self.loc)
        return self.model.constrain(self.model.layout.unravel(flat))

    @torch.no_grad()
    def conditional_draws(
        self, sites: Collection[str], num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The marginals of the sites: they are independent."""
        own = [self.log_scale[s] for n, s in self.model.layout.slices.items() if n in sites]
        scale = torch.cat(own).exp()
        epsilon = torch.randn(
            (check_num_samples(num_samples), len(scale)),
            generator=generator,
            dtype=scale.dtype,
            device=scale.device,
        )
        return self.around_centre(sites, scale * epsilon)

    def log_prob(self, draws: Draws) -> Tensor:
        """Normal log density in unconstrained space, minus the log determinant of the map."""
        u = self.model.unconstrain(draws)
        z = (self.model.layout.ravel(u) - self.loc) * (-self.log_scale).exp()
        normal = -0.5 * z.square().sum(-1) - self.log_scale.sum() - 0.5 * LOG_2PI * len(self.loc)
        return normal - self.model.log_abs_det_jacobian(u)

    def kl(self) -> Tensor:
        """The closed form above; see :meth:`Guide.kl`."""
        if others := self.model.normal_sites.others:
            raise ValueError(
                f"the KL divergence is analytic for normal priors only; the prior of "
                f"{others[0]!r} is {self.model.sites[others[0]].describe()}. Estimate it with "
                f"elbo()."
            )
        return independent_kl(self.model, self.loc, self.log_scale.exp(), self.log_scale)

    @property
    def is_variational_normal(self) -> bool:
        """It is, unless tempered."""
        return self.temperature == 1

    @property
    def scaled_parameters(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Means and log standard deviations."""
        return self.loc, self.log_scale

    def take_normal(self, loc: Tensor, scale: Tensor) -> None:
        """Become it."""
        self.loc.data, self.log_scale.data = loc.to(self.loc), scale.log().to(self.loc)

    def start_near(self, x: Tensor, y: Tensor) -> None:
        """Start on the way to the mode, unless a scale was given."""
        if self.init_scale is None:
            start_on_path(self, x, y)

    def covariance_times(self, vectors: Tensor) -> Tensor:
        """The variances times the vectors."""
        return vectors * (2 * self.log_scale.detach()).exp().to(vectors)

    def convergence(self, x: Tensor, y: Tensor) -> Convergence | None:
        """The step left, where it is cheap."""
        return normal_convergence(self, x, y)

    @property
    def noise_by_example(self) -> bool:
        """Once prepared, unless every draw is shared."""
        return self._example_noise is not None

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """See which layers can be given noise for each example.

        Raises:
            ValueError: none can.
        """
        self._is_prepared = True
        if self.estimator == "shared":
            return
        params = self.model.constrain(self.model.layout.unravel(self.loc.detach()))
        auto = self.estimator == "auto"
        noise: Noise = "flipout" if self.estimator == "flipout" else "local-reparameterization"
        layers = treatments(self.model, noise, params, x)
        if not layers and not auto:
            kinds = "linear layer or convolution" if noise == "flipout" else "linear layer"
            raise ValueError(
                f"the estimator {self.estimator!r} needs at least one {kinds} with normal weights "
                f"of its own, called once on whole examples; {self.model.name} has none. Use "
                f"estimator='shared'."
            )
        self._example_noise = ExampleNoise(self.model, layers) if layers else None

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative ELBO per data point at fresh draws."""
        if not self._is_prepared:
            self.prepare(x, y)
        return self.loss_at(torch.randn_like(self.loc), x, y, size=size)

    def loss_at(self, epsilon: Tensor, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        r"""The loss at the draw :math:`u = m + s \odot \varepsilon`, ``epsilon`` being ``(P,)``.

        Once prepared, estimators other than the shared draw take noise of each example on top.
        """
        scale = self.log_scale.exp()
        u = self.model.layout.unravel(torch.addcmul(self.loc, scale, epsilon))
        params = self.model.constrain(u)
        kl = independent_kl(self.model, self.loc, scale, self.log_scale)
        if self.model.normal_sites.others:
            kl = kl + sampled_kl(self.model, self.log_scale, u, params)
        if self._example_noise is None:
            outputs = self.model.outputs(params, x)
        else:
            outputs = self._example_noise.outputs(self.loc, scale, epsilon, params, x)
        log_likelihood = self.model.likelihood.log_prob(outputs, y, params)
        return kl / (size / self.temperature) - log_likelihood.mean()

    def options(self) -> dict[str, Any]:
        """The initial scale, the estimator and the temperature."""
        return {
            "init_scale": self.init_scale,
            "estimator": self.estimator,
            "temperature": self.temperature,
        }


def independent_kl(model: BayesianModel, loc: Tensor, scale: Tensor, log_scale: Tensor) -> Tensor:
    r"""KL divergence of independent normals to the prior, over the sites with normal priors.

    Args:
        model: the model.
        loc: means of all sites ``(P,)``, in unconstrained space.
        scale: standard deviations ``(P,)``.
        log_scale: their logarithms.

    Returns:
        The sum in nats, a scalar.
    """
    prior = model.normal_sites
    index = prior.index
    ratio = scale[index] / prior.scale
    constant = prior.log_normalizer - 0.5 * (LOG_2PI + 1) * len(prior.loc)
    squares = prior.squares(loc) + ratio.square().sum()
    return 0.5 * squares - log_scale[index].sum() + constant


def sampled_kl(
    model: BayesianModel, log_scale: Tensor, u: Mapping[str, Tensor], params: Mapping[str, Tensor]
) -> Tensor:
    """The same over the sites whose prior is not normal: exact entropy, cross term at one draw.

    Args:
        model: the model.
        log_scale: logarithms of the standard deviations of all sites ``(P,)``.
        u: the draw, unconstrained.
        params: the draw.

    Returns:
        An unbiased estimate in nats, a scalar.
    """
    others = model.normal_sites.others
    cross = model.log_abs_det_jacobian(u) + model.log_prior(params, sites=others)
    entropy = torch.zeros_like(log_scale[0])
    for name in others:
        entropy = entropy + (log_scale[model.layout.slices[name]] + 0.5 * (LOG_2PI + 1)).sum()
    return -entropy - cross
