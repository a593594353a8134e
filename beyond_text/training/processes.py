"""What the processes of a run tell each other in a step, beside the gradients that DDP averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class Processes:
    """The processes of a run: how many there are, and which of them this is.

    They talk in a group of their own. DDP's messages start whenever gradients are ready, which is
    at other moments on a process whose slice lacks a view; in one group they could meet ours.
    """

    def __init__(self, world: int = 1, rank: int = 0) -> None:
        self.world = world
        self.rank = rank
        self.group: Any = dist.new_group() if world > 1 else None

    def gather(self, rows: Tensor) -> Tensor:
        """Returns the rows of all processes, in order of rank; each has equally many."""
        if self.world == 1:
            return rows
        found = rows.new_empty(self.world * len(rows), *rows.shape[1:])
        _named("all_gather_single", "all_gather_into_tensor")(
            found, rows.contiguous(), group=self.group
        )
        return found

    def gather_together(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Returns the rows of all processes for each of several parts, as constants; one message.

        The parts have equally many rows, of any width.
        """
        if self.world == 1:
            return [part.detach() for part in parts]
        joined = torch.cat([part.detach() for part in parts], dim=1)
        return list(self.gather(joined).split([part.shape[1] for part in parts], dim=1))

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over the processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """Returns the largest over the processes, number by number."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.world == 1:
            return values
        found = values.clone()
        dist.all_reduce(found, operation, group=self.group)
        return found

    def sum_of_own(self, rows: Tensor) -> Tensor:
        """Returns the sum over the processes of this process's part of the rows of all."""
        if self.world == 1:
            return rows
        found = rows.new_empty(len(rows) // self.world, *rows.shape[1:])
        _named("reduce_scatter_single", "reduce_scatter_tensor")(
            found, rows.contiguous(), group=self.group
        )
        return found


def _named(name: str, before: str) -> Any:
    """Returns a function of torch.distributed, which has another name `before` PyTorch 2.13."""
    return getattr(dist, name if hasattr(dist, name) else before)
