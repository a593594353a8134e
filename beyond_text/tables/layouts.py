"""A layout is data: which files hold products, queries and judgments, under which column names.

Our own layout is one `Layout` row; a public data set's is another, in `data_prep.adapters`. Files
are read as text until a grade is parsed, so ids keep their leading zeros and a product called "NA"
stays one; a row that is no row of its table is in `rejects`.
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
# A split is part of a shard's file name, which must not be too long for a disk either.
SPLIT_NAME = r"[A-Za-z0-9_-]{1,64}"
# A gain is (2^grade - 1) / (2^highest - 1), which float32 must be able to tell from 0.
HIGHEST_GRADE = 100.0


class TableError(ValueError):
    """A table that cannot be read at all; the message names the file."""


class Reject(NamedTuple):
    """A row, or a row's picture, that is not used. `row` is 1-based and the header is row 1."""

    file: str
    row: int
    id: str
    reason: str
    detail: str


class TableFile(NamedTuple):
    """A file that was read: its data rows, and how many of them the layout does not want."""

    name: str
    rows: int
    left_out: int


@dataclass(frozen=True)
class Join:
    """Templates filled in and joined, empty ones left out."""

    separator: str
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """How one of our tables is found in somebody's file.

    Attributes:
        file: name without its .csv or .parquet.
        columns: our column -> format template over their columns and over ours listed before,
            e.g. "{article_id:0>10}".
        optional: those of our columns that may be missing in the file.
        one_of: of these columns of ours, one at least must be there.
        values: our column -> their value -> ours; other values stay.
        keep: their column -> the only value wanted; other rows are counted as left out.
        overflow: their last column, where unquoted commas make surplus fields part of it.
        distinct: several rows may say the same; one is taken.
        further_grades: every column not named here is a grade too, but `split`, which a judgment
            has from its query and product.
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
    """The files of a data set.

    `pairs` names a file of item-item pairs. `absent_pictures`: a picture without a file is no
    rejection.
    """

    products: Source | None = None
    queries: Source | None = None
    qrels: Source | None = None
    log: Source | None = None
    pairs: str = ""
    absent_pictures: bool = False


def _same(names: tuple[str, ...]) -> dict[str, str | Join]:
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
