"""The models and data that are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from torch import Tensor

from probml_tp import BayesianModel, NormalPrior
from probml_tp.datasets import load_images
from probml_tp.models import lenet, logistic_regression, mlp_classifier, mlp_regressor
from probml_tp.streams import seeded

__all__ = [
    "NOISE",
    "PRIOR_SCALE",
    "Digits",
    "check_close",
    "curve",
    "lenet_model",
    "load_digits",
    "logistic_model",
    "mlp_model",
    "pyro_at_its_best",
    "two_classes",
    "wide_model",
]

NOISE = 0.1
PRIOR_SCALE = 1.0


def lenet_model() -> BayesianModel:
    """LeNet with a standard normal prior."""
    return lenet(prior=NormalPrior(PRIOR_SCALE))


def wide_model() -> BayesianModel:
    """The 784-200-10 classifier of flattened digits, 159,010 parameters."""
    prior = NormalPrior(PRIOR_SCALE)
    return mlp_classifier(784, hidden=(200,), prior=prior, num_classes=10)


def mlp_model() -> BayesianModel:
    """The 1-50-50-1 regressor with known noise."""
    return mlp_regressor(1, hidden=(50, 50), prior=NormalPrior(PRIOR_SCALE), likelihood=NOISE)


def logistic_model() -> BayesianModel:
    """Logistic regression on ten features."""
    return logistic_regression(10, prior=NormalPrior(PRIOR_SCALE))


@dataclass(frozen=True)
class Digits:
    """Normalised test digits.

    Args:
        x: images ``(N, 1, 28, 28)``.
        y: labels ``(N,)``.
        source: where they came from.
    """

    x: Tensor
    y: Tensor
    source: str


def load_digits(size: int, root: Path | None) -> Digits:
    """MNIST's test digits, or the embedded ones; repeated where there are too few."""
    images = load_images("mnist", "test", root=root, download=False)
    index = torch.arange(size) % len(images)
    source = "embedded digits" if images.is_fallback else images.source.partition(", from ")[0]
    source += f", repeated to {size:,}" if size > len(images) else ""
    return Digits(images.normalized()[index], images.labels[index], source)


def curve(num_points: int) -> tuple[Tensor, Tensor]:
    """A noisy sine for the regressor."""
    x = torch.linspace(-2, 2, num_points).unsqueeze(-1)
    with seeded(0):
        return x, torch.sin(3 * x).squeeze(-1) + NOISE * torch.randn(num_points)


def two_classes(num_points: int) -> tuple[Tensor, Tensor]:
    """Ten features and a label, for logistic regression."""
    with seeded(0):
        x = torch.randn(num_points, 10, dtype=torch.float64)
        logits = x @ torch.linspace(-1, 1, 10, dtype=torch.float64)
        return x, torch.bernoulli(logits.sigmoid())


@contextmanager
def pyro_at_its_best() -> Iterator[None]:
    """Pyro without its argument checks, and with parameters that its guides own."""
    checks = ("distributions_pyro", "distributions_torch", "poutine", "infer")
    off = {f"validate_{check}": False for check in checks}
    with pyro.settings.context(module_local_params=True, **off):
        yield


def check_close(
    what: str, ours: Tensor, theirs: Tensor, *, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Refuse to time contenders that do not do the same work."""
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=rtol, atol=atol):
        raise RuntimeError(f"{what} differ: {ours} and {theirs}. Contenders must do the same work.")
