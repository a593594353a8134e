"""Writes tables as Arrow IPC files, and maps them into memory after checking them.

A file may be a stranger's. Arrow trusts the offsets of texts, so these are checked before anything
is read by them; of small files the texts are checked as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beyond_text.files import atomic_write
from beyond_text.indexing.facts import CHECKED, IndexFormatError

# Rows of a batch, unless their texts would not fit the offsets.
BATCH = 2**18
DIGEST = pa.binary(16)


def write_arrow(path: Path, table: pa.Table) -> None:
    """Writes a table, uncompressed, completely or not at all."""
    with (
        atomic_write(path, binary=True) as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH):
            writer.write_batch(batch)


def open_arrow(
    path: Path, rows: int | None, schema: dict[str, pa.DataType] | None = None
) -> pa.Table:
    """Maps a table into memory.

    Args:
        path: of a file that `write_arrow` wrote.
        rows: how many it must have; None for any number.
        schema: the columns that it must have; None for any of plain types.

    Raises:
        IndexFormatError: it is something else, or damaged.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        found = {field.name: field.type for field in reader.schema}
        if schema is not None and found != schema:
            raise ValueError(f"expected columns {_words(schema)}, got {_words(found)}")
        plain = (pa.string(), pa.int64(), pa.float64(), pa.bool_(), DIGEST)
        if wrong := [name for name, kind in found.items() if kind not in plain]:
            raise ValueError(f"column {wrong[0]!r} is of type {found[wrong[0]]}")
        if len(found) < len(reader.schema):
            raise ValueError("two columns of one name")
        before = pa.total_allocated_bytes()
        table = reader.read_all()
        if pa.total_allocated_bytes() - before > path.stat().st_size:
            raise ValueError("compressed, which no index is")
        if rows is not None and table.num_rows != rows:
            raise ValueError(f"{table.num_rows} rows, expected {rows}")
        table.validate(full=path.stat().st_size <= CHECKED)
        for column in table.columns:
            for chunk in column.chunks:
                _check_offsets(chunk)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise IndexFormatError(f"{path}: not a table of an index: {error}") from error
    return table


def column_of_digests(digests: np.ndarray) -> pa.Array:
    """Makes a column of digests, of bytes of shape [rows, 16]."""
    data = pa.py_buffer(np.ascontiguousarray(digests))
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, len(digests), [None, data])


def digests_of(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the digests of a column as bytes of shape [rows, 16]."""
    width = DIGEST.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.zeros(0, np.uint8), *parts]).reshape(-1, width)


def rows_of_digests(digests: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Returns the row at which each digest stands among others; -1 where it does not."""
    found = pc.index_in(column_of_digests(digests), value_set=column_of_digests(among))
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _words(schema: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in schema.items()) or "none"


def _check_offsets(chunk: pa.Array) -> None:
    """Raises ValueError where the offsets of texts do not rise from 0 to the end of the data."""
    if chunk.type != pa.string() or not len(chunk):
        return
    _, offsets, data = chunk.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    size = data.size if data is not None else 0
    if ends[0] < 0 or ends[-1] > size or bool((ends[1:] < ends[:-1]).any()):
        raise ValueError("offsets that do not rise")
