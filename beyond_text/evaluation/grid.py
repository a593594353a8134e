"""Chooses settings for each row of a ladder on dev, by the same small grid for all of them.

A file such as `lr.fusion: [1e-3, 3e-3]` names settings and the values that are tried. Every row
tries every point with the first seed; the best by the mean over all dev queries is the row's. What
a row's fusion does not have (its learning rate without parameters, a rank that it does not use)
is not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from beyond_text.config.settings import Config
from beyond_text.evaluation.ladder import Ladder, Row, configure, read_mapping, word_of
from beyond_text.evaluation.report import Cell
from beyond_text.evaluation.report import values_of as values_of_cell
from beyond_text.files import write_text
from beyond_text.models.fusion import FUSIONS
from beyond_text.models.moe import MoeFusion

FORM = "a grid as `lr.fusion: [1e-3, 3e-3]`"
# Settings and one value of each, as `key=value` words.
Point = tuple[str, ...]


class Tried(NamedTuple):
    """A point that a row tried, and the mean of the measure over all dev queries."""

    row: str
    point: Point
    value: float


def read_grid(path: Path) -> dict[str, list[str]]:
    """Reads the values that are tried of each setting.

    Raises:
        ValueError: the file is missing, or is not `setting: [value, ...]`; names it.
    """
    grid = read_mapping(path, "grid", FORM)
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"{path}: expected {FORM}")
    return {str(name): [word_of(value) for value in values] for name, values in grid.items()}


def points_of(grid: Mapping[str, Sequence[str]], fusion: str) -> list[Point]:
    """Returns the points of a grid that differ for a fusion."""
    unused = unused_settings(fusion)
    values = [[f"{name}={v}" for v in grid[name]] for name in grid if name not in unused]
    return list(product(*values))


def unused_settings(fusion: str) -> set[str]:
    """Returns which settings of fusions one does not use, as one without parameters or experts."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in FUSIONS[fusion](64, rank).parameters()) for rank in (64, 128)
        ]
    unused = set() if issubclass(FUSIONS[fusion], MoeFusion) else {"fusion_balance"}
    if not sizes[0]:
        return unused | {"lr.fusion", "lr_scale.fusion", "fusion_rank"}
    return unused | ({"fusion_rank"} if sizes[0] == sizes[1] else set())


def tried_rows(
    ladder: Ladder, grid: Mapping[str, Sequence[str]], settings: Path, overrides: Sequence[str]
) -> tuple[Ladder, dict[str, tuple[str, Point]]]:
    """Returns the ladder of all points of all rows, and the row and the point of each by its name.

    A point's words are those of the last stage of a row.
    """
    rows, of_name = [], {}
    for row in ladder.rows:
        fusion = configure(row.stages[-1], ladder.seeds[0], settings, overrides).fusion
        for point in points_of(grid, fusion):
            label = re.sub(r"[^\w.]+", "-", " ".join(point))
            name = "-".join(filter(None, (row.name, label)))
            rows.append(Row(name, with_point(row, point).stages))
            of_name[name] = row.name, point
    # All points, and the chosen ones after them, see as many samples as the first row as it stands.
    tried = ladder._replace(rows=rows, seeds=ladder.seeds[:1], reference=ladder.rows[0])
    return tried, of_name


def with_point(row: Row, point: Point) -> Row:
    """Returns a row whose last stage has the words of a point."""
    *first, last = row.stages
    return row._replace(stages=(*first, last._replace(words=(*last.words, *point))))


def check_points(cells: Iterable[Cell], of_name: Mapping[str, tuple[str, Point]]) -> None:
    """Refuses points of a row that are one run: what they set makes no difference there.

    So it is with `steps` and `budget` of a row of one stage: all rows see equally many samples.

    Raises:
        ValueError: names the row and two of its points.
    """
    of_run: dict[tuple[str, Path], Point] = {}
    for cell in cells:
        row, point = of_name[cell.name]
        other = of_run.setdefault((row, cell.runs[-1]), point)
        if other != point:
            raise ValueError(
                f"--grid: {row}: {' '.join(other)} and {' '.join(point)} train the same run: all "
                "see as many samples as the first row"
            )


def values_of(
    cells: Sequence[Cell], of_name: Mapping[str, tuple[str, Point]], measure: str
) -> list[Tried]:
    """Returns what every point gave, of finished cells."""
    return [
        Tried(*of_name[cell.name], float(values_of_cell(cell, measure).mean())) for cell in cells
    ]


def best_of(tried: Sequence[Tried]) -> dict[str, Point]:
    """Returns the best point of each row; of equal ones the first of the grid."""
    best: dict[str, Tried] = {}
    for each in tried:
        if each.row not in best or each.value > best[each.row].value:
            best[each.row] = each
    return {row: each.point for row, each in best.items()}


def with_best(ladder: Ladder, best: Mapping[str, Point]) -> Ladder:
    """Returns a ladder whose rows have the settings that were best for each."""
    rows = [with_point(row, best[row.name]) for row in ladder.rows]
    return ladder._replace(rows=rows, reference=ladder.rows[0])


def write_grid(tried: Sequence[Tried], measure: str, seed: int, out: Path) -> str:
    """Writes OUT/grid.md: what every point gave, and which was chosen; returns it."""
    best = best_of(tried)
    lines = [f"| row | settings | {measure} | |", "|---|---|--:|---|"]
    for row, point, value in tried:
        mark = "chosen" if best[row] == point else ""
        lines.append(f"| {row} | {' '.join(point) or 'as they are'} | {value:.3f} | {mark} |")
    note = f"Chosen on dev, by the mean over all queries, with seed {seed} alone."
    text = "\n".join([*lines, "", note, ""])
    write_text(out / "grid.md", text)
    return text


def runs_of(chains: Mapping[Cell, Sequence[Config]]) -> list[Config]:
    """Returns all runs of planned cells."""
    return [config for chain in chains.values() for config in chain]
