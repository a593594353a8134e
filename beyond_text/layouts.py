"""A layout is data: which files hold products, queries and judgements, under which column names.

Our own layout is one `Layout` row; a public data set's is another, in `data_prep.adapters`. Files
are read as text until a grade is parsed, so ids keep their leading zeros and a product called "NA"
stays one; a row that is no row of its table is in `rejects`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

TEXT_COLUMNS = ("title", "description", "category")
PRODUCT_COLUMNS = ("product_id", *TEXT_COLUMNS, "image", "group_id", "split")
QUERY_COLUMNS = ("query_id", "query", "image", "product_id", "split", "kind")
JUDGEMENT_COLUMNS = ("query_id", "product_id", "relevance")
# A split is part of a shard's file name, which must not be too long for a disk either.
SPLIT_NAME = r"[A-Za-z0-9_-]{1,64}"
# A gain is (2^grade - 1) / (2^highest - 1), which float32 must be able to tell from 0.
HIGHEST_GRADE = 100.0
FIRST_ROW = 2  # Row 1 is the header, as a spreadsheet shows it.
csv.field_size_limit(16 * 2**20)


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
        further_grades: every column not named here is a grade too, but `split`, which a judgement
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


OWN_LAYOUT = Layout(
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
    qrels=Source("qrels", _same(JUDGEMENT_COLUMNS), further_grades=True),
    log=Source(
        "query_title",
        _same(("query", "title", "relevance", "split")),
        optional=frozenset({"split"}),
    ),
    pairs="pairs.jsonl",
)


def find_table(folder: Path, source: Source | None) -> Path | None:
    """The one file of the folder that holds the table, or None.

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


def _missing(path: Path, column: str, found: list[str]) -> TableError:
    nearest = get_close_matches(column, found, n=1, cutoff=0.0)
    hint = f"; the nearest is '{nearest[0]}'" if nearest else ""
    return TableError(f"{path}: expected a column '{column}', got {', '.join(found)}{hint}")


def read_source(
    path: Path, source: Source, rejects: list[Reject]
) -> tuple[pd.DataFrame, TableFile]:
    """Read one file as our columns of stripped text, and `row`; optional ones may be missing.

    Raises:
        TableError: the file cannot be read, or lacks a column.
    """
    if path.suffix == ".csv":
        theirs, rows = _read_csv(path, source.overflow, rejects)
    else:
        theirs = _read_parquet(path, source)
        rows = len(theirs)
    found = list(theirs.columns.drop("row"))
    for column, value in source.keep.items():
        if column not in theirs:
            raise _missing(path, column, found)
        theirs = theirs[theirs[column] == value]
    left_out = rows - len(theirs) if source.keep else 0

    ours = theirs[["row"]].copy()
    for column, template in source.columns.items():
        fields = _fields(template)
        absent = [name for name in fields if name not in ours and name not in theirs]
        if absent and column not in source.optional:
            raise _missing(path, absent[0], found)
        if not absent:
            values = {name: ours[name] if name in ours else theirs[name] for name in fields}
            ours[column] = _fill(template, values)
            if column in source.values:
                known = source.values[column]
                ours[column] = [known.get(value, value) for value in ours[column]]
    if source.one_of and not any(column in ours for column in source.one_of):
        raise _missing(path, " or ".join(source.one_of), found)
    if source.further_grades:
        named = {name for template in source.columns.values() for name in _fields(template)}
        for column in found:
            if column not in named | {"split"}:
                ours[column] = theirs[column]
    if source.distinct:
        ours = ours.drop_duplicates(list(source.columns))
    return ours.reset_index(drop=True), TableFile(path.name, rows - left_out, left_out)


def _fields(template: str | Join) -> list[str]:
    templates = template.templates if isinstance(template, Join) else (template,)
    return [name for each in templates for _, name, _, _ in Formatter().parse(each) if name]


def _fill(template: str | Join, values: dict[str, pd.Series]) -> pd.Series | list[str]:
    if isinstance(template, Join):
        columns = [
            _fill(each, {name: values[name] for name in _fields(each)})
            for each in template.templates
        ]
        return [
            template.separator.join(filter(None, parts)) for parts in zip(*columns, strict=True)
        ]
    names = list(values)
    if template == f"{{{names[0]}}}":
        return values[names[0]]
    rows = zip(*values.values(), strict=True)
    return [template.format(**dict(zip(names, row, strict=True))).strip() for row in rows]


def _read_csv(path: Path, overflow: str, rejects: list[Reject]) -> tuple[pd.DataFrame, int]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: not readable: {error.strerror}") from error
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise TableError(
            f"{path}: row {row}, byte {error.start}: expected UTF-8, got {data[error.start]:#04x}"
        ) from error
    # Strict, since a lenient reader swallows the rest of the file after a stray quote.
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise TableError(f"{path}: row 1: expected a header of column names: {error}") from error
    _check_header(path, header)
    width = len(header)
    kept: list[list[str]] = []
    numbers: list[int] = []
    total = 0
    row = FIRST_ROW - 1
    while True:
        row += 1
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if reader.line_num > line:
                raise TableError(
                    f"{path}: row {row}: a quote opened on line {line} does not end: {error}"
                ) from error
            rejects.append(Reject(path.name, row, "", "malformed row", str(error)))
            total += 1
            continue
        if not fields:
            continue
        total += 1
        if len(fields) > width and overflow and overflow == header[-1]:
            fields = [*fields[: width - 1], ",".join(fields[width - 1 :])]
        if len(fields) != width:
            detail = f"{len(fields)} fields, expected {width}"
            rejects.append(Reject(path.name, row, fields[0], "malformed row", detail))
            continue
        kept.append([value.strip() for value in fields])
        numbers.append(row)
    frame = pd.DataFrame(kept, columns=header, dtype=str)
    return _with_rows(frame, numbers), total


def _check_header(path: Path, names: list[str]) -> None:
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if not any(names) or twice:
        got = f"twice {', '.join(twice)}" if twice else "none"
        raise TableError(f"{path}: expected a header of distinct column names, got {got}")


def _read_parquet(path: Path, source: Source) -> pd.DataFrame:
    try:
        names = pq.read_schema(path).names
        _check_header(path, names)
        wanted = {name for template in source.columns.values() for name in _fields(template)}
        wanted |= set(source.keep)
        # Columns nobody asks for may hold lists or structures, which are not text.
        columns = [name for name in names if source.further_grades or name in wanted]
        table = pq.read_table(path, columns=columns)
        values = {}
        for name in columns:
            text = table[name].cast(pa.string()).to_pylist()
            values[name] = ["" if value is None else value.strip() for value in text]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: expected Parquet columns of text or numbers: {error}") from error
    frame = pd.DataFrame(values, index=range(table.num_rows), dtype=str)
    return _with_rows(frame, list(range(FIRST_ROW, FIRST_ROW + table.num_rows)))


def _with_rows(frame: pd.DataFrame, numbers: list[int]) -> pd.DataFrame:
    if "row" in frame:
        frame = frame.drop(columns="row")
    frame.insert(0, "row", pd.Series(numbers, index=frame.index, dtype=int))
    return frame
