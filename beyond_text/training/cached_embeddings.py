"""Looks up the outputs of a frozen tower in files on disk, by the content of its inputs.

A file is a sequence of records: an input's 64-bit key and its pooled vector. The key is a digest of
the input itself (tokens or pixels), so an input is found whatever batch it is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beyond_text.models.towers import Tower
from beyond_text.shards.manifest import ShardError


def keys_of(inputs: Sequence[Tensor]) -> Int64[np.ndarray, " inputs"]:
    """Returns a 64-bit key of each input's content: a text's tokens without padding, or the pixels.

    `inputs` are a tower's: tokens and their mask [texts, length], or pictures
    [pictures, 3, height, width].
    """
    if len(inputs) == 2:
        ids, mask = (part.cpu() for part in inputs)
        rows = [row[real] for row, real in zip(ids, mask.bool(), strict=True)]
    else:
        # Channels last, as the pixels lie in memory: then nothing is copied.
        rows = list(inputs[0].cpu().permute(0, 2, 3, 1))
    digests = [hashlib.blake2b(row.contiguous().numpy(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), dtype="<i8")


def record_type(width: int) -> np.dtype[Any]:
    """Returns the type of a record: an input's key and its pooled vector of `width` numbers."""
    return np.dtype([("key", "<i8"), ("vector", "<f4", (width,))])


class CachedEmbeddings:
    """Gives a tower's pooled vectors: from files where these hold the input, else by the tower.

    Raises:
        ShardError: the size of a file is no whole number of records.
    """

    def __init__(self, files: Sequence[Path], width: int) -> None:
        self.width = width
        record = record_type(width)
        for path in files:
            if path.stat().st_size % record.itemsize:
                raise ShardError(
                    f"{path}: damaged: {path.stat().st_size} bytes are no whole number of records "
                    f"of {record.itemsize}; delete it"
                )
        # An empty file cannot be mapped.
        not_empty = [path for path in files if path.stat().st_size]
        self.records = [np.memmap(path, record, mode="r") for path in not_empty]
        keys = np.concatenate([np.zeros(0, "<i8"), *(part["key"] for part in self.records)])
        self.order = keys.argsort(kind="stable")
        self.keys = keys[self.order]
        self.starts = np.cumsum([0, *map(len, self.records)])

    def find(
        self, keys: Int64[np.ndarray, " inputs"]
    ) -> tuple[Float[np.ndarray, "inputs features"], Bool[np.ndarray, " inputs"]]:
        """Returns the vector of each key (zeros if there is none), and which keys have one."""
        position = np.searchsorted(self.keys, keys)
        is_cached = position < len(self.keys)
        is_cached[is_cached] = self.keys[position[is_cached]] == keys[is_cached]
        record = np.full(len(keys), -1)
        record[is_cached] = self.order[position[is_cached]]
        vectors = np.zeros((len(keys), self.width), dtype=np.float32)
        for first, part in zip(self.starts, self.records, strict=False):
            in_part = (first <= record) & (record < first + len(part))
            vectors[in_part] = part["vector"][record[in_part] - first]
        return vectors, is_cached

    def __call__(self, tower: Tower, inputs: Sequence[Tensor]) -> Float[Tensor, "inputs features"]:
        """Returns the tower's float32 output; the tower runs for the inputs that no file holds."""
        vectors, is_cached = self.find(keys_of(inputs))
        pooled = torch.from_numpy(vectors).to(inputs[0].device)
        if not is_cached.all():
            new = torch.from_numpy(~is_cached).to(pooled.device)
            pooled[new] = tower(*(part[new] for part in inputs)).float()
        return pooled
