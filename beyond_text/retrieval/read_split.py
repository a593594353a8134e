"""Reads what is searched, a catalogue, and what is measured, a query set, of shards or tables.

The two are apart: any products can be searched, judged or not, and the products among which the
queries of a split are measured are its pool: those of the split, or those of every split.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pandas as pd
from torch import Tensor

from beyond_text.config.names import Pool
from beyond_text.metrics.ranking import check_measurable
from beyond_text.retrieval.catalogue import Catalogue, ShardProducts, TableProducts, file_picture
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.retrieval.usable import usable_tables
from beyond_text.shards.manifest import FILE, ShardError, read_manifest
from beyond_text.shards.schema import QueryRow, judgment_row
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables
from beyond_text.tables.tables import Tables


def read_split(
    folder: Path,
    split: str,
    text_fields: list[str],
    picture_size: int,
    stored_size: int = 256,
    pool: Pool | None = None,
) -> tuple[Catalogue, QuerySet]:
    """Reads the queries of one split of a folder of shards or of tables, and their pool.

    Args:
        folder: shards, which have a manifest.json, or tables.
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
    if (folder / FILE).is_file():
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
    folder: Path,
    split: str | None,
    text_fields: list[str],
    picture_size: int,
    stored_size: int = 256,
    is_usable: Callable[[str], bool] | None = None,
) -> Catalogue:
    """Reads the products of a split, or of every split, judged or not; needs no queries.

    `is_usable` says of the path of a picture whether it was tried before, and could be used.

    Raises:
        TableError, ShardError: no such folder or split, or no products in it.
        RejectError: too many rows or pictures cannot be used.
    """
    if (folder / FILE).is_file():
        return _shard_products(folder, split, text_fields, picture_size)
    # Of all splits nobody asks which is whose, and to draw them takes the bytes of all pictures.
    tables = read_tables(folder) if split else read_tables(folder, dev_share=0.0)
    sizes = picture_size, stored_size
    return _table_products(tables, split, text_fields, *sizes, is_usable)[0]


def _table_products(
    tables: Tables,
    split: str | None,
    text_fields: list[str],
    picture_size: int,
    stored_size: int,
    is_usable: Callable[[str], bool] | None = None,
) -> tuple[Catalogue, Tables]:
    """Reads products of tables; also returns the tables without the rows that cannot be used."""
    rows = tables.products
    rows = rows.drop_duplicates("product_id") if split is None else rows[rows["split"] == split]
    if rows.empty:
        known = ", ".join(sorted(set(tables.products["split"]))) or "none"
        raise TableError(f"{tables.folder}: no products in split {split!r} (splits: {known})")
    rows, tables = usable_tables(tables, rows, is_usable)
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
    folder: Path,
    split: str | None,
    text_fields: list[str],
    picture_size: int,
    verify: bool = False,
) -> Catalogue:
    """Reads products of shards; with `verify`, compares the files with their checksums first."""
    names = [split] if split else [n for n, e in read_manifest(folder)["splits"].items() if e]
    splits = [Split(folder, name, text_fields, further=True) for name in names]
    places: dict[str, tuple[int, int]] = {}
    for number, each in enumerate(splits):
        if verify:
            each.verify()
        for sample in range(len(each)):
            # A product without a split of its own may lie in several.
            places.setdefault(each.read(sample, None)[0]["product_id"], (number, sample))
    if not places:
        raise ShardError(f"{folder}: no products in split {split!r}")
    products = ShardProducts(splits, list(places.values()), picture_size)
    return Catalogue(products, list(places), "split" if split else "all")


def _shard_split(
    folder: Path, split: str, text_fields: list[str], picture_size: int, pool: Pool | None
) -> tuple[Catalogue, QuerySet]:
    """Reads a split of shards and its pool, whose files it compares with their checksums first."""
    shards = Split(folder, split, text_fields)
    rows = {"queries": QueryRow, "qrels": judgment_row(shards.highest)}
    paths = {name: folder / f"{name}-{split}.csv" for name in rows}
    for path in paths.values():
        if not path.is_file():
            raise TableError(f"{path}: missing: split {split!r} has no queries to evaluate")
    pool = pool or ("split" if read_manifest(folder).get("products_have_split", True) else "all")
    searched = split if pool == "split" else None
    catalogue = _shard_products(folder, searched, text_fields, picture_size, verify=True)
    queries, qrels = (_read_rows(paths[name], row) for name, row in rows.items())
    if queries.empty:
        raise ShardError(f"{paths['queries']}: expected a query at least, got none")
    query_image = partial(_shard_query_picture, shards, list(queries["image"]), picture_size)
    return catalogue, QuerySet(queries[[*COLUMNS, "seen"]], qrels, query_image)


def _read_rows(path: Path, row: type) -> pd.DataFrame:
    """Reads the rows of a CSV file; an optional column that it lacks is "" throughout.

    Raises:
        ShardError: a row does not have its type; names file, row (from 0) and column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            records = list(csv.DictReader(file, strict=True))
        rows = msgspec.convert(records, list[row], strict=False)  # type: ignore[valid-type]
    except (csv.Error, UnicodeDecodeError, OSError, msgspec.ValidationError) as error:
        raise ShardError(f"{path}: {error}") from error
    return pd.DataFrame(rows).reindex(columns=list(row.__annotations__), fill_value="")


def _table_query_picture(
    paths: Sequence[str], stored_size: int, picture_size: int, number: int
) -> Tensor | None:
    return file_picture(paths[number], stored_size, picture_size)


def _shard_query_picture(
    split: Split, picture_numbers: Sequence[str], picture_size: int, number: int
) -> Tensor | None:
    if not picture_numbers[number]:
        return None
    return split.read_query_picture(int(picture_numbers[number]), picture_size)
