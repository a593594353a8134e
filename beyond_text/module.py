"""The Lightning half of the model: one training step for every stage.

Which losses, what moves and from where is configuration; nothing here knows a stage by name. All
that a step draws (dropout, lost modalities) is decided by seed, step and process, so a run that
goes on after a kill ends with the weights of one that never stopped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from beyond_text.batch import Batch, Embeddings
from beyond_text.config import PAIRS, Config, active_pairs, views_of
from beyond_text.losses import LOSSES, chance_level, relevance_matrix, share_between_equals
from beyond_text.model import Temperature, TwoTower
from beyond_text.optim import adamw, freeze, frozen_towers, warmup_cosine


class TrainingError(RuntimeError):
    """A run that must not go on: the loss is no number, or too many samples are unreadable."""


class ContrastiveModule(pl.LightningModule):
    """Encodes a batch's views, contrasts each pair the stage names, logs what happened."""

    def __init__(self, model: TwoTower, config: Config) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.pairs = active_pairs(config)
        self.views = views_of(config)
        self.seen = 0
        self.skipped = 0
        freeze(model, config.rates)
        # Lightning keeps the modes it finds.
        self.train()

    def train(self, mode: bool = True) -> ContrastiveModule:
        """Training mode, but for frozen towers: no dropout there, and no moving statistics."""
        super().train(mode)
        for name in frozen_towers(self.model):
            getattr(self.model, name).eval()
        return self

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

    def _with_modalities_lost(self, batch: Batch) -> Batch:
        """Takes text or picture, each alike, from a share of the products that have both."""
        draw = torch.rand(len(batch.text_row), device=batch.text_row.device)
        draw[(batch.text_row < 0) | (batch.image_row < 0)] = 1.0
        share = self.config.data.modality_dropout
        lost = batch.text_row.new_tensor(-1)
        text_row = torch.where(draw < share / 2, lost, batch.text_row)
        image_row = torch.where((share / 2 <= draw) & (draw < share), lost, batch.image_row)
        return batch._replace(text_row=text_row, image_row=image_row)

    def _relevance(self, batch: Batch, pair: str) -> Tensor:
        """Who is relevant to whom [anchors, candidates] over all processes, by id."""
        text_key = self._gathered(batch.text_key)
        if pair == "text_image":
            same_product = self._gathered(batch.product_key)
            # Rows of one text are each other's positives: the text fits either picture.
            return (
                (same_product[:, None] == same_product[None, :])
                | (text_key[:, None] == text_key[None, :])
            ).float()
        own_columns = relevance_matrix(
            self._gathered(batch.query_key), batch.judged, len(batch.product_ids)
        )
        relevance = self._gathered(own_columns.T.contiguous()).T
        return share_between_equals(relevance, text_key) if pair == "query_text" else relevance

    def losses(self, batch: Batch, embeddings: Embeddings) -> dict[str, Tensor]:
        """The loss of each pair of views that the stage names, unweighted."""
        # In one order, for a set's differs between processes: rows of another view would come.
        views = sorted(embeddings.vectors)
        vectors = {v: self._gathered(embeddings.vectors[v], gradients=True) for v in views}
        present = {v: self._gathered(embeddings.present[v]) for v in views}
        found = {}
        for name in self.pairs:
            anchor, candidate = PAIRS[name]
            temperature = self.model.temperatures[name]
            assert isinstance(temperature, Temperature)
            found[name] = LOSSES[self.config.loss](
                vectors[anchor],
                vectors[candidate],
                self._relevance(batch, name),
                present[anchor],
                present[candidate],
                temperature.value,
                temperature.bias,
            )
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the stage's losses.

        Raises:
            TrainingError: the loss is not finite, or too large a share of samples was unreadable.
        """
        self._count(batch)
        embeddings = self.model.embed(self._with_modalities_lost(batch), self.views)
        losses = self.losses(batch, embeddings)
        total = torch.stack([self.pairs[name] * loss for name, loss in losses.items()]).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{name} {loss.item():g}" for name, loss in losses.items())
            raise TrainingError(
                f"step {self.global_step}: the loss is not finite ({values}); "
                f"product ids of the batch: {' '.join(batch.product_ids)}"
            )
        rows = len(batch.product_ids)
        for name, loss in losses.items():
            self.log(f"loss/{name}", loss, prog_bar=True, batch_size=rows)
            temperature = self.model.temperatures[name]
            assert isinstance(temperature, Temperature)
            self.log(f"temperature/{name}", temperature.value, batch_size=rows)
        self.log("loss/chance", chance_level(rows * self.trainer.world_size), batch_size=rows)
        return total

    def _count(self, batch: Batch) -> None:
        self.seen += len(batch.product_ids)
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
        norm = clip_grad_norm_([p for p in self.parameters() if p.grad is not None], limit)
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
        optimizer = adamw(self.model, self.config.rates, self.config.weight_decay)
        schedule = warmup_cosine(optimizer, self.config.total_steps, self.config.warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
