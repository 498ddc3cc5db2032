"""Small models in float64, each with data that suit it: the rows of the tests over every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    ConditionalPrior,
    FanInNormalPrior,
    FlatPrior,
    Gaussian,
    HeteroscedasticGaussian,
    LaplacePrior,
    LocScaleGaussian,
    NormalPrior,
    StudentTPrior,
)
from probml_tp.models import (
    GaussianBasis,
    LinearBasis,
    PolynomialBasis,
    lenet,
    linear_regression,
    logistic_regression,
    mlp_classifier,
    mlp_regressor,
)

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    """A model and its data; ``rates`` are drop rates by layer where MC dropout applies."""

    model: BayesianModel
    x: Tensor
    y: Tensor
    rates: Mapping[str, float] | None = None

    @property
    def size(self) -> int:
        """The number of data points."""
        return len(self.x)


def random_params(model: BayesianModel, seed: int = 0, scale: float = 0.4) -> dict[str, Tensor]:
    """Values of every site, away from the initial ones, in the sites' own spaces."""
    return model.constrain(model.layout.unravel(random_flat(model, seed, scale)))


def random_flat(model: BayesianModel, seed: int = 0, scale: float = 0.4) -> Tensor:
    """The same as one unconstrained vector."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(model.num_params, generator=generator, dtype=F64)


# -------------------------------------------------------------------------------------- data


def inputs(num_points: int, num_features: int, *, seed: int = 0) -> Tensor:
    """Points uniform in [-1.5, 1.5]."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.rand(num_points, num_features, generator=generator, dtype=F64) - 1.5


def targets(x: Tensor, num_targets: int = 1, *, noise: float = 0.2) -> Tensor:
    """Smooth functions of the features plus noise, ``(N,)`` or ``(N, d)``."""
    generator = torch.Generator().manual_seed(1)
    shift = torch.arange(num_targets, dtype=F64)
    y = torch.sin(x.sum(-1, keepdim=True) + shift)
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=F64)
    return y.squeeze(-1) if num_targets == 1 else y


def labels(x: Tensor, num_classes: int) -> Tensor:
    """Labels that depend on the features but are not separable."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(len(x), generator=generator, dtype=F64)
    score = x.flatten(1).sum(-1) + noise
    cuts = torch.linspace(-1, 1, num_classes + 1, dtype=F64)[1:-1]
    return torch.bucketize(score, cuts)


# ------------------------------------------------------------------------------ the user's nets


class TiedNet(nn.Module):
    """One weight matrix used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class ResidualNet(nn.Module):
    """Not sequential, with a layer norm, a free parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 2))
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(2, 1, bias=False)
        self.register_buffer("offset", torch.tensor([0.3, -0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.gain * self.inner(x) + self.offset)


class GroupedLine(nn.Module):
    """A level for each group; parameters before those that their priors depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.slope = nn.Parameter(torch.tensor(0.4))
        self.tau = nn.Parameter(torch.tensor(0.8))
        self.mu = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.level[x[:, 0].long()] + self.slope * x[:, 1]).unsqueeze(-1)


class KnownErrors(GroupedLine):
    """The standard error of each observation is a column of the inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), x[:, 2:]], dim=-1)


class BagOfWords(nn.Module):
    """Integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


def _seeded(build: Callable[[], nn.Module], seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


def small_convnet(num_classes: int = 3) -> nn.Sequential:
    """A LeNet for 8 x 8 images, with LeNet's layer names."""

    def build() -> nn.Sequential:
        net = nn.Sequential()
        net.add_module("conv1", nn.Conv2d(1, 2, 3))
        net.add_module("relu1", nn.ReLU())
        net.add_module("pool1", nn.MaxPool2d(2))
        net.add_module("conv2", nn.Conv2d(2, 3, 2))
        net.add_module("relu2", nn.ReLU())
        net.add_module("flatten", nn.Flatten())
        net.add_module("fc1", nn.Linear(12, 4))
        net.add_module("relu3", nn.ReLU())
        net.add_module("fc2", nn.Linear(4, num_classes))
        return net

    return _seeded(build)


def batch_norm_net(x: Tensor) -> nn.Module:
    """A net whose batch norm has seen the data and is in eval mode."""
    net = _seeded(
        lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))
    )
    net(x)
    return net.eval()


# ------------------------------------------------------------------------------------- the cases


def _basis(basis: nn.Module, prior: object) -> Callable[[], Case]:
    def build() -> Case:
        x = inputs(12, 1)
        return Case(linear_regression(basis, prior=prior, likelihood=0.3), x, targets(x))

    return build


def _logistic(num_classes: int) -> Callable[[], Case]:
    def build() -> Case:
        x = inputs(14, 2)
        model = logistic_regression(2, prior=NormalPrior(1.5), num_classes=num_classes)
        return Case(model, x, labels(x, num_classes))

    return build


def _regressor(
    likelihood: object, *, num_targets: int = 1, prior: object = None
) -> Callable[[], Case]:
    def build() -> Case:
        x = inputs(10, 2)
        model = mlp_regressor(
            2,
            hidden=(4, 3),
            prior=prior or NormalPrior(0.8),
            likelihood=likelihood,
            num_targets=num_targets,
            dtype=F64,
        )
        return Case(model, x, targets(x, num_targets), {"fc2": 0.3, "fc3": 0.1})

    return build


def _classifier(num_classes: int) -> Callable[[], Case]:
    def build() -> Case:
        x = inputs(10, 2)
        model = mlp_classifier(
            2, hidden=(4,), prior=FanInNormalPrior(1.2), num_classes=num_classes, dtype=F64
        )
        return Case(model, x, labels(x, num_classes), {"fc2": 0.4})

    return build


def _user_net(
    build_net: Callable[[], nn.Module], rates: Mapping[str, float] | None
) -> Callable[[], Case]:
    def build() -> Case:
        x = inputs(10, 2)
        model = BayesianModel(_seeded(build_net), NormalPrior(0.9), Gaussian(scale=0.3))
        return Case(model, x, targets(x), rates)

    return build


def _conv() -> Case:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, 1, 8, 8, generator=generator, dtype=F64)
    y = torch.tensor([0, 1, 2, 2, 0, 1])
    model = BayesianModel(small_convnet(), NormalPrior(0.6), Categorical(3), name="lenet-small")
    return Case(model, x, y, {"conv2": 0.2, "fc1": 0.5, "fc2": 0.25})


def _lenet() -> Case:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 1, 28, 28, generator=generator, dtype=F64)
    return Case(lenet(prior=NormalPrior(0.5), dtype=F64), x, torch.tensor([3, 9, 0]))


def _batch_norm() -> Case:
    x = inputs(10, 2)
    model = BayesianModel(batch_norm_net(x), NormalPrior(1.0), Gaussian(scale=0.3))
    return Case(model, x, targets(x), {"3": 0.3})


def _embedding() -> Case:
    x = torch.randint(5, (10, 4), generator=torch.Generator().manual_seed(0))
    model = BayesianModel(_seeded(BagOfWords), NormalPrior(1.0), Bernoulli())
    return Case(model, x, labels(x.double() - 2, 2), {"head": 0.5})


def _positive_weights() -> Case:
    """A net with a parameter on the positive reals, and one in an interval."""
    net = _seeded(lambda: nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)))
    net[2].weight.data.abs_()
    net[2].bias.data.fill_(0.4)
    prior = {
        "2.weight": lambda _, p: dist.HalfNormal(p.new_tensor(1.5)),
        "2.bias": lambda _, p: dist.Beta(p.new_tensor(2.0), p.new_tensor(3.0)),
        "*": NormalPrior(1.0),
    }
    x = inputs(10, 1)
    return Case(BayesianModel(net, prior, Gaussian(scale=0.3)), x, targets(x))


def _half_exponential(slope: Tensor) -> tuple[float, Tensor]:
    return 0.1, (slope / 2).exp()


def _twice(noise_scale: Tensor) -> tuple[float, Tensor]:
    return 0.0, 2 * noise_scale


GROUP_PRIOR = {
    "level": ConditionalPrior(dist.Normal, given=("mu", "tau")),
    "tau": lambda _, p: dist.HalfCauchy(p.new_tensor(1.5)),
    "mu": ConditionalPrior(dist.Normal, given=("slope",), arguments=_half_exponential),
    "slope": NormalPrior(1.0),
}


def _grouped(net: type[GroupedLine], likelihood: object) -> Callable[[], Case]:
    def build() -> Case:
        x = torch.cat([torch.arange(10).unsqueeze(-1) % 3, inputs(10, 2).abs()], dim=-1)
        return Case(BayesianModel(net().double(), GROUP_PRIOR, likelihood), x, targets(x))

    return build


def _noisy_scale() -> Case:
    """The prior of the weights is in units of the noise, a site of the likelihood's."""
    prior = {
        "weight": ConditionalPrior(dist.Laplace, given=("noise_scale",), arguments=_twice),
        "bias": NormalPrior(1.0),
    }
    x = inputs(10, 2)
    net = _seeded(lambda: nn.Linear(2, 1))
    return Case(BayesianModel(net, prior, Gaussian(dist.HalfNormal(0.7))), x, targets(x))


HEAVY_TAILS = {
    "fc1.weight": StudentTPrior(df=4.0, scale=1.5),
    "*.bias": NormalPrior(1.3, loc=0.2),
    "*": FanInNormalPrior(2.0),
}

CASES: dict[str, Callable[[], Case]] = {
    "linear": _basis(LinearBasis(), NormalPrior.from_precision(2.0)),
    "polynomial": _basis(PolynomialBasis(degree=3), NormalPrior(1.5, loc=0.5)),
    "gaussian-basis": _basis(GaussianBasis.evenly_spaced(-1, 1, num=4), NormalPrior(2.0)),
    "flat-prior": _basis(PolynomialBasis(degree=2), FlatPrior()),
    "logistic": _logistic(2),
    "softmax": _logistic(3),
    "mlp": _regressor(0.3),
    "mlp-half-normal": _regressor(Gaussian(dist.HalfNormal(0.7))),
    "mlp-log-normal": _regressor(Gaussian(dist.LogNormal(-1.0, 0.6))),
    "mlp-gamma": _regressor(Gaussian(dist.Gamma(2.0, 3.0))),
    "mlp-heteroscedastic": _regressor(HeteroscedasticGaussian()),
    "mlp-2-targets": _regressor(0.4, num_targets=2),
    "mlp-2-targets-noise": _regressor(Gaussian(dist.HalfNormal(0.7)), num_targets=2),
    "mlp-2-targets-heteroscedastic": _regressor(HeteroscedasticGaussian(), num_targets=2),
    "mlp-heavy-tails": _regressor(0.3, prior=HEAVY_TAILS),
    "mlp-lasso": _regressor(0.3, prior={"fc1.weight": LaplacePrior(0.5), "*": NormalPrior(1.0)}),
    "classifier-2": _classifier(2),
    "classifier-3": _classifier(3),
    "lenet-small": _conv,
    "tied": _user_net(TiedNet, None),
    "residual": _user_net(ResidualNet, {"inner.3": 0.2, "head": 0.3}),
    "batch-norm": _batch_norm,
    "embedding": _embedding,
    "positive-weights": _positive_weights,
    "hierarchical": _grouped(GroupedLine, Gaussian(scale=0.3)),
    "hierarchical-known-errors": _grouped(KnownErrors, LocScaleGaussian()),
    "conditional-on-noise": _noisy_scale,
}
"""Every kind of model; LeNet at full size comes apart, for the tests that can afford it."""

LENET = _lenet

CONJUGATE = ("linear", "polynomial", "gaussian-basis")
"""Linear, Gaussian, with a proper normal prior."""

NO_CURVATURE = ("mlp-lasso", "conditional-on-noise")
"""The prior has no curvature away from its kink, so that Laplace need not exist."""

HIERARCHICAL = ("hierarchical", "hierarchical-known-errors", "conditional-on-noise")
"""Priors that depend on other sites."""
