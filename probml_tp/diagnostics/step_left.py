"""Whether a variational normal is at its optimum: the step that is left, from fresh draws.

See :mod:`probml_tp.inference.settling` for what it is.
"""

from __future__ import annotations

from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.guide import check_num_samples
from probml_tp.inference.settling import StepLeft, step_left_of
from probml_tp.posterior import Posterior

__all__ = ["StepLeft", "step_left"]


@checked()
def step_left(
    posterior: Posterior, data: tuple[Tensor, Tensor], *, num_samples: int = 4000, seed: int = 0
) -> StepLeft:
    r"""How far a variational normal is from the best of its kind.

    Args:
        posterior: of a guide with a centre ``loc`` in unconstrained space.
        data: inputs and targets that it was fitted to.
        num_samples: draws that the expectations are over.
        seed: determines them.

    Returns:
        The largest of all :math:`|\delta_i|` and :math:`|\lambda_i|`.

    Raises:
        ValueError: the guide is no normal trained by the evidence lower bound.

    Example:
        >>> from probml_tp import MeanFieldNormal, fit
        >>> from probml_tp.models import dugongs_line
        >>> classic = dugongs_line()
        >>> start = fit(classic.model, MeanFieldNormal, classic.data, epochs=0)
        >>> step_left(start, classic.data).value > 10
        True
    """
    guide, model = posterior.guide, posterior.model
    if not guide.is_variational_normal:
        raise ValueError(
            f"the step left is of a normal that maximises the evidence lower bound; got the "
            f"{posterior.name} posterior. Pass mean-field or a low-rank normal."
        )
    count = check_num_samples(num_samples)
    return step_left_of(guide, *model.check_data(*data), num_samples=count, seed=seed)
