"""Decides which rows of products, queries and judgments are used, and says why others are not."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from beyond_text.tables.layouts import HIGHEST_GRADE, SPLIT_NAME, TEXT_COLUMNS, Reject


class RowFilter:
    """Drops rows from the frames of one file and lists why; the columns `keys` identify a row."""

    def __init__(self, file: str, rejects: list[Reject], *keys: str) -> None:
        self.file = file
        self.rejects = rejects
        self.keys = keys

    def note(
        self, frame: pd.DataFrame, unfit: pd.Series, reason: str, column: str, expected: str
    ) -> None:
        """Lists the unfit rows as rejects; `column` holds the value that is wrong."""
        for record in frame[unfit].to_dict("records"):
            identity = " ".join(str(record[key]) for key in self.keys)
            detail = f"{column} {str(record[column])[:200]!r}, expected {expected}"
            self.rejects.append(Reject(self.file, int(record["row"]), identity, reason, detail))

    def drop(
        self, frame: pd.DataFrame, unfit: pd.Series, reason: str, column: str, expected: str
    ) -> pd.DataFrame:
        """Lists the unfit rows as rejects and returns the others."""
        self.note(frame, unfit, reason, column, expected)
        return frame[~unfit].reset_index(drop=True)

    def ids(self, frame: pd.DataFrame, column: str) -> pd.DataFrame:
        """Drops rows without an id, and the later of two rows with the same id."""
        frame = self.drop(frame, frame[column] == "", "empty id", column, "an id")
        return self.drop(frame, frame[column].duplicated(), "duplicate id", column, "a new id")

    def splits(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Drops rows whose split cannot be part of a shard's file name."""
        unfit = ~frame["split"].str.fullmatch(SPLIT_NAME).astype(bool)
        return self.drop(frame, unfit, "bad split", "split", "a name of letters, digits, - or _")

    def grades(self, frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
        """Parses grades as floats; drops rows where one is not a number from 0 to HIGHEST_GRADE."""
        expected = f"a number from 0 to {HIGHEST_GRADE:g}"
        for column in columns:
            numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
            unfit = ~numbers.between(0, HIGHEST_GRADE)
            frame = self.drop(frame, unfit, "bad grade", column, expected)
            frame[column] = numbers[~unfit].to_numpy()
        return frame


def check_products(
    products: pd.DataFrame, folder: Path, absent_pictures: bool, row_filter: RowFilter
) -> pd.DataFrame:
    """Returns the usable products with every column; `image` is an absolute path or ""."""
    for column in (*TEXT_COLUMNS, "image", "group_id"):
        if column not in products:
            products[column] = ""
    products = row_filter.ids(products, "product_id")
    products["image"] = _pictures(products, folder, absent_pictures, row_filter)
    empty = (products[[*TEXT_COLUMNS, "image"]] == "").all(axis=1)
    reason = "no text and no picture"
    products = row_filter.drop(products, empty, reason, "title", "a text or a picture")
    if "split" in products:
        products = row_filter.splits(products)
    products["group_id"] = products["group_id"].where(
        products["group_id"] != "", products["product_id"]
    )
    return products


def check_queries(
    queries: pd.DataFrame,
    products: pd.DataFrame,
    folder: Path,
    absent_pictures: bool,
    row_filter: RowFilter,
) -> pd.DataFrame:
    """Returns the usable queries with every column; `image` is an absolute path or ""."""
    for column in ("query", "image", "product_id", "kind"):
        if column not in queries:
            queries[column] = ""
    queries = row_filter.ids(queries, "query_id")
    queries["image"] = _pictures(queries, folder, absent_pictures, row_filter)
    empty = (queries[["query", "image"]] == "").all(axis=1)
    queries = row_filter.drop(queries, empty, "empty query", "query", "a text or a picture")
    if "split" in queries:
        queries = row_filter.splits(queries)
    own = queries["product_id"]
    unknown = (own != "") & ~own.isin(products["product_id"])
    # A query whose own product is gone from the shop stays a query.
    row_filter.note(queries, unknown, "unknown product", "product_id", "a product in use")
    kinds = queries["kind"]
    return queries.assign(product_id=own.mask(unknown, ""), kind=kinds.where(kinds != "", "query"))


def check_judgments(
    qrels: pd.DataFrame, products: pd.DataFrame, queries: pd.DataFrame, row_filter: RowFilter
) -> pd.DataFrame:
    """Returns the judgments of usable queries and products, each pair once."""
    for column, known in (("query_id", queries), ("product_id", products)):
        unknown = ~qrels[column].isin(known[column])
        table = column.removesuffix("_id")
        qrels = row_filter.drop(qrels, unknown, f"unknown {table}", column, f"a {table} in use")
    own = queries.set_index("query_id")["product_id"]
    itself = qrels["product_id"] == qrels["query_id"].map(own)
    other = "another product than the query itself is"
    qrels = row_filter.drop(qrels, itself, "judges itself", "product_id", other)
    twice = qrels.duplicated(["query_id", "product_id"])
    return row_filter.drop(qrels, twice, "duplicate judgment", "relevance", "one row for the pair")


def _pictures(
    frame: pd.DataFrame, folder: Path, absent_pictures: bool, row_filter: RowFilter
) -> list[str]:
    """Returns absolute paths of the pictures, or ""; lists those outside the folder as rejects."""
    leaves = frame["image"].map(_leaves_folder).astype(bool)
    row_filter.note(frame, leaves, "picture outside folder", "image", "a path inside the folder")
    root = folder.resolve()
    paths = [
        str(root / image) if image and not outside else ""
        for image, outside in zip(frame["image"], leaves, strict=True)
    ]
    if absent_pictures:
        # Not by Path: it raises where a name is too long for the disk.
        return [path if os.path.isfile(path) else "" for path in paths]
    return paths


def _leaves_folder(image: str) -> bool:
    """Says whether a path is absolute (POSIX or Windows), goes up, is a URL or holds a NUL."""
    windows = PureWindowsPath(image)
    return bool(
        PurePosixPath(image).is_absolute()
        or windows.anchor
        or ".." in windows.parts
        or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", image)
        or "\0" in image
    )
