"""Weight averaging: a run ends with the average of its weights over its last steps."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Averaging(WeightAveraging):
    """Ends a run with an average of its weights and moving statistics over the last steps.

    After step n, average <- average + (weights - average) / (1 + span (n - 1)): polynomial-decay
    averaging (Shamir and Zhang 2013, arXiv 1212.1824) with span = 1 / (1 + eta). It reaches back
    over about the last `span` of the steps, however many these are; 1 is the plain mean. Lightning
    keeps both in checkpoints. Frozen weights are their own average, and no step reads them.
    """

    def __init__(self, span: float) -> None:
        self._frozen: set[int] = set()
        super().__init__(use_buffers=True, multi_avg_fn=partial(_update, span, self._frozen))

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Places the average on the run's device, to which Lightning moves the model only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, *others: Any
    ) -> None:
        """Notes where the frozen weights lie, and adds the others to the average."""
        self._frozen.clear()
        self._frozen.update(p.data_ptr() for p in module.parameters() if not p.requires_grad)
        super().on_train_batch_end(trainer, module, *others)

    @contextmanager
    def in_use(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
        """Gives the module the averaged weights within the block."""
        self.on_validation_epoch_start(trainer, module)
        try:
            yield
        finally:
            self.on_validation_epoch_end(trainer, module)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Does what `on_train_end` does, which a run resumed after its last step never calls."""
        self.on_train_end(trainer, module)


def _update(
    span: float,
    frozen: Container[int],
    averages: Iterable[Tensor],
    currents: Iterable[Tensor],
    steps: Tensor | int,
) -> None:
    """Adds the current weights to averages of `steps` steps; integer tensors are copied.

    Those whose data begin at an address in `frozen` stay.
    """
    share = 1 / (1 + span * int(steps))
    for average, current in zip(averages, currents, strict=True):
        if current.data_ptr() in frozen:
            continue
        if average.is_floating_point():
            average.lerp_(current, share)
        else:
            average.copy_(current)


@contextmanager
def averaged(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Gives the module, within the block, the weights with which the run would end now."""
    with ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Averaging):
                stack.enter_context(callback.in_use(trainer, module))
        yield
