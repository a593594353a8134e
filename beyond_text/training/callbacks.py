"""Callbacks that watch a run: its speed, and retrieval metrics and pictures of its dev split."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.data import Dataset

from beyond_text.config.settings import Config
from beyond_text.metrics.history import save_history
from beyond_text.models.cpu.memory import give_back_freed_memory
from beyond_text.models.precision import uses_bf16
from beyond_text.models.settings import ModelSettings
from beyond_text.retrieval.encode import Encoder
from beyond_text.retrieval.panel import panel_of
from beyond_text.retrieval.shares import Share
from beyond_text.shards.batch import Batch, Sample
from beyond_text.training.averaging import averaged
from beyond_text.training.dev import DevSet, Measured, read_dev
from beyond_text.training.launch import workers_of
from beyond_text.training.module import ContrastiveModule


def _summary(tag: str, picture: NDArray[np.uint8]) -> Summary:
    """Returns a picture [height, width, 3] for TensorBoard, as a JPEG.

    Of photos that is a quarter of the PNG that `SummaryWriter.add_image` makes, 30 times as fast.
    """
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    height, width, colours = picture.shape
    image = Summary.Image(
        height=height, width=width, colorspace=colours, encoded_image_string=file.getvalue()
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])


class Throughput(pl.Callback):
    """Logs products per second over all processes, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        # When the last step ended, and the seconds that the next one waited for its batch.
        self.end = 0.0
        self.waited = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Starts the clock."""
        self.end = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """Measures the wait for the batch: the time since the last step's end."""
        self.waited = time.perf_counter() - self.end

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Logs the two figures of the step."""
        now = time.perf_counter()
        step = max(now - self.end, 1e-9)
        rows = len(batch.product_ids)
        products = len(set(batch.product_ids) - {""}) * trainer.world_size
        # A number would go to the device, and be waited for where it is written.
        speed, share = torch.tensor([products / step, self.waited / step]).unbind()
        module.log("speed/products_per_second", speed, prog_bar=True, batch_size=rows)
        module.log("speed/waiting_for_data", share, batch_size=rows)
        self.end = now


class Retrieval(pl.Callback):
    """Measures retrieval on the dev split every `evaluate_every` steps, and draws a picture panel.

    A run is also measured before its first step. All processes encode; the first one measures.
    """

    dev: DevSet
    tokenizer: Any
    share: Share
    workers: int
    # Set by a cache of pictures' vectors.
    swap: Callable[[Dataset[Sample]], Dataset[Sample]] | None = None

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, settings: ModelSettings, tokenizer: Any, share: Share, processes: int) -> None:
        """Reads the dev split of a run, one of whose machines has a number of its `processes`.

        Raises:
            TableError, ShardError: no such split, or none that can be measured.
        """
        self.dev = read_dev(self.config, settings)
        self.tokenizer = tokenizer
        self.share = share
        self.workers = workers_of(self.config, processes)

    def encoder(self, module: ContrastiveModule) -> Encoder:
        """Returns the module's model as what encodes this process's share of samples."""
        bf16 = uses_bf16(self.config.precision)
        return Encoder(module.model, self.tokenizer, bf16, self.workers, self.share, self.swap)

    def measure(self, module: ContrastiveModule) -> Measured | None:
        """Returns the metrics of each view, and the ranking that stands for the run.

        None in other processes than the first.
        """
        # A training step holds many times what a ranking takes; both at once may be too much.
        give_back_freed_memory()
        # Each process has moving statistics of its own part of a batch; those of the first count.
        self.share.copy_from_first(list(module.buffers()))
        return self.dev.measure(self.encoder(module))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Measures before the first step, so that what cannot be measured stops the run at once."""
        assert isinstance(module, ContrastiveModule)
        if trainer.global_step == 0:
            measured = self.measure_and_log(trainer, module)
            if measured and not module.config.start:
                save_history(Path(module.config.run), {"step 0": measured.by_view})

    def measure_and_log(self, trainer: pl.Trainer, module: ContrastiveModule) -> Measured | None:
        """Measures each view, and writes metrics and a picture panel to TensorBoard."""
        with averaged(trainer, module):
            measured = self.measure(module)
        if measured and isinstance(trainer.logger, TensorBoardLogger):
            board = trainer.logger.experiment
            for view, kinds in measured.by_view.items():
                for kind, block in kinds.items():
                    for measure in ("ndcg@10", "recall@10"):
                        if measure in block:
                            tag = f"dev_{measure}/{view}/{kind}"
                            board.add_scalar(tag, block[measure], trainer.global_step)
            board.add_text("dev pool", self.dev.catalogue.in_words, trainer.global_step)
            picture = panel_of(self.dev.catalogue, self.dev.query_set, measured.ranking)
            board.file_writer.add_summary(_summary("dev queries", picture), trainer.global_step)
        return measured

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Measures on the way; the last step is measured when the run ends."""
        step, every = trainer.global_step, self.config.evaluate_every
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if every and stepped and step < trainer.max_steps and step % every == 0:
            assert isinstance(module, ContrastiveModule)
            self.measure_and_log(trainer, module)
