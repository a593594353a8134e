"""Keeps what became of each URL in a table that survives kills: a line is added as each ends."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from beyond_text.files import atomic_write, errors_name

FETCHED, FAILED = "fetched", "failed"


class Outcome(NamedTuple):
    """What became of a URL; `file` is relative to the table's folder, or "".

    `attempts` counts those of all runs; 0 where none was made.
    """

    url: str
    status: str
    file: str
    bytes: int
    attempts: int
    reason: str
    detail: str


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Reads the last outcome of each URL; a line that a kill cut short is left out.

    Raises:
        ValueError: the file is not such a table.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        reader = csv.reader(StringIO(whole, newline=""), strict=True)
        if next(reader, None) != list(Outcome._fields):
            raise ValueError(f"expected the columns {', '.join(Outcome._fields)}")
        rows = [
            Outcome(url, status, file, int(size), int(attempts), *rest)
            for url, status, file, size, attempts, *rest in reader
        ]
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of fetched pictures: {error}") from error
    return {row.url: row for row in rows}


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes the whole table, one line an outcome."""
    with atomic_write(path) as file:
        file.write(_line(Outcome._fields))
        file.writelines(map(_line, outcomes))


def add_outcome(path: Path, outcome: Outcome) -> None:
    """Adds a line to the table."""
    with errors_name(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(_line(outcome))


def _line(values: Iterable[object]) -> str:
    """Makes one line of CSV; blanks stand for line breaks, so that a row is a line."""
    line = StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        re.sub(r"[\r\n]+", " ", str(value)) for value in values
    )
    return line.getvalue()
