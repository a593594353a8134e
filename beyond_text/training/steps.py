"""Turns `steps: auto` into a number, by the products and judged queries of a run's sources."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config
from beyond_text.config.steps import AUTO, auto_steps
from beyond_text.config.views import uses_queries
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.sources import SourceSupply, supplies_by_name
from beyond_text.terminal import say

# What is told is so many times as long as the rule says, which is no more exact than that. So many
# steps did no harm with twelve queries (recipes/results).
TOO_LONG, HARMLESS = 4, 20


def with_steps(config: Config, is_lent: bool = False) -> Config:
    """Returns settings with a number of steps, which is printed where it was `auto`.

    Where the data are gone, it is that of the run, as far as it has begun; not of settings that are
    lent, whose run is another one.

    Raises:
        ConfigError, ShardError: as `supplies_by_name`.
    """
    if config.steps != AUTO:
        return config
    begun = Path(config.run) / "config.yaml"
    try:
        supplies = supplies_by_name(config).values()
    except ShardError:
        if is_lent or not begun.is_file():
            raise
        return replace(config, steps=load_config([begun]).steps)
    products, queries, asked = _counted(supplies)
    steps = auto_steps(config, products, queries)
    found = replace(config, steps=steps)
    of = f"{products:,} products" + (f", {queries:,} judged queries" if asked else "")
    say(f"{config.run}: steps auto of {of}: {steps}, {found.total_steps} with the budget")
    return found


def say_too_long(config: Config, supplies: Collection[SourceSupply]) -> None:
    """Prints a line where a stage is so long that its few judged queries are learned by heart."""
    products, queries, asked = _counted(supplies)
    ruled = auto_steps(config, products, queries)
    if asked and config.total_steps > max(TOO_LONG * ruled, HARMLESS):
        say(
            f"{queries:,} judged queries are few for {config.total_steps} steps, which may unlearn "
            f"what the run starts with; steps=auto takes {ruled}"
        )


def _counted(supplies: Collection[SourceSupply]) -> tuple[int, int, bool]:
    """Returns the products and the judged queries of a stage, and whether it learns from queries.

    Sources of one namespace are one shop: of its products, some may be in each.
    """
    sizes: dict[str, int] = {}
    for supply in supplies:
        sizes[supply.namespace] = max(sizes.get(supply.namespace, 0), len(supply.split))
    asked = [supply for supply in supplies if uses_queries(supply.losses)]
    return sum(sizes.values()), sum(s.split.kept().number for s in asked), bool(asked)
