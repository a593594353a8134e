"""Leaves out of tables what the shard builder would leave out, and stops where it would.

So tables are measured as their shards would be: by the same rows, with the same limit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from beyond_text.retrieval.threads import map_in_threads
from beyond_text.tables.compact import as_array
from beyond_text.tables.layouts import TEXT_COLUMNS, Reject, TableError
from beyond_text.tables.pictures import PictureError, decode_picture, read_picture
from beyond_text.tables.rejects import MAX_REJECTED, Rejects, drop_judgments
from beyond_text.tables.tables import Tables
from beyond_text.terminal import say

# Side in pixels to which a JPEG may be reduced while it is tried: the smallest scale is enough.
TRIED = 16


def usable_products(
    tables: Tables, split: str | None, is_usable: Callable[[str], bool] | None = None
) -> tuple[pd.DataFrame, Tables]:
    """Returns the products of a split, or each product of all, as `usable_tables` does.

    Raises:
        TableError: there are none in that split.
        RejectError: a file has lost more than MAX_REJECTED of its rows.
    """
    rows = tables.products
    rows = rows.drop_duplicates("product_id") if split is None else rows[rows["split"] == split]
    if rows.empty:
        known = ", ".join(sorted(set(tables.products["split"]))) or "none"
        raise TableError(f"{tables.folder}: no products in split {split!r} (splits: {known})")
    return usable_tables(tables, rows, is_usable)


def usable_tables(
    tables: Tables, products: pd.DataFrame, is_usable: Callable[[str], bool] | None = None
) -> tuple[pd.DataFrame, Tables]:
    """Returns the products of which something can be used, and the tables without the others.

    Pictures that cannot be used are "". What is rejected is printed by reason.

    Args:
        tables: the tables; their queries lose pictures too, their judgments lose what is left out.
        products: those rows of the products that are searched.
        is_usable: says of a product's picture, by its path, whether it need not be tried again.

    Raises:
        RejectError: a file has lost more than MAX_REJECTED of its rows.
    """
    rejects = Rejects(tables.rejects, tables.files.values(), MAX_REJECTED)
    rejects.check()
    products, without = _with_pictures(
        tables, "products", products, TEXT_COLUMNS, rejects, is_usable
    )
    queries, lost = _with_pictures(tables, "queries", tables.queries, ("query",), rejects)
    qrels = tables.qrels
    for column, gone in (("product_id", without), ("query_id", lost)):
        qrels = drop_judgments(qrels, gone, column, rejects)
    rejects.check()
    if counts := rejects.by_reason():
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        say(f"{tables.folder}: rejected: {reasons}")
    return products, tables._replace(queries=queries, qrels=qrels)


def _with_pictures(
    tables: Tables,
    name: str,
    rows: pd.DataFrame,
    texts: tuple[str, ...],
    rejects: Rejects,
    is_usable: Callable[[str], bool] | None = None,
) -> tuple[pd.DataFrame, set[str]]:
    """Returns the rows with pictures that can be used, and the ids of rows left with nothing."""
    if rows.empty:
        return rows, set()
    key = "product_id" if name == "products" else "query_id"
    file = tables.files[name].name
    paths = as_array(rows["image"]).to_pylist()
    faults = list(map_in_threads(partial(_fault, is_usable), paths))
    faulty = [fault for fault in faults if fault]
    lost = rows[[fault is not None for fault in faults]]
    for number, identity, image, fault in zip(
        lost["row"], lost[key], lost["image"], faulty, strict=True
    ):
        rejects.add(Reject(file, int(number), identity, fault.reason, f"{image}: {fault}"))
    if faulty:
        used = ["" if fault else path for path, fault in zip(paths, faults, strict=True)]
        rows = rows.assign(image=used)
    empty = (rows[[*texts, "image"]] == "").all(axis=1)
    reason = "no text and no picture" if name == "products" else "empty query"
    for row in rows[empty].to_dict("records"):
        rejects.add(Reject(file, int(row["row"]), row[key], reason, "expected a text or a picture"))
    return rows[~empty], set(rows[key][empty])


def _fault(is_usable: Callable[[str], bool] | None, path: str) -> PictureError | None:
    """Returns why a picture cannot be used, or None; no picture has no fault."""
    if not path or (is_usable and is_usable(path)):
        return None
    try:
        decode_picture(read_picture(Path(path)), reduce_to=TRIED)
    except PictureError as error:
        return error
    return None
