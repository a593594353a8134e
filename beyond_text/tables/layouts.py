"""Defines layouts: which files hold products, queries and judgments, under which column names.

A layout is data. Our own is one `Layout` row; those of public data sets and of shops' exports are
further rows, in `data_prep.adapters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from beyond_text.tables.templates import Template

TEXT_COLUMNS = ("title", "description", "category")
PRODUCT_COLUMNS = ("product_id", *TEXT_COLUMNS, "image", "group_id", "split")
QUERY_COLUMNS = ("query_id", "query", "image", "product_id", "split", "kind")
JUDGMENT_COLUMNS = ("query_id", "product_id", "relevance")
CLICK_COLUMNS = ("query", "product_id", "event", "clicks", "impressions", "split")
# A split and a grade are parts of files' names, whose length file systems limit.
SPLIT_NAME = r"[A-Za-z0-9_-]{1,64}"
# A gain is (2^grade - 1) / (2^highest - 1), which float32 must be able to tell from 0.
HIGHEST_GRADE = 100.0
# Most pictures of a product.
MAX_PICTURES = 256


class TableError(ValueError):
    """A table cannot be read at all; the message names the file."""


class MissingError(TableError):
    """A file or a column that the layout names is missing."""


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
class Source:
    """Describes how one of our tables is read from a file.

    Names of columns are found whatever their case, and with blanks, `_` or `-` between words.

    Attributes:
        file: its name without the ending; `*` stands for any characters.
        columns: our column -> template over their columns and over ours listed before, e.g.
            "{article_id:0>10}".
        endings: of the file's name, which say how it is read.
        optional: those of our columns that may be missing in the file.
        one_of: columns of ours of which at least one must be there.
        other_names: their column -> other names that exporters give it.
        values: our column -> their value -> ours; other values stay.
        further: further columns of products (`further.py`) -> template; those may be missing.
        others: columns that no template names are kept as further ones, under their own names.
        joined: further columns of which merged rows keep every value, and not only the first.
        keep: their column -> the only value wanted; other rows are counted as left out.
        overflow: their last column, where unquoted commas make surplus fields part of it.
        distinct: rows that repeat an earlier one are dropped.
        merge: a column of ours; rows of one value are one row, which has all their pictures, by
            their column `position`, and else the first value that is not empty.
        last: their column -> how its values begin in rows that come last where rows are merged.
        grades: our columns that are grades, the main one first.
        split_by_file: the file's name without ending is the split of its rows.
    """

    file: str
    columns: Mapping[str, Template]
    endings: tuple[str, ...] = (".csv", ".tsv", ".parquet")
    optional: frozenset[str] = frozenset()
    one_of: tuple[str, ...] = ()
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    further: Mapping[str, Template] = field(default_factory=dict)
    others: bool = False
    joined: frozenset[str] = frozenset()
    keep: Mapping[str, str] = field(default_factory=dict)
    overflow: str = ""
    distinct: bool = False
    merge: str = ""
    last: Mapping[str, str] = field(default_factory=dict)
    grades: tuple[str, ...] = ()
    split_by_file: bool = False

    @property
    def names(self) -> str:
        """Names the file for a message, such as `products.csv, .tsv or .parquet`."""
        *first, last = self.endings
        return f"{self.file}{', '.join(first)} or {last}" if first else f"{self.file}{last}"


@dataclass(frozen=True)
class Layout:
    """Names the files of a data set.

    Judgments come from `queries` and `qrels` or from a log of `clicks`; `images` are further
    pictures of the products, `log` is a query-title log and `pairs` the name of a file of item-item
    pairs. With `absent_pictures`, a picture that is a URL or whose file is missing is no reject.
    """

    name: str = ""
    products: Source | None = None
    queries: Source | None = None
    qrels: Source | None = None
    images: Source | None = None
    clicks: Source | None = None
    log: Source | None = None
    pairs: str = ""
    absent_pictures: bool = False


def same_names(names: tuple[str, ...]) -> dict[str, Template]:
    """Makes templates that read each column under our own name."""
    return {name: f"{{{name}}}" for name in names}


# The table of fields that may lie beside the products of any layout.
ATTRIBUTES = Source("attributes", same_names(("product_id",)))
DEFAULT_LAYOUT = Layout(
    products=Source(
        "products",
        same_names(PRODUCT_COLUMNS),
        optional=frozenset(PRODUCT_COLUMNS) - {"product_id"},
        one_of=("title", "image"),
        others=True,
    ),
    queries=Source(
        "queries",
        same_names(QUERY_COLUMNS),
        optional=frozenset(QUERY_COLUMNS) - {"query_id"},
        one_of=("query", "image"),
    ),
    qrels=Source(
        "qrels",
        same_names((*JUDGMENT_COLUMNS, "desirability")),
        optional=frozenset({"desirability"}),
        grades=("relevance", "desirability"),
    ),
    images=Source(
        "images",
        same_names(("product_id", "image", "position")),
        optional=frozenset({"position"}),
        merge="product_id",
    ),
    log=Source(
        "query_title",
        same_names(("query", "title", "relevance", "split")),
        optional=frozenset({"split"}),
        grades=("relevance",),
    ),
    pairs="pairs.jsonl",
)
# A log of a shop: a row for an event, or for a query and a product with counts.
CLICKS = Source(
    "clicks",
    same_names(CLICK_COLUMNS),
    optional=frozenset(CLICK_COLUMNS) - {"query", "product_id"},
    other_names={
        "query": ("search_term", "search_query", "query_text", "keyword"),
        "product_id": ("item_id", "sku"),
        "event": ("event_type", "event_name", "action"),
        "clicks": ("click_count", "number_of_clicks"),
        "impressions": ("views_in_results", "impression_count", "shown"),
    },
)


def find_tables(folder: Path, source: Source | None) -> list[Path]:
    """Lists the files of the folder that hold the table, by name."""
    if source is None:
        return []
    directory, _, pattern = source.file.casefold().rpartition("/")
    folder = folder / directory
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        for stem, ending in [stem_and_ending(path)]
        if ending in source.endings and fnmatchcase(stem.casefold(), pattern) and path.is_file()
    )


def stem_and_ending(path: Path) -> tuple[str, str]:
    """Returns a file's name without its ending, and this in lower case; `.gz` after it is none."""
    named = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return named.stem, named.suffix.lower()


def find_table(folder: Path, source: Source | None) -> Path | None:
    """Finds the one file of the folder that holds the table, or None.

    Raises:
        TableError: there are several.
    """
    paths = find_tables(folder, source)
    if len(paths) > 1:
        found = ", ".join(path.name for path in paths)
        number = "both" if len(paths) == 2 else "all"
        raise TableError(f"{folder}: expected one of {found}, got {number}; remove the others")
    return paths[0] if paths else None


def find_judgments(folder: Path, source: Source | None) -> list[Path]:
    """Lists the files of judgments: one, or where the layout has one for each split, all.

    Raises:
        TableError: there are several of one name.
    """
    if source is None or not source.split_by_file:
        path = find_table(folder, source)
        return [path] if path else []
    paths = find_tables(folder, source)
    _check_one_format(paths)
    return paths


def find_parts(folder: Path, source: Source | None) -> list[Path]:
    """Lists the files of a table that may come in parts: the one, or those in a folder of its name.

    Raises:
        TableError: there are both, or a part is there in two formats.
    """
    if source is None:
        return []
    whole = find_table(folder, source)
    parts = find_tables(folder, replace(source, file=f"{source.file}/*"))
    if whole and parts:
        raise TableError(
            f"{folder}: expected {whole.name} or files in {source.file}/, got both; remove one"
        )
    _check_one_format(parts)
    return [whole] if whole else parts


def _check_one_format(paths: Sequence[Path]) -> None:
    """Raises TableError where two files have one name and different endings."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(stem_and_ending(path)[0], path)
        if other != path:
            raise TableError(
                f"{path.parent}: expected {other.name} or {path.name}, got both; remove one"
            )
