"""A batch of many products with graded judgments and missing views, and the slices of processes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.config.views import PRODUCT, QUERY, View
from beyond_text.shards.batch import (
    SELF_MATCH,
    Batch,
    Embeddings,
    Qrels,
    QueryKeys,
    Tokens,
    counts_of,
)
from tests.tiny import UNTAUGHT, some_pictures, some_tokens

GAINS = torch.tensor([SELF_MATCH, 0.0, 0.25, 0.5, 1.0])


def global_batch(products: int, queries: int, judgments: int, seed: int) -> Batch:
    """Returns the batch of all processes: a product in `queries` adjacent rows.

    Products share texts, queries share words and pictures, and are judged in several batches, where
    a wording is under several ids.
    """
    random = torch.Generator().manual_seed(seed)

    def numbers(most: int, *size: int) -> Tensor:
        return torch.randint(1, most, size, generator=random)

    rows, words = products * queries, 4 * products * queries
    product = numbers(5 * products, products)
    asked = numbers(words, rows)
    asked[: rows // 3] = numbers(5, rows // 3)
    judged = numbers(words, products, judgments)
    judged[:, ::2] = numbers(5, *judged[:, ::2].shape)
    judged[:, 0] = asked[::queries]
    gain = GAINS[torch.randint(0, 5, judged.shape, generator=random)]
    gain[:, 0] = 1.0
    every, none = torch.arange(rows), torch.full((rows,), -1)
    empty = torch.zeros(0, 1, dtype=torch.long)
    return Batch(
        product_ids=[str(number) for number in product.repeat_interleave(queries).tolist()],
        product_key=product.repeat_interleave(queries),
        text=Tokens(empty, empty),
        text_row=none,
        text_key=(product // 2).repeat_interleave(queries),
        query=Tokens(empty, empty),
        query_row=none,
        query_keys=keys_of(asked),
        image=torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        image_row=none,
        query_image_row=none,
        qrels=Qrels(
            keys_of(judged.flatten()),
            every[::queries].repeat_interleave(judgments),
            gain.flatten(),
        ),
        losses=tuple(UNTAUGHT),
        skipped=[],
    )


def full_batch(products: int, queries: int, seed: int = 0) -> Batch:
    """Returns graded products with texts and pictures, as the collate counts them."""
    batch = global_batch(products, queries, judgments=4, seed=seed)
    (ids, mask), rows = some_tokens(products * queries), torch.arange(products * queries)
    batch = batch._replace(
        text=Tokens(ids, mask),
        text_row=rows,
        query=Tokens(ids, mask),
        query_row=rows,
        image=some_pictures(products * queries + 2),
        image_row=rows.where(rows % 5 > 0, -1),
        query_image_row=torch.where(rows % 3 > 0, -1, len(rows) + rows % 2),
    )
    return batch._replace(counts=counts_of(batch))


def keys_of(asked: Tensor) -> QueryKeys:
    """Returns keys of queries: every third has no text, and every second has no picture."""
    return QueryKeys(
        (asked // 2 + 100) * (asked % 3 > 0), (asked // 3 + 100) * (asked % 2 > 0), asked
    )


def global_embeddings(
    views: Collection[View], products: int, queries: int, dim: int, seed: int
) -> Embeddings:
    """Returns vectors, of which some are missing; the rows of a product have one vector."""
    random = torch.Generator().manual_seed(seed)
    vectors: dict[View, Tensor] = {}
    present: dict[View, Tensor] = {}
    for view in (*QUERY, *PRODUCT):
        number, copies = (products * queries, 1) if view in QUERY else (products, queries)
        rows = F.normalize(torch.randn(number, dim, generator=random), dim=1)
        there = torch.rand(number, generator=random) < 0.8
        vectors[view] = rows.repeat_interleave(copies, dim=0)
        present[view] = there.repeat_interleave(copies)
    for side in (QUERY, PRODUCT):
        present[side.fused] = present[side.text] | present[side.image]
    return Embeddings({v: vectors[v] for v in views}, {v: present[v] for v in views})


def slice_of(whole: Any, rank: int, world: int, queries: int) -> Any:
    """Returns the rows of a tensor, batch or embeddings that one of `world` processes holds."""
    if isinstance(whole, Tensor):
        return whole.unflatten(0, (-1, queries))[rank::world].flatten(0, 1)
    if isinstance(whole, Embeddings):
        parts = ({v: slice_of(x, rank, world, queries) for v, x in part.items()} for part in whole)
        return Embeddings(*parts)
    product = whole.qrels.product // queries
    own = product % world == rank
    place = product // world * queries + whole.qrels.product % queries
    rows: Sequence[int] = slice_of(
        torch.arange(len(whole.product_ids)), rank, world, queries
    ).tolist()
    columns = ("product_key", "text_row", "text_key", "query_row", "image_row", "query_image_row")
    return whole._replace(
        product_ids=[whole.product_ids[row] for row in rows],
        query_keys=QueryKeys(*(slice_of(k, rank, world, queries) for k in whole.query_keys)),
        qrels=Qrels(
            QueryKeys(*(key[own] for key in whole.qrels.query)), place[own], whole.qrels.gain[own]
        ),
        **{name: slice_of(getattr(whole, name), rank, world, queries) for name in columns},
    )
