"""Plans and compares the rows of a ladder at several numbers of judged queries.

A row is a chain of stages from the untouched encoders. Stages whose losses need no query are
trained once for all numbers. At 0, of each chain stands what comes before its first stage that
needs judgments. With a grid, each row is trained with every entry, and dev picks its best.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, active_losses
from beyond_text.config.steps import AUTO
from beyond_text.config.views import uses_queries
from beyond_text.evaluation.ladder import (
    ROWS,
    Row,
    check_distinct,
    configure,
    errors_named,
    keys_of,
    linked,
    matched,
    read_mapping,
    rows_of,
    word_of,
)
from beyond_text.evaluation.report import Cell, values_of
from beyond_text.shards.sources import supplies_by_name
from beyond_text.shards.split import Split

GRID = "grid"
# A factor on steps: of all stages, or as STAGE.budget of one.
BUDGET = "budget"
AS_IT_STANDS = "as it stands"
Entry = Mapping[str, Any]


class Setup(NamedTuple):
    """What a plan is made for: rows, seeds, the file of settings, words on top, the folder."""

    rows: Sequence[Row]
    seeds: Sequence[int]
    settings: Path
    overrides: Sequence[str]
    out: Path


class Point(NamedTuple):
    """A cell at a number of judged queries, trained with an entry of the grid."""

    labels: int
    entry: str
    cell: Cell


def read_labels(path: Path) -> tuple[list[Row], list[Entry]]:
    """Reads rows, as `read_rows` does, and the entries under `grid`, if there are any.

    Raises:
        ValueError: no rows, or an entry that is no mapping of settings; names the file.
    """
    content = read_mapping(path, "rows", ROWS)
    grid = content.pop(GRID, None) or [{}]
    if not (isinstance(grid, list) and all(isinstance(entry, dict) for entry in grid)):
        raise ValueError(
            f"{path}: {GRID}: expected a list of settings, such as [{{}}, {{budget: 2}}]"
        )
    for entry in grid:
        if wrong := [key for key in entry if not isinstance(key, str)]:
            raise ValueError(f"{path}: {GRID}: expected names of settings, got {wrong[0]!r}")
        for budget in (value for key, value in entry.items() if key.split(".")[-1] == BUDGET):
            is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
            if not (is_number and 0 < budget < math.inf):
                raise ValueError(f"{path}: {GRID}: expected a budget above 0, got {budget!r}")
    check_distinct(map(name_of, grid))
    return rows_of(path, content), grid


def name_of(entry: Entry) -> str:
    """Returns an entry of a grid in words."""
    return ", ".join(f"{key}={value}" for key, value in entry.items()) or AS_IT_STANDS


def numbers_of(asked: Sequence[str], setup: Setup) -> dict[int, int | None]:
    """Returns `data.labels` for each number of judged queries: None where that is all of them.

    `asked` are numbers and "all". Numbers that are not fewer than the queries of the source that
    has most are all; counted are sources that feed a loss with queries.

    Raises:
        ValueError: one is neither, or comes twice; no row needs judgments, or no source counts.
    """
    check_distinct(asked)
    if wrong := [word for word in asked if word != "all" and not word.isdecimal()]:
        raise ValueError(f"--labels: expected numbers or all, got {wrong[0]!r}")
    needing: list[Config] = []
    for row in setup.rows:
        with errors_named(row.name):
            configs = [configure(stage, setup.seeds[0], setup.settings, setup.overrides)
                       for stage in row.stages]  # fmt: skip
        needing += filter(needs_labels, configs)
    if not needing:
        raise ValueError("--labels: none of the rows has a stage that learns from judgments")
    asked_splits = {name: split for config in needing for name, split in _asked(config).items()}
    if not asked_splits:
        raise ValueError(
            "--labels: each source has labels of its own, data.sources.NAME.labels, or feeds no "
            "loss with queries"
        )
    most = max(split.kept().available for split in asked_splits.values())
    numbers = {most if word == "all" else min(int(word), most) for word in asked}
    return {number: number if number < most else None for number in sorted(numbers)}


def _asked(config: Config) -> dict[str, Split]:
    """Returns the sources whose number of queries is asked: they feed a loss with queries."""
    return {
        name: supply.split
        for name, supply in supplies_by_name(config).items()
        if config.data.sources[name].labels is None and uses_queries(supply.losses)
    }


def fitting(rows: Sequence[Row], only: Collection[str], overrides: Sequence[str]) -> list[Row]:
    """Returns rows without those that are not asked for and set what an override sets."""
    overridden = keys_of(overrides)
    return [
        row
        for row in rows
        if not only
        or row.name in only
        or not any(keys_of(stage.words) & overridden for stage in row.stages)
    ]


def needs_labels(config: Config) -> bool:
    """Says whether a stage's losses have queries."""
    return uses_queries(active_losses(config))


def plan_labels(
    setup: Setup, numbers: Mapping[int, int | None], grid: Sequence[Entry]
) -> dict[Point, list[Config]]:
    """Returns the runs of each point: by number, row, entry and seed.

    At each number and entry, rows see as many samples as the first one that needs judgments.

    Raises:
        ValueError: what `plan` refuses; names the row.
    """
    check_distinct(row.name for row in setup.rows)
    check_distinct(setup.seeds)
    points: dict[Point, list[Config]] = {}
    auto = has_auto(setup)
    # Only runs of one seed, and of one number or none, can be the same.
    planned: dict[tuple[int, int | None], list[Config]] = {}
    for (number, labels), seed in product(numbers.items(), setup.seeds):
        chains = {
            (row.name, name_of(entry)): chain
            for entry in grid
            for row, chain in _chains(setup, seed, labels if number else None, entry)
        }
        for row, entry in product(setup.rows, map(name_of, grid)):
            chain = _standing(chains[row.name, entry], number)
            if not chain:
                continue
            labelled = f"labels-{labels or 'all'}"
            folders = _folders(row, chain, setup.out, labelled, entry, seed, auto)
            free, own = planned.setdefault((seed, None), []), planned.setdefault((seed, number), [])
            chain = linked(chain, folders, "", [*free, *own])
            for config in chain:
                (own if needs_labels(config) else free).append(config)
            ladder = f"{number:,} labels" + ("" if number and labels else " (all)" * (number > 0))
            runs = tuple(Path(config.run) for config in chain)
            points[Point(number, entry, Cell(ladder, row.name, seed, runs))] = chain
    return {point: points[point] for point in _in_order(points, setup.rows)}


def _in_order(points: Iterable[Point], rows: Sequence[Row]) -> list[Point]:
    """Sorts points by number, row and seed."""
    place = {row.name: number for number, row in enumerate(rows)}
    return sorted(points, key=lambda p: (p.labels, place[p.cell.name], p.cell.seed))


def _chains(
    setup: Setup, seed: int, labels: int | None, entry: Entry
) -> list[tuple[Row, list[Config]]]:
    """Returns the whole chain of each row with an entry of the grid, with equally many samples."""
    found = []
    for row in setup.rows:
        with errors_named(row.name):
            found.append((row, [_stage(setup, row, n, seed, labels, entry)
                                for n in range(len(row.stages))]))  # fmt: skip
    first = next(chain for _, chain in found if any(map(needs_labels, chain)))
    with errors_named(name_of(entry)):
        return [(row, matched(chain, row, first)) for row, chain in found]


def _stage(
    setup: Setup, row: Row, number: int, seed: int, labels: int | None, entry: Entry
) -> Config:
    """Returns the settings of a stage with an entry of the grid; labels, where it needs them."""
    stage = row.stages[number]
    stems = {each.recipes[0].stem for every in setup.rows for each in every.stages}
    words, budget = list(stage.words), 1.0
    for key, value in entry.items():
        head, _, rest = key.partition(".")
        if head in stems:
            if head != stage.recipes[0].stem:
                continue
            key = rest
        if key == BUDGET:
            budget *= value
        else:
            words.append(f"{key}={word_of(value)}")
    if "data.labels" in keys_of([*words, *setup.overrides]):
        raise ValueError("data.labels: set by --labels")
    own = stage._replace(words=tuple(words))
    config = configure(own, seed, setup.settings, setup.overrides)
    # The settings that are lent may be those of a run with few labels.
    if needs_labels(config) and labels != config.data.labels:
        word = f"data.labels={'null' if labels is None else labels}"
        own = own._replace(words=(*words, word))
        config = configure(own, seed, setup.settings, setup.overrides)
    return replace(config, budget=config.budget * budget)


def _standing(chain: Sequence[Config], number: int) -> list[Config]:
    """Returns what stands of a chain at a number: at 0 its beginning without judgments.

    At another number, a chain that needs none does not stand.
    """
    needs = [needs_labels(config) for config in chain]
    if number:
        return list(chain) if any(needs) else []
    return list(chain[: needs.index(True)] if any(needs) else chain)


def has_auto(setup: Setup) -> bool:
    """Says whether a stage's steps follow from the number of labels, as with steps=auto.

    Then all rows see as many samples as these say, and stages without labels are longer, too.
    """
    stages = dict.fromkeys(stage for row in setup.rows for stage in row.stages)
    return any(
        load_config([setup.settings, *s.recipes], [*setup.overrides, *s.words]).steps == AUTO
        for s in stages
    )


def _folders(
    row: Row,
    chain: Sequence[Config],
    out: Path,
    labelled: str,
    entry: str,
    seed: int,
    is_auto: bool,
) -> list[Path]:
    """Returns the run folder of each stage; where steps differ by the labels, it names them."""
    part = "" if entry == AS_IT_STANDS else re.sub(r"[^\w.=-]+", "_", entry)
    return [
        out
        / (labelled if needs_labels(config) else f"no-labels{f'-{config.steps}-steps' * is_auto}")
        / part
        / f"{row.name}-seed{seed}" / f"{number}-{stage.recipes[0].stem}"
        for number, (stage, config) in enumerate(zip(row.stages, chain, strict=False), start=1)
    ]  # fmt: skip


def picked(points: Iterable[Point], measure: str) -> list[Point]:
    """Returns the points of the best entry of each row and number, by its mean over all queries.

    The mean is over seeds as well; of equal entries, the first one is taken.
    """
    groups: dict[tuple[int, str], dict[str, list[Point]]] = {}
    for point in points:
        entries = groups.setdefault((point.labels, point.cell.name), {})
        entries.setdefault(point.entry, []).append(point)

    def mean(group: Sequence[Point]) -> float:
        return float(np.mean([values_of(point.cell, measure).mean() for point in group]))

    best = (max(entries.values(), key=mean) if len(entries) > 1 else next(iter(entries.values()))
            for entries in groups.values())  # fmt: skip
    return [point for group in best for point in group]
