r"""MAP training under a prior that the evidence chooses while the training runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import data_pair, non_negative_integer, positive_integer, valid_seed
from probml_tp.digest import digest
from probml_tp.fit_info import FitInfo
from probml_tp.guides.delta import Delta
from probml_tp.guides.empirical_bayes import (
    Precision,
    empirical_model,
    require_laplace,
)
from probml_tp.guides.laplace import Laplace
from probml_tp.inference import ProgressCallback, fit
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, seeded, substream

__all__ = ["fit_evidence"]


@checked()
def fit_evidence(
    model: BayesianModel,
    data: tuple[object, object],
    *,
    guide: Callable[[BayesianModel], Laplace] = Laplace,
    precision: Precision = "layer",
    noise: bool = False,
    epochs: int = 1000,
    burn_in: int = 100,
    every: int = 100,
    batch_size: int | None = None,
    lr: float = 1e-2,
    optimizer: Literal["adam", "lbfgs"] = "adam",
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Posterior:
    r"""Train the parameters and, in between, the prior precisions and the noise by the evidence.

    After ``burn_in`` epochs of MAP training, and then after each ``every`` epochs, the evidence is
    maximised at the parameters of the moment, and training goes on under the new prior.

    Args:
        model: the model; its prior and noise are where the search starts.
        data: inputs and targets.
        guide: makes the Laplace guide whose structure the evidence has.
        precision: see :func:`maximize_evidence`.
        noise: likewise.
        epochs: passes over the data in all.
        burn_in: epochs before the first update; 0 starts with one.
        every: epochs between updates.
        batch_size: points a step; ``None`` takes all.
        lr: the learning rate, constant.
        optimizer: see :func:`probml_tp.fit`.
        seed: determines the fit.
        progress: show a bar (on terminals) of the parts, or a callback ``(done, total, message)``.

    Returns:
        The Laplace posterior of the new model; ``info.losses`` has the MAP objective at each epoch
        and ``info.log_evidence`` the evidence after each update and at the end.

    Raises:
        ValueError: as :func:`maximize_evidence` and :func:`probml_tp.fit`.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(10.0), Gaussian(scale=1.0))
        >>> x = torch.linspace(-1, 1, 50).unsqueeze(-1)
        >>> tuned = fit_evidence(
        ...     model, (x, 2 * x + torch.sin(99 * x) / 5), noise=True,
        ...     epochs=9, burn_in=3, every=1, optimizer="lbfgs",
        ... )
        >>> 0.1 < float(tuned.model.likelihood.scale) < 0.2
        True
    """
    start = time.perf_counter()
    x, y = check_model(model).check_data(*data_pair("data", data))
    epochs, seed = non_negative_integer("epochs", epochs), valid_seed(seed)
    blocks = _blocks(
        epochs, non_negative_integer("burn_in", burn_in), positive_integer("every", every)
    )
    info = FitInfo(options={"precision": precision, "noise": noise, "epochs": epochs,
                            "burn_in": burn_in, "every": every, "batch_size": batch_size,
                            "lr": lr, "optimizer": optimizer, "seed": seed},
                   data=digest([x, y]))  # fmt: skip
    laplace = require_laplace(guide(model))
    laplace.prepare(x, y)
    for number, count in enumerate(blocks):
        mode = Delta(laplace.model)
        mode.loc.data = laplace.loc.detach().clone()
        part = fit(
            laplace.model, mode, (x, y), epochs=count, batch_size=batch_size, lr=lr,
            optimizer=optimizer, seed=substream(seed, Stream.EVIDENCE_BLOCKS, number),
            progress=_shifted(progress, len(info.losses), epochs),
        )  # fmt: skip
        info.losses += part.info.losses
        laplace.loc.data = mode.loc.detach().clone()
        if number < len(blocks) - 1:
            with seeded(substream(seed, Stream.HYPERPARAMETERS, number), model.device):
                found, _ = empirical_model(laplace, x, y, precision=precision, noise=noise)
                tuned = require_laplace(guide(found))
                tuned.loc.data = laplace.loc.detach().clone()
                tuned.take_curvature(x, y)
            laplace = tuned
            info.log_evidence.append(laplace.log_evidence())
    with seeded(seed, model.device):
        laplace.take_curvature(x, y)
    info.log_evidence.append(laplace.log_evidence())
    info.convergence = laplace.convergence(x, y)
    info.seconds = time.perf_counter() - start
    return Posterior(laplace, seed=seed, info=info)


def _blocks(epochs: int, burn_in: int, every: int) -> list[int]:
    """Epochs between updates: an update stands between any two blocks."""
    first = min(burn_in, epochs)
    whole, rest = divmod(epochs - first, every)
    return [first, *([every] * whole), *([rest] if rest else [])]


def _shifted(progress: bool | ProgressCallback, done: int, total: int) -> bool | ProgressCallback:
    """The caller's callback, counting epochs over all blocks."""
    if not callable(progress):
        return progress
    report = progress
    return lambda now, _, message: report(done + now, total, message)
