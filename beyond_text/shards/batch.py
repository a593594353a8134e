"""Defines what passes between modules: samples, batches, embeddings.

The four views are query, text, image and product (the fused vector). A query may be a text, a
picture or both (the trigger of UniECS): `trigger_text` and `trigger_image` are the vectors of
either alone. A view that a row lacks is row -1 of its index and a view that was not computed is not
there: a zero vector never means missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from beyond_text.config.views import PAIRS, View
from beyond_text.shards.keys import key_of as key_of
from beyond_text.tables.text import normal_text


@lru_cache(maxsize=2**16)
def query_text_key(text: str) -> int:
    """Hashes the words of a query: case, blanks and compatibility forms make no difference.

    0 stands for a query without text.
    """
    words = normal_text(text)
    return key_of(f"query {words}") if words else 0


class SampleIndex(NamedTuple):
    """Names one sample of one source in one epoch, and one of its query slots.

    A product stands in as many rows of a batch as it has slots, with a query in each. `query` is
    the row of the query that the first slot has; -1 where it is still to be drawn.
    """

    source: int
    sample: int
    epoch: int
    slot: int = 0
    query: int = -1


# The gain of a query that is the product itself.
SELF_MATCH = -1.0


class Judgment(NamedTuple):
    """A query that is judged for a product, and the product's gain for it, from 0 to 1.

    A gain of SELF_MATCH means that the query is the product itself: neither match nor negative.
    `picture` is the number of the query's picture in its split, if it has one.
    """

    query_id: str
    query: str
    kind: str
    gain: float = 0.0
    picture: int | None = None


class Sample(NamedTuple):
    """One product as a shard holds it; `query` is the judgment drawn for this epoch, if any.

    `query_image` is the picture of that query, whose text may then be empty. `losses` are those
    that the product's source supplies. Product ids are those of one `namespace`, and numbers of
    query pictures those of one `source`. `further` are the product's pictures beside `image`, where
    all are wanted.
    """

    product_id: str
    text: str
    image: UInt8[Tensor, "3 height width"] | None
    judgments: list[Judgment]
    query: Judgment | None
    epoch: int = 0
    query_image: UInt8[Tensor, "3 height width"] | None = None
    losses: tuple[str, ...] = ()
    namespace: str = ""
    source: int = 0
    further: tuple[UInt8[Tensor, "3 height width"], ...] = ()


# Fills the row of a sample that could not be read.
EMPTY_SAMPLE = Sample("", "", None, [], None)


def product_sample(product_id: str, text: str, pictures: Sequence[Tensor]) -> Sample:
    """Returns a product without judgments, with all its pictures or what stands in their places."""
    main = pictures[0] if pictures else None
    return Sample(product_id, text, main, [], None, further=tuple(pictures[1:]))


class Tokens(NamedTuple):
    """Distinct texts of a batch, padded to the longest."""

    input_ids: Int[Tensor, "texts length"]
    attention_mask: Int[Tensor, "texts length"]


class QueryKeys(NamedTuple):
    """64-bit keys of what queries are: their text, their picture, and both together.

    Queries of equal content have equal keys, whatever their ids. 0 stands for what is not there.
    """

    trigger_text: Int[Tensor, " queries"]
    trigger_image: Int[Tensor, " queries"]
    query: Int[Tensor, " queries"]


class Qrels(NamedTuple):
    """A batch's judgments as columns: query's keys, product's first row, gain."""

    query: QueryKeys
    product: Int[Tensor, " judgments"]
    gain: Float[Tensor, " judgments"]


class Counts(NamedTuple):
    """What is counted in a batch before it moves to a device, which then need not be asked.

    `seen` and `skipped` are samples, `anchors` is the number of products that have the views of one
    of the batch's losses, and the first `product_pictures` pictures are those of products. Lengths
    are the numbers of tokens; as arrays, they stay on the host.
    """

    seen: int
    skipped: int
    anchors: int
    product_pictures: int
    text_lengths: Int[np.ndarray, " texts"] | None = None
    query_lengths: Int[np.ndarray, " queries"] | None = None


class Batch(NamedTuple):
    """`rows` products. Distinct texts, queries and pictures stand once; `*_row` points at them.

    Keys are 64-bit hashes of ids and contents, equal on every process for equal ones.
    """

    product_ids: list[str]
    product_key: Int[Tensor, " rows"]
    text: Tokens
    text_row: Int[Tensor, " rows"]
    text_key: Int[Tensor, " rows"]
    query: Tokens
    query_row: Int[Tensor, " rows"]
    query_keys: QueryKeys
    image: UInt8[Tensor, "pictures 3 height width"]
    image_row: Int[Tensor, " rows"]
    # The pictures of queries are in `image` too, after those of products.
    query_image_row: Int[Tensor, " rows"]
    qrels: Qrels
    losses: tuple[str, ...]
    skipped: list[str]
    counts: Counts | None = None

    @property
    def texts_with_lengths(self) -> tuple[Tensor, ...]:
        """The tokens of texts, and their lengths on the host where these are known."""
        return _with_lengths(self.text, self.counts and self.counts.text_lengths)

    @property
    def queries_with_lengths(self) -> tuple[Tensor, ...]:
        """The tokens of queries, and their lengths on the host where these are known."""
        return _with_lengths(self.query, self.counts and self.counts.query_lengths)

    @property
    def product_pictures(self) -> int:
        """The number of pictures that are products'; those of queries follow them."""
        if self.counts is not None:
            return self.counts.product_pictures
        of_queries = self.query_image_row[self.query_image_row >= 0]
        return int(of_queries.min()) if len(of_queries) else len(self.image)

    @property
    def rows(self) -> dict[View, Int[Tensor, " rows"]]:
        """Maps each view of one modality to its index in every row, -1 in a row without it."""
        return {
            "trigger_text": self.query_row,
            "trigger_image": self.query_image_row,
            "text": self.text_row,
            "image": self.image_row,
        }


def _with_lengths(tokens: Tokens, lengths: np.ndarray | None) -> tuple[Tensor, ...]:
    return tuple(tokens) if lengths is None else (*tokens, torch.from_numpy(lengths))


def counts_of(batch: Batch) -> Counts:
    """Counts what is in a batch; waits for the device where it lies on one."""
    # Products, however many rows they have; skipped ones have no id.
    seen = len(set(batch.product_ids) - {""}) + len(batch.skipped)
    lengths = (
        tokens.attention_mask.sum(dim=1).cpu().numpy() for tokens in (batch.text, batch.query)
    )
    return Counts(seen, len(batch.skipped), _anchors_of(batch), batch.product_pictures, *lengths)


def _anchors_of(batch: Batch) -> int:
    """Returns how many products of a batch have the views of one of its losses."""
    has_query = (batch.query_row >= 0) | (batch.query_image_row >= 0)
    has_product = (batch.text_row >= 0) | (batch.image_row >= 0)
    has: dict[View, Tensor] = {
        "query": has_query,
        "text": batch.text_row >= 0,
        "image": batch.image_row >= 0,
        "product": has_product,
    }
    is_anchor = torch.zeros_like(has_query)
    for name in batch.losses:
        pair = PAIRS.get(name, ("query", "product"))
        is_anchor |= has[pair[0]] & has[pair[1]]
    return int(batch.product_key[is_anchor].unique().numel())


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
