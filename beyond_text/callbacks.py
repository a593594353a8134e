"""What is watched while training: speed, learning rates, retrieval metrics and pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from beyond_text.batch import Batch
from beyond_text.config import View
from beyond_text.corpus import Corpus
from beyond_text.encode import rank
from beyond_text.files import write_json
from beyond_text.memory import give_back_freed_memory
from beyond_text.metrics import Ranking, retrieval_metrics
from beyond_text.module import ContrastiveModule
from beyond_text.panel import PanelRow, draw_panel


def read_history(run: Path) -> dict[str, dict[View, Any]]:
    """Metrics of every view at step 0 and after each stage up to this run, in order."""
    path = run / "history.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save_history(run: Path, history: dict[str, dict[View, Any]]) -> None:
    """Writes what `read_history` reads."""
    write_json(run / "history.json", history)


def _move(
    span: float, averages: Iterable[Tensor], currents: Iterable[Tensor], steps: Tensor | int
) -> None:
    """Takes averages of `steps` steps one on; whole numbers (positions, counts) are the current."""
    share = 1 / (1 + span * int(steps))
    for average, current in zip(averages, currents, strict=True):
        if average.is_floating_point():
            average.lerp_(current, share)
        else:
            average.copy_(current)


class Averaging(WeightAveraging):
    """Ends a run with an average of its weights and moving statistics over the last steps.

    After step n, average <- average + (weights - average) / (1 + span (n - 1)): polynomial-decay
    averaging (Shamir and Zhang 2013, arXiv 1212.1824) with span = 1 / (1 + eta). It reaches back
    over about the last `span` of the steps, however many these are; 1 is the plain mean. Lightning
    keeps both in checkpoints.
    """

    def __init__(self, span: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=partial(_move, span))

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """The average lies where the model is going to lie, which Lightning moves only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, module, stage)

    @contextmanager
    def in_use(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
        """The module has the averaged weights meanwhile."""
        self.on_validation_epoch_start(trainer, module)
        try:
            yield
        finally:
            self.on_validation_epoch_end(trainer, module)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """As at the end of training, which a run that was killed after its last step never sees."""
        self.on_train_end(trainer, module)


@contextmanager
def averaged(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """The module has meanwhile the weights that the run would end with now."""
    with ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Averaging):
                stack.enter_context(callback.in_use(trainer, module))
        yield


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
        corpus: Corpus,
        tokenizer: Any,
        every: int,
        bf16: bool,
        views: tuple[View, ...] = ("product", "text", "image"),
    ) -> None:
        self.corpus = corpus
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
            module.model, self.tokenizer, self.corpus, self.views, bf16=self.bf16, workers=workers
        )
        metrics = {
            view: retrieval_metrics(found, self.corpus.queries, self.corpus.qrels)
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
            picture = panel_of(self.corpus, rankings["product"])
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


def panel_of(corpus: Corpus, ranking: Ranking, queries: int = 8, top: int = 6) -> np.ndarray:
    """A few queries, spread over the split, with their top products: uint8 [height, width, 3]."""
    judged = corpus.qrels.set_index(["query_id", "product_id"]).iloc[:, 0]
    grades = {pair: float(grade) for pair, grade in judged.items()}
    place = {product_id: number for number, product_id in enumerate(corpus.product_ids)}
    texts = corpus.queries.set_index("query_id")["query"]
    rows = []
    for number in np.linspace(0, len(ranking.query_ids) - 1, queries).astype(int):
        query_id = ranking.query_ids[number]
        found = ranking.product_ids[number][:top]
        samples = [corpus.products[place[product_id]] for product_id in found]
        rows.append(
            PanelRow(
                query=texts[query_id] or "(a picture)",
                pictures=[sample.image for sample in samples],
                grades=[grades.get((query_id, product_id), 0.0) for product_id in found],
                captions=[sample.text for sample in samples],
            )
        )
    return np.asarray(draw_panel(rows))
