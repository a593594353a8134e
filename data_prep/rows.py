"""Decides which rows are used once their pictures are read; the rest is listed as rejects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from beyond_text.tables.layouts import TEXT_COLUMNS, Reject
from beyond_text.tables.near import near_picture
from beyond_text.tables.rejects import Rejects
from beyond_text.tables.tables import Tables
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


def usable_rows(
    records: list[dict[str, Any]],
    pictures: Iterator[Picture],
    table: StoredTable,
    tables: Tables,
    rejects: Rejects,
) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """Yields the rows that have a text or a picture, with the pictures; lists what failed.

    `pictures` are those of all rows, one after the other.
    """
    root = tables.pictures.resolve()
    for record in records:
        jpegs = []
        own = islice(pictures, len(record["images"]))
        for path, picture in zip(record["images"], own, strict=True):
            if picture.jpeg is not None:
                jpegs.append(picture.jpeg)
            if picture.failure is not None:
                reason, detail = picture.failure
                written = path.removeprefix(f"{root}/")
                near = near_picture(root, written) if reason == "picture missing" else ""
                hint = f"; there is {near!r}" if near else ""
                detail = f"image {written[:500]!r}: {detail}{hint}"
                rejects.add(_reject(tables, table, record, reason, detail))
        if jpegs or has_text(record, table):
            yield record, jpegs
        else:
            detail = "expected a text or a picture, got neither"
            rejects.add(_reject(tables, table, record, table.empty, detail))


def has_text(record: dict[str, Any], table: StoredTable) -> bool:
    """Says whether one of a row's texts is not empty."""
    return any(record[column] for column in table.text)


def _reject(
    tables: Tables, table: StoredTable, record: dict[str, Any], reason: str, detail: str
) -> Reject:
    """Makes the reject of a row."""
    return Reject(
        tables.files[table.name].name, int(record["row"]), record[table.id], reason, detail
    )
