"""Turns a batch into a step: encodes its views, computes the losses, logs, configures AdamW.

Which losses, which learning rates and which starting weights are configuration; nothing here knows
a stage by name. Everything random in a step (dropout, modality dropout) is decided by seed, step
and process, so a resumed run ends with the weights of one that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from beyond_text.config.settings import Config, active_losses, views_of, widths_of
from beyond_text.config.views import PAIRS, QUERY, View
from beyond_text.models.temperature import Temperature
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards.batch import Batch, Embeddings, Qrels, QueryKeys, anchors_of
from beyond_text.training.cross_batch import (
    Candidates,
    CrossBatchMemory,
    candidates_of,
    concatenate,
    first_slot_qrels,
)
from beyond_text.training.loss_weights import LossWeights
from beyond_text.training.losses import LOSSES, chance_level, temperature_name
from beyond_text.training.matryoshka import over_widths
from beyond_text.training.modality_dropout import drop_modalities
from beyond_text.training.optim import adamw, freeze, frozen_towers, warmup_cosine
from beyond_text.training.relevance import (
    Keys,
    equal,
    judged_zero,
    relevance_matrix,
    share_between_equals,
)
from beyond_text.training.uniecs_losses import OBJECTIVES


class TrainingError(RuntimeError):
    """Stops a run that must not go on: the loss is NaN, or too many samples are unreadable."""


class ContrastiveModule(pl.LightningModule):
    """Trains a two-tower model with the losses of a stage."""

    def __init__(self, model: TwoTower, config: Config) -> None:
        super().__init__()
        self.model = model
        self.model.chunk_size = config.chunk_size
        self.config = config
        self.weights = LossWeights(active_losses(config), config.loss_weighting == "learned")
        self.views = views_of(config)
        self.widths = widths_of(config)
        self.memory = CrossBatchMemory(config.memory_size)
        self.seen = 0
        self.skipped = 0
        self.earlier_seconds = 0.0
        self.began = time.perf_counter()
        freeze(model, config.rates)
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
        """Moves the memory to the device: a checkpoint is read before the model is moved."""
        self.memory.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds the random draws of the step."""
        seed = np.random.SeedSequence((self.config.seed, self.global_rank, batch_idx))
        torch.manual_seed(int(seed.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the weighted sum of the stage's losses.

        Raises:
            TrainingError: the loss is not finite, or too large a share of samples was unreadable.
        """
        self._count(batch)
        queries_per_product = self._queries_per_product(batch)
        reduced = drop_modalities(batch, self.config.data.modality_dropout, queries_per_product)
        embeddings = self.model.embed(reduced, self.views)
        losses = self.losses(batch, embeddings)
        total = self.weights(losses)
        if not torch.isfinite(total):
            values = ", ".join(f"{name} {loss.item():g}" for name, loss in losses.items())
            raise TrainingError(
                f"step {self.global_step}: the loss is not finite ({values}); "
                f"product ids of the batch: {' '.join(batch.product_ids)}"
            )
        self._log_losses(batch, losses)
        self.memory.add(batch, embeddings, queries_per_product)
        return total

    def losses(self, batch: Batch, embeddings: Embeddings) -> dict[str, Tensor]:
        """Returns the stage's losses, unweighted; 0 for losses that the source does not feed."""
        # Sorted: the order of a set differs between processes, which would gather other views.
        views = sorted(embeddings.vectors)
        vectors = {v: self._gathered(embeddings.vectors[v], gradients=True) for v in views}
        present = {v: self._gathered(embeddings.present[v]) for v in views}
        keys = Keys(
            QueryKeys(*map(self._gathered, batch.query_keys)),
            self._gathered(batch.product_key),
            self._gathered(batch.text_key),
        )
        # A product has a row for each of its queries, but is a candidate once.
        queries_per_product = self._queries_per_product(batch)
        products = candidates_of(vectors, present, keys.product, keys.text, queries_per_product)
        qrels = first_slot_qrels(batch.qrels, queries_per_product)
        rows = Embeddings(vectors, present)
        losses = {}
        if pairs := [name for name in self.weights.fixed if name in PAIRS]:
            contrasted = self._contrasted(keys.query, products, qrels)
            losses = {name: self._pair_loss(name, rows, products, *contrasted) for name in pairs}
        if objectives := [name for name in self.weights.fixed if name in OBJECTIVES]:
            number = len(batch.product_ids) // queries_per_product
            relevance = {
                view: self._judged(
                    relevance_matrix, keys.query, qrels, number, view
                ).repeat_interleave(queries_per_product, dim=1)
                for view in QUERY
            }
            for name in objectives:
                rest = (present, relevance, keys, self._temperature(name).value)
                losses[name] = over_widths(self.widths, OBJECTIVES[name], (vectors,), *rest)
        # Times 0 instead of left out: the backward pass of gathering is collective, so every
        # process must take part in it.
        return {name: loss * (name in batch.losses) for name, loss in losses.items()}

    def _pair_loss(
        self,
        pair: str,
        rows: Embeddings,
        products: Candidates,
        candidates: Candidates,
        relevance: Tensor,
        negative_weight: Tensor | None,
    ) -> Tensor:
        """Contrasts two views, with the pair's own temperature.

        Anchors are the rows' queries; for text_image, the batch's products. Candidates, and the
        columns of the matrices, are the batch's products followed by the remembered ones.
        """
        anchor, candidate = PAIRS[pair]
        anchors: Mapping[View, Tensor] = rows.vectors
        has_anchor: Mapping[View, Tensor] = rows.present
        if pair == "text_image":
            anchors, has_anchor, negative_weight = products.vectors, products.present, None
            # Products of one text are each other's positives: the text fits either picture.
            relevance = equal(
                (products.product_key, candidates.product_key),
                (products.text_key, candidates.text_key),
            )
        elif pair == "query_text":
            relevance = share_between_equals(relevance, candidates.text_key)
        temperature = self._temperature(pair)
        return over_widths(
            self.widths,
            LOSSES[self.config.loss],
            (anchors[anchor], candidates.vectors[candidate]),
            relevance,
            has_anchor[anchor],
            candidates.present[candidate],
            temperature.value,
            temperature.bias,
            fresh=len(products.product_key),
            negative_weight=negative_weight,
        )

    def _contrasted(
        self, keys: QueryKeys, products: Candidates, qrels: Qrels
    ) -> tuple[Candidates, Tensor, Tensor | None]:
        """Returns the batch's and the remembered products, and two matrices [queries, products].

        These are the products' relevance for the queries, and their weight as negatives (None: all
        count 1).
        """
        parts, own = [products], len(products.product_key) // self.trainer.world_size
        judged = [(qrels, own)]
        if self.memory.rows:
            older, remembered = self.memory.all()
            parts.append(older.map(self._gathered))
            judged.append((remembered, self.memory.rows))
        relevance = [self._judged(relevance_matrix, keys, *part) for part in judged]
        weight = None
        if self.config.negative_weight != 1:
            zeros = torch.cat([self._judged(judged_zero, keys, *part) for part in judged], dim=1)
            weight = 1 + (self.config.negative_weight - 1) * zeros
        return concatenate(parts), torch.cat(relevance, dim=1), weight

    def _judged(
        self,
        matrix: Callable[..., Tensor],
        keys: QueryKeys,
        qrels: Qrels,
        products: int,
        view: View = "query",
    ) -> Tensor:
        """Returns a matrix [queries, products] of judgments over all processes.

        `qrels` are those of the `products` of this process.
        """
        own_columns = matrix(keys, qrels, products, view)
        return self._gathered(own_columns.T.contiguous()).T

    def _gathered(self, tensor: Tensor, gradients: bool = False) -> Tensor:
        """Returns the rows of all processes; of a single process, the tensor itself."""
        if self.trainer.world_size == 1:
            return tensor
        if gradients and not tensor.requires_grad:
            # The backward pass of gathering is collective: a process whose slice has no picture
            # must take part too.
            tensor = tensor.detach().requires_grad_()
        gathered = self.all_gather(tensor, sync_grads=gradients)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def _temperature(self, objective: str) -> Temperature:
        """Returns the temperature that an objective divides by."""
        temperature = self.model.temperatures[temperature_name(objective)]
        assert isinstance(temperature, Temperature)
        return temperature

    def _queries_per_product(self, batch: Batch) -> int:
        """Returns the number of adjacent rows of each product, one for each query slot."""
        return max(1, len(batch.product_ids) // self.config.batch_size)

    def _count(self, batch: Batch) -> None:
        """Counts products and unreadable samples; stops the run where too many are unreadable."""
        # Products, however many rows they have; skipped ones have no id.
        self.seen += len(set(batch.product_ids) - {""}) + len(batch.skipped)
        self.skipped += len(batch.skipped)
        self.log("data/skipped", float(self.skipped), batch_size=len(batch.product_ids))
        for line in batch.skipped:
            self.print(f"skipped: {line}")
        # As if ten batches had been seen at least: in the first ones, one sample weighs too much.
        limit = self.config.data.max_skipped * max(self.seen, 10 * self.config.batch_size)
        if self.skipped > limit:
            raise TrainingError(
                f"{self.skipped} of {self.seen} samples could not be read, more than "
                f"data.max_skipped={self.config.data.max_skipped:g}; last: {batch.skipped[-1]}"
            )

    def _log_losses(self, batch: Batch, losses: Mapping[str, Tensor]) -> None:
        """Logs losses, temperatures, learned weights, and the loss at chance level."""
        rows = len(batch.product_ids)
        for name in batch.losses:
            self.log(f"loss/{name}", losses[name], prog_bar=True, batch_size=rows)
        for pair in dict.fromkeys(map(temperature_name, losses)):
            self.log(f"temperature/{pair}", self._temperature(pair).value, batch_size=rows)
        for name, weight in self.weights.learned().items():
            self.log(f"loss_weight/{name}", weight, batch_size=rows)
        if "product" in self.views:
            self.log("fusion/image_weight", self.model.image_log_weight.exp(), batch_size=rows)
        if (share := getattr(self.model.fusion, "term_share", None)) is not None:
            self.log("fusion/term_share", share, batch_size=rows)
        self.log("data/anchors", float(anchors_of(batch)), batch_size=rows)
        products, processes = rows // self._queries_per_product(batch), self.trainer.world_size
        candidates = (products + self.memory.rows) * processes
        chance = chance_level(rows * processes, candidates)
        chance *= sum(weight for _, weight in self.widths)
        self.log("loss/chance", chance, batch_size=rows)

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
        self.log("gradient_norm", norm)
        # Float16's scaler skips such a step by itself.
        if not torch.isfinite(norm) and self.trainer.precision != "16-mixed":
            raise TrainingError(f"step {self.global_step}: the gradient norm is {norm.item():g}")

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
        schedule = warmup_cosine(optimizer, config.total_steps, config.warmup, config.lr_floor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
