"""Reads tables with their pictures, and leaves aside what the shards' builder would."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from beyond_text.tables.rejects import Rejects, drop_judgments
from beyond_text.tables.tables import Tables
from beyond_text.tables.text import product_text
from data_prep.reduce import Reader, picture_reader
from data_prep.rows import PRODUCTS, QUERIES, StoredTable, outcome_of

# Pictures are compared as shards store them by default.
STORED_SIZE = 256
# Pictures in memory at a time.
PART = 1000


class Usable(NamedTuple):
    """The rows that training would see, and the rejects.

    `products` and `queries` have the columns of `Tables`, and `text` and `picture`: the product's
    text or the query's words, and a digest of the first stored picture; "" where there is none.
    """

    products: pd.DataFrame
    queries: pd.DataFrame
    qrels: pd.DataFrame
    grades: list[str]
    rejects: Rejects


def read_usable(
    tables: Tables,
    text_fields: Sequence[str],
    max_pixels: int,
    max_rejected: float,
    workers: int | None,
) -> Usable:
    """Reads the pictures of tables as the shards' builder does, and writes nothing.

    Args:
        tables: the tables.
        text_fields: the columns that make up a product's text.
        max_pixels: most pixels a picture's header may announce.
        max_rejected: share of a file's rows above which the builder would stop.
        workers: processes that reduce pictures; None for one per core.
    """
    rejects = Rejects(tables.rejects, tables.files.values(), max_rejected)
    used: dict[str, pd.DataFrame] = {}
    qrels = tables.qrels
    own = [[image] if image else [] for image in tables.queries["image"]]
    frames = ((QUERIES, tables.queries.assign(images=own)), (PRODUCTS, tables.products))
    with (
        picture_reader(workers, STORED_SIZE, max_pixels) as read,
        tqdm(total=sum(len(f) for _, f in frames), unit="row", disable=None) as progress,
    ):
        for table, frame in frames:
            rows = list(_used_rows(tables, table, frame, read, rejects, progress))
            used[table.name] = pd.DataFrame(rows, columns=[*frame.columns, "picture"])
            unused = set(frame[table.id]) - set(used[table.name][table.id])
            qrels = drop_judgments(qrels, unused, table.id, rejects)
    products, queries = used["products"], used["queries"]
    texts: list[Any] = products.to_dict("records")
    return Usable(
        products.assign(text=[product_text(record, text_fields) for record in texts]),
        queries.assign(text=queries["query"]),
        qrels,
        tables.grades,
        rejects,
    )


def _used_rows(
    tables: Tables,
    table: StoredTable,
    frame: pd.DataFrame,
    read: Reader,
    rejects: Rejects,
    progress: tqdm,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table that are used, with `picture`; lists what is wrong with rows."""
    root = tables.pictures.resolve()
    for start in range(0, len(frame), PART):
        part: list[Any] = frame.iloc[start : start + PART].to_dict("records")
        stored = iter(read([path for record in part for path in record["images"]]))
        file = tables.files[table.name].name
        for record in part:
            own = islice(stored, len(record["images"]))
            jpegs, is_used, faults = outcome_of(record, own, table, file, root)
            rejects.add(*faults)
            if is_used:
                digest = hashlib.sha256(jpegs[0]).hexdigest() if jpegs else ""
                yield record | {"picture": digest}
        progress.update(len(part))
