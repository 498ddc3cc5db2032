"""The options that several studies have: one name, one meaning and one rule each.

A study declares such an option by :func:`knob`; only its values differ between studies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from probml_tp.harness.config import Same, option

__all__ = ["KNOBS", "Knob", "knob"]

T = TypeVar("T")


@dataclass(frozen=True)
class Knob:
    """What an option means wherever it is found.

    Args:
        help: one sentence on what it does, with its unit.
        minimum: the smallest number allowed.
        maximum: the largest number allowed.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None


KNOBS: Mapping[str, Knob] = {
    "guides": Knob("Which posteriors to compare."),
    "data": Knob("Which data sets."),
    "n": Knob("Number of training points.", 2),
    "test_size": Knob("Number of fresh test points, or images at most.", 1),
    "train_size": Knob("Training points, at most.", 2),
    "noise": Knob("Standard deviation of the noise, in units of the data.", 0.0),
    "hidden": Knob("Hidden units of the net.", 1),
    "prior_precision": Knob("Precision of the normal prior on every weight.", 1e-9),
    "prior_scale": Knob("Standard deviation of the normal prior on every weight.", 1e-6),
    "epochs": Knob("Passes over the data of the stochastic fits.", 1),
    "lr": Knob("Initial learning rate of the stochastic fits (Adam, cosine schedule).", 1e-6),
    "batch_size": Knob("Points a step.", 1),
    "rank": Knob("Columns of the low-rank normal's factor.", 0),
    "rate": Knob("Drop rate of dropout.", 0.001, 0.999),
    "members": Knob("Members of the ensembles.", 2),
    "swag_lr": Knob("Learning rate of SWAG's gradient descent, on the mean loss.", 1e-6),
    "swag_epochs": Knob("Passes over the data of SWAG.", 2),
    "swag_batch_size": Knob("Points a step of SWAG, fewer than all.", 1),
    "chains": Knob("NUTS chains.", 2),
    "draws": Knob("Draws kept of each chain.", 10),
    "warmup": Knob("Warm-up steps of each chain.", 1),
    "max_tree_depth": Knob("At most 2 to this power leapfrog steps a draw.", 1, 20),
    "target_accept": Knob("Acceptance that NUTS aims at.", 0.5, 0.999),
    "jobs": Knob("Processes; as many as there are cores by default.", 1),
    "num_samples": Knob("Draws of each posterior that is not a chain.", 2),
    "resamples": Knob("Bootstrap resamples for the intervals.", 1),
    "level": Knob("Level of the intervals.", 0.5, 0.999),
    "splits": Knob("Random splits into training and test points.", 2),
    "seeds": Knob("Runs from different seeds, the first of them the seed.", 1),
    "points": Knob("Points of each region where predictions are compared.", 2),
    "resolution": Knob("Grid points along each axis of a map.", 2),
    "extent": Knob("Half the width of the maps, in units of the data.", 1.0),
    "radius": Knob("Radius of the far ring, in units of the data.", 1.0),
}
"""Option to what it means. What one study has alone it declares itself."""


def knob(
    name: str,
    default: T,
    *,
    quick: T | Same = Same.AS_DEFAULT,
    full: T | Same = Same.AS_DEFAULT,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    remark: str = "",
) -> T:
    """Declare an option that other studies have too, as a field of a config dataclass.

    Args:
        name: in :data:`KNOBS`; the field's name, perhaps after a prefix that says of which part.
        default: the value of an ordinary run.
        quick: the value under ``--quick``; the default when left out.
        full: the value under ``--full``; the default when left out.
        choices: the texts allowed.
        minimum: the smallest number allowed, where it is another than everywhere.
        maximum: the largest, likewise.
        remark: what else there is to say of it in this study; follows the sentence.

    Returns:
        A dataclass field, typed as its default.

    Raises:
        KeyError: there is no such knob.

    Example:
        >>> from probml_tp.harness.config import ExperimentConfig
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Config(ExperimentConfig):
        ...     chains: int = knob("chains", 4, quick=2)
        >>> Config.preset("quick").chains
        2
    """
    known = KNOBS[name]
    return option(
        default,
        f"{known.help} {remark}".strip(),
        quick=quick,
        full=full,
        choices=choices,
        minimum=known.minimum if minimum is None else minimum,
        maximum=known.maximum if maximum is None else maximum,
    )
