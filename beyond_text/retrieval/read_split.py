"""Reads what is searched, a catalogue, and what is measured, a query set, of shards or tables.

The two are apart: any products can be searched, judged or not, and the products among which the
queries of a split are measured are its pool: those of the split, or those of every split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from beyond_text.config.names import Pool
from beyond_text.metrics.ranking import check_measurable
from beyond_text.retrieval.catalogue import Catalogue, ShardProducts, TableProducts, file_picture
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.retrieval.usable import usable_products
from beyond_text.shards.manifest import ShardError, read_manifest
from beyond_text.shards.split import Split
from beyond_text.shards.store import Folder, Store, holds_shards
from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables
from beyond_text.tables.tables import Tables


def read_split(
    folder: Folder,
    split: str,
    text_fields: list[str],
    picture_size: int,
    stored_size: int = 256,
    pool: Pool | None = None,
) -> tuple[Catalogue, QuerySet]:
    """Reads the queries of one split of a folder of shards or of tables, and their pool.

    Args:
        folder: shards, which have a manifest.json and may be at a URL, or tables.
        split: the split's name.
        text_fields: the columns that make up the product text.
        picture_size: side in pixels that pictures may be reduced to while decoding.
        stored_size: longest side in pixels that shards keep; used for tables.
        pool: the products that are searched; None: those of the split, or all where products have
            no split of their own, since the split then holds the judged ones alone.

    Returns:
        The products of the pool, and the queries of the split with their judgments.

    Raises:
        TableError, ShardError: no products or queries in that split.
        RejectError: too many rows or pictures cannot be used.
        ValueError: queries or judgments that cannot be measured.
    """
    if isinstance(folder, Store) or holds_shards(folder):
        catalogue, query_set = _shard_split(folder, split, text_fields, picture_size, pool)
    else:
        catalogue, query_set = _table_split(
            folder, split, text_fields, picture_size, stored_size, pool
        )
    try:
        check_measurable(query_set.queries, query_set.qrels)
    except ValueError as error:
        raise TableError(f"{folder}: split {split!r}: {error}") from error
    return catalogue, query_set


def read_products(
    folder: Folder,
    split: str | None,
    text_fields: list[str],
    picture_size: int,
    stored_size: int = 256,
) -> Catalogue:
    """Reads the products of a split, or of every split, judged or not; needs no queries.

    Raises:
        TableError, ShardError: no such folder or split, or no products in it.
        RejectError: too many rows or pictures cannot be used.
    """
    if isinstance(folder, Store) or holds_shards(folder):
        names = [split] if split else read_manifest(folder)["splits"]
        splits = _splits(folder, names, text_fields)
        return _shard_products(splits, picture_size, "split" if split else "all")[0]
    # Of all splits nobody asks which is whose, and to draw them takes the bytes of all pictures.
    tables = read_tables(folder) if split else read_tables(folder, dev_share=0.0)
    sizes = picture_size, stored_size
    return _table_products(tables, split, text_fields, *sizes)[0]


def _table_products(
    tables: Tables,
    split: str | None,
    text_fields: list[str],
    picture_size: int,
    stored_size: int,
) -> tuple[Catalogue, Tables]:
    """Reads products of tables; also returns the tables without the rows that cannot be used."""
    rows, tables = usable_products(tables, split)
    sizes = stored_size, picture_size
    products = TableProducts(rows, text_fields, *sizes, tables.pictures)
    pool: Pool = "all" if split is None else "split"
    return Catalogue(products, list(rows["product_id"]), pool), tables


def _table_split(
    folder: Path,
    split: str,
    text_fields: list[str],
    picture_size: int,
    stored_size: int,
    pool: Pool | None,
) -> tuple[Catalogue, QuerySet]:
    """Reads a split of tables and its pool."""
    tables = read_tables(folder)
    counts = [int((t["split"] == split).sum()) for t in (tables.products, tables.queries)]
    if not all(counts):
        known = ", ".join(sorted(set(tables.products["split"])))
        raise TableError(
            f"{folder}: split {split!r} has {counts[0]} products and {counts[1]} queries "
            f"(splits: {known})"
        )
    pool = pool or ("split" if tables.products_have_split else "all")
    searched = split if pool == "split" else None
    catalogue, tables = _table_products(tables, searched, text_fields, picture_size, stored_size)
    queries, qrels = (table[table["split"] == split] for table in (tables.queries, tables.qrels))
    query_set = QuerySet(
        queries[[*COLUMNS, "seen"]],
        qrels[["query_id", "product_id", *tables.grades]],
        partial(_table_query_picture, list(queries["image"]), stored_size, picture_size),
    )
    return catalogue, query_set


def _shard_products(
    splits: Sequence[Split], picture_size: int, pool: Pool
) -> tuple[Catalogue, list[list[str]]]:
    """Reads the products of splits of shards; also returns the product_ids of each split."""
    ids = [[each.read(n, None)[0]["product_id"] for n in each.in_order()] for each in splits]
    places: dict[str, tuple[int, int]] = {}
    for number, own in enumerate(ids):
        for sample, product_id in enumerate(own):
            # A product without a split of its own may lie in several.
            places.setdefault(product_id, (number, sample))
    if not places:
        raise ShardError(f"{splits[0].store}: no products in it")
    products = ShardProducts(splits, list(places.values()), picture_size)
    return Catalogue(products, list(places), pool), ids


def _splits(folder: Folder, names: Iterable[str], text_fields: list[str]) -> list[Split]:
    """Opens splits with the further columns of their products."""
    return [Split(folder, name, text_fields, further=True) for name in names]


def _shard_split(
    folder: Folder, split: str, text_fields: list[str], picture_size: int, pool: Pool | None
) -> tuple[Catalogue, QuerySet]:
    """Reads a split of shards and its pool, whose files it compares with their checksums first."""
    manifest = read_manifest(folder)
    pool = pool or ("split" if manifest.get("products_have_split", True) else "all")
    # Opened first, since there may be no such split.
    measured = Split(folder, split, text_fields)
    names = list(manifest["splits"]) if pool == "all" else [split]
    splits = _splits(folder, names, text_fields)
    for each in splits:
        each.verify()
    if not len(measured.asked):
        raise TableError(f"{folder}: split {split!r} has no queries to evaluate")
    catalogue, ids = _shard_products(splits, picture_size, pool)
    product_ids = np.array(ids[names.index(split)], dtype=object)
    queries = pd.DataFrame(measured.asked.table().to_pydict())
    query_image = partial(shard_query_picture, measured, queries["picture"].tolist(), picture_size)
    queries = queries.assign(seen=queries["seen"].map({True: "1", False: ""}))
    qrels = _qrels(measured, queries["query_id"].to_numpy(), product_ids)
    return catalogue, QuerySet(queries[[*COLUMNS, "seen"]], qrels, query_image)


def _qrels(split: Split, query_ids: np.ndarray, product_ids: np.ndarray) -> pd.DataFrame:
    """Returns the judgments of a split, less those of queries that are the product itself."""
    parts = [
        pd.DataFrame(
            {
                "query_id": query_ids[pairs.query],
                "product_id": product_ids[pairs.sample],
                **dict(zip(split.highest, pairs.grades, strict=True)),
            }
        )[~pairs.own]
        for pairs in split.judged
    ]
    columns = ["query_id", "product_id", *split.highest]
    return pd.concat([pd.DataFrame(columns=columns), *parts], ignore_index=True)


def _table_query_picture(
    paths: Sequence[str], stored_size: int, picture_size: int, number: int
) -> Tensor | None:
    return file_picture(paths[number], stored_size, picture_size)


def shard_query_picture(
    split: Split, picture_numbers: Sequence[int], picture_size: int, number: int
) -> Tensor | None:
    """Reads the picture of the number-th query; `picture_numbers` are those of all, -1: none."""
    if picture_numbers[number] < 0:
        return None
    return split.read_query_picture(picture_numbers[number], picture_size)
