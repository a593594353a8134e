"""Defines what passes between modules: samples, batches, embeddings.

The four views are query, text, image and product (the fused vector). A query may be a text, a
picture or both (the trigger of UniECS): `trigger_text` and `trigger_image` are the vectors of
either alone. A view that a row lacks is row -1 of its index and a view that was not computed is not
there: a zero vector never means missing.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from beyond_text.config.views import View


@lru_cache(maxsize=2**16)
def key_of(text: str) -> int:
    """Hashes a text to a 64-bit key, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


class SampleIndex(NamedTuple):
    """Names one sample of one source in one epoch, and one of its query slots.

    A product stands in as many rows of a batch as it has slots, with a query in each.
    """

    source: int
    sample: int
    epoch: int
    slot: int = 0


# The gain of a query that is the product itself.
SELF_MATCH = -1.0


class Judgment(NamedTuple):
    """A query that is judged for a product, and the product's gain by the first grade, up to 1.

    A gain of SELF_MATCH means that the query is the product itself: neither match nor negative.
    """

    query_id: str
    query: str
    kind: str
    gain: float = 0.0


class Sample(NamedTuple):
    """One product as a shard holds it; `query` is the judgment drawn for this epoch, if any.

    `query_image` is the picture of that query, whose text may then be empty. `losses` are those
    that the product's source supplies.
    """

    product_id: str
    text: str
    image: UInt8[Tensor, "3 height width"] | None
    judgments: list[Judgment]
    query: Judgment | None
    epoch: int = 0
    query_image: UInt8[Tensor, "3 height width"] | None = None
    losses: tuple[str, ...] = ()


# Fills the row of a sample that could not be read.
EMPTY_SAMPLE = Sample("", "", None, [], None)


class Tokens(NamedTuple):
    """Distinct texts of a batch, padded to the longest."""

    input_ids: Int[Tensor, "texts length"]
    attention_mask: Int[Tensor, "texts length"]


class Qrels(NamedTuple):
    """A batch's judgments of any gain but 0 as columns: query's key, product's row, gain."""

    query: Int[Tensor, " judgments"]
    product: Int[Tensor, " judgments"]
    gain: Float[Tensor, " judgments"]


class Batch(NamedTuple):
    """`rows` products. Distinct texts, queries and pictures stand once; `*_row` points at them.

    Keys are 64-bit hashes of ids and texts, equal on every process for equal strings.
    """

    product_ids: list[str]
    product_key: Int[Tensor, " rows"]
    text: Tokens
    text_row: Int[Tensor, " rows"]
    text_key: Int[Tensor, " rows"]
    query: Tokens
    query_row: Int[Tensor, " rows"]
    query_key: Int[Tensor, " rows"]
    image: UInt8[Tensor, "pictures 3 height width"]
    image_row: Int[Tensor, " rows"]
    # The pictures of queries are in `image` too.
    query_image_row: Int[Tensor, " rows"]
    qrels: Qrels
    losses: tuple[str, ...]
    skipped: list[str]

    @property
    def rows(self) -> dict[View, Int[Tensor, " rows"]]:
        """Maps each view of one modality to its index in every row, -1 in a row without it."""
        return {
            "trigger_text": self.query_row,
            "trigger_image": self.query_image_row,
            "text": self.text_row,
            "image": self.image_row,
        }


class Embeddings(NamedTuple):
    """Unit vectors of each computed view, and which rows have that view at all."""

    vectors: dict[View, Float[Tensor, "rows dim"]]
    present: dict[View, Bool[Tensor, " rows"]]


def rows_of(
    vectors: Float[Tensor, "distinct dim"], row: Int[Tensor, " rows"]
) -> Float[Tensor, "rows dim"]:
    """Spreads distinct vectors over the batch's rows; rows without the view get zeros."""
    if vectors.shape[0] == 0:
        return vectors.new_zeros(row.shape[0], vectors.shape[1])
    return torch.where((row >= 0).unsqueeze(1), vectors[row.clamp(min=0)], 0.0)
