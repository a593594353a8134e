"""The index beside a shard: where each sample lies in it, and what can be told without opening it.

A NumPy file of one record a sample, which all processes of a machine map into memory and share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np

from beyond_text.shards.keys import key_of
from beyond_text.shards.manifest import ShardError
from beyond_text.tables.layouts import TEXT_COLUMNS
from beyond_text.tables.pictures import MAX_BYTES

# offset: of the sample's first header. category: of its key (0: none). pictures: how many.
# texts: bit i says whether the text column TEXT_COLUMNS[i] has words.
RECORD = np.dtype(
    [("offset", "<u8"), ("category", "<u4"), ("pictures", "<u2"), ("texts", "u1")]
)  # fmt: skip
# An array of RECORDs.
Records = np.ndarray


def category_key(category: str) -> int:
    """Returns a key of 32 bits of a category's last level, such as Dress of `Women > Dress`.

    0 stands for none.
    """
    level = category.rpartition(">")[2].strip()
    return (key_of(level) & 0xFFFFFFFF or 1) if level else 0


def text_bits(names: Iterable[str]) -> int:
    """Returns the bits of `texts` that stand for some of the text columns."""
    return sum(1 << TEXT_COLUMNS.index(name) for name in names if name in TEXT_COLUMNS)


def record_of(offset: int, fields: Mapping[str, Any], pictures: int) -> tuple[int, int, int, int]:
    """Makes the record of a sample from its place and its JSON."""
    # Points and blanks alone are left out of a product's text, too.
    texts = [name for name in TEXT_COLUMNS if fields.get(name, "").strip(" .")]
    return offset, category_key(fields.get("category", "")), pictures, text_bits(texts)


def write_records(path: Path, records: Sequence[tuple[int, int, int, int]]) -> None:
    """Writes the index of a shard."""
    with path.open("wb") as file:
        np.save(file, np.array(records, RECORD))


def map_records(path: Path, samples: int, size: int) -> Records:
    """Maps the index of a shard of `samples` samples and `size` bytes into memory.

    Raises:
        ShardError: it is no such index, or names places that are not in the shard.
    """
    try:
        records = np.lib.format.open_memmap(path, mode="r")
    # NumPy's reader of headers raises whatever Python's parser does.
    except Exception as error:
        raise ShardError(f"{path}: not a readable index: {error}") from error
    if records.dtype != RECORD or records.shape != (samples,):
        raise ShardError(
            f"{path}: expected {samples} records of {RECORD.itemsize} bytes, got "
            f"{records.shape} of {records.dtype!s:.200}"
        )
    edges = np.append(records["offset"], np.uint64(size))
    # Unsigned numbers have no difference below zero.
    wrong = (edges[:-1] % BLOCKSIZE != 0) | (edges[1:] < edges[:-1])
    lengths = np.diff(edges)
    wrong |= (lengths < BLOCKSIZE) | (lengths > MAX_BYTES)
    if edges[0] != 0 or wrong.any():
        sample = int(wrong.argmax())
        raise ShardError(
            f"{path}: sample {sample}: expected a place after the one before and within the "
            f"{size} bytes of the shard, got {int(edges[sample])} to {int(edges[sample + 1])}"
        )
    return records
