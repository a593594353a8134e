"""Reads tables with their pictures, and leaves aside what the shards' builder would."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from beyond_text.shards.split import product_text
from beyond_text.tables.layouts import Layout
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import Rejects
from data_prep.reduce import picture_reader
from data_prep.rows import PRODUCTS, QUERIES, StoredTable, drop_judgments, usable_rows

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
    path: Path,
    layout: Layout,
    text_fields: list[str],
    dev_share: float,
    pictures: Path | None,
    max_pixels: int,
    max_rejected: float,
    workers: int | None,
    test_share: float = 0.0,
    grades: Sequence[str] | None = None,
) -> Usable:
    """Reads tables as the shards' builder does, pictures included, and writes nothing.

    Args:
        path: what `read_tables` takes, as `layout`, `dev_share`, `pictures`, `test_share` and
            `grades`.
        layout: whose files and column names the tables have.
        text_fields: the columns that make up a product's text.
        dev_share: share put into dev where the tables name no splits.
        pictures: folder in which the pictures lie; None for that of the tables.
        max_pixels: most pixels a picture's header may announce.
        max_rejected: share of a file's rows above which the builder would stop.
        workers: processes that reduce pictures; None for one per core.
        test_share: share put into test where the tables name no splits.
        grades: columns of judgments that are grades; None for the layout's.

    Raises:
        TableError: the tables cannot be read.
    """
    tables = read_tables(path, layout, dev_share, pictures, test_share, grades)
    rejects = Rejects(tables.rejects, tables.files.values(), max_rejected)
    used: dict[str, pd.DataFrame] = {}
    qrels = tables.qrels
    total = len(tables.products) + len(tables.queries)
    with (
        picture_reader(workers, STORED_SIZE, max_pixels) as read,
        tqdm(total=total, unit="row", disable=None) as progress,
    ):

        def keep(frame: pd.DataFrame, table: StoredTable) -> pd.DataFrame:
            records: list[Any] = frame.to_dict("records")
            rows = []
            for start in range(0, len(records), PART):
                part = records[start : start + PART]
                stored = iter(read([path for record in part for path in record["images"]]))
                for record, jpegs in usable_rows(part, stored, table, tables, rejects):
                    digest = hashlib.sha256(jpegs[0]).hexdigest() if jpegs else ""
                    rows.append(record | {"picture": digest})
                progress.update(len(part))
            return pd.DataFrame(rows, columns=[*frame.columns, "picture"])

        own = [[image] if image else [] for image in tables.queries["image"]]
        queries = tables.queries.assign(images=own)
        for table, frame in ((QUERIES, queries), (PRODUCTS, tables.products)):
            used[table.name] = keep(frame, table)
            unused = set(frame[table.id]) - set(used[table.name][table.id])
            qrels = drop_judgments(qrels, unused, table, rejects)
    products, queries = used["products"], used["queries"]
    texts: list[Any] = products.to_dict("records")
    return Usable(
        products.assign(text=[product_text(record, text_fields) for record in texts]),
        queries.assign(text=queries["query"]),
        qrels,
        tables.grades,
        rejects,
    )
