"""Keeps what a shop says of its products beyond our columns: brand, sku, price, stock and the like.

Training does not read them. A search by words finds their texts, and filters go by them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import pandas as pd

from beyond_text.files import MALFORMED
from beyond_text.tables.cells import LIST
from beyond_text.tables.delimited import fold
from beyond_text.tables.layouts import PRODUCT_COLUMNS, Source
from beyond_text.tables.templates import fields_of, fill, present
from beyond_text.tables.text import plain_text, shown_text
from beyond_text.terminal import say

MAX_COLUMNS = 100
MAX_NAME = 100
# Characters of a value; what is longer is cut, and counted aloud.
MAX_VALUE = 1000
# Between the values of rows that become one product.
BETWEEN = " | "


def further_columns(
    theirs: pd.DataFrame, others: pd.DataFrame, source: Source
) -> tuple[list[dict[str, str]], list[str], int]:
    """Returns the further columns of each row, without empty values, and which `others` are kept.

    Also returns how many values were cut to MAX_VALUE characters.

    Args:
        theirs: columns under the names that the source has for them.
        others: columns that the source does not name; at most MAX_COLUMNS in all are kept.
        source: whose `further` and `others` say what is kept.
    """
    columns: dict[str, Iterable[str]] = {}
    for name, template in source.further.items():
        if usable := present(template, theirs):
            filled = fill(usable, {field: theirs[field] for field in fields_of(usable)})
            meanings = source.values.get(name, {})
            columns[name] = [meanings.get(value.lower(), value) for value in filled]
    kept = []
    taken = {fold(name) for name in PRODUCT_COLUMNS}
    for name in others if source.others else ():
        ours = plain_text(name)[:MAX_NAME]
        if ours and ours not in columns and fold(ours) not in taken and len(columns) < MAX_COLUMNS:
            columns[ours] = others[name]
            kept.append(name)
    rows: list[dict[str, str]] = [{} for _ in range(len(theirs))]
    cut = 0
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            if text := _cleaned(value):
                row[name] = text[:MAX_VALUE]
                cut += len(text) > MAX_VALUE
    return rows, kept, cut


def say_cut(path: Path, cut: int) -> None:
    """Prints how many values of a file were cut."""
    if cut:
        number = "1 value" if cut == 1 else f"{cut:,} values"
        say(f"{path.name}: {number} cut to {MAX_VALUE:,} characters")


def merged(rows: Iterable[dict[str, str]], joined: Collection[str]) -> dict[str, str]:
    """Makes one of the further columns of several rows: of each column the first value.

    Of the columns `joined` it has all distinct values, parted by BETWEEN.
    """
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, {})[value] = None
    return {
        name: BETWEEN.join(values)[:MAX_VALUE] if name in joined else next(iter(values))
        for name, values in found.items()
    }


def _cleaned(value: str) -> str:
    """Cleans a value; a list is its values, parted by commas."""
    if value.startswith("["):
        with suppress(*MALFORMED):
            value = ", ".join(part for part in LIST.decode(value) if part)
    return shown_text(value)
