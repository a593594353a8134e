"""Reads one split of shards or tables as a catalogue and a query set."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pandas as pd
from torch import Tensor

from beyond_text.retrieval.catalogue import Catalogue, ShardProducts, TableProducts, file_picture
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.shards.manifest import FILE, ShardError
from beyond_text.shards.schema import QueryRow, judgment_row
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables

# Largest share of the pictures in tables that may be missing, as in the shard builder.
MAX_MISSING = 0.05


def read_split(
    folder: Path, split: str, text_fields: list[str], picture_size: int, stored_size: int = 256
) -> tuple[Catalogue, QuerySet]:
    """Reads one split of a folder of shards or of tables.

    Args:
        folder: shards, which have a manifest.json, or tables.
        split: the split's name.
        text_fields: the columns that make up the product text.
        picture_size: side in pixels that pictures may be reduced to while decoding.
        stored_size: longest side in pixels that shards keep; used for tables.

    Returns:
        The products of the split, and its queries with their judgments.

    Raises:
        TableError, ShardError: no products or queries in that split, or too many pictures missing.
    """
    if (folder / FILE).is_file():
        return _read_shards(folder, split, text_fields, picture_size)
    tables = read_tables(folder)
    products, queries, qrels = (
        table[table["split"] == split] for table in (tables.products, tables.queries, tables.qrels)
    )
    if products.empty or queries.empty:
        known = ", ".join(sorted(set(tables.products["split"])))
        raise TableError(
            f"{folder}: split {split!r} has {len(products)} products and {len(queries)} queries "
            f"(splits: {known})"
        )
    _check_pictures(folder, [*products["image"], *queries["image"]])
    catalogue = Catalogue(
        TableProducts(products, text_fields, stored_size, picture_size),
        list(products["product_id"]),
    )
    query_set = QuerySet(
        queries[COLUMNS],
        qrels[["query_id", "product_id", *tables.grades]],
        partial(_table_query_picture, list(queries["image"]), stored_size, picture_size),
    )
    return catalogue, query_set


def _read_shards(
    folder: Path, split: str, text_fields: list[str], picture_size: int
) -> tuple[Catalogue, QuerySet]:
    """Reads a split of shards, whose files it compares with their checksums first."""
    shards = Split(folder, split, text_fields)
    shards.verify()
    rows = {"queries": QueryRow, "qrels": judgment_row(shards.highest)}
    paths = {name: folder / f"{name}-{split}.csv" for name in rows}
    for path in paths.values():
        if not path.is_file():
            raise TableError(f"{path}: missing: split {split!r} has no queries to evaluate")
    queries, qrels = (_read_rows(paths[name], row) for name, row in rows.items())
    if queries.empty:
        raise ShardError(f"{paths['queries']}: expected a query at least, got none")
    ids = [shards.read(number, None)[0]["product_id"] for number in range(len(shards))]
    query_image = partial(_shard_query_picture, shards, list(queries["image"]), picture_size)
    catalogue = Catalogue(ShardProducts(shards, picture_size), ids)
    return catalogue, QuerySet(queries[COLUMNS], qrels, query_image)


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


def _check_pictures(folder: Path, paths: Iterable[str]) -> None:
    """Refuses tables whose pictures lie elsewhere: they would be measured by text alone."""
    named = [path for path in paths if path]
    missing = [path for path in named if not Path(path).is_file()]
    if len(missing) > MAX_MISSING * len(named):
        raise TableError(
            f"{folder}: {len(missing)} of {len(named)} pictures are missing, expected at most a "
            f"share of {MAX_MISSING:g}; the first: {missing[0]}; if they lie elsewhere, make "
            "shards with --pictures and measure these"
        )
