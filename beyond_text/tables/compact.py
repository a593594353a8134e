"""Columns as they are held while tables are read: of Arrow or of codes, not of Python objects.

A Python text takes 60 bytes beside its letters, a dict 200, and a shop has ten judgments a product.
So values become Python's for one part of the rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

# Rows whose values are Python objects at a time.
PART = 2**16
TEXT = pa.large_string()
TEXTS = pa.list_(pa.string())
FURTHER = msgspec.json.Decoder(dict[str, str])


def parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yields the rows, PART at a time."""
    for start in range(0, len(frame), PART):
        yield frame.iloc[start : start + PART]


def mapped(
    frame: pd.DataFrame, function: Callable[[pd.DataFrame], Sequence[Any]], kind: pa.DataType = TEXT
) -> pd.Series:
    """Returns the column of the values that a function has for each part of the rows."""
    return column_of([pa.array(function(part), kind) for part in parts(frame)], kind, frame.index)


def column_of(chunks: Iterable[pa.Array], kind: pa.DataType, index: pd.Index) -> pd.Series:
    """Makes a column of Arrow's arrays; texts have the dtype that pandas has for them."""
    whole = pa.chunked_array(list(chunks), kind)
    if kind == TEXT:
        return pd.Series(whole.to_pandas().array, index=index, dtype=str)
    return pd.Series(pd.arrays.ArrowExtensionArray(whole), index=index)


def as_array(values: Any) -> pa.ChunkedArray | pa.Array:
    """Returns texts as Arrow's."""
    if isinstance(values, pd.Series | pd.Index):
        values = pa.array(values.array)
    elif not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values, TEXT)
    return values.cast(TEXT)


def places(values: Any, known: Any) -> Int[np.ndarray, " rows"]:
    """Returns where each value stands among the known ones, or -1."""
    found = pc.index_in(as_array(values), value_set=as_array(known))
    return found.fill_null(-1).to_numpy().astype(np.int64)


def by_code(values: pd.Series) -> pd.Series:
    """Returns texts as a categorical column."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values
    codes, names = pd.factorize(values)
    return pd.Series(pd.Categorical.from_codes(codes, names), index=values.index)


def looked_up(
    ids: pd.Series, known: pd.Series, values: Iterable[str], categories: Sequence[str]
) -> pd.Series:
    """Returns the value of each id as a categorical column.

    Args:
        ids: texts or categories, each one of the known.
        known: ids, each once.
        values: of the known ids, each one of the categories.
        categories: of the column that is returned.
    """
    ids = by_code(ids)
    value = pd.Categorical(values, categories=categories).codes
    code = value[places(ids.cat.categories, known)][ids.cat.codes]
    return pd.Series(pd.Categorical.from_codes(code, categories), index=ids.index)


def packed(rows: Iterable[dict[str, str]]) -> list[str]:
    """Writes the further columns of rows as JSON; "" where there are none."""
    return [msgspec.json.encode(row).decode() if row else "" for row in rows]


def unpacked(text: str) -> dict[str, str]:
    """Reads the further columns of a row."""
    return FURTHER.decode(text) if text else {}


def expanded(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a table whose cells are texts, lists and dicts."""
    for name in frame:
        kind = frame[name].dtype
        if isinstance(kind, pd.CategoricalDtype):
            frame = frame.assign(**{name: frame[name].astype(str)})
        elif isinstance(kind, pd.ArrowDtype):
            values = pd.Series(frame[name].tolist(), index=frame.index, dtype=object)
            frame = frame.assign(**{name: values})
    if "further" in frame:
        rows = [unpacked(text) for text in frame["further"]]
        frame = frame.assign(further=pd.Series(rows, index=frame.index, dtype=object))
    return frame
