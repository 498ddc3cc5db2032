r"""The choice of ODIN's step and temperature, on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.scores.network_pass import NetworkPass
from probml_tp.scores.odin import Odin

__all__ = ["EPSILONS", "OdinChoice", "choose_odin"]

EPSILONS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
"""The steps that Generalized ODIN chooses from (Hsu et al. 2020), and none."""


@dataclass(frozen=True)
class OdinChoice:
    r"""What :func:`choose_odin` chose, and from what.

    Args:
        odin: the score with the chosen temperature and step.
        criterion: ``"mean-score"`` or ``"auroc"``.
        values: the criterion by :math:`(T, \varepsilon)`; the chosen pair has the largest.
    """

    odin: Odin
    criterion: Literal["mean-score", "auroc"]
    values: Mapping[tuple[float, float], float]


@checked()
def choose_odin(
    validation: NetworkPass,
    *,
    out_validation: NetworkPass | None = None,
    temperatures: Sequence[float] | None = None,
    epsilons: Sequence[float] = EPSILONS,
    like: Odin | None = None,
) -> OdinChoice:
    r"""Choose ODIN's step and temperature on validation data, never on test data.

    Without out-of-distribution data, by Generalized ODIN's rule (Hsu et al. 2020): the step that
    maximises the mean score :math:`\tfrac1N\sum_n \max_c p_T(c \mid \tilde x_n)` of in-distribution
    validation data. It compares steps at one temperature only: the mean score falls as ``T`` grows
    whatever the data, so that more than one temperature is refused. Where the mean score still
    grows at the largest step, as it does for small nets, the list of steps has chosen rather than
    the data, and the detector may be worse than with the default: look at ``values``.

    With out-of-distribution *validation* data, as in the ODIN paper, by the AUROC of telling the
    two apart, over all pairs. Those data must be of another kind than the out-of-distribution
    *test* data: otherwise the detector has been shown what it is tested on.

    For each temperature there is one gradient, whatever the number of steps. Of equal values the
    first is taken.

    Args:
        validation: a pass over in-distribution validation data.
        out_validation: a pass over out-of-distribution validation data.
        temperatures: those to choose from; default: that of ``like``.
        epsilons: the steps to choose from, in units of the raw inputs.
        like: an :class:`Odin` with all other options; default: ``Odin()``.

    Returns:
        The choice.

    Raises:
        ValueError: there is nothing to choose from, several temperatures are given without
            ``out_validation``, or the passes are those of two posteriors.

    Example:
        >>> from probml_tp import Delta, NormalPrior, Posterior
        >>> from probml_tp.models import mlp_classifier
        >>> from probml_tp.scores import network_pass
        >>> model = mlp_classifier(2, hidden=(8,), num_classes=3, prior=NormalPrior(1.0))
        >>> run = network_pass(Posterior(Delta(model)), torch.randn(20, 2))
        >>> choice = choose_odin(run, epsilons=[0.0, 0.01])
        >>> choice.odin.epsilon, choice.odin.temperature
        (0.01, 1000.0)
    """
    like = like or Odin()
    temperatures = [like.temperature] if temperatures is None else temperatures
    _check_choice(validation, out_validation, temperatures, epsilons)
    values: dict[tuple[float, float], float] = {}
    for temperature in temperatures:
        odin = replace(like, temperature=temperature)
        inside = odin.at_epsilons(validation, epsilons)
        if out_validation is None:
            criteria = inside.exp().mean(1).tolist()
        else:
            outside = odin.at_epsilons(out_validation, epsilons)
            criteria = [_auroc(i, o) for i, o in zip(inside, outside, strict=True)]
        values |= {(temperature, e): v for e, v in zip(epsilons, criteria, strict=True)}
    temperature, epsilon = max(values, key=lambda pair: values[pair])
    best = replace(like, temperature=temperature, epsilon=epsilon)
    return OdinChoice(best, "mean-score" if out_validation is None else "auroc", values)


def _check_choice(
    validation: NetworkPass,
    out_validation: NetworkPass | None,
    temperatures: Sequence[float],
    epsilons: Sequence[float],
) -> None:
    if not temperatures or not epsilons:
        raise ValueError(
            f"there must be a temperature and a step to choose from; got {len(temperatures)} and "
            f"{len(epsilons)}. Leave them out for the defaults."
        )
    if out_validation is None and len(temperatures) > 1:
        raise ValueError(
            f"mean scores compare steps at one temperature only; got temperatures "
            f"{list(temperatures)}. Pass one, or out-of-distribution validation data."
        )
    if out_validation is not None and out_validation.posterior is not validation.posterior:
        raise ValueError(
            "both passes must be those of one posterior; got two posteriors. Make them with the "
            "same one."
        )


def _auroc(inside: Tensor, outside: Tensor) -> float:
    """How well a score tells in-distribution points, the positive class, from others."""
    scores = torch.cat([inside, outside])
    truth = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))])
    return float(roc_auc_score(truth.numpy(), scores.cpu().numpy()))
