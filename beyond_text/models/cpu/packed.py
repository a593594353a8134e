"""Runs an encoder on texts of many lengths packed into one row, without the padding between them.

All that the encoder does token by token is then done for real tokens alone, in a few large matrix
products. Attention is computed for texts of similar length together, padded to the longest of them
and masked. The encoder must take each token's position as an input, and attend by PyTorch's
`scaled_dot_product_attention`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from beyond_text.models.cpu.replaced import Replaced


class _Bucket(NamedTuple):
    """Texts of similar length; `indices` holds the flat index in `mask` of each of their tokens."""

    tokens: int
    mask: Bool[Tensor, "texts length"]
    indices: Int[Tensor, " tokens"]

    def padded(self, rows: Float[Tensor, "tokens width"]) -> Float[Tensor, "texts length width"]:
        """Returns the tokens' rows in the shape of the padded texts, with zeros at the padding."""
        zeros = rows.new_zeros(self.mask.numel(), rows.shape[1])
        return zeros.index_copy(0, self.indices, rows).unflatten(0, self.mask.shape)

    def packed(self, rows: Float[Tensor, "texts length width"]) -> Float[Tensor, "tokens width"]:
        """Returns the rows of the tokens, without the padding."""
        return rows.flatten(0, 1).index_select(0, self.indices)


def _bucket(mask: Bool[Tensor, "texts length"]) -> _Bucket:
    indices = mask.flatten().nonzero().squeeze(1)
    return _Bucket(len(indices), mask, indices)


class Packing:
    """Packs the tokens of a batch of padded texts into one row, shortest texts first."""

    def __init__(self, mask: Int[Tensor, "texts length"], buckets: int) -> None:
        length = mask.sum(dim=1)
        self.order = length.argsort(stable=True)
        # All texts as one bucket, by which they are packed and unpacked.
        self.all_texts = _bucket(mask[self.order].bool())
        masks = self.all_texts.mask.tensor_split(buckets)
        # Texts may be padded on either side: a bucket keeps the columns in which it has tokens.
        self.buckets = [_bucket(part[:, part.any(dim=0)]) for part in masks if part.any()]
        self.positions = self.pack(mask.cumsum(dim=1) - 1)

    def pack(self, values: Int[Tensor, "texts length"]) -> Int[Tensor, "1 tokens"]:
        """Returns the values of the real tokens in one row."""
        return values[self.order][self.all_texts.mask].unsqueeze(0)

    def unpack(
        self, states: Float[Tensor, "1 tokens width"]
    ) -> Float[Tensor, "texts length width"]:
        """Returns the tokens' states in the shape of the batch, with zeros at the padding."""
        return self.all_texts.padded(states[0])[self.order.argsort()]


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
    """Attends within each text of a packed row; with the arguments that PyTorch's function has."""
    assert attn_mask is None
    assert not is_causal
    heads, width = query.shape[1], query.shape[3]
    query = query * (width**-0.5 if scale is None else scale)
    rows = [x[0].transpose(0, 1).flatten(1) for x in (query, key, value)]
    buckets = packing.buckets
    outputs = []
    for bucket, *parts in zip(
        buckets, *(x.split([bucket.tokens for bucket in buckets]) for x in rows), strict=True
    ):
        q, k, v = (
            bucket.padded(part).unflatten(2, (heads, width)).transpose(1, 2) for part in parts
        )
        scores = q @ k.transpose(2, 3)
        scores = scores.masked_fill(~bucket.mask[:, None, None, :], float("-inf"))
        weights = functional.dropout(scores.softmax(dim=3), dropout_p, dropout_p > 0)
        outputs.append(bucket.packed((weights @ v).transpose(1, 2).flatten(2)))
    return torch.cat(outputs).unflatten(1, (heads, width)).transpose(0, 1).unsqueeze(0)


class PackedAttention(Replaced):
    """Replaces attention by one that keeps texts of a packed row apart, while it is entered.

    `calls` counts how often it attended: fewer times than the encoder has layers means that some
    layer attended otherwise, across texts.
    """

    def __init__(self, packing: Packing) -> None:
        super().__init__({functional.scaled_dot_product_attention: self._attend})
        self.packing = packing
        self.calls = 0

    def _attend(self, *args: Any, **settings: Any) -> Tensor:
        self.calls += 1
        return _attend(self.packing, *args, **settings)
