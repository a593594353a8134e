"""Reads a table of delimited text: CSV, or with tabs, semicolons or bars between its fields.

Files are read as text until a grade is parsed, so ids keep their leading zeros and a product called
"NA" stays one. A row that is no row of its table is rejected with its number.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple, cast

import pandas as pd
import pyarrow as pa

from beyond_text.tables.compact import PART, TEXT
from beyond_text.tables.layouts import Reject, TableError
from beyond_text.tables.text import plain_text

SEPARATORS = (",", ";", "\t", "|")
FIRST_ROW = 2  # Row 1 is the header, as a spreadsheet shows it.
# Characters in which the header ends.
LONGEST_HEADER = 2**20
csv.field_size_limit(16 * 2**20)
# How files begin that are no text, and what to do about it.
NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or another zip archive: save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV UTF-8",
    b"PAR1": "Parquet: give its name the ending .parquet",
}
# UTF-32 first: its mark begins as that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class RawTable(NamedTuple):
    """Some rows of a file as stripped text with the column `row`, and of how many they are."""

    frame: pd.DataFrame
    rows: int


def with_rows(frame: pd.DataFrame, numbers: list[int]) -> pd.DataFrame:
    """Puts the column `row` first; it replaces a column of that name in the file."""
    if "row" in frame:
        frame = frame.drop(columns="row")
    frame.insert(0, "row", pd.Series(numbers, index=frame.index, dtype=int))
    return frame


def check_header(path: Path, names: list[str]) -> None:
    """Raises TableError unless there are column names, all distinct; some may be empty."""
    twice = sorted(name for name, times in Counter(names).items() if name and times > 1)
    if not any(names) or twice:
        got = f"twice {', '.join(twice)}" if twice else "none"
        raise TableError(f"{path}: expected a header of distinct column names, got {got}")


def read_delimited(
    path: Path, wanted: Collection[str], overflow: str, rejects: list[Reject]
) -> Iterator[RawTable]:
    """Reads a file whose separator is that of `SEPARATORS` which gives most `wanted` columns.

    Yields the rows PART at a time, and once at least.

    Args:
        path: the file.
        wanted: folded names of columns.
        overflow: see `Source`.
        rejects: receives the rows that are no rows.

    Raises:
        TableError: the file cannot be read, or has no header.
    """
    with open_text(path) as file:
        yield from _read_rows(path, file, wanted, overflow, rejects)


def _read_rows(
    path: Path, file: IO[str], wanted: Collection[str], overflow: str, rejects: list[Reject]
) -> Iterator[RawTable]:
    """Yields the rows of an open file; arguments and errors are those of `read_delimited`."""
    start, row = file.read(LONGEST_HEADER).removeprefix("\ufeff"), 1
    if stated := re.match(r'"?sep=(.)"?\r?\n', start):
        start, row = start[stated.end() :], 2
    separator = stated[1] if stated else _separator(start, wanted)
    # Strict, since a lenient reader swallows the rest of the file after a stray quote.
    lines = _lines(start, file)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    try:
        header = [plain_text(name) for name in next(reader, [])]
    except csv.Error as error:
        raise TableError(f"{path}: row 1: expected a header of column names: {error}") from error
    check_header(path, header)
    last = header[-1] if overflow == header[-1] else ""
    rows: list[list[str]] = []
    numbers: list[int] = []
    total, is_first = 0, True
    for number, fields in _rows(path, reader, row + 1):
        total += 1
        fitted = _fitted(fields, len(header), separator if last else "")
        if isinstance(fitted, Misfit):
            rejects.append(Reject(path.name, number, fitted.id, "malformed row", fitted.detail))
            continue
        rows.append([value.strip() for value in fitted])
        numbers.append(number)
        if len(rows) == PART:
            yield _raw_table(header, rows, numbers, total)
            rows, numbers, total, is_first = [], [], 0, False
    if total or is_first:
        yield _raw_table(header, rows, numbers, total)


class Misfit(NamedTuple):
    """A row that is no row of its table: its first field, and what is wrong."""

    id: str
    detail: str


def _fitted(fields: list[str] | str, width: int, separator: str) -> list[str] | Misfit:
    """Returns a row of `width` fields; surplus ones are part of the last if there is a separator.

    Fields that are a text say what is wrong.
    """
    if isinstance(fields, str):
        return Misfit("", fields)
    if len(fields) > width and separator:
        fields = [*fields[: width - 1], separator.join(fields[width - 1 :])]
    while len(fields) > width and not fields[-1].strip():
        fields.pop()
    if len(fields) != width:
        return Misfit(fields[0], f"{len(fields)} fields, expected {width}")
    return fields


def _raw_table(
    header: list[str], rows: list[list[str]], numbers: list[int], total: int
) -> RawTable:
    """Makes a table of rows; columns without a name are left out."""
    named = [place for place, name in enumerate(header) if name]
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    texts = [pa.array(values, TEXT) for values in columns]
    values = {header[place]: texts[place] for place in named}
    return RawTable(with_rows(pa.table(values).to_pandas().astype(str), numbers), total)


def _lines(start: str, file: IO[str]) -> Iterator[str]:
    """Yields the lines of a file of which `start` is read already."""
    lines = list(StringIO(start, newline=""))
    # The last may go on in the file; a carriage return may be half of an end.
    last = lines.pop() if lines else ""
    yield from lines
    last += file.read(1) if last.endswith("\r") else ""
    if not last.endswith("\n"):
        last += file.readline()
    yield from StringIO(last, newline="")
    yield from file


def _rows(path: Path, reader: Iterator[list[str]], first: int) -> Iterator[tuple[int, list | str]]:
    """Yields the number and fields of each row that is not blank, or what is wrong with it."""
    for row in count(first):
        line = reader.line_num + 1  # type: ignore[attr-defined]
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > line:  # type: ignore[attr-defined]
                raise TableError(
                    f"{path}: row {row}: a quote opened on line {line} does not end: {error}"
                ) from error
            yield row, str(error)
            continue
        if fields:
            yield row, fields


def _separator(text: str, wanted: Collection[str]) -> str:
    """Finds the separator that gives most of the wanted columns, else most columns."""
    line = re.match(r'(?:"[^"]*"|[^"\r\n])*', text)
    found = {}
    for separator in SEPARATORS:
        try:
            header = next(csv.reader([line[0] if line else ""], delimiter=separator), [])
        except csv.Error:
            header = []
        found[separator] = sum(fold(name) in wanted for name in header), len(header)
    return max(SEPARATORS, key=lambda separator: found[separator])


def fold(name: str) -> str:
    """Returns the form in which names of columns are compared: words in lower case."""
    return " ".join(re.sub(r"[\s_-]+", " ", plain_text(name).casefold()).split())


@contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[IO[str]]:
    """Opens a file that `read_text` reads, with its mark; lines end as `open` has it.

    Raises:
        TableError: as `read_text`; where a byte is wrong, when it is read.
    """
    with open_bytes(path) as file:
        encoding = _encoding(path, file.read(8))
    try:
        with (
            open_bytes(path) as file,
            TextIOWrapper(file, encoding=encoding, newline=newline) as text,
        ):
            yield text
    except UnicodeDecodeError:
        # Says which row it is in.
        read_text(path)
        raise


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, which gzip may have compressed, whatever its name.

    Raises:
        TableError: it cannot be read, or what is compressed is damaged.
    """
    try:
        with path.open("rb") as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if is_compressed else file as content:
                yield cast(IO[bytes], content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TableError(f"{path}: compressed by gzip and damaged: {error}") from error
    except OSError as error:
        raise TableError(f"{path}: not readable: {error.strerror or error}") from error


def _encoding(path: Path, head: bytes) -> str:
    """Returns the encoding of a file that begins so.

    Raises:
        TableError: it is no text.
    """
    for start, advice in NO_TEXT.items():
        if head.startswith(start):
            raise TableError(f"{path}: expected text, got {advice}")
    if b"\0" in head[:2] and not head.startswith(tuple(MARKS)):
        raise TableError(f"{path}: expected UTF-8, got UTF-16 without its mark; save it as UTF-8")
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


def read_text(path: Path) -> str:
    """Reads a file of UTF-8, or of UTF-16 or UTF-32 with a byte order mark.

    Raises:
        TableError: it is something else; the message says what it seems to be.
    """
    with open_bytes(path) as file:
        data = file.read()
    encoding = _encoding(path, data[:8])
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        where = f"{path}: row {row}, byte {error.start}"
        got = f"{data[error.start]:#04x}" if error.start < len(data) else "its end"
        raise TableError(
            f"{where}: expected {encoding.upper()}, got {got}; save it as CSV UTF-8"
        ) from error
