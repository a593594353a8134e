"""What is watched while training: speed, learning rates, retrieval metrics and pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from beyond_text.config.views import View
from beyond_text.metrics.history import save_history
from beyond_text.metrics.ranking import Ranking, retrieval_metrics
from beyond_text.models.cpu.memory import give_back_freed_memory
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.panel import panel_of
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import rank
from beyond_text.shards.batch import Batch
from beyond_text.training.averaging import averaged
from beyond_text.training.module import ContrastiveModule


class Throughput(pl.Callback):
    """Logs products a second and the share of time spent waiting for data, both over all ranks."""

    def __init__(self) -> None:
        self.end = 0.0
        self.waited = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Starts the clock."""
        self.end = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """The time since the last step's end went into getting the batch."""
        self.waited = time.perf_counter() - self.end

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Logs the step's two figures."""
        now = time.perf_counter()
        step = max(now - self.end, 1e-9)
        rows = len(batch.product_ids)
        products = len(set(batch.product_ids) - {""}) * trainer.world_size
        module.log("speed/products_per_second", products / step, prog_bar=True, batch_size=rows)
        module.log("speed/waiting_for_data", self.waited / step, batch_size=rows)
        self.end = now


class Retrieval(pl.Callback):
    """Retrieval metrics and a picture panel of the dev split, every so many steps; 0: never."""

    def __init__(
        self,
        catalogue: Catalogue,
        query_set: QuerySet,
        tokenizer: Any,
        every: int,
        bf16: bool,
        views: tuple[View, ...] = ("product", "text", "image"),
    ) -> None:
        self.catalogue = catalogue
        self.query_set = query_set
        self.tokenizer = tokenizer
        self.every = every
        self.bf16 = bf16
        self.views = views

    def measure(self, module: ContrastiveModule) -> tuple[dict[View, Any], dict[View, Ranking]]:
        """Metrics and rankings of each view, now."""
        # A training step holds many times what a ranking takes; both at once may be too much.
        give_back_freed_memory()
        workers = min(1, module.config.data.workers)
        rankings = rank(
            module.model,
            self.tokenizer,
            self.catalogue,
            self.query_set,
            self.views,
            bf16=self.bf16,
            workers=workers,
        )
        metrics = {
            view: retrieval_metrics(found, self.query_set.queries, self.query_set.qrels)
            for view, found in rankings.items()
        }
        return metrics, rankings

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Before the first step of a run that starts from nothing: the untouched encoders."""
        assert isinstance(module, ContrastiveModule)
        if trainer.global_step == 0 and not module.config.start:
            metrics, _ = self.measure_and_log(trainer, module)
            save_history(Path(module.config.run), {"step 0": metrics})

    def measure_and_log(
        self, trainer: pl.Trainer, module: ContrastiveModule
    ) -> tuple[dict[View, Any], dict[View, Ranking]]:
        """Writes metrics and pictures to TensorBoard and returns metrics and rankings."""
        with averaged(trainer, module):
            metrics, rankings = self.measure(module)
        if isinstance(trainer.logger, TensorBoardLogger):
            board = trainer.logger.experiment
            for view, kinds in metrics.items():
                for kind, block in kinds.items():
                    for measure in ("ndcg@10", "recall@10"):
                        if measure in block:
                            tag = f"dev_{measure}/{view}/{kind}"
                            board.add_scalar(tag, block[measure], trainer.global_step)
            picture = panel_of(self.catalogue, self.query_set, rankings["product"])
            board.add_image("dev queries", picture, trainer.global_step, dataformats="HWC")
        return metrics, rankings

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Measures every `every` optimizer steps, but for the last, which the run ends with."""
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every and stepped and step < trainer.max_steps and step % self.every == 0:
            assert isinstance(module, ContrastiveModule)
            if trainer.is_global_zero:
                self.measure_and_log(trainer, module)
            trainer.strategy.barrier()
