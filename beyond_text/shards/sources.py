"""Which sources can feed a stage, with which of its losses, and how often."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from beyond_text.config.settings import Config, ConfigError, Source, active_losses
from beyond_text.config.views import OBJECTIVE_VIEWS, View
from beyond_text.shards.dataset import uses_queries
from beyond_text.shards.split import Split

# What a shard's counts call the products that have a view.
COUNTED: dict[View, str] = {"query": "judged_pairs", "text": "texts", "image": "pictures"}


class SourceSupply(NamedTuple):
    """A source in a stage: its products, its share of the batches, and the losses it feeds.

    `queries_per_product` are the rows of a product in a batch.
    """

    split: Split
    weight: float
    losses: tuple[str, ...]
    queries_per_product: int


def _needed(losses: Iterable[str]) -> list[View]:
    """The views that a source must have to feed all of some losses, in order of their names.

    A trigger need not have both text and picture: whatever has queries feeds its views.
    """
    views = {view for name in losses for view in OBJECTIVE_VIEWS[name]}
    needed = views & COUNTED.keys()
    if any(view.startswith("trigger") for view in views):
        needed.add("query")
    return sorted(needed)


def _feed(source: Source, split: Split, stage: Collection[str], queries: int) -> SourceSupply | str:
    """What a source feeds of a stage's losses, or why it cannot.

    `queries` of a product are drawn for a batch where the source does not say.
    """
    losses = [name for name in stage if name in (source.losses or stage)]
    if not losses:
        return f"not meant for {' and '.join(stage)}"
    if lacking := [view for view in _needed(losses) if not split.counts[COUNTED[view]]]:
        return f"no {' and no '.join(lacking)} in it"
    if source.weight == 0 or len(split) == 0:
        return "weight 0 or empty"
    # What no query asks for would only stand there several times.
    queries_per_product = source.queries_per_product or queries if uses_queries(losses) else 1
    return SourceSupply(split, source.weight, tuple(losses), queries_per_product)


def _feeds(config: Config) -> dict[str, SourceSupply | str]:
    """What each source feeds of the stage, or why it cannot."""
    stage, data = active_losses(config), config.data
    return {
        name: _feed(
            source,
            Split(Path(source.path), "train", data.text_fields),
            stage,
            data.queries_per_product,
        )
        for name, source in data.sources.items()
    }


def expected_batches(chain: Sequence[Config]) -> dict[str, float]:
    """How many batches of each source a chain of stages takes on average."""
    batches: dict[str, float] = {}
    for stage in chain:
        feeds = {
            name: feed for name, feed in _feeds(stage).items() if isinstance(feed, SourceSupply)
        }
        total = sum(feed.weight for feed in feeds.values())
        for name, feed in feeds.items():
            share = stage.total_steps * stage.accumulate * feed.weight / total
            batches[name] = batches.get(name, 0) + share
    return batches


def supplies_of(config: Config) -> dict[str, SourceSupply]:
    """The sources that can feed the stage; each other one is named with the reason.

    So one data overlay serves every stage: pictures without queries join domain pretraining, a
    query-title log joins query-to-text alignment.

    Raises:
        ConfigError: no source is left for one of the losses.
    """
    stage = active_losses(config)
    usable: dict[str, SourceSupply] = {}
    console = Console(stderr=True)
    for name, feed in _feeds(config).items():
        if isinstance(feed, str):
            console.print(f"source {name} sits this stage out: {feed}")
            continue
        part = f", for {' and '.join(feed.losses)}" if len(feed.losses) < len(stage) else ""
        console.print(f"source {name}: {len(feed.split):,} products, weight {feed.weight:g}{part}")
        usable[name] = feed
    fed = {loss for feed in usable.values() for loss in feed.losses}
    if starved := [loss for loss in stage if loss not in fed]:
        known = ", ".join(config.data.sources) or "none given"
        raise ConfigError(
            f"data.sources: none can feed the losses {', '.join(starved)} (sources: {known}); "
            f"each needs {' and '.join(_needed(starved))}"
        )
    return usable
