"""The Lightning half of the data: which sources a stage can use, and the batches of its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from rich.console import Console
from torch.utils.data import DataLoader

from beyond_text.batch import Sample
from beyond_text.collate import Collate
from beyond_text.config import (
    OBJECTIVE_VIEWS,
    Config,
    ConfigError,
    Source,
    View,
    active_losses,
    views_of,
)
from beyond_text.model import ModelSettings
from beyond_text.shards import BatchPlan, Products, Split, asks, in_runs

# What a shard's counts call the products that have a view.
COUNTED: dict[View, str] = {"query": "judged_pairs", "text": "texts", "image": "pictures"}
# Views that need pictures, whatever the source.
PICTURED: set[View] = {"image", "product", "trigger_image"}
# Rows that a worker reads ahead, where a batch is smaller.
ROWS_IN_STORE = 1024


class Feed(NamedTuple):
    """A source in a stage: its products, its share of the batches, and the losses it feeds."""

    split: Split
    weight: float
    losses: tuple[str, ...]


def _needed(losses: Iterable[str]) -> list[View]:
    """The views that a source must have to feed all of some losses, in order of their names.

    A trigger need not have both text and picture: whatever has queries feeds its views.
    """
    views = {view for name in losses for view in OBJECTIVE_VIEWS[name]}
    needed = views & COUNTED.keys()
    if any(view.startswith("trigger") for view in views):
        needed.add("query")
    return sorted(needed)


def _feed(source: Source, split: Split, stage: Collection[str]) -> Feed | str:
    """What a source feeds of a stage's losses, or why it cannot."""
    losses = [name for name in stage if name in (source.losses or stage)]
    if not losses:
        return f"not meant for {' and '.join(stage)}"
    if lacking := [view for view in _needed(losses) if not split.counts[COUNTED[view]]]:
        return f"no {' and no '.join(lacking)} in it"
    if source.weight == 0 or len(split) == 0:
        return "weight 0 or empty"
    return Feed(split, source.weight, tuple(losses))


def usable_sources(config: Config) -> dict[str, Feed]:
    """The sources that can feed the stage; each other one is named with the reason.

    So one data overlay serves every stage: pictures without queries join domain pretraining, a
    query-title log joins query-to-text alignment.

    Raises:
        ConfigError: no source is left for one of the losses.
    """
    stage = active_losses(config)
    usable: dict[str, Feed] = {}
    console = Console(stderr=True)
    for name, source in config.data.sources.items():
        split = Split(Path(source.path), "train", config.data.text_fields)
        feed = _feed(source, split, stage)
        if isinstance(feed, str):
            console.print(f"source {name} sits this stage out: {feed}")
            continue
        part = f", for {' and '.join(feed.losses)}" if len(feed.losses) < len(stage) else ""
        console.print(f"source {name}: {len(split):,} products, weight {source.weight:g}{part}")
        usable[name] = feed
    fed = {loss for feed in usable.values() for loss in feed.losses}
    if starved := [loss for loss in stage if loss not in fed]:
        known = ", ".join(config.data.sources) or "none given"
        raise ConfigError(
            f"data.sources: none can feed the losses {', '.join(starved)} (sources: {known}); "
            f"each needs {' and '.join(_needed(starved))}"
        )
    return usable


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
        )
        self.sources = usable_sources(config)
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
        queries, alike = config.data.queries_per_product, config.data.same_category
        plan = BatchPlan(
            [feed.split.sizes for feed in feeds],
            [feed.weight for feed in feeds],
            config.batch_size,
            config.total_steps * config.accumulate,
            config.seed,
            trainer.global_rank,
            trainer.world_size,
            start=trainer.global_step * config.accumulate,
            # What no query asks for would only stand there several times.
            turns=[queries if asks(feed.losses) else 1 for feed in feeds],
            orders=[in_runs(feed.split.category, alike) for feed in feeds] if alike > 1 else (),
        )
        size = self.collate.picture_size if self.sees_pictures else None
        return DataLoader(
            Products(
                [feed.split for feed in feeds],
                config.seed,
                size,
                [feed.losses for feed in feeds],
                queries,
            ),
            batch_sampler=plan,
            collate_fn=self.collate,
            num_workers=config.data.workers,
            pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
            prefetch_factor=_batches_in_store(config.batch_size) if config.data.workers else None,
        )
