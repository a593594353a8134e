"""Loads the batches of a run's steps from its sources of shards.

Which samples make up a batch is decided by seed and step alone, so any number of processes and of
loader workers gives the same batches, and a resumed run goes on with the next one.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from beyond_text.config.settings import Config, ConfigError, views_of
from beyond_text.config.views import View
from beyond_text.models.settings import ModelSettings
from beyond_text.shards.batch import Sample
from beyond_text.shards.collate import Collate
from beyond_text.shards.dataset import PictureVectors, Products
from beyond_text.shards.hard_negatives import hard_negatives_of
from beyond_text.shards.order import WINDOW
from beyond_text.shards.roles import Roles, roles_of
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.sources import supplies_of
from beyond_text.terminal import say
from beyond_text.training.launch import check_processes, workers_of
from beyond_text.training.steps import say_too_long

# Views that need the products' pictures, whatever the source.
PICTURED: set[View] = {"image", "product", "trigger_image"}
# The most batches that a worker reads ahead, and the most rows in them (one batch at least).
BATCHES_AHEAD = 4
ROWS_AHEAD = 1024


class ShardData(pl.LightningDataModule):
    """Gives a batch for every step of a run, the same for any number of workers."""

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
            settings.text_prefix,
            settings.query_prefix,
        )
        # Vectors of the pictures of each source, where a frozen tower has made them already.
        self.cached: Sequence[PictureVectors] = ()
        self.sources = supplies_of(config)
        self.roles = {
            name: roles_of(source.split, source.losses) for name, source in self.sources.items()
        }
        self.hard = hard_negatives_of(config, self.sources)
        views = views_of(config)
        # A query's vector is made of its text and its picture.
        has_query_pictures = any(len(s.split.query_pictures) for s in self.sources.values())
        self.sees_pictures = bool(views & PICTURED) or (has_query_pictures and "query" in views)

    def check_shares(self, processes: int) -> None:
        """Refuses a batch that processes cannot share, or that a source cannot fill.

        A source that is too small would hold the same products twice.

        Raises:
            ConfigError: names the batch and the processes, or the source and its products.
            ShardError: a source at a URL whose shards do not fit into the cache.
        """
        batch = self.config.batch_size
        check_processes(self.config, processes)
        for name, roles in self.roles.items():
            self._say_few_anchors(name, roles, batch)
        say_too_long(self.config, self.sources.values())
        for name, source in self.sources.items():
            source.split.check_window(WINDOW)
            if len(source.split) < batch:
                raise ConfigError(
                    f"data.sources.{name}: {len(source.split)} products in "
                    f"{len(source.split.sizes)} shards do not fill a batch_size of {batch}; "
                    "take a smaller one, or weight 0"
                )

    def _say_few_anchors(self, name: str, roles: Roles, batch: int) -> None:
        """Prints how many of a batch's products are anchors, where they are fewer than half.

        Raises:
            ConfigError: there is none.
        """
        losses = " and ".join(self.sources[name].losses)
        found = int(roles.anchor.sum())
        hard = self.hard.get(name)
        asking = hard.asking if hard else 0
        anchors = roles.anchors_in(batch, self.config.data.negatives, asking)
        line = f"{found:,} of {len(roles.anchor):,} products have what {losses} needs"
        if not found:
            raise ConfigError(f"data.sources.{name}: {line}")
        if 2 * anchors < batch:
            few = f"source {name}: {line}: only {anchors} of a batch's {batch} products are anchors"
            say(few)

    def prepare_data(self) -> None:
        """Compares every shard with its checksum, once a machine, before the first step.

        Raises:
            ShardError: a shard has another checksum.
        """
        for source in self.sources.values():
            source.split.verify()

    def train_dataloader(self) -> DataLoader[Sample | str]:
        """Returns the batches from the current step on: of each, this process's share."""
        config = self.config
        products = Products(
            [source.split for source in self.sources.values()],
            config.seed,
            self.collate.picture_size if self.sees_pictures else None,
            [source.losses for source in self.sources.values()],
            [source.queries_per_product for source in self.sources.values()],
            [source.namespace for source in self.sources.values()],
            self.cached,
        )
        assert self.trainer is not None
        workers = workers_of(config, self.trainer.num_devices)
        return DataLoader(
            products,
            batch_sampler=self._batch_sampler(self.trainer),
            collate_fn=self.collate,
            num_workers=workers,
            worker_init_fn=_freeze_garbage,
            multiprocessing_context=self._start_method() if workers else None,
            pin_memory=self.trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
            prefetch_factor=_batches_ahead(config.batch_size // self.trainer.world_size)
            if workers
            else None,
        )

    def _start_method(self) -> str | None:
        """Returns how loaders are started: threads that fetch do not survive a fork."""
        is_remote = any(source.split.store.is_remote for source in self.sources.values())
        return "spawn" if is_remote else None

    def _batch_sampler(self, trainer: pl.Trainer) -> BatchSampler:
        """Returns the samples of each batch from the trainer's current step on."""
        config, sources = self.config, list(self.sources.values())
        in_runs = config.data.same_category > 1
        return BatchSampler(
            [source.split.sizes for source in sources],
            [source.weight for source in sources],
            config.batch_size,
            config.total_steps * config.accumulate,
            config.seed,
            trainer.global_rank,
            trainer.world_size,
            start=trainer.global_step * config.accumulate,
            queries_per_product=[source.queries_per_product for source in sources],
            roles=list(self.roles.values()),
            negatives=config.data.negatives,
            categories=[source.split.categories() for source in sources] if in_runs else (),
            run=config.data.same_category,
            told=[source.split.ahead for source in sources],
            hard=[self.hard.get(name) for name in self.sources],
        )


def _freeze_garbage(worker: int) -> None:
    """Keeps the garbage collector of a worker from visiting all objects that it inherited."""
    gc.freeze()


def _batches_ahead(batch_size: int) -> int:
    """Returns how many batches a worker reads ahead."""
    return max(1, min(BATCHES_AHEAD, ROWS_AHEAD // batch_size))
