"""laplace-torch, doing what one of our Laplace guides does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from report import peer
from setups import PRIOR_SCALE
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from probml_tp import BayesianModel

__all__ = ["LaplaceTorch", "Settings"]

STRUCTURES = {"full": "full", "kronecker": "kron", "diagonal": "diag"}
SUBSETS = {"all": "all", "last-layer": "last_layer"}


@dataclass(frozen=True)
class Settings:
    """How laplace-torch is run.

    Args:
        batch: points a batch, in fits and in predictions.
        backend: a class of ``laplace.curvature``; ``None`` is laplace-torch's default.
    """

    batch: int
    backend: str | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        backend = "" if self.backend is None else f", {self.backend}"
        return f"laplace-torch{backend}, batches of {self.batch}"


class LaplaceTorch:
    """One structure of laplace-torch around the net's own weights.

    Args:
        model: ours; its net is copied.
        structure: in our words: ``"full"``, ``"kronecker"``, ``"diagonal"``.
        sites: ``"all"`` or ``"last-layer"``.
        settings: backend and batches.
    """

    def __init__(
        self, model: BayesianModel, *, structure: str, sites: str, settings: Settings
    ) -> None:
        self.net = copy.deepcopy(model.net).requires_grad_(True)
        self.structure, self.sites, self.settings = structure, sites, settings
        with quiet():
            self.package = peer("laplace")
            curvature = peer("laplace.curvature")
        self.backend = settings.backend and getattr(curvature, settings.backend)

    def fit(self, x: Tensor, y: Tensor) -> Any:
        """The fitted approximation, with what predictions need from it."""
        with quiet():
            fitted = self.package.Laplace(
                self.net,
                "classification",
                subset_of_weights=SUBSETS[self.sites],
                hessian_structure=STRUCTURES[self.structure],
                prior_precision=1 / PRIOR_SCALE**2,
                backend=self.backend,
            )
            fitted.fit(DataLoader(TensorDataset(x, y), batch_size=self.settings.batch))
            if self.structure == "full":  # put off to the first prediction otherwise
                _ = fitted.posterior_scale
        return fitted

    def predict(self, fitted: Any, x: Tensor) -> Tensor:
        """Class probabilities of the linearised net by the probit approximation ``(N, k)``."""
        batches = x.split(self.settings.batch)
        return torch.cat([fitted(b, pred_type="glm", link_approx="probit") for b in batches])

    def variance(self, fitted: Any) -> Tensor:
        """The posterior variance of each random parameter, ``(P,)``."""
        if self.structure == "diagonal":
            return fitted.posterior_variance
        if self.structure == "kronecker":
            return fitted.posterior_precision.diag(exponent=-1)
        return fitted.posterior_covariance.diagonal()

    def moments(self, fitted: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(N, k)`` and covariance ``(N, k, k)`` of the linearised net's outputs."""
        mean, covariance = fitted._glm_predictive_distribution(x)
        return mean, covariance


@contextmanager
def quiet() -> Iterator[None]:
    """Without what curvlinops' own dependencies warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.*", FutureWarning)
        yield
