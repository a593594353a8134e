"""Decides which judged queries of a split training may see, where it may not see all.

A query is known by its content: its words, whatever their case and blanks, and its picture. The
queries of one content are one. They are drawn in the order of a hash of it, so the draws of few
are part of the draws of more, and neither seed nor the order or ids of rows make a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt64

from beyond_text.shards.archive import Shards
from beyond_text.shards.judged import Asked, Judged
from beyond_text.shards.keys import key_of_bytes
from beyond_text.tables.text import normal_text

# From grades [columns, judgments] to a gain of each judgment.
Gains = Callable[[Float[np.ndarray, "columns judgments"]], Float[np.ndarray, " judgments"]]


class Kept(NamedTuple):
    """The queries that training sees, as rows of asked-SPLIT, and how many these are of how many.

    Counted are queries of different content that are judged above 0 for a product.
    """

    rows: Bool[np.ndarray, " queries"]
    number: int
    available: int


def keep_queries(
    asked: Asked, judged: Judged, pictures: Shards, labels: int | None, gains: Gains
) -> Kept:
    """Draws `labels` of the queries that some product has a gain for; None takes all.

    `gains` are of the grades that training takes, which may be some of the columns alone.

    Raises:
        ShardError: the queries, their judgments or a picture's shard are damaged.
    """
    wanted = np.zeros(len(asked), dtype=bool)
    for pairs in judged:
        wanted[pairs.query[(gains(pairs.grades) > 0) & ~pairs.own]] = True
    keys = keys_of_queries(asked, pictures)
    distinct = np.unique(keys[wanted])
    chosen = distinct[:labels]
    return Kept(np.isin(keys, chosen), len(chosen), len(distinct))


def keys_of_queries(asked: Asked, pictures: Shards) -> UInt64[np.ndarray, " queries"]:
    """Returns a hash of each query's content: its words, and the bytes of its picture.

    Raises:
        ShardError: the queries or a picture's shard are damaged.
    """
    table = asked.table()
    keys = np.empty(len(asked), dtype=np.uint64)
    texts, numbers = table["query"].to_pylist(), table["picture"].to_pylist()
    for row, (text, number) in enumerate(zip(texts, numbers, strict=True)):
        content = f"label {normal_text(text)}\n".encode()
        if 0 <= number < len(pictures):
            content += pictures.read(number, ("jpg",)).get("jpg", b"")
        keys[row] = key_of_bytes(content) % 2**64
    return keys
