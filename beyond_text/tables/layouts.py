"""Defines layouts: which files hold products, queries and judgments, under which column names.

A layout is data. Our own is one `Layout` row; those of public data sets are further rows, in
`data_prep.adapters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TEXT_COLUMNS = ("title", "description", "category")
PRODUCT_COLUMNS = ("product_id", *TEXT_COLUMNS, "image", "group_id", "split")
QUERY_COLUMNS = ("query_id", "query", "image", "product_id", "split", "kind")
JUDGMENT_COLUMNS = ("query_id", "product_id", "relevance")
# A split is part of a shard's file name, whose length file systems limit.
SPLIT_NAME = r"[A-Za-z0-9_-]{1,64}"
# A gain is (2^grade - 1) / (2^highest - 1), which float32 must be able to tell from 0.
HIGHEST_GRADE = 100.0


class TableError(ValueError):
    """A table cannot be read at all; the message names the file."""


class Reject(NamedTuple):
    """A row, or a row's picture, that is not used. `row` is 1-based and the header is row 1."""

    file: str
    row: int
    id: str
    reason: str
    detail: str


class TableFile(NamedTuple):
    """A file that was read: the number of its rows that the layout keeps, and of the others."""

    name: str
    rows: int
    left_out: int


@dataclass(frozen=True)
class Join:
    """Templates that are filled in and joined; empty ones are left out."""

    separator: str
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Describes how one of our tables is read from a file.

    Attributes:
        file: name without its .csv or .parquet.
        columns: our column -> format template over their columns and over ours listed before,
            e.g. "{article_id:0>10}".
        optional: those of our columns that may be missing in the file.
        one_of: columns of ours of which at least one must be there.
        values: our column -> their value -> ours; other values stay.
        keep: their column -> the only value wanted; other rows are counted as left out.
        overflow: their last column, where unquoted commas make surplus fields part of it.
        distinct: rows that repeat an earlier one are dropped.
        further_grades: every column that is not named here is a grade too, except `split`, which
            a judgment takes from its query and product.
    """

    file: str
    columns: Mapping[str, str | Join]
    optional: frozenset[str] = frozenset()
    one_of: tuple[str, ...] = ()
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    overflow: str = ""
    distinct: bool = False
    further_grades: bool = False


@dataclass(frozen=True)
class Layout:
    """Names the files of a data set.

    `pairs` is the name of a file of item-item pairs. With `absent_pictures`, a picture whose file
    is missing is not listed as a reject.
    """

    products: Source | None = None
    queries: Source | None = None
    qrels: Source | None = None
    log: Source | None = None
    pairs: str = ""
    absent_pictures: bool = False


def _same(names: tuple[str, ...]) -> dict[str, str | Join]:
    """Makes templates that read each column under our own name."""
    return {name: f"{{{name}}}" for name in names}


DEFAULT_LAYOUT = Layout(
    products=Source(
        "products",
        _same(PRODUCT_COLUMNS),
        optional=frozenset(PRODUCT_COLUMNS) - {"product_id"},
        one_of=("title", "image"),
    ),
    queries=Source(
        "queries",
        _same(QUERY_COLUMNS),
        optional=frozenset(QUERY_COLUMNS) - {"query_id"},
        one_of=("query", "image"),
    ),
    qrels=Source("qrels", _same(JUDGMENT_COLUMNS), further_grades=True),
    log=Source(
        "query_title",
        _same(("query", "title", "relevance", "split")),
        optional=frozenset({"split"}),
    ),
    pairs="pairs.jsonl",
)


def find_table(folder: Path, source: Source | None) -> Path | None:
    """Finds the one file of the folder that holds the table, or None.

    Raises:
        TableError: there is one of each format.
    """
    if source is None:
        return None
    paths = [folder / f"{source.file}{suffix}" for suffix in (".csv", ".parquet")]
    present = [path for path in paths if path.is_file()]
    if len(present) > 1:
        raise TableError(f"{folder}: expected one of {paths[0].name} and {paths[1].name}, got both")
    return present[0] if present else None
