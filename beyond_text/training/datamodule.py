"""The Lightning half of the data: the batches of a run's steps."""

from __future__ import annotations

import gc
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from beyond_text.config.settings import Config, ConfigError, views_of
from beyond_text.config.views import View
from beyond_text.models.settings import ModelSettings
from beyond_text.shards.batch import Sample
from beyond_text.shards.collate import Collate
from beyond_text.shards.dataset import Products
from beyond_text.shards.sampler import BatchSampler, group_by_category
from beyond_text.shards.sources import supplies_of

# Views that need pictures, whatever the source.
PICTURED: set[View] = {"image", "product", "trigger_image"}
# Rows that a worker reads ahead, where a batch is smaller.
ROWS_IN_STORE = 1024


def _begin(worker: int) -> None:
    """Spares the garbage collection of a loading process all that there was before it."""
    gc.freeze()


def _batches_in_store(batch_size: int) -> int:
    """Batches that a worker reads ahead: a few, but no more rows than a large batch has."""
    return max(1, min(4, ROWS_IN_STORE // batch_size))


class ShardData(pl.LightningDataModule):
    """Batches for every step of a run, the same for any number of workers."""

    def __init__(
        self, config: Config, settings: ModelSettings, tokenizer: Any, fixed_length: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.collate = Collate(
            tokenizer,
            settings.max_length,
            fixed_length,
            settings.image_size,
            config.seed if config.data.augment else None,
            config.data.smallest_crop,
        )
        self.sources = supplies_of(config)
        views = views_of(config)
        # A query's vector is one of all that it has.
        shown = any(len(feed.split.query_pictures) for feed in self.sources.values())
        self.sees_pictures = bool(views & PICTURED) or (shown and "query" in views)

    def check_shares(self, processes: int) -> None:
        """Refuses a source that cannot fill a batch: it would hold the same products twice.

        Raises:
            ConfigError: naming the source, its products, and the batch that they must fill.
        """
        batch = self.config.batch_size * processes
        for name, feed in self.sources.items():
            if len(feed.split) < batch:
                raise ConfigError(
                    f"data.sources.{name}: {len(feed.split)} products in {len(feed.split.sizes)} "
                    f"shards do not fill a batch of {batch} (batch_size={self.config.batch_size} "
                    f"on {processes} processes); take a smaller batch_size, or weight 0"
                )

    def prepare_data(self) -> None:
        """Once a machine, before the first step: every shard has its checksum.

        Raises:
            ShardError: one has another.
        """
        for feed in self.sources.values():
            feed.split.verify()

    def train_dataloader(self) -> DataLoader[Sample | str]:
        """The batches from the current step on, one slice a process."""
        config = self.config
        trainer = self.trainer
        assert trainer is not None
        feeds = list(self.sources.values())
        alike, queries_per_product = (
            config.data.same_category,
            [feed.queries_per_product for feed in feeds],
        )
        plan = BatchSampler(
            [feed.split.sizes for feed in feeds],
            [feed.weight for feed in feeds],
            config.batch_size,
            config.total_steps * config.accumulate,
            config.seed,
            trainer.global_rank,
            trainer.world_size,
            start=trainer.global_step * config.accumulate,
            queries_per_product=queries_per_product,
            orders=[group_by_category(feed.split.category, alike) for feed in feeds]
            if alike > 1
            else (),
        )
        size = self.collate.picture_size if self.sees_pictures else None
        return DataLoader(
            Products(
                [feed.split for feed in feeds],
                config.seed,
                size,
                [feed.losses for feed in feeds],
                queries_per_product,
            ),
            batch_sampler=plan,
            collate_fn=self.collate,
            num_workers=config.data.workers,
            worker_init_fn=_begin,
            pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
            prefetch_factor=_batches_in_store(config.batch_size) if config.data.workers else None,
        )
