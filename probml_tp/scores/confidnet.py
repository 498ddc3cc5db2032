r"""ConfidNet: a network that learns how probable the true class is (Corbière et al. 2019, 2021).

The probability that a posterior gives to the *true* class, :math:`p^* = \bar p_y`, ranks errors
below hits nearly without fault, but needs the label. ConfidNet is a head that regresses it on the
features of the last layer; :func:`~probml_tp.scores.fit_confidnet` trains it.

**What it needs.** Errors to learn from. A net that fits its training points has :math:`p^*` near 1
at all of them: a head trained from a random start, as published, then learns a constant, and what
little it varies by is chosen by the few errors of the validation points. On small data sets of five
kinds (150 to 400 training points) it ranked errors with an AUROC of .55 to .90, the largest
probability with .77 to .95. By default the head therefore starts at the largest probability and
learns what to add to it, and no epoch is kept that does not improve on it by more than the standard
error on the validation points. With a few dozen errors among the training points, or more, it has
something to add.

**Why the head has no prior.** For :math:`p^*_n \sim \mathcal N(\sigma(f_n), s^2 / w_n)` the loss is
:math:`2 s^2 / N` times the negative log likelihood, so that the head is a maximum-likelihood fit,
or MAP under a flat prior: as published. A proper prior would act through its precision times
:math:`s^2` alone, and the targets, which are computed and not measured, have no noise to give
:math:`s` a value. Nor is a posterior over the head asked for anything but its best guess. It is
therefore a plain network, and no :class:`~probml_tp.BayesianModel`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from probml_tp.checks.arguments import checked
from probml_tp.model import BayesianModel
from probml_tp.scores.confidnet_network import ConfidNetEncoder, ConfidNetNetwork
from probml_tp.scores.network_pass import NetworkPass
from probml_tp.storage.tensor_files import read_tensors, tensor_file, write_tensors
from probml_tp.streams import seeded

__all__ = [
    "ConfidNet",
    "ConfidNetCriterion",
    "ConfidNetEpoch",
    "ConfidNetStart",
    "confidence_loss",
    "true_class_probability",
]

ConfidNetCriterion = Literal["aupr-error", "loss"]
"""What an epoch is chosen by, on the validation points."""

ConfidNetStart = Literal["max-probability", "none"]
"""Where the head begins: at the largest probability, or anywhere."""

FORMAT = "probml_tp confidnet 2"


@checked()
def true_class_probability(run: NetworkPass, y: object) -> Tensor:
    r"""The probability of the true class, TCP: what ConfidNet learns, and the oracle's score.

    .. math:: \log \bar p_{n, y_n}

    Its logarithm, which has the same order and no ties where it rounds to 1. It needs the labels,
    so it is not a score but the bound of those that learn it.

    Args:
        run: a pass.
        y: the labels ``(N,)``.

    Returns:
        The confidence in nats, at most 0, float64.

    Raises:
        ValueError: ``y`` is not one label for each point.
    """
    return run.predictive.log_prob(y)


def confidence_loss(logits: Tensor, p_true: Tensor, weights: Tensor) -> Tensor:
    r"""The loss, :math:`\tfrac1N\sum_n w_n (\sigma(f_n) - p^*_n)^2`.

    The weights are not normalised: what they give to errors is not taken from hits.

    Args:
        logits: ``f``, the head's outputs ``(N,)``.
        p_true: the probabilities of the true class ``(N,)``.
        weights: ``w``, ``(N,)``.

    Returns:
        A scalar.

    Example:
        >>> one = torch.ones(1)
        >>> confidence_loss(0 * one, one, 2 * one)
        tensor(0.5000)
    """
    return (weights * (logits.sigmoid() - p_true).square()).mean()


@dataclass(frozen=True)
class ConfidNetEpoch:
    """What one epoch of training came to.

    Args:
        step: ``"start"``, the largest probability itself; ``"head"``, on the classifier's
            features; or ``"cloning"``, with a copy of its encoder.
        train_loss: the mean loss over the epoch's steps.
        validation_loss: the loss on the validation points after it.
        validation_aupr_error: average precision of finding the errors among these, 0 to 1; ``None``
            where it says nothing: no such point is an error, or all are.
    """

    step: Literal["start", "head", "cloning"]
    train_loss: float
    validation_loss: float
    validation_aupr_error: float | None


class ConfidNet:
    """A fitted ConfidNet: a score, that is, a function of a pass.

    It reads the features of the pass, without another pass through the classifier; if the epoch
    chosen was one with a cloned encoder, it reads the inputs. Made by
    :func:`~probml_tp.scores.fit_confidnet`.

    Args:
        network: the head, with its encoder if it has one.
        history: every epoch of both steps, in order.
        chosen: the index in ``history`` of the epoch that ``network`` is of.
        selected_by: what it was chosen by. It is ``"loss"``, whatever was asked for, if no
            validation point is an error or all are.
        options: what it was fitted with.
        seconds: the wall time of the fit.

    Attributes:
        after_head: with cloning, the score as it was after step 1, chosen among its epochs alone;
            else ``None``. It is not saved.
    """

    after_head: ConfidNet | None = None

    def __init__(
        self,
        network: ConfidNetNetwork,
        *,
        history: Sequence[ConfidNetEpoch],
        chosen: int,
        selected_by: ConfidNetCriterion,
        options: Mapping[str, Any],
        seconds: float,
    ) -> None:
        self.network = network.requires_grad_(False)
        self.history = tuple(history)
        self.chosen = chosen
        self.selected_by: ConfidNetCriterion = selected_by
        self.options = dict(options)
        self.seconds = seconds

    @property
    def best(self) -> ConfidNetEpoch:
        """The epoch that was chosen."""
        return self.history[self.chosen]

    def __call__(self, run: NetworkPass) -> Tensor:
        r"""The confidence :math:`\log\sigma(f)`: a logarithm, so that values near 1 are not ties.

        Args:
            run: a pass of the posterior that it was fitted to.

        Returns:
            The confidence in nats, at most 0, ``(N,)``, float64.

        Raises:
            ValueError: the pass has no features, or another number of them.
        """
        start = self.network.start(run)
        return logsigmoid(self.network.logits(self.network.inputs(run), start).double())

    @checked()
    def estimate(self, run: NetworkPass) -> Tensor:
        r"""What it takes the probability of the true class to be, :math:`\sigma(f)`.

        Args:
            run: a pass of the posterior that it was fitted to.

        Returns:
            Numbers from 0 to 1, ``(N,)``, float64.

        Raises:
            ValueError: the pass has no features, or another number of them.
        """
        return self(run).exp()

    # ------------------------------------------------------------------------- saving, loading

    @checked()
    def save(self, path: str | Path) -> Path:
        """Write it as plain tensors (safetensors), with its history.

        Args:
            path: the file; ``.safetensors`` is appended if it has no such ending.

        Returns:
            The file's path.

        Raises:
            ValueError: the folder cannot be written, or the disk is full.
        """
        path = tensor_file(path)
        record = {
            "sizes": self.network.sizes,
            "from_probability": self.network.from_probability,
            "last": None if self.network.encoder is None else self.network.encoder.last,
            "history": [asdict(epoch) for epoch in self.history],
            "chosen": self.chosen,
            "selected_by": self.selected_by,
            "options": self.options,
            "seconds": self.seconds,
        }
        header = {"format": FORMAT, "record": json.dumps(record)}
        write_tensors(path, self.network.state_dict(), header)
        return path

    @classmethod
    @checked()
    def load(cls, path: str | Path, model: BayesianModel) -> ConfidNet:
        """Read it back.

        Args:
            path: a file written by :meth:`save`.
            model: the classifier, whose net a cloned encoder has the form of.

        Returns:
            The score.

        Raises:
            ValueError: the file is missing, damaged or of another format, or is another net's.
        """
        header, tensors = read_tensors(Path(path), "ConfidNet", form=FORMAT)
        try:
            record = json.loads(header["record"])
            network = _network(record, tensors, model)
            history = [ConfidNetEpoch(**epoch) for epoch in record["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"a saved ConfidNet must be a whole file of a classifier like {model.name}; {path} "
                f"is not ({reason}). Save it again."
            ) from error
        known = {key: record[key] for key in ("chosen", "selected_by", "options", "seconds")}
        return cls(network, history=history, **known)


def _network(
    record: Mapping[str, Any], tensors: Mapping[str, Tensor], model: BayesianModel
) -> ConfidNetNetwork:
    """The network of a saved record."""
    like = torch.empty(0, dtype=next(iter(tensors.values())).dtype, device=model.device)
    with seeded(0):  # its initial weights, which are replaced
        network = ConfidNetNetwork(
            record["sizes"], like=like, from_probability=record["from_probability"]
        )
    if record["last"] is not None:
        network.encoder = ConfidNetEncoder(model, model.initial_params(), record["last"])
    network.load_state_dict(dict(tensors))
    return network
