"""Texts of many lengths through an encoder in one row, without the padding between them.

What an encoder does token by token it then does for real tokens alone, in a few large matrix
products. Attention is taken for texts of similar length together, padded to the longest of them
and masked. For encoders that are told each token's position and attend by PyTorch's
`scaled_dot_product_attention`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from beyond_text.models.cpu.replaced import Replaced


class _Bucket(NamedTuple):
    """Texts of similar length: which places of their padded rows hold tokens, one after another."""

    tokens: int
    mask: Bool[Tensor, "texts length"]
    places: Int[Tensor, " tokens"]

    def padded(self, rows: Float[Tensor, "tokens width"]) -> Float[Tensor, "texts length width"]:
        """Returns the tokens' rows in their places, with zeros elsewhere."""
        nothing = rows.new_zeros(self.mask.numel(), rows.shape[1])
        return nothing.index_copy(0, self.places, rows).unflatten(0, self.mask.shape)

    def packed(self, rows: Float[Tensor, "texts length width"]) -> Float[Tensor, "tokens width"]:
        """Returns the rows that stand in the tokens' places."""
        return rows.flatten(0, 1).index_select(0, self.places)


def _bucket(mask: Bool[Tensor, "texts length"]) -> _Bucket:
    places = mask.flatten().nonzero().squeeze(1)
    return _Bucket(len(places), mask, places)


class Packing:
    """Where the tokens of a batch of padded texts stand in one row: shortest texts first."""

    def __init__(self, mask: Int[Tensor, "texts length"], buckets: int) -> None:
        length = mask.sum(dim=1)
        self.order = length.argsort(stable=True)
        # All texts as one bucket, for the way in and out.
        self.whole = _bucket(mask[self.order].bool())
        parts = self.whole.mask.tensor_split(buckets)
        # Texts are padded on either side: a bucket keeps the columns in which it has tokens.
        self.buckets = [_bucket(part[:, part.any(dim=0)]) for part in parts if part.any()]
        self.positions = self.pack(mask.cumsum(dim=1) - 1)

    def pack(self, values: Int[Tensor, "texts length"]) -> Int[Tensor, "1 tokens"]:
        """Returns the values of the real tokens in one row."""
        return values[self.order][self.whole.mask].unsqueeze(0)

    def unpack(
        self, states: Float[Tensor, "1 tokens width"]
    ) -> Float[Tensor, "texts length width"]:
        """Returns the tokens' states in the shape of the batch, with zeros at the padding."""
        return self.whole.padded(states[0])[self.order.argsort()]


def _attend(
    packing: Packing,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 heads tokens width"],
    value: Float[Tensor, "1 heads tokens width"],
    *,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "1 heads tokens width"]:
    assert attn_mask is None
    assert not is_causal
    heads, width = query.shape[1], query.shape[3]
    query = query * (width**-0.5 if scale is None else scale)
    rows = [x[0].transpose(0, 1).flatten(1) for x in (query, key, value)]
    buckets = packing.buckets
    found = []
    for bucket, *parts in zip(
        buckets, *(x.split([bucket.tokens for bucket in buckets]) for x in rows), strict=True
    ):
        q, k, v = (
            bucket.padded(part).unflatten(2, (heads, width)).transpose(1, 2) for part in parts
        )
        scores = q @ k.transpose(2, 3)
        scores = scores.masked_fill(~bucket.mask[:, None, None, :], float("-inf"))
        weights = functional.dropout(scores.softmax(dim=3), dropout_p, dropout_p > 0)
        found.append(bucket.packed((weights @ v).transpose(1, 2).flatten(2)))
    return torch.cat(found).unflatten(1, (heads, width)).transpose(0, 1).unsqueeze(0)


class PackedAttention(Replaced):
    """Within, `scaled_dot_product_attention` over a packed row lets no text see another."""

    def __init__(self, packing: Packing) -> None:
        super().__init__({functional.scaled_dot_product_attention: partial(_attend, packing)})
