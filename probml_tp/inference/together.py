"""One fit by several processes, as ``torchrun`` starts them: each takes a share of every batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from probml_tp.streams import Stream, substream

__all__ = ["Together"]


class Together:
    r"""The processes of a fit, or this one alone.

    With shares :math:`B_r` of a batch of :math:`B` points, the loss is
    :math:`\sum_r \tfrac{B_r}{B}\,\ell(B_r)`, and so are its gradients: those of the whole batch up
    to rounding, where a loss draws no random numbers for each example.

    Args:
        group: of ``torch.distributed``; ``None``: this process is alone.

    Raises:
        ValueError: it is something else.
    """

    def __init__(self, group: ProcessGroup | None) -> None:
        if not isinstance(group, ProcessGroup | None):
            raise ValueError(
                f"process_group must be one of torch.distributed; got {group!r}. Pass "
                f"torch.distributed.group.WORLD, after init_process_group."
            )
        self.group = group
        self.size = 1 if group is None else distributed.get_world_size(group)
        self.rank = 0 if group is None else distributed.get_rank(group)

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def agree(self, order: Tensor) -> Tensor:
        """The first process's order of the points."""
        if not self.is_alone:
            distributed.broadcast(order, group=self.group, group_src=0)
        return order

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; empty where there are more processes than points."""
        return batch.tensor_split(self.size)[self.rank]

    def add(self, loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """Add up the loss and the parameters' gradients over processes.

        Args:
            loss: this process's part, a scalar.
            parameters: get the sum in place of their own gradient.

        Returns:
            The sum of losses.
        """
        own = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in own:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        flat = torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients)])
        distributed.all_reduce(flat, group=self.group)
        parts = flat[1:].split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return flat[0]

    def part_noise(self, seed: int, epoch: int) -> None:
        """Let the examples of different processes have random numbers of their own."""
        if self.rank:
            torch.manual_seed(substream(seed, Stream.PROCESSES, self.rank, epoch))
