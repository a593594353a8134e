"""Gives columns of text their types: numbers, booleans or texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from beyond_text.indexing.facts import ColumnType
from beyond_text.retrieval.described import BOOLEANS

# Numbers as shops and programs write them; 007 is a name, and so is 1e5, but not 1e-05.
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]+)?", re.IGNORECASE)
# Larger whole numbers, such as long article numbers, are not all floats.
EXACT = 2**53


def typed(values: Sequence[str | None]) -> tuple[ColumnType, pa.Array]:
    """Returns the type of a column and its values; None and "" are missing.

    It is a number or boolean only where every value that is there is one.
    """
    there = [value for value in set(values) if value]
    if there and all(map(NUMBER.fullmatch, there)):
        integers = all(map(INTEGER.fullmatch, there))
        numbers = {value: int(value) if integers else float(value) for value in there}
        if all(abs(number) <= EXACT for number in numbers.values()):
            kind = pa.int64() if integers else pa.float64()
            return "number", pa.array([numbers[v] if v else None for v in values], kind)
    if there and all(value.casefold() in BOOLEANS for value in there):
        booleans = [BOOLEANS[value.casefold()] if value else None for value in values]
        return "boolean", pa.array(booleans, pa.bool_())
    return "text", pa.array([value or None for value in values], pa.string())


def type_of(field: pa.DataType) -> ColumnType | None:
    """Returns the type of a column of Arrow's; None for what an index never holds."""
    known: dict[pa.DataType, ColumnType] = {
        pa.int64(): "number",
        pa.float64(): "number",
        pa.bool_(): "boolean",
        pa.string(): "text",
    }
    return known.get(field)


def table_of(rows: Iterable[Mapping[str, str]]) -> tuple[pa.Table, dict[str, ColumnType]]:
    """Makes a table of rows that hold only values that are not empty; also returns its types."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    types: dict[str, ColumnType] = {}
    arrays: dict[str, Any] = {}
    for name in names:
        types[name], arrays[name] = typed([row.get(name) for row in rows])
    return pa.table(arrays), types
