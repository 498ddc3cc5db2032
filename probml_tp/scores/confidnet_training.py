"""Training ConfidNet: the head on the classifier's features, then a copy of its encoder too."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.optim import Adam, Optimizer

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import non_negative_integer, positive, positive_integer, valid_seed
from probml_tp.inference.progress import ProgressCallback, progress_reporter
from probml_tp.scores.confidnet import (
    ConfidNet,
    ConfidNetCriterion,
    ConfidNetEpoch,
    ConfidNetStart,
    confidence_loss,
    true_class_probability,
)
from probml_tp.scores.confidnet_network import ConfidNetEncoder, ConfidNetNetwork
from probml_tp.scores.network_pass import NetworkPass
from probml_tp.streams import Stream, seeded, substream

__all__ = ["fit_confidnet"]


@checked()
def fit_confidnet(
    run_train: NetworkPass,
    y_train: object,
    run_validation: NetworkPass,
    y_validation: object,
    *,
    hidden: Sequence[int] = (400, 400, 400, 400),
    epochs: int = 50,
    lr: float = 1e-3,
    batch_size: int = 128,
    error_weight: float = 1.0,
    cloning_epochs: int = 0,
    cloning_lr: float = 1e-6,
    select_by: ConfidNetCriterion = "loss",
    start: ConfidNetStart = "max-probability",
    standardize: bool = True,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> ConfidNet:
    r"""Learn the probability of the true class from what a posterior says about labelled points.

    Both steps minimise, by Adam at a constant rate,

    .. math:: \frac1N \sum_n w_n \left(\sigma(f_n) - \bar p_{n, y_n}\right)^2, \qquad
              w_n = \begin{cases} w & \arg\max_c \bar p_{nc} \ne y_n \\ 1 & \text{else.}\end{cases}

    1. **Head.** ``f`` is a fully connected net on the features of the pass, which are fixed: no
       pass through the classifier is made. It is added to the logit of the largest probability,
       and is 0 at first, so that training begins with that score and not behind it.
    2. **Cloning** (``cloning_epochs > 0``). A copy of the classifier's net up to its last layer, at
       the centre of the posterior, is trained on together with the best head of step 1. The
       classifier and the targets :math:`\bar p` stay as they are.

    After each epoch the validation points are judged; the best epoch of both steps is kept, the
    start among them: an epoch takes its place only if its loss at these points is lower by more
    than the standard error of the difference. Nothing else is chosen by them, and the test points
    take no part.

    The published recipe is ``start="none", standardize=False, lr=1e-4, select_by="aupr-error"``:
    a head from a random start. It needs thousands of points with hundreds of errors
    (:mod:`probml_tp.scores.confidnet`).

    The pass should be one of the deterministic net: of dropout, a pass of
    ``Posterior(Delta.at_centre(guide))``. Any posterior will do for step 1. The net was fitted to
    its training points: their labels have probabilities near 1 and few of them are errors. A pass
    over *other* labelled points, held out from the classifier's fit or augmented, can be given as
    ``run_train`` instead.

    Args:
        run_train: a pass with features over the points to learn from.
        y_train: their labels.
        run_validation: a pass over others, to choose the epoch by.
        y_validation: their labels.
        hidden: widths of the head's hidden layers.
        epochs: passes over the points in step 1.
        lr: the learning rate of step 1.
        batch_size: points a step.
        error_weight: ``w``, the weight of points that the posterior's predictions get wrong.
        cloning_epochs: passes over the points in step 2; 0 leaves it out.
        cloning_lr: the learning rate of step 2. The published one moves the encoder little; on
            13,500 digits five epochs at 3e-5 raised the average precision more.
        select_by: choose the epoch by the loss on the validation points, or by the average
            precision for the errors among them (the published rule; noisy if they are few: with
            25 it cost up to .02 of AUROC). It is the loss in any case if none of them is an
            error, or all are.
        start: ``"max-probability"``, or ``"none"``: the head alone, initialised at random, as
            published.
        standardize: give the head features of mean 0 and variance 1 over the training points, or
            as they are, as published.
        seed: determines the initial weights and the batches.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.

    Returns:
        The score, with the record of its training.

    Raises:
        ValueError: an option is out of range, the labels do not fit the passes, these have no
            features or different numbers of them, the loss stops being finite, or cloning is asked
            for a posterior without a centre or for features other than those there.

    Example:
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> x, y = torch.linspace(-1, 1, 60).reshape(30, 2), torch.arange(30) % 3
        >>> run = network_pass(Posterior(Delta(model)), x, features=True)
        >>> confidnet = fit_confidnet(run, y, run, y, hidden=(16,), epochs=3)
        >>> confidnet(run).shape, len(confidnet.history), confidnet.selected_by
        (torch.Size([30]), 4, 'loss')
    """
    begin = time.perf_counter()
    options: dict[str, Any] = {
        "hidden": [positive_integer("hidden", width) for width in hidden],
        "epochs": positive_integer("epochs", epochs),
        "lr": positive("lr", lr),
        "batch_size": positive_integer("batch_size", batch_size),
        "error_weight": positive("error_weight", error_weight),
        "cloning_epochs": non_negative_integer("cloning_epochs", cloning_epochs),
        "cloning_lr": positive("cloning_lr", cloning_lr),
        "select_by": _one_of("select_by", select_by, ConfidNetCriterion),
        "start": _one_of("start", start, ConfidNetStart),
        "standardize": bool(standardize),
        "seed": valid_seed(seed),
    }
    train = _Points.of(run_train, y_train, error_weight)
    validation = _Points.of(run_validation, y_validation, error_weight)
    features = run_train.require_features()
    with seeded(substream(seed, Stream.CONFIDNET_HEAD)):
        network = ConfidNetNetwork(
            (features.shape[1], *options["hidden"]),
            like=features,
            from_probability=start == "max-probability",
        )
    if standardize:
        network.standardize(features)
    network.inputs(run_validation)
    encoder = ConfidNetEncoder.at_centre(run_train) if cloning_epochs else None
    with progress_reporter(progress, "confidnet", unit="epoch") as report:
        trainer = _Trainer(train, validation, options, report)
        if network.from_probability:
            trainer.begin(network)
        trainer.run("head", network, epochs=epochs, lr=lr)
        fitted = trainer.confidnet(options, time.perf_counter() - begin)
        if encoder is None:
            return fitted
        network = copy.deepcopy(trainer.best)
        network.encoder = encoder
        trainer.run("cloning", network, epochs=cloning_epochs, lr=cloning_lr)
    cloned = trainer.confidnet(options, time.perf_counter() - begin)
    cloned.after_head = fitted
    return cloned


def _one_of(name: str, value: str, known: Any) -> str:
    if value not in get_args(known):
        raise ValueError(f"{name} must be one of {get_args(known)}; got {value!r}.")
    return value


@dataclass(frozen=True)
class _Points:
    """The points of a pass, and what is to be learnt at them."""

    run: NetworkPass
    p_true: Tensor
    errors: Tensor
    weights: Tensor

    @classmethod
    def of(cls, run: NetworkPass, y: object, error_weight: float) -> _Points:
        errors = run.predictive.predicted_class != run.predictive.check_labels(y)
        p_true = true_class_probability(run, y).exp().to(run.require_features().dtype)
        return cls(run, p_true, errors, torch.where(errors, error_weight, 1.0).to(p_true))

    def losses(self, logits: Tensor) -> Tensor:
        """The loss of each point, ``(N,)``."""
        return self.weights * (logits.sigmoid() - self.p_true).square()

    def judge(self, logits: Tensor) -> tuple[float, float | None]:
        """The loss and the average precision of finding the errors, at logits ``(N,)``."""
        loss = float(self.losses(logits).mean())
        if not self.has_both:
            return loss, None
        unsure = -logsigmoid(logits.double())
        return loss, float(average_precision_score(self.errors.cpu(), unsure.cpu()))

    @property
    def has_both(self) -> bool:
        """Whether some points are errors and some are not."""
        return bool(self.errors.any()) and not bool(self.errors.all())


class _Trainer:
    """The training loop, and the best epoch so far of all that it has run."""

    best: ConfidNetNetwork

    def __init__(
        self,
        train: _Points,
        validation: _Points,
        options: dict[str, Any],
        report: ProgressCallback,
    ) -> None:
        self.train, self.validation, self.report = train, validation, report
        self.batch_size: int = options["batch_size"]
        self.total: int = options["epochs"] + options["cloning_epochs"]
        self.selected_by: ConfidNetCriterion = (
            options["select_by"] if validation.has_both else "loss"
        )
        self.generator = torch.Generator().manual_seed(
            substream(options["seed"], Stream.CONFIDNET_ORDER)
        )
        self.history: list[ConfidNetEpoch] = []
        self.done = 0
        self.chosen, self.highest = -1, -math.inf
        self.to_beat: Tensor | None = None

    def begin(self, network: ConfidNetNetwork) -> None:
        """Record the network as it starts: what an epoch has to improve on to be chosen."""
        logits = network.start(self.train.run).to(self.train.p_true)
        loss = float(self.train.losses(logits).mean())
        self._judge("start", network, loss)
        self.to_beat = self.validation.losses(network.start(self.validation.run))

    def confidnet(self, options: dict[str, Any], seconds: float) -> ConfidNet:
        """The best so far, as a score."""
        return ConfidNet(
            copy.deepcopy(self.best),
            history=self.history,
            chosen=self.chosen,
            selected_by=self.selected_by,
            options=options,
            seconds=seconds,
        )

    def run(
        self, step: Literal["head", "cloning"], network: ConfidNetNetwork, *, epochs: int, lr: float
    ) -> None:
        """Train for some epochs, judging each."""
        x, start = network.inputs(self.train.run), network.start(self.train.run)
        optimizer = Adam([p for p in network.parameters() if p.requires_grad], lr=lr, fused=True)
        for _ in range(epochs):
            train_loss = self._epoch(network, optimizer, x, start.to(self.train.p_true))
            self._judge(step, network, train_loss)
            self.done += 1
            self.report(self.done, self.total, f"loss {train_loss:.4g}")

    def _epoch(
        self, network: ConfidNetNetwork, optimizer: Optimizer, x: Tensor, start: Tensor
    ) -> float:
        order = torch.randperm(len(x), generator=self.generator).to(x.device)
        total = self.train.p_true.new_zeros(())
        for index in order.split(self.batch_size):
            total += self._step(network, optimizer, x[index], start[index], index) * len(index)
        mean = float(total) / len(x)
        if not math.isfinite(mean):
            raise ValueError(
                f"the loss must stay finite; it became {mean} in epoch {self.done + 1}. "
                f"Lower lr or cloning_lr (now {optimizer.param_groups[0]['lr']:g})."
            )
        return mean

    def _step(
        self,
        network: ConfidNetNetwork,
        optimizer: Optimizer,
        x: Tensor,
        start: Tensor,
        index: Tensor,
    ) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        logits, weights = network(x, start), self.train.weights[index]
        loss = confidence_loss(logits, self.train.p_true[index], weights)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def _judge(
        self,
        step: Literal["start", "head", "cloning"],
        network: ConfidNetNetwork,
        train_loss: float,
    ) -> None:
        """Record an epoch, and keep its parameters if it is the best of all so far."""
        run = self.validation.run
        logits = network.logits(network.inputs(run), network.start(run))
        loss, aupr = self.validation.judge(logits)
        self.history.append(ConfidNetEpoch(step, train_loss, loss, aupr))
        quality = aupr if self.selected_by == "aupr-error" else -loss
        if quality is not None and quality > self.highest and self._improves(logits):
            self.highest, self.chosen = quality, len(self.history) - 1
            self.best = copy.deepcopy(network)

    def _improves(self, logits: Tensor) -> bool:
        """Whether the loss is below the start's by more than the standard error allows."""
        if self.to_beat is None:
            return True
        gain = self.to_beat - self.validation.losses(logits)
        return bool(gain.mean() > gain.std(correction=0) / len(gain) ** 0.5)
