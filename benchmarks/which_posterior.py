"""How long `which_posterior` takes with its defaults, and what it says, model by model.

python benchmarks/which_posterior.py                 # every model, two minutes each
python benchmarks/which_posterior.py readme gru      # some of them
python benchmarks/which_posterior.py --minutes 0.1   # a smaller budget
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    Gaussian,
    NormalPrior,
    which_posterior,
)
from probml_tp.likelihoods import RegressionLikelihood
from probml_tp.models import (
    CLASSICS,
    LinearBasis,
    lenet,
    linear_regression,
    logistic_regression,
    mlp_classifier,
    mlp_regressor,
)

Params = Mapping[str, Tensor]
Problem = tuple[BayesianModel, tuple[Tensor, Tensor]]


def line(count: int = 40) -> tuple[Tensor, Tensor]:
    """A noisy sine."""
    x = torch.linspace(-1, 1, count).unsqueeze(-1)
    return x, torch.sin(4 * x).squeeze(-1) + 0.1 * torch.randn(count)


def blobs(count: int = 60) -> tuple[Tensor, Tensor]:
    """Two classes in the plane."""
    y = torch.arange(count) % 2
    return torch.randn(count, 2) + 2.0 * y.unsqueeze(-1), y


def sequences(count: int = 30) -> tuple[Tensor, Tensor]:
    """Short series and their mean."""
    x = torch.randn(count, 5, 2)
    return x, x.mean((1, 2)) + 0.1 * torch.randn(count)


def regression(net: nn.Module, data: tuple[Tensor, Tensor], noise: float = 0.1) -> Problem:
    """A net with normal priors and known noise."""
    return BayesianModel(net, NormalPrior(1.0), Gaussian(scale=noise)), data


# ----------------------------------------------------------------------------------------- nets


class Recurrent(nn.Module):
    """A GRU and a line on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        out: Tensor = self.out(self.gru(x)[0][:, -1])
        return out


class Attentive(nn.Module):
    """Attention of a series to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.out = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        out: Tensor = self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))
        return out


class Wave(nn.Module):
    r"""A frequency: :math:`\sin(a x)`, whose posterior has many modes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate it."""
        return torch.sin(self.a * x)


class Counts(RegressionLikelihood):
    """Poisson counts with a log link."""

    def distribution(self, outputs: Tensor, params: Params) -> TorchDistribution:
        """Of the counts."""
        return dist.Poisson(outputs.squeeze(-1).exp())

    def log_prob(self, outputs: Tensor, y: Tensor, params: Params) -> Tensor:
        """Of each count."""
        return self.distribution(outputs, params).log_prob(y)

    def moments(self, outputs: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mean and variance are the rate."""
        return outputs.exp(), outputs.exp()

    def check_outputs(self, shape: torch.Size) -> None:
        """One output a point."""
        if shape[1:] != (1,):
            raise ValueError(f"counts need one output a point; got {tuple(shape)}.")

    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        """One count a point."""
        return y.reshape(len(y)).to(torch.get_default_dtype())

    def natural_inputs(self, outputs: Tensor, params: Params) -> Tensor:
        """The logarithm of the rate."""
        return outputs

    def fisher(self, outputs: Tensor, params: Params) -> Tensor:
        """The rate."""
        return outputs.exp().unsqueeze(-1)


def wave() -> Problem:
    """On whole numbers the frequencies a and a + 2 pi fit equally well."""
    x = torch.arange(20.0).unsqueeze(-1)
    y = torch.sin(1.5 * x).squeeze(-1) + 0.1 * torch.randn(20)
    return BayesianModel(Wave(), NormalPrior(5.0), Gaussian(scale=0.1)), (x, y)


def weight_norm() -> Problem:
    """A net whose weights are a length times a direction."""
    inner = torch.nn.utils.parametrizations.weight_norm(nn.Linear(1, 8))
    return regression(nn.Sequential(inner, nn.Tanh(), nn.Linear(8, 1)), line())


def convolution() -> Problem:
    """Small images in three classes."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)
    )  # fmt: skip
    y = torch.arange(45) % 3
    x = torch.randn(45, 1, 6, 6) + y.reshape(-1, 1, 1, 1)
    return BayesianModel(net, NormalPrior(1.0), Categorical(3)), (x, y)


def counts() -> Problem:
    """A likelihood of one's own."""
    x, y = line()
    return BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Counts()), (x, y.exp().round())


def frozen() -> Problem:
    """A net whose first layer is fixed."""
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    return regression(net, line())


def unscaled() -> Problem:
    """A softmax on features as large as 1,680."""
    y = torch.arange(90) % 3
    x = torch.randn(90, 4) * torch.tensor([1.0, 5.0, 0.1, 300.0]) + 0.5 * y.unsqueeze(-1)
    x[:, 3] += 700
    return BayesianModel(nn.Linear(4, 3), NormalPrior(1.0), Categorical(3)), (x, y)


def readme() -> Problem:
    """The README's first model."""
    return regression(
        nn.Sequential(nn.Linear(1, 50), nn.Tanh(), nn.Linear(50, 1)), line(200)
    )  # fmt: skip


def classic(name: str) -> Callable[[], Problem]:
    """A classical posterior."""

    def make() -> Problem:
        made = CLASSICS[name]()
        return made.model, made.data

    return make


def flips() -> Problem:
    """A logistic regression by the facade."""
    x, y = blobs()
    model = BayesianModel(nn.Linear(2, 1), NormalPrior(3.0), Bernoulli())
    return model, (x, y.float())


def digits() -> Problem:
    """A LeNet on noise of ten kinds."""
    y = torch.arange(100) % 10
    x = torch.randn(100, 1, 28, 28) + y.reshape(-1, 1, 1, 1) / 5
    return lenet(prior=NormalPrior(1.0)), (x, y)


def basis() -> Problem:
    """A conjugate line."""
    x, y = line()
    x, y = x.double(), y.double()
    return linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.2), (x, y)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "readme": readme,
    "linear": basis,
    "logistic": lambda: (logistic_regression(2, prior=NormalPrior(1.0)), blobs()),
    "mlp-regressor": lambda: (
        mlp_regressor(1, hidden=(8,), prior=NormalPrior(1.0), likelihood=0.1, seed=0),
        line(),
    ),
    "mlp-classifier": lambda: (
        mlp_classifier(2, hidden=(8,), prior=NormalPrior(1.0), seed=0),
        blobs(),
    ),
    "lenet": digits,
    **{name: classic(name) for name in CLASSICS},
    "flips": flips,
    "gru": lambda: regression(Recurrent(), sequences()),
    "attention": lambda: regression(Attentive(), sequences()),
    "weight-norm": weight_norm,
    "convolution": convolution,
    "counts": counts,
    "frozen": frozen,
    "unscaled": unscaled,
    "wave": wave,
}
"""Every model of `probml_tp.models`, and nets that it was not written with."""


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *PROBLEMS], default=[])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--page", action="store_true", help="print the pages, too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| model | seconds | CPU seconds | verdict | R-hat | ESS |\n|---|--:|--:|---|--:|--:|")
    for name in arguments.names or PROBLEMS:
        torch.manual_seed(0)
        model, data = PROBLEMS[name]()
        start, cpu = time.perf_counter(), time.process_time()
        page = which_posterior(model, data, minutes=arguments.minutes, progress=False)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        found = page.report.costs.loc[page.report.reference]
        figures = (
            " - | - " if np.isnan(found["ess"]) else f" {found['r_hat']:.3f} | {found['ess']:.0f} "
        )
        print(
            f"| {name} | {seconds:.0f} | {used:.0f} | {page.advice.headline} |{figures}|",
            flush=True,
        )
        if arguments.page:
            print(page, *page.study.problem.notes, dict(page.refused), sep="\n")


if __name__ == "__main__":
    main()
