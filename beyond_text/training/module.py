"""Turns a batch into a step: encodes its views, computes the losses, logs, configures AdamW.

Which losses, which learning rates and which starting weights are configuration; nothing here knows
a stage by name. Everything random in a step is decided by seed and step, so a resumed run ends with
the weights of one that never stopped. The loss is that of the batch of all processes, of which each
takes its own anchors (`gathered.py`), and its gradients are those of one process with that batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from beyond_text.config.settings import Config, active_losses, views_of, widths_of
from beyond_text.config.views import PAIRS, PRODUCT, TEACHER
from beyond_text.models.moe import MoeFusion
from beyond_text.models.temperature import Temperature
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards.batch import Batch, Embeddings
from beyond_text.training.balance import load_balance
from beyond_text.training.blocks import Term, losses_of
from beyond_text.training.contrasts import Contrasts
from beyond_text.training.cross_batch import CrossBatchMemory
from beyond_text.training.gathered import Gathered, gather
from beyond_text.training.loss_weights import LossWeights
from beyond_text.training.losses import LOSSES, chance_level, temperature_name
from beyond_text.training.modality_dropout import drop_modalities
from beyond_text.training.optim import (
    StartPenalty,
    adamw,
    freeze,
    frozen_towers,
    warmup_cosine,
)
from beyond_text.training.processes import Processes
from beyond_text.training.teacher import Lesson, Teacher, follow
from beyond_text.training.uniecs_losses import OBJECTIVES


class TrainingError(RuntimeError):
    """Stops a run that must not go on: the loss is NaN, or too many samples are unreadable."""


class ContrastiveModule(pl.LightningModule):
    """Trains a two-tower model with the losses of a stage."""

    def __init__(self, model: TwoTower, config: Config, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model = model
        self.model.chunk_size = config.chunk_size
        self.config = config
        self.weights = LossWeights(active_losses(config), config.loss_weighting == "learned")
        self.views = views_of(config)
        self.widths = widths_of(config)
        self.memory = CrossBatchMemory(config.memory_size)
        self._processes = Processes()
        self.seen = 0
        self.skipped = 0
        self.earlier_seconds = 0.0
        self.began = time.perf_counter()
        self.teacher = teacher
        freeze(model, config.rates)
        self.start_penalty = StartPenalty(model, config.start_penalty)
        # Lightning keeps the modes it finds.
        self.train()

    def train(self, mode: bool = True) -> ContrastiveModule:
        """Sets training mode, except in frozen towers: no dropout and no moving statistics there.

        Text encoders that train without their own dropout stay in evaluation mode too; dropout of
        their adapters follows `mode`.
        """
        super().train(mode)
        if not self.config.text_encoder.dropout:
            for tower in (self.model.text_tower, self.model.query_tower):
                tower.eval()
                for name, part in tower.named_modules():
                    if name.endswith("lora_dropout"):
                        part.train(mode)
        for name in frozen_towers(self.model):
            getattr(self.model, name).eval()
        return self

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, including those before it was resumed."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def on_train_start(self) -> None:
        """Moves the memory to the device: a checkpoint is read before the model is moved.

        The teacher moves, too: it is no part of the module, of its checkpoints or of DDP.
        """
        self.memory.to(self.device)
        if self.teacher:
            self.teacher.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds the draws of the step: of a sample those that all processes share come first."""
        self._seed(batch_idx, 0)

    def _seed(self, batch_idx: int, rank: int) -> None:
        seed = np.random.SeedSequence((self.config.seed, rank, batch_idx))
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the weighted sum of the stage's losses.

        Raises:
            TrainingError: the loss is not finite, or too large a share of samples was unreadable.
        """
        reduced = drop_modalities(
            batch,
            self.config.data.modality_dropout,
            self._queries_per_product(batch),
            self.processes.rank,
            self.processes.world,
        )
        # Dropout inside the encoders is the one draw that differs between processes.
        if self.processes.rank:
            self._seed(batch_idx, self.processes.rank)
        embeddings, lesson = self.model.embed(reduced, self.views), self._lesson(reduced)
        gathered = self.gather(batch, embeddings, lesson)
        self._count(batch, gathered)
        losses, balance = self._losses(gathered, lesson)
        total = self.weights(losses) + self.config.fusion_balance * sum(balance.values())
        values = on_cpu({"total": total} | losses | balance | self._learned(losses))
        if not math.isfinite(values["total"]):
            raise TrainingError(
                f"step {self.global_step}: the loss is not finite "
                f"({', '.join(f'{name} {values[name]:g}' for name in losses)}); "
                f"product ids of the batch: {' '.join(batch.product_ids)}"
            )
        self._log_step(gathered, values)
        self.memory.add(gathered)
        return total

    @property
    def processes(self) -> Processes:
        """The processes of the run."""
        if self._processes.world != self.trainer.world_size:
            self._processes = Processes(self.trainer.world_size, self.global_rank)
        return self._processes

    def gather(
        self, batch: Batch, embeddings: Embeddings, lesson: Lesson | None = None
    ) -> Gathered:
        """Returns the batch of all processes, of which this one's has the vectors `embeddings`.

        The teacher's vectors of products are gathered with them.
        """
        return gather(
            batch,
            embeddings,
            self._queries_per_product(batch),
            self.processes,
            self.memory.size > 0,
            lesson and lesson.products,
        )

    def losses(self, batch: Batch, embeddings: Embeddings) -> dict[str, Tensor]:
        """Returns the stage's losses, unweighted; 0 for losses that the source does not feed."""
        lesson = self._lesson(batch)
        return self._losses(self.gather(batch, embeddings, lesson), lesson)[0]

    def _lesson(self, batch: Batch) -> Lesson | None:
        """Returns what the teacher makes of a batch; None without a teacher."""
        if self.teacher is None:
            return None
        return self.teacher.lesson(batch, self._queries_per_product(batch))

    def _losses(
        self, gathered: Gathered, lesson: Lesson | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the losses, and by its name in logs what balances a mixture's experts."""
        if lesson is not None:
            assert gathered.taught is not None
            lesson = lesson._replace(products=gathered.taught)
        pairs = [name for name in self.weights.fixed if name in PAIRS]
        contrasts = Contrasts(gathered, self.memory.all(), self.config.negative_weight, pairs)
        terms = {name: self._terms(name, contrasts, lesson) for name in self.weights.fixed}
        balance = self._balance()
        found = losses_of(terms | balance, self.processes.sum, self.processes.world)
        # Times 0 instead of left out: every process takes part in the backward pass of gathering.
        losses = {name: found[name] * (name in gathered.losses) for name in terms}
        return losses, {name: found[name] for name in balance}

    def _terms(self, name: str, contrasts: Contrasts, lesson: Lesson | None) -> list[Term]:
        """Returns an objective's sums over the anchors of this process, at every width."""
        temperature, terms = self._temperature(name), []
        for width, weight in self.widths:
            if name == TEACHER:
                assert lesson is not None
                found = follow(contrasts.in_batch._replace(width=width), lesson)
            elif name in OBJECTIVES:
                found = OBJECTIVES[name](contrasts.scene.at(width), temperature.value)
            else:
                found = LOSSES[self.config.loss](
                    contrasts.of_pair(name).at(width),
                    temperature.value,
                    temperature.bias,
                )
            terms += [term._replace(share=weight * term.share) for term in found]
        return terms

    def _balance(self) -> dict[str, list[Term]]:
        """Returns how unevenly a mixture's experts were loaded in this step, by its name in logs.

        Products alone count: a query with a picture goes through the same router, before them. So
        the views decide whether there is a term, and not what one process has in its batch.
        """
        fusion = self.model.fusion
        if not isinstance(fusion, MoeFusion):
            return {}
        routing, fusion.routing = fusion.routing, None
        if routing is None or PRODUCT.fused not in self.views:
            return {}
        return {"fusion/balance": [load_balance(routing)]}

    def _temperature(self, objective: str) -> Temperature:
        """Returns the temperature that an objective divides by."""
        temperature = self.model.temperatures[temperature_name(objective)]
        assert isinstance(temperature, Temperature)
        return temperature

    def _queries_per_product(self, batch: Batch) -> int:
        """Returns the number of adjacent rows of each product, one for each query slot."""
        return max(1, len(batch.product_ids) * self.processes.world // self.config.batch_size)

    def _count(self, batch: Batch, gathered: Gathered) -> None:
        """Counts products and unreadable samples; stops the run where too many are unreadable.

        The counts are those of all processes, which therefore stop together.
        """
        self.seen += gathered.seen
        self.skipped += gathered.skipped
        for line in batch.skipped:
            # Lightning's own prints on the first process alone.
            (print if self.global_rank else self.print)(f"skipped: {line}")
        # As if ten batches had been seen at least: in the first ones, one sample weighs too much.
        limit = self.config.data.max_skipped * max(self.seen, 10 * self.config.batch_size)
        if self.skipped > limit:
            last = batch.skipped[-1] if batch.skipped else "of another process"
            raise TrainingError(
                f"{self.skipped} of {self.seen} samples could not be read, more than "
                f"data.max_skipped={self.config.data.max_skipped:g}; last: {last}"
            )

    def _learned(self, losses: Iterable[str]) -> dict[str, Tensor]:
        """Returns what is learned beside encoders and layers, by its name in logs."""
        learned = {
            f"temperature/{pair}": self._temperature(pair).value
            for pair in (temperature_name(name) for name in losses if name != TEACHER)
        }
        learned |= {f"loss_weight/{name}": w for name, w in self.weights.learned().items()}
        if "product" in self.views:
            learned["fusion/image_weight"] = self.model.image_log_weight.exp()
        learned |= {f"fusion/{name}": value for name, value in self.model.fusion.logged.items()}
        return learned

    def _log_step(self, gathered: Gathered, values: Mapping[str, float]) -> None:
        """Logs losses, what is learned, the batch's anchors, and the loss at chance level."""
        candidates = len(gathered.keys.product) + self.memory.rows
        chance = chance_level(len(gathered.keys.query.query), candidates)
        logged = {name: value for name, value in values.items() if "/" in name} | {
            "data/skipped": self.skipped,
            "data/anchors": gathered.anchors,
            "loss/chance": chance * sum(weight for _, weight in self.widths),
        }
        rows = len(gathered.own_keys.query.query)
        for name in gathered.losses:
            self.log(f"loss/{name}", torch.tensor(values[name]), prog_bar=True, batch_size=rows)
        for name, value in logged.items():
            # A number would go to the device, and be waited for where it is written.
            self.log(name, torch.tensor(float(value)), batch_size=rows)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the counts and the cross-batch memory."""
        counted = {"seen": self.seen, "skipped": self.skipped, "seconds": self.seconds}
        checkpoint["counted"] = counted
        checkpoint["remembered"] = self.memory.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what `on_save_checkpoint` saved."""
        counted = checkpoint["counted"]
        self.seen, self.skipped = counted["seen"], counted["skipped"]
        self.earlier_seconds = counted["seconds"]
        self.memory.load(checkpoint.get("remembered", []))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient norm to `clip_norm` (0: not at all) and logs the norm before it.

        Raises:
            TrainingError: the norm is not finite; the weights are still those of the step before.
        """
        limit = self.config.clip_norm or float("inf")
        # The model's norm only: the learned weights of the losses must not take a share of it.
        norm = clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], limit)
        (value,) = on_cpu({"norm": norm}).values()
        self.log("gradient_norm", torch.tensor(value))
        # Float16's scaler skips such a step by itself.
        if not math.isfinite(value) and self.trainer.precision != "16-mixed":
            raise TrainingError(f"step {self.global_step}: the gradient norm is {value:g}")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, then clamps every temperature to its limits.

        Not in `on_train_batch_end`: Lightning writes a checkpoint before it calls that hook.
        """
        super().optimizer_step(*args, **kwargs)
        for temperature in self.model.temperatures.values():
            assert isinstance(temperature, Temperature)
            temperature.clamp()

    def configure_optimizers(self) -> Any:
        """Returns AdamW by the learning-rate table, with its schedule over the run's steps."""
        config = self.config
        optimizer = adamw(
            self.model,
            config.rates,
            config.weight_decay,
            self.weights.parameters(),
            fused=self.trainer.precision != "16-mixed",
        )
        self.start_penalty.attach(optimizer)
        schedule = warmup_cosine(optimizer, config.total_steps, config.warmup, config.lr_floor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def on_cpu(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Reads numbers from the device, which is waited for once."""
    stacked = torch.stack([value.detach().float() for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))
