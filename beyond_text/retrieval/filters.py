"""Reads filters on columns of products, such as `price<50`, and says which products pass them.

A filter is a column, an operator and a value, or for booleans the column alone:

    price<50    price>=12.5    category=Rugs|Lamps    brand!=Norrby    in_stock    !in_stock

`A|B` is any of several values, and none of them after `!=`. In double quotes a column's name or a
value is taken as it stands, and `""` there is one quote: `"size=cm"=60`, `brand="A|B"`. Texts are
compared as they are written. A product that lacks the value passes no filter on that column, `!=`
and `!in_stock` included. A product must pass all filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from beyond_text.retrieval.described import BOOLEANS

QUOTED = r'"(?:[^"]|"")*+"'
# A name without quotes ends at the first character of an operator, a value at `|`; blanks around
# them are no part of them. Each part is matched in one way alone (`*+`): a hostile text costs no
# more time than another of its length.
NAME = r'[^"<>=!\s][^<>=!]*+'
FILTER = re.compile(
    rf"\s*+(?P<column>{QUOTED}|{NAME})\s*+(?P<op><=|>=|!=|=|<|>)(?P<value>.*)", re.DOTALL
)
FLAG = re.compile(rf"\s*+(?P<no>!?+)\s*+(?P<column>{QUOTED}|{NAME})\s*+", re.DOTALL)
VALUE = re.compile(rf'\s*+(?P<value>{QUOTED}|[^"|\s][^|]*+)\s*+(?:\||\Z)', re.DOTALL)
# Not what float() takes: nan, inf, 1_000 and digits of other scripts.
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
ASKED = BOOLEANS | {"1": True, "0": False}
ORDERS: dict[str, Callable[..., Any]] = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
# Characters of a filter, and of what an error shows of one.
LONGEST = 2_000
LONGEST_SHOWN = 100
MOST_NAMED = 20


class FilterError(ValueError):
    """A filter cannot be read, or does not fit the columns; the message names it."""


class Filter(NamedTuple):
    """A condition on a column.

    Attributes:
        column: the column's name.
        op: `=`, `!=`, `<`, `<=`, `>` or `>=`; `is` and `is not` for a boolean column alone.
        value: the values that were given, as text; several are alternatives.
    """

    column: str
    op: str
    value: tuple[str, ...] = ()

    def __str__(self) -> str:
        column = _quoted(self.column, "<>=!")
        if self.op in ("is", "is not"):
            return f"{'' if self.op == 'is' else '!'}{column}"
        return f"{column}{self.op}{'|'.join(_quoted(value, '|') for value in self.value)}"


def parse_filter(text: str) -> Filter:
    """Reads a filter; whether the column exists and takes the value is seen by `rows_of`.

    Raises:
        FilterError: it has no column or no value, a quote is open, or it is longer than LONGEST.
    """
    if len(text) > LONGEST:
        raise _error(text, f"expected at most {LONGEST:,} characters, got {len(text):,}")
    if found := FILTER.fullmatch(text):
        column, op, value = _unquoted(found["column"]), found["op"], found["value"]
        values = _values(text, value)
        if len(values) > 1 and op in ORDERS:
            raise _error(text, f"expected one value after {op}, got {len(values)}")
    elif found := FLAG.fullmatch(text):
        column, op, values = _unquoted(found["column"]), "is not" if found["no"] else "is", ()
    else:
        raise _error(text, "expected a filter such as price<50, category=Rugs|Lamps or in_stock")
    if not column:
        raise _error(text, "expected the name of a column, got none")
    return Filter(column, op, values)


def rows_of(table: pa.Table, filters: Sequence[Filter]) -> Int64[np.ndarray, " rows"] | None:
    """Returns the positions of the products that pass all filters, ascending; None without filters.

    Columns of the table are numbers, booleans or text. Null, NaN and "" are missing values.

    Raises:
        FilterError: an unknown column, an operator that its type does not have, or a value that is
            not of its type.
    """
    if not filters:
        return None
    passes = np.ones(len(table), dtype=bool)
    for each in filters:
        passes &= _passes(table, each)
    return np.flatnonzero(passes)


def _passes(table: pa.Table, each: Filter) -> np.ndarray:
    """Returns which products pass one filter."""
    places = [number for number, name in enumerate(table.column_names) if name == each.column]
    if len(places) != 1:
        raise _error(str(each), _unknown(each.column, table.column_names, len(places)))
    column = table.column(places[0])
    kind = _kind(column.type)
    if kind is None:
        raise _error(str(each), f"{each.column} holds {column.type}, which cannot be filtered")
    if each.op in ("is", "is not"):
        if kind != "boolean":
            raise _error(
                str(each), f"{each.column} holds {kind}s: expected an operator and a value"
            )
        mask = column if each.op == "is" else pc.invert(column)
        return _as_array(mask)
    wanted = [_typed(each, kind, value) for value in each.value]
    if kind == "text":
        column = column.cast(pa.large_string())
        present = pc.not_equal(column, "")
    elif kind == "number":
        column = column.cast(pa.float64(), safe=False)
        present = pc.invert(pc.is_nan(column))
    else:
        present = pc.is_valid(column)
    if each.op in ORDERS:
        if kind != "number":
            raise _error(str(each), f"{each.column} holds {kind}s: expected = or !=, got {each.op}")
        return _as_array(pc.and_(ORDERS[each.op](column, wanted[0]), present))
    any_of = _as_array(pc.fill_null(_equals_any(column, wanted), False))
    return (any_of if each.op == "=" else ~any_of) & _as_array(present)


def _equals_any(column: pa.ChunkedArray, wanted: list[Any]) -> pa.ChunkedArray:
    """Returns which values equal one of those wanted."""
    mask = pc.equal(column, wanted[0])
    for value in wanted[1:]:
        mask = pc.or_(mask, pc.equal(column, value))
    return mask


def _as_array(mask: pa.ChunkedArray) -> np.ndarray:
    """Returns a mask as NumPy's; null is False."""
    return pc.fill_null(mask, False).to_numpy()


def _kind(kind: pa.DataType) -> str | None:
    """Returns what a column holds: number, boolean or text; None for all else."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return "text" if is_text or pa.types.is_string_view(kind) else None


def _typed(each: Filter, kind: str, value: str) -> Any:
    """Returns a value as the column's type."""
    if kind == "text":
        return value
    if kind == "number":
        if NUMBER.fullmatch(value):
            return float(value)
        raise _error(str(each), f"{each.column} holds numbers: expected one, got {_shown(value)}")
    if value.lower() in ASKED:
        return ASKED[value.lower()]
    raise _error(
        str(each), f"{each.column} holds booleans: expected true or false, got {_shown(value)}"
    )


def _values(text: str, value: str) -> tuple[str, ...]:
    """Parts what stands after an operator at each `|` outside quotes."""
    values: list[str] = []
    start = 0
    while start < len(value) or not values or value[start - 1] == "|":
        found = VALUE.match(value, start)
        if found is None or not (unquoted := _unquoted(found["value"])):
            raise _error(text, f"expected a value, got {_shown(value[start:])}")
        values.append(unquoted)
        start = found.end()
    return tuple(values)


def _unquoted(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word.strip()


def _quoted(word: str, special: str) -> str:
    """Returns a word in quotes where it needs them."""
    if word and word == word.strip() and not word.startswith('"') and not set(special) & set(word):
        return word
    return '"' + word.replace('"', '""') + '"'


def _unknown(column: str, known: Sequence[str], times: int) -> str:
    """Says that a column is not there, or comes twice, and which there are."""
    if times:
        return f"{times} columns have the name {_shown(column)}"
    near = get_close_matches(column, known, n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"no column {_shown(column)}, there are {', '.join(known[:MOST_NAMED])}{more}{hint}"


def _shown(text: str) -> str:
    """Returns a text in quotes, cut where it is long."""
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...")


def _error(text: str, fault: str) -> FilterError:
    return FilterError(f"filter {_shown(text)}: {fault}")
