"""Decides which rows are used once their pictures are read; the rest is listed as rejects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from beyond_text.tables.layouts import TEXT_COLUMNS, Reject
from beyond_text.tables.near import near_picture
from data_prep.reduce import Picture


class StoredTable(NamedTuple):
    """How the rows of a table, products or queries, are written to shards."""

    name: str
    id: str
    text: tuple[str, ...]
    # The reason for rejecting a row that has neither text nor picture.
    empty: str
    # Whether rows without a picture are samples too.
    stores_text: bool


PRODUCTS = StoredTable("products", "product_id", TEXT_COLUMNS, "no text and no picture", True)
QUERIES = StoredTable("queries", "query_id", ("query",), "empty query", False)
STORED = {table.name: table for table in (PRODUCTS, QUERIES)}


class Outcome(NamedTuple):
    """What becomes of a row: its pictures, whether it is used at all, and what failed."""

    jpegs: list[bytes]
    is_used: bool
    rejects: list[Reject]


def outcome_of(
    record: Mapping[str, Any],
    pictures: Iterable[Picture],
    table: StoredTable,
    file: str,
    root: Path,
) -> Outcome:
    """Decides about a row with its pictures; it needs one of them, or a text.

    Args:
        record: the row; `images` are the paths of its pictures.
        pictures: what was read of each.
        table: whose row it is.
        file: its name, for rejects.
        root: the folder of the pictures, resolved.
    """
    jpegs, faults = [], []
    for path, picture in zip(record["images"], pictures, strict=True):
        if picture.jpeg is not None:
            jpegs.append(picture.jpeg)
        if picture.failure is not None:
            reason, detail = picture.failure
            written = path.removeprefix(f"{root}/")
            near = near_picture(root, written) if reason == "picture missing" else ""
            hint = f"; there is {near!r}" if near else ""
            faults.append((reason, f"image {written[:500]!r}: {detail}{hint}"))
    is_used = bool(jpegs) or has_text(record, table)
    if not is_used:
        faults.append((table.empty, "expected a text or a picture, got neither"))
    row, identity = int(record["row"]), record[table.id]
    return Outcome(jpegs, is_used, [Reject(file, row, identity, *fault) for fault in faults])


def has_text(record: Mapping[str, Any], table: StoredTable) -> bool:
    """Says whether one of a row's texts is not empty."""
    return any(record[column] for column in table.text)
