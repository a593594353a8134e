"""The Lightning half of the model: one training step for every stage.

Which losses, what moves and from where is configuration; nothing here knows a stage by name. All
that a step draws (dropout, lost modalities) is decided by seed, step and process, so a run that
goes on after a kill ends with the weights of one that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from beyond_text.config.settings import Config, active_losses, views_of
from beyond_text.config.views import PAIRS, View
from beyond_text.models.temperature import Temperature
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards.batch import Batch, Embeddings, Qrels
from beyond_text.training.cross_batch import (
    Candidates,
    CrossBatchMemory,
    candidates_of,
    concatenate,
    first_slot_qrels,
)
from beyond_text.training.loss_weights import LossWeights
from beyond_text.training.losses import LOSSES, chance_level
from beyond_text.training.optim import adamw, freeze, frozen_towers, warmup_cosine
from beyond_text.training.relevance import Keys, equal, relevance_matrix, share_between_equals
from beyond_text.training.uniecs_losses import OBJECTIVES


class TrainingError(RuntimeError):
    """A run that must not go on: the loss is no number, or too many samples are unreadable."""


def _tempered_as(objective: str) -> str:
    """The pair of views whose temperature it takes: its own, or for UniECS's text and image."""
    return objective if objective in PAIRS else "text_image"


class ContrastiveModule(pl.LightningModule):
    """Encodes a batch's views, computes the losses that the stage names, logs what happened."""

    def __init__(self, model: TwoTower, config: Config) -> None:
        super().__init__()
        self.model = model
        self.model.chunk_size = config.chunk_size
        self.config = config
        self.weights = LossWeights(active_losses(config), config.loss_weighting == "learned")
        self.views = views_of(config)
        self.memory = CrossBatchMemory(config.memory_size)
        self.seen = 0
        self.skipped = 0
        self.earlier = 0.0
        self.began = time.perf_counter()
        freeze(model, config.rates)
        # Lightning keeps the modes it finds.
        self.train()

    def train(self, mode: bool = True) -> ContrastiveModule:
        """Training mode, but for frozen towers: no dropout there, and no moving statistics.

        Nor for text encoders that are trained without their own dropout; an adapter keeps its own.
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
        """Of the run so far, those before a kill included."""
        return self.earlier + time.perf_counter() - self.began

    def on_train_start(self) -> None:
        """Moves what a checkpoint remembers, which was read before the model was moved."""
        self.memory.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds what the step draws."""
        seed = np.random.SeedSequence((self.config.seed, self.global_rank, batch_idx))
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def _gathered(self, tensor: Tensor, gradients: bool = False) -> Tensor:
        """Rows of all processes, with gradients on request; the tensor itself on a single one."""
        if self.trainer.world_size == 1:
            return tensor
        if gradients and not tensor.requires_grad:
            # Gathering back is collective: a process whose slice has no picture takes part too.
            tensor = tensor.detach().requires_grad_()
        gathered = self.all_gather(tensor, sync_grads=gradients)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def _queries_per_product(self, batch: Batch) -> int:
        """Rows of each of the batch's products, which stand together: one for each query."""
        return max(1, len(batch.product_ids) // self.config.batch_size)

    def _one_of_both_lost(
        self, text_row: Tensor, image_row: Tensor, queries_per_product: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Takes text or picture, each alike, from a share of those that have both.

        `queries_per_product` rows that stand together are one product's, and lose the same.
        """
        draw = torch.rand(
            len(text_row) // queries_per_product, device=text_row.device
        ).repeat_interleave(queries_per_product)
        draw[(text_row < 0) | (image_row < 0)] = 1.0
        share = self.config.data.modality_dropout
        lost = text_row.new_tensor(-1)
        return (
            torch.where(draw < share / 2, lost, text_row),
            torch.where((share / 2 <= draw) & (draw < share), lost, image_row),
        )

    def _with_modalities_lost(self, batch: Batch) -> Batch:
        """The batch where a share of the products, and of the queries, lost one of two modalities.

        What else a step draws does not depend on queries' pictures where there are none.
        """
        text_row, image_row = self._one_of_both_lost(
            batch.text_row, batch.image_row, self._queries_per_product(batch)
        )
        batch = batch._replace(text_row=text_row, image_row=image_row)
        if not (batch.query_image_row >= 0).any():
            return batch
        query_row, query_image_row = self._one_of_both_lost(batch.query_row, batch.query_image_row)
        return batch._replace(query_row=query_row, query_image_row=query_image_row)

    def _relevance(self, query_key: Tensor, qrels: Qrels, products: int) -> Tensor:
        """Gain of each product for each query [queries, products] over all processes, by id."""
        own_columns = relevance_matrix(query_key, qrels, products)
        return self._gathered(own_columns.T.contiguous()).T

    def _pair_loss(
        self,
        pair: str,
        rows: Embeddings,
        products: Candidates,
        candidates: Candidates,
        relevance: Tensor,
    ) -> Tensor:
        """The contrast of two views, with the pair's own temperature.

        Anchors are the rows' queries, for text_image the batch's products. Candidates, and columns
        of `relevance`, are these products and then the remembered, which are candidates alone.
        """
        anchor, candidate = PAIRS[pair]
        anchors: Mapping[View, Tensor] = rows.vectors
        has_anchor: Mapping[View, Tensor] = rows.present
        if pair == "text_image":
            anchors, has_anchor = products.vectors, products.present
            # Products of one text are each other's positives: the text fits either picture.
            relevance = equal(
                (products.product_key, candidates.product_key),
                (products.text_key, candidates.text_key),
            )
        elif pair == "query_text":
            relevance = share_between_equals(relevance, candidates.text_key)
        temperature = self._temperature(pair)
        return LOSSES[self.config.loss](
            anchors[anchor],
            candidates.vectors[candidate],
            relevance,
            has_anchor[anchor],
            candidates.present[candidate],
            temperature.value,
            temperature.bias,
            fresh=len(products.product_key),
        )

    def _with_remembered(
        self, query_key: Tensor, candidates: Candidates, relevance: Tensor
    ) -> tuple[Candidates, Tensor]:
        """The candidates and those of earlier batches, and the gain of all for each query."""
        if not self.memory.rows:
            return candidates, relevance
        older, qrels = self.memory.all()
        gains = self._relevance(query_key, qrels, self.memory.rows)
        parts = [candidates, older.map(self._gathered)]
        return concatenate(parts), torch.cat([relevance, gains], dim=1)

    def _temperature(self, name: str) -> Temperature:
        """The temperature that an objective divides by."""
        temperature = self.model.temperatures[_tempered_as(name)]
        assert isinstance(temperature, Temperature)
        return temperature

    def losses(self, batch: Batch, embeddings: Embeddings) -> dict[str, Tensor]:
        """The losses that the stage names, unweighted; 0 where the batch's source feeds others."""
        # In one order, for a set's differs between processes: rows of another view would come.
        views = sorted(embeddings.vectors)
        vectors = {v: self._gathered(embeddings.vectors[v], gradients=True) for v in views}
        present = {v: self._gathered(embeddings.present[v]) for v in views}
        own = Keys(batch.query_key, batch.product_key, batch.text_key)
        keys = Keys(*(self._gathered(key) for key in own))
        # A product has a row for each of its queries, but is a candidate once.
        queries_per_product = self._queries_per_product(batch)
        products = candidates_of(vectors, present, keys.product, keys.text, queries_per_product)
        qrels = first_slot_qrels(batch.qrels, queries_per_product)
        relevance = self._relevance(
            keys.query, qrels, len(batch.product_ids) // queries_per_product
        )
        contrasted = self._with_remembered(keys.query, products, relevance)
        rows = Embeddings(vectors, present)
        pairs = [name for name in self.weights.fixed if name in PAIRS]
        found = {name: self._pair_loss(name, rows, products, *contrasted) for name in pairs}
        if objectives := [name for name in self.weights.fixed if name in OBJECTIVES]:
            relevance = relevance.repeat_interleave(queries_per_product, dim=1)
            for name in objectives:
                temperature = self._temperature(name).value
                found[name] = OBJECTIVES[name](vectors, present, relevance, keys, temperature)
        # Times 0, for gathering back is collective: every process goes the same way back.
        return {name: loss * (name in batch.losses) for name, loss in found.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the stage's losses.

        Raises:
            TrainingError: the loss is not finite, or too large a share of samples was unreadable.
        """
        self._count(batch)
        embeddings = self.model.embed(self._with_modalities_lost(batch), self.views)
        losses = self.losses(batch, embeddings)
        total = self.weights(losses)
        if not torch.isfinite(total):
            values = ", ".join(f"{name} {loss.item():g}" for name, loss in losses.items())
            raise TrainingError(
                f"step {self.global_step}: the loss is not finite ({values}); "
                f"product ids of the batch: {' '.join(batch.product_ids)}"
            )
        rows = len(batch.product_ids)
        for name in batch.losses:
            self.log(f"loss/{name}", losses[name], prog_bar=True, batch_size=rows)
        for pair in dict.fromkeys(map(_tempered_as, losses)):
            self.log(f"temperature/{pair}", self._temperature(pair).value, batch_size=rows)
        for name, weight in self.weights.learned().items():
            self.log(f"loss_weight/{name}", weight, batch_size=rows)
        queries_per_product, processes = self._queries_per_product(batch), self.trainer.world_size
        candidates = (rows // queries_per_product + self.memory.rows) * processes
        chance = chance_level(rows * processes, candidates)
        self.log("loss/chance", chance, batch_size=rows)
        self.memory.add(batch, embeddings, queries_per_product)
        return total

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What was counted and is remembered goes on with the run."""
        counted = {"seen": self.seen, "skipped": self.skipped, "seconds": self.seconds}
        checkpoint["counted"] = counted
        checkpoint["remembered"] = self.memory.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As `on_save_checkpoint` wrote it."""
        counted = checkpoint["counted"]
        self.seen, self.skipped = counted["seen"], counted["skipped"]
        self.earlier = counted["seconds"]
        self.memory.load(checkpoint.get("remembered", []))

    def _count(self, batch: Batch) -> None:
        # Products, however many rows they have; those that were skipped have no id.
        self.seen += len(set(batch.product_ids) - {""}) + len(batch.skipped)
        self.skipped += len(batch.skipped)
        self.log("data/skipped", float(self.skipped), batch_size=len(batch.product_ids))
        for line in batch.skipped:
            self.print(f"skipped: {line}")
        # A tenth of a share is allowed for the first batches, where one sample weighs much.
        limit = self.config.data.max_skipped * max(self.seen, 10 * self.config.batch_size)
        if self.skipped > limit:
            raise TrainingError(
                f"{self.skipped} of {self.seen} samples could not be read, more than "
                f"data.max_skipped={self.config.data.max_skipped:g}; last: {batch.skipped[-1]}"
            )

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to `clip_norm` (0: not at all) and logs the norm before it.

        Raises:
            TrainingError: the norm is not finite; the weights are still those of the step before.
        """
        limit = self.config.clip_norm or float("inf")
        # The model's: weights of the losses must not take from its share of the norm.
        norm = clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], limit)
        self.log("gradient_norm", norm)
        # Float16's scaler skips such a step by itself.
        if not torch.isfinite(norm) and self.trainer.precision != "16-mixed":
            raise TrainingError(f"step {self.global_step}: the gradient norm is {norm.item():g}")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, then keeps every temperature within its limits.

        Here, because a checkpoint is written before the module hears of the batch's end.
        """
        super().optimizer_step(*args, **kwargs)
        for temperature in self.model.temperatures.values():
            assert isinstance(temperature, Temperature)
            temperature.clamp()

    def configure_optimizers(self) -> Any:
        """AdamW by the learning-rate table, warm-up and cosine over the run's own step count."""
        config = self.config
        optimizer = adamw(
            self.model,
            config.rates,
            config.weight_decay,
            self.weights.parameters(),
            fused=self.trainer.precision != "16-mixed",
        )
        schedule = warmup_cosine(optimizer, config.total_steps, config.warmup, config.lr_floor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
