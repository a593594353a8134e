"""Reads a table of delimited text: CSV, or with tabs, semicolons or bars between its fields.

Files are read as text until a grade is parsed, so ids keep their leading zeros and a product called
"NA" stays one. A row that is no row of its table is rejected with its number.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator
from io import StringIO
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from beyond_text.tables.layouts import Reject, TableError
from beyond_text.tables.text import plain_text

SEPARATORS = (",", ";", "\t", "|")
FIRST_ROW = 2  # Row 1 is the header, as a spreadsheet shows it.
csv.field_size_limit(16 * 2**20)
# How files begin that are no text, and what to do about it.
NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or another zip archive: save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed: unpack it",
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
    """A file's rows as stripped text with the column `row`, and how many rows the file has."""

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
) -> RawTable:
    """Reads a file whose separator is that of `SEPARATORS` which gives most `wanted` columns.

    Args:
        path: the file.
        wanted: folded names of columns.
        overflow: see `Source`.
        rejects: receives the rows that are no rows.

    Raises:
        TableError: the file cannot be read, or has no header.
    """
    text, row = read_text(path), 1
    if stated := re.match(r'"?sep=(.)"?\r?\n', text):
        text, row = text[stated.end() :], 2
    separator = stated[1] if stated else _separator(text, wanted)
    # Strict, since a lenient reader swallows the rest of the file after a stray quote.
    reader = csv.reader(StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        header = [plain_text(name) for name in next(reader, [])]
    except csv.Error as error:
        raise TableError(f"{path}: row 1: expected a header of column names: {error}") from error
    check_header(path, header)
    rows: list[list[str]] = []
    numbers: list[int] = []
    total = 0
    for number, fields in _rows(path, reader, row + 1):
        total += 1
        if isinstance(fields, str):
            rejects.append(Reject(path.name, number, "", "malformed row", fields))
            continue
        width = len(header)
        if len(fields) > width and overflow and overflow == header[-1]:
            fields = [*fields[: width - 1], separator.join(fields[width - 1 :])]
        while len(fields) > width and not fields[-1].strip():
            fields.pop()
        if len(fields) != width:
            detail = f"{len(fields)} fields, expected {width}"
            rejects.append(Reject(path.name, number, fields[0], "malformed row", detail))
            continue
        rows.append([value.strip() for value in fields])
        numbers.append(number)
    named = [place for place, name in enumerate(header) if name]
    frame = pd.DataFrame(rows, columns=range(len(header)), dtype=str)[named]
    return RawTable(with_rows(frame.set_axis([header[n] for n in named], axis=1), numbers), total)


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


def read_text(path: Path) -> str:
    """Reads a file of UTF-8, or of UTF-16 or UTF-32 with a byte order mark.

    Raises:
        TableError: it is something else; the message says what it seems to be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: not readable: {error.strerror}") from error
    for start, advice in NO_TEXT.items():
        if data.startswith(start):
            raise TableError(f"{path}: expected text, got {advice}")
    if b"\0" in data[:2] and not data.startswith(tuple(MARKS)):
        raise TableError(f"{path}: expected UTF-8, got UTF-16 without its mark; save it as UTF-8")
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        where = f"{path}: row {row}, byte {error.start}"
        got = f"{data[error.start]:#04x}" if error.start < len(data) else "its end"
        raise TableError(
            f"{where}: expected {encoding.upper()}, got {got}; save it as CSV UTF-8"
        ) from error
