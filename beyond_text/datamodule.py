"""The Lightning half of the data: which sources a stage can use, and the batches of its steps."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from torch.utils.data import DataLoader

from beyond_text.batch import Sample
from beyond_text.collate import Collate
from beyond_text.config import Config, ConfigError, Source, View, active_losses, views_of
from beyond_text.model import ModelSettings
from beyond_text.shards import BatchPlan, Products, Split

# What a shard's counts call the products that have a view.
COUNTED: dict[View, str] = {"query": "judged_pairs", "text": "texts", "image": "pictures"}
# Views that need pictures, whatever the source.
PICTURED: set[View] = {"image", "product", "trigger_image"}


def _unusable(
    split: Split, source: Source, needed: Collection[View], losses: Collection[str]
) -> str:
    """Why a source cannot feed a stage's losses; nothing if it can."""
    if lacking := sorted(view for view in needed if not split.counts[COUNTED[view]]):
        return f"no {' and no '.join(lacking)} in it"
    if source.losses and (others := [name for name in losses if name not in source.losses]):
        return f"not meant for {' and '.join(others)}"
    return "weight 0 or empty" if source.weight == 0 or len(split) == 0 else ""


def usable_sources(config: Config) -> dict[str, tuple[Split, float]]:
    """The sources that can feed all losses of the stage; each other one is named with the reason.

    So one data overlay serves every stage: pictures without queries join domain pretraining, a
    query-title log joins query-to-text alignment. A trigger need not have both text and picture:
    whatever has queries feeds its views.

    Raises:
        ConfigError: no source is left.
    """
    views = views_of(config)
    needed = views & COUNTED.keys()
    if any(view.startswith("trigger") for view in views):
        needed.add("query")
    usable: dict[str, tuple[Split, float]] = {}
    console = Console(stderr=True)
    for name, source in config.data.sources.items():
        split = Split(Path(source.path), "train", config.data.text_fields)
        if reason := _unusable(split, source, needed, active_losses(config)):
            console.print(f"source {name} sits this stage out: {reason}")
            continue
        console.print(f"source {name}: {len(split):,} products, weight {source.weight:g}")
        usable[name] = (split, source.weight)
    if not usable:
        known = ", ".join(config.data.sources) or "none given"
        raise ConfigError(
            f"data.sources: none can feed the losses {', '.join(active_losses(config))} "
            f"(sources: {known}); each needs {' and '.join(sorted(needed))}"
        )
    return usable


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
        shown = any(len(split.query_pictures) for split, _ in self.sources.values())
        self.sees_pictures = bool(views & PICTURED) or (shown and "query" in views)

    def train_dataloader(self) -> DataLoader[Sample | str]:
        """The batches from the current step on, one slice a process."""
        config = self.config
        trainer = self.trainer
        assert trainer is not None
        splits = [split for split, _ in self.sources.values()]
        plan = BatchPlan(
            [split.sizes for split in splits],
            [weight for _, weight in self.sources.values()],
            config.batch_size,
            config.total_steps * config.accumulate,
            config.seed,
            trainer.global_rank,
            trainer.world_size,
            start=trainer.global_step * config.accumulate,
        )
        size = self.collate.picture_size if self.sees_pictures else None
        return DataLoader(
            Products(splits, config.seed, size),
            batch_sampler=plan,
            collate_fn=self.collate,
            num_workers=config.data.workers,
            pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
            prefetch_factor=4 if config.data.workers else None,
        )
