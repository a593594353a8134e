"""Reads one file of a shop, CSV or Parquet, as our columns of text.

Files are read as text until a grade is parsed, so ids keep their leading zeros and a product called
"NA" stays one. A row that is no row of its table is rejected with its number.
"""

from __future__ import annotations

import csv
from collections import Counter
from difflib import get_close_matches
from io import StringIO
from itertools import count
from pathlib import Path
from string import Formatter

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from beyond_text.tables.layouts import Join, Reject, Source, TableError, TableFile

FIRST_ROW = 2  # Row 1 is the header, as a spreadsheet shows it.
csv.field_size_limit(16 * 2**20)


def read_source(
    path: Path, source: Source, rejects: list[Reject]
) -> tuple[pd.DataFrame, TableFile]:
    """Reads one file as our columns of stripped text, and `row`; optional columns may be missing.

    Raises:
        TableError: the file cannot be read, or lacks a column.
    """
    if path.suffix == ".csv":
        theirs, rows = _read_csv(path, source.overflow, rejects)
    else:
        theirs = _read_parquet(path, source)
        rows = len(theirs)
    names = list(theirs.columns.drop("row"))
    for column, value in source.keep.items():
        if column not in theirs:
            raise _missing(path, column, names)
        theirs = theirs[theirs[column] == value]
    left_out = rows - len(theirs) if source.keep else 0

    ours = theirs[["row"]].copy()
    for column, template in source.columns.items():
        fields = _fields(template)
        absent = [name for name in fields if name not in ours and name not in theirs]
        if absent and column not in source.optional:
            raise _missing(path, absent[0], names)
        if not absent:
            values = {name: ours[name] if name in ours else theirs[name] for name in fields}
            ours[column] = _fill(template, values)
            if column in source.values:
                known = source.values[column]
                ours[column] = [known.get(value, value) for value in ours[column]]
    if source.one_of and not any(column in ours for column in source.one_of):
        raise _missing(path, " or ".join(source.one_of), names)
    if source.further_grades:
        named = {name for template in source.columns.values() for name in _fields(template)}
        for column in names:
            if column not in named | {"split"}:
                ours[column] = theirs[column]
    if source.distinct:
        ours = ours.drop_duplicates(list(source.columns))
    return ours.reset_index(drop=True), TableFile(path.name, rows - left_out, left_out)


def _missing(path: Path, column: str, names: list[str]) -> TableError:
    """Makes the error of a missing column; it names the nearest column that is there."""
    nearest = get_close_matches(column, names, n=1, cutoff=0.0)
    hint = f"; the nearest is '{nearest[0]}'" if nearest else ""
    return TableError(f"{path}: expected a column '{column}', got {', '.join(names)}{hint}")


def _fields(template: str | Join) -> list[str]:
    """Lists the columns that a template names."""
    templates = template.templates if isinstance(template, Join) else (template,)
    return [name for each in templates for _, name, _, _ in Formatter().parse(each) if name]


def _fill(template: str | Join, values: dict[str, pd.Series]) -> pd.Series | list[str]:
    """Fills in a template for every row."""
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
    """Reads a CSV file as stripped text and `row`; also returns its number of data rows."""
    # Strict, since a lenient reader swallows the rest of the file after a stray quote.
    reader = csv.reader(StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise TableError(f"{path}: row 1: expected a header of column names: {error}") from error
    _check_header(path, header)
    width = len(header)
    rows: list[list[str]] = []
    numbers: list[int] = []
    total = 0
    for row in count(FIRST_ROW):
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
        rows.append([value.strip() for value in fields])
        numbers.append(row)
    return _with_rows(pd.DataFrame(rows, columns=header, dtype=str), numbers), total


def _read_text(path: Path) -> str:
    """Reads a UTF-8 file, without its byte order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: not readable: {error.strerror}") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise TableError(
            f"{path}: row {row}, byte {error.start}: expected UTF-8, got {data[error.start]:#04x}"
        ) from error


def _check_header(path: Path, names: list[str]) -> None:
    """Raises TableError unless there are column names, all distinct."""
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if not any(names) or twice:
        got = f"twice {', '.join(twice)}" if twice else "none"
        raise TableError(f"{path}: expected a header of distinct column names, got {got}")


def _read_parquet(path: Path, source: Source) -> pd.DataFrame:
    """Reads those columns of a Parquet file that the source names as stripped text, and `row`."""
    try:
        names = pq.read_schema(path).names
        _check_header(path, names)
        wanted = {name for template in source.columns.values() for name in _fields(template)}
        wanted |= set(source.keep)
        # Other columns may hold lists or structures, which are not text.
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
    """Puts the column `row` first; it replaces a column of that name in the file."""
    if "row" in frame:
        frame = frame.drop(columns="row")
    frame.insert(0, "row", pd.Series(numbers, index=frame.index, dtype=int))
    return frame
