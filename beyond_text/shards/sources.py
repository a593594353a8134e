"""Decides what each source supplies to a stage: to which of its losses, and how often."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from beyond_text.config.settings import Config, ConfigError, Data, Source, active_losses
from beyond_text.config.views import OBJECTIVE_VIEWS, View, uses_queries
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store
from beyond_text.terminal import say

# The manifest's name for the number of products that have a view.
COUNTED: dict[View, str] = {"text": "texts", "image": "pictures"}
NEEDED: dict[View, str] = {
    "query": "queries with judgments",
    "text": "texts",
    "image": "pictures",
}


class SourceSupply(NamedTuple):
    """What a source supplies to a stage: products, a share of the batches, and its losses.

    `queries_per_product` are the rows of a product in a batch. Product ids are those of one
    `namespace`.
    """

    split: Split
    weight: float
    losses: tuple[str, ...]
    queries_per_product: int
    namespace: str


def _needed(losses: Iterable[str]) -> list[View]:
    """Lists the views that a source must have to feed all of some losses, by name.

    A trigger need not have both text and picture: whatever has queries feeds its views.
    """
    views = {view for name in losses for view in OBJECTIVE_VIEWS[name]}
    needed = views & NEEDED.keys()
    if any(view.startswith("trigger") for view in views):
        needed.add("query")
    return sorted(needed)


def _supply(
    name: str, source: Source, split: Split, stage: Collection[str], queries: int
) -> SourceSupply | str:
    """Returns what a source supplies to a stage's losses, or why it cannot.

    `queries` of a product are drawn for a batch where the source does not say.
    """
    losses = [loss for loss in stage if loss in (source.losses or stage)]
    if not losses:
        return f"not meant for {' and '.join(stage)}"
    if lacking := [view for view in _needed(losses) if not _has(split, view)]:
        kept = ", of which 0 labels are kept" if split.labels == 0 and "query" in lacking else ""
        return f"no {' and no '.join(lacking)} in it{kept}"
    if source.weight == 0 or len(split) == 0:
        return "weight 0 or empty"
    # Without queries, further rows of a product would only repeat it.
    queries_per_product = source.queries_per_product or queries if uses_queries(losses) else 1
    namespace = source.namespace or name
    return SourceSupply(split, source.weight, tuple(losses), queries_per_product, namespace)


def train_split(source: Source, data: Data) -> Split:
    """Opens what training sees of a source."""
    labels = data.labels if source.labels is None else source.labels
    return Split(Store.of(source.path, data), "train", data.text_fields, data.grades, labels=labels)


def _has(split: Split, view: View) -> bool:
    """Says whether a split has products with a view."""
    return split.has_judgments if view == "query" else bool(split.counts[COUNTED[view]])


def _supplies(config: Config) -> dict[str, SourceSupply | str]:
    """Returns what each source supplies to the stage, or why it cannot."""
    stage, data = active_losses(config), config.data
    return {
        name: _supply(
            name,
            source,
            train_split(source, data),
            stage,
            data.queries_per_product,
        )
        for name, source in data.sources.items()
    }


def supplies_by_name(config: Config) -> dict[str, SourceSupply]:
    """Returns what the sources supply that feed the stage.

    Raises:
        ShardError: one is missing or damaged.
    """
    supplies = _supplies(config).items()
    return {name: each for name, each in supplies if isinstance(each, SourceSupply)}


def expected_batches(chain: Sequence[Config]) -> dict[str, float]:
    """Returns how many batches of each source a chain of stages takes on average."""
    batches: dict[str, float] = {}
    for stage in chain:
        supplies = supplies_by_name(stage)
        total = sum(supply.weight for supply in supplies.values())
        for name, supply in supplies.items():
            share = stage.total_steps * stage.accumulate * supply.weight / total
            batches[name] = batches.get(name, 0) + share
    return batches


def _seen_queries(supply: SourceSupply) -> str:
    """Says how many queries of a source training sees, where it does not see all."""
    if supply.split.labels is None or not uses_queries(supply.losses):
        return ""
    kept = supply.split.kept()
    return f", {kept.number:,} of {kept.available:,} judged queries"


def supplies_of(config: Config) -> dict[str, SourceSupply]:
    """Returns what the usable sources supply to the stage; prints why the others cannot.

    So one data overlay serves every stage: pictures without queries join domain pretraining, a
    query-title log joins query-to-text alignment.

    Raises:
        ConfigError: no source is left for one of the losses.
    """
    stage = active_losses(config)
    usable: dict[str, SourceSupply] = {}
    supplies = _supplies(config)
    for name, supply in supplies.items():
        if isinstance(supply, str):
            say(f"source {name} sits this stage out: {supply}")
            continue
        part = f", for {' and '.join(supply.losses)}" if len(supply.losses) < len(stage) else ""
        seen = _seen_queries(supply)
        say(f"source {name}: {len(supply.split):,} products{seen}, weight {supply.weight:g}{part}")
        usable[name] = supply
    # A source that sits this stage out may be the one that has a grade.
    data = config.data
    every = data.sources.values() if data.grades else ()
    grades = {grade for source in every for grade in train_split(source, data).highest}
    if unknown := data.grades.keys() - grades:
        had = ", ".join(sorted(grades)) or "none"
        raise ConfigError(f"data.grades: no source has {min(unknown)!r}; they have {had}")
    fed = {loss for supply in usable.values() for loss in supply.losses}
    if starved := [loss for loss in stage if loss not in fed]:
        reasons = "; ".join(
            f"{name}: {supply if isinstance(supply, str) else f'not meant for {starved[0]}'}"
            for name, supply in supplies.items()
        )
        raise ConfigError(
            f"data.sources: no source can feed the loss {starved[0]}, which needs "
            f"{' and '.join(NEEDED[view] for view in _needed(starved[:1]))} "
            f"({reasons or 'there is none'})"
        )
    return usable
