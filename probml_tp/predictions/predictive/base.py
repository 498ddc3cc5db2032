"""What predictions of any kind have: the draws that they average over."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Predictive"]


@dataclass(frozen=True)
class Predictive:
    """What a posterior predicts at ``N`` points.

    Args:
        num_samples: the number of draws ``S`` that the predictions average over; 0 for closed
            forms.
        outputs: the net's outputs at every draw, ``(S, N, k)``, if they were kept.
    """

    num_samples: int
    outputs: Tensor | None

    def require_outputs(self) -> Tensor:
        """The outputs at every draw.

        Raises:
            ValueError: they were not kept.
        """
        if self.outputs is None:
            raise ValueError(
                "this needs the outputs at every draw, which were not kept. "
                "Call predict(..., keep_outputs=True)."
            )
        return self.outputs
