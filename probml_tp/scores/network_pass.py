r"""One pass of a posterior over inputs, and all that scores read from it.

A score is a function of a :class:`NetworkPass`: a *confidence* for each point, higher where the
prediction is more likely to be right, or the point more likely to be in-distribution.
Probabilities, outputs and features come from the same draws and the same passes through the net,
so that no pass is made twice for two scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, TypedDict, cast

import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.last_layer import last_called
from probml_tp.likelihoods import ClassificationLikelihood
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.predictions.draws import DrawBatch, draw_batches
from probml_tp.predictions.predictive import ClassificationPredictive, accumulator_for

__all__ = ["NetworkPass", "Score", "inputs_of", "last_layer", "network_pass"]


@dataclass(frozen=True, eq=False)
class NetworkPass:
    r"""What a posterior says about ``N`` inputs.

    Args:
        posterior: whose pass it was.
        inputs: ``(N, ...)``, for scores that look at the inputs again, as ODIN does.
        predictive: class probabilities, their uncertainty, and the mean outputs.
        features: the inputs of the last layer, flattened, ``(N, d)``: for a guide of finitely many
            points those at each of them side by side, for a linearised net those at the mode, else
            their mean over the draws; ``None`` if they were not asked for.
        seconds: the wall time that it took.

    Example:
        See :func:`network_pass`.
    """

    posterior: Posterior
    inputs: Tensor
    predictive: ClassificationPredictive
    features: Tensor | None
    seconds: float = 0.0

    def __len__(self) -> int:
        """The number of points."""
        return len(self.inputs)

    @property
    def logits(self) -> Tensor:
        """The mean outputs over the draws, one for each class, ``(N, C)``.

        A Bernoulli model's single output ``f`` becomes the logits ``(-f/2, f/2)``, which have the
        same probabilities.

        Raises:
            ValueError: the predictions do not come with outputs.
        """
        outputs = self.predictive.mean_outputs
        if outputs is None:
            raise ValueError(
                "this score needs the mean outputs of the net; these predictions have none. Make "
                "the pass with network_pass."
            )
        return torch.cat([-outputs, outputs], 1) / 2 if outputs.shape[1] == 1 else outputs

    def require_features(self) -> Tensor:
        """The inputs of the last layer, ``(N, d)``.

        Raises:
            ValueError: they were not kept.
        """
        if self.features is None:
            raise ValueError(
                "this score needs the features of the last layer, which were not kept. Call "
                "network_pass(..., features=True)."
            )
        return self.features


class _Options(TypedDict):
    num_samples: int
    batch_size: int
    seed: int


Score: TypeAlias = Callable[[NetworkPass], Tensor]
"""A confidence for each point of a pass, ``(N,)``: higher is more certain."""


@checked()
def network_pass(
    posterior: Posterior,
    x: object,
    *,
    num_samples: int = 100,
    features: bool = False,
    batch_size: int = 250,
    seed: int | None = None,
) -> NetworkPass:
    """Run a classifier's posterior over inputs once, and keep what scores need.

    The predictions are those of :meth:`Posterior.predict` with the same arguments.

    Args:
        posterior: of a classification model.
        x: inputs ``(N, ...)``.
        num_samples: draws to average over; a guide of finitely many points (MAP, an ensemble) uses
            each of them once instead.
        features: keep the inputs of the last layer too.
        batch_size: points at a time.
        seed: determines the draws; default: the posterior's.

    Returns:
        The record.

    Raises:
        ValueError: the model is not one of classification, ``x`` does not fit it, or the net has
            no last layer with features (see :func:`last_layer`).

    Example:
        >>> from probml_tp import Delta, NormalPrior
        >>> from probml_tp.models import mlp_classifier
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> run = network_pass(Posterior(Delta(model)), torch.zeros(5, 2), features=True)
        >>> run.logits.shape, run.features.shape
        (torch.Size([5, 3]), torch.Size([5, 8]))
    """
    model = posterior.model
    if not isinstance(model.likelihood, ClassificationLikelihood):
        raise ValueError(
            f"scores need a classifier; {model.name} has {model.likelihood.describe()}. Use "
            f"posterior.predict(x) for regression."
        )
    inputs = model.check_inputs(x)
    positive_integer("batch_size", batch_size)
    seed = posterior.seed if seed is None else seed
    options: _Options = {"num_samples": num_samples, "batch_size": batch_size, "seed": seed}
    start = time.perf_counter()
    run = _run(posterior, inputs, features=features, options=options)
    return replace(run, seconds=time.perf_counter() - start)


def _run(posterior: Posterior, inputs: Tensor, *, features: bool, options: _Options) -> NetworkPass:
    if not features:
        return NetworkPass(posterior, inputs, posterior.predict(inputs, **options), None)
    layer = last_layer(posterior.model, inputs[:1])
    if posterior.guide.function_moments(inputs[:1]) is None:
        return _with_features(posterior, inputs, layer, **options)
    predictive = posterior.predict(inputs, **options)
    parts = inputs.split(options["batch_size"])
    features_at = [_features_at_centre(posterior, layer, part) for part in parts]
    return NetworkPass(posterior, inputs, predictive, torch.cat(features_at))


def last_layer(model: BayesianModel, x: Tensor) -> nn.Module:
    """The layer whose inputs are the features: the last fully connected one that the net calls.

    Args:
        model: the model.
        x: one input or more.

    Returns:
        The module.

    Raises:
        ValueError: the net calls no ``nn.Linear``, or more after it that has parameters.
    """
    name = last_called(model, x, frozen=True)
    layer = None if name is None else model.net.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        kind = "no layer with parameters" if layer is None else type(layer).__name__
        raise ValueError(
            f"features are the inputs of the last layer, which must be an nn.Linear; the net of "
            f"{model.name} ends in {kind}. Use a score of outputs, or end the net in nn.Linear."
        )
    return layer


def _with_features(
    posterior: Posterior,
    inputs: Tensor,
    layer: nn.Module,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
) -> NetworkPass:
    """Predictions and features from the same passes, draw by draw."""
    guide = posterior.guide
    count = guide.num_atoms or num_samples
    accumulator = accumulator_for(guide.model.likelihood, len(inputs), keep_outputs=False)
    features = _Features(count, side_by_side=guide.num_atoms is not None)
    with inputs_of(layer) as seen:
        batches = draw_batches(
            guide, inputs, num_samples=count, seed=seed, batch_size=batch_size, vectorize="loop"
        )
        seen.clear()  # of the points at which the net was tried
        for batch in batches:
            accumulator.update(batch)
            features.update(batch, torch.stack(seen))
            seen.clear()
    predictive = cast("ClassificationPredictive", accumulator.result())
    return NetworkPass(posterior, inputs, predictive, features.result())


class _Features:
    """The features of all points: of each draw side by side, or their mean."""

    def __init__(self, num_samples: int, *, side_by_side: bool) -> None:
        self.num_samples = num_samples
        self.side_by_side = side_by_side
        self._parts: dict[int, Tensor] = {}

    def update(self, batch: DrawBatch, values: Tensor) -> None:
        """Take in those of a chunk of draws at a batch of points, ``(draws or 1, batch, d)``."""
        start, earlier = batch.points.start, self._parts.get(batch.points.start)
        if self.side_by_side:
            new = values.transpose(0, 1).flatten(1)
            self._parts[start] = new if earlier is None else torch.cat([earlier, new], 1)
        else:
            new = values.mean(0) * ((batch.draws.stop - batch.draws.start) / self.num_samples)
            self._parts[start] = new if earlier is None else earlier + new

    def result(self) -> Tensor:
        """Those of all points, in order."""
        return torch.cat([self._parts[start] for start in sorted(self._parts)])


@torch.no_grad()
def _features_at_centre(posterior: Posterior, layer: nn.Module, x: Tensor) -> Tensor:
    with inputs_of(layer) as seen:
        posterior.model.outputs(posterior.guide.centre(), x)
    return seen[0]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which a layer adds its inputs, flattened to ``(batch, d)``, whenever it is called.

    Yields:
        The list.
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(1)))
    try:
        yield seen
    finally:
        hook.remove()
