"""Weight averaging: a run ends with the average of its weights over its last steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class Averaging(WeightAveraging):
    """Ends a run with an average of its weights and moving statistics over the last steps.

    After step n, average <- average + (weights - average) / (1 + span (n - 1)): polynomial-decay
    averaging (Shamir and Zhang 2013, arXiv 1212.1824) with span = 1 / (1 + eta). It reaches back
    over about the last `span` of the steps, however many these are; 1 is the plain mean. Lightning
    keeps both in checkpoints.
    """

    def __init__(self, span: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=partial(_update, span))

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Places the average on the run's device, to which Lightning moves the model only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)

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
    span: float, averages: Iterable[Tensor], currents: Iterable[Tensor], steps: Tensor | int
) -> None:
    """Adds the current weights to averages of `steps` steps; integer tensors are copied."""
    share = 1 / (1 + span * int(steps))
    for average, current in zip(averages, currents, strict=True):
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
