"""Reads a file of any format that tables come in as rows of text."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, iterparse

from beyond_text.files import MALFORMED
from beyond_text.tables.compact import PART, TEXT, column_of
from beyond_text.tables.delimited import (
    FIRST_ROW,
    RawTable,
    check_header,
    fold,
    open_bytes,
    open_text,
    read_delimited,
    with_rows,
)
from beyond_text.tables.layouts import Reject, TableError, stem_and_ending

LINE = msgspec.json.Decoder(dict[str, Any])
# Elements of a feed that stand several times in a product; of others the first counts.
REPEATED = frozenset({"additional_image_link"})
PLAIN = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer,
    pa.types.is_floating, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp,
)  # fmt: skip
GOOGLE = "{http://base.google.com/ns/1.0}"


def read_file(
    path: Path,
    wanted: Collection[str],
    overflow: str,
    rejects: list[Reject],
    others: bool = False,
) -> Iterator[RawTable]:
    """Yields the rows of a file, once at least; but for feeds PART rows at a time.

    Of Parquet come only the columns whose folded names are `wanted`; with `others` these are joined
    by all that hold plain values or lists of such.

    The rows of JSON lines are its lines, those of a feed its products, from 1.

    Raises:
        TableError: the file cannot be read.
    """
    match stem_and_ending(path)[1]:
        case ".parquet":
            yield from _read_parquet(path, wanted, others)
        case ".jsonl":
            yield from _read_lines(path, rejects)
        case ".xml":
            yield _read_feed(path)
        case _:
            yield from read_delimited(path, wanted, overflow, rejects)


def _read_parquet(path: Path, wanted: Collection[str], others: bool) -> Iterator[RawTable]:
    """Reads columns of a Parquet file; others may hold structures, which are not text."""
    row = FIRST_ROW
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = schema.names
            check_header(path, names)
            columns = [
                field.name
                for field in schema
                if fold(field.name) in wanted or (others and field.name and _is_plain(field.type))
            ]
            batches = file.iter_batches(PART, columns=columns)
            nothing = schema.empty_table().select(columns).to_batches(PART)
            for batch in chain(batches, [] if file.metadata.num_rows else nothing):
                table = pa.Table.from_batches([batch])
                values = {name: _column(name, table[name]) for name in columns}
                frame = pd.DataFrame(values, index=range(len(batch)), columns=columns, dtype=str)
                # Names of columns that are not read still help to say what is near.
                frame.attrs["names"] = names
                yield RawTable(with_rows(frame, list(range(row, row + len(batch)))), len(batch))
                row += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: expected Parquet columns of text or numbers: {error}") from error


def _column(name: str, column: pa.ChunkedArray) -> list[str]:
    """Returns the values of a column as text; names it where they are something else."""
    try:
        return _texts(column)
    except pa.ArrowException as error:
        raise pa.ArrowInvalid(f"column {name!r} of {column.type}: {error}") from error


def _is_plain(kind: pa.DataType) -> bool:
    """Says whether values of a type have one form as text, or are lists of such."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_of(kind) for is_of in PLAIN)


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Returns the values of a column as text; a list is JSON, and null or NaN is empty."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists = column.cast(pa.list_(pa.string())).to_pylist()
        return ["" if not value else json.dumps(value, ensure_ascii=False) for value in lists]
    texts = column.cast(pa.string()).to_pylist()
    if pa.types.is_floating(kind):
        texts = [
            _number(value, text) for value, text in zip(column.to_pylist(), texts, strict=True)
        ]
    return ["" if text is None else text.strip() for text in texts]


def _number(value: float | None, text: str | None) -> str | None:
    """Writes a number; a whole one, which a missing value elsewhere made a float, without point."""
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else text


def _read_lines(path: Path, rejects: list[Reject]) -> Iterator[RawTable]:
    """Reads a file of a JSON object a line; values that are objects or lists are JSON."""
    # A name may first stand in the last line.
    names = dict.fromkeys(name for _, fields in _objects(path) for name in _names(fields))
    lines = _objects(path)
    is_first = True
    while (part := list(islice(lines, PART))) or is_first:
        faults = [
            Reject(path.name, row, "", "malformed row", f"expected a JSON object: {fields}")
            for row, fields in part
            if isinstance(fields, str)
        ]
        rejects += faults
        if not names and faults:
            raise TableError(f"{path} row {faults[0].row}: {faults[0].detail}")
        used = [(row, fields) for row, fields in part if not isinstance(fields, str)]
        index = pd.RangeIndex(len(used))
        texts = {name: [_scalar(fields.get(name)) for _, fields in used] for name in names}
        columns = {name: column_of([pa.array(texts[name], TEXT)], TEXT, index) for name in names}
        frame = pd.DataFrame(columns, index=index)
        yield RawTable(with_rows(frame, [row for row, _ in used]), len(part))
        is_first = False


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields number and fields of each line that is not blank, or what is wrong with it."""
    with open_text(path, "\n") as file:
        for row, line in enumerate(file, 1):
            text = line.removeprefix("\ufeff") if row == 1 else line
            if text.strip():
                try:
                    yield row, LINE.decode(text)
                except MALFORMED as error:
                    yield row, str(error)


def _names(fields: dict[str, Any] | str) -> list[str]:
    """Lists the names of a line's fields."""
    return [] if isinstance(fields, str) else [name for name in fields if name != "row"]


def _scalar(value: Any) -> str:
    """Writes a value of JSON as text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value, ensure_ascii=False)


def _read_feed(path: Path) -> RawTable:
    """Reads the products of a feed, RSS 2.0 or Atom; Google's elements win over others.

    Raises:
        TableError: no such feed. Entities and document types are refused.
    """
    records: list[dict[str, str]] = []
    try:
        with open_bytes(path) as file:
            for _, element in iterparse(file, events=("end",), forbid_dtd=True):
                if element.tag.rpartition("}")[2] in ("item", "entry"):
                    records.append(_product(element))
                    element.clear()
    except (ParseError, DefusedXmlException, OSError, ValueError, LookupError) as error:
        raise TableError(f"{path}: expected an RSS or Atom feed: {error or repr(error)}") from error
    if not records:
        raise TableError(f"{path}: expected an RSS or Atom feed, got no item and no entry")
    frame = pd.DataFrame(records, dtype=str).fillna("")
    return RawTable(with_rows(frame, list(range(1, len(records) + 1))), len(records))


def _product(element: Any) -> dict[str, str]:
    """Returns the texts of a product's elements by their names."""
    found: dict[str, list[str]] = {}
    for child in sorted(element, key=lambda child: not child.tag.startswith(GOOGLE)):
        name = child.tag.rpartition("}")[2]
        found.setdefault(name, []).append("".join(child.itertext()).strip())
    return {
        name: ",".join(texts) if name in REPEATED else texts[0]
        for name, texts in found.items()
        if name != "row"
    }
