"""Ranks a catalogue's products for every query by exact search."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from beyond_text.config.views import View
from beyond_text.metrics.ranking import Ranking
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_queries
from beyond_text.retrieval.index import ProductIndex
from beyond_text.retrieval.query_set import QuerySet

# No cosine is as small.
BELOW_ALL = np.float32(-2)


def own_products(catalogue: Catalogue, query_set: QuerySet) -> dict[str, set[str]]:
    """Lists the products that a query shows itself, by query_id: no result for it.

    That is the product itself, and each other one of the same picture.
    """
    pairs = zip(query_set.queries["query_id"], query_set.queries["product_id"], strict=True)
    own = {query_id: product_id for query_id, product_id in pairs if product_id}
    if not own:
        return {}
    alike: dict[object, set[str]] = {}
    look: dict[str, object] = {}
    for number, product_id in enumerate(catalogue.product_ids):
        picture = catalogue.products[number].image
        # Without a picture it looks like nothing else.
        look[product_id] = product_id if picture is None else _digest(picture)
        alike.setdefault(look[product_id], set()).add(product_id)
    return {query: alike.get(look.get(mine), {mine}) for query, mine in own.items()}


def _digest(picture: Tensor) -> bytes:
    shape = ",".join(map(str, picture.shape))
    return hashlib.sha256(shape.encode() + picture.contiguous().numpy().tobytes()).digest()


def search(
    queries: Vectors, products: Vectors, own: Mapping[str, Collection[str]], depth: int = 100
) -> Ranking:
    """Returns the `depth` nearest products of each query; without queries or products, nothing.

    A query's own products (`own`, by query_id) are no result: all others come before them, so they
    are seen at all only where too few others are there, and then as the last.
    """
    if not queries.ids or not products.ids:
        return Ranking([], [], np.zeros((0, 0), dtype=np.float32))
    spare = max(map(len, own.values()), default=0)
    found = ProductIndex.build(*products).search(queries.vectors, queries.ids, depth + spare)
    product_ids, scores = [], found.scores.copy()
    for number, (query_id, row) in enumerate(zip(queries.ids, found.product_ids, strict=True)):
        if mine := own.get(query_id):
            last = np.isin(row, list(mine))
            order = np.argsort(last, kind="stable")
            below = BELOW_ALL - np.cumsum(last[order])
            scores[number] = np.where(last[order], below, scores[number][order])
            row = [row[place] for place in order]
        product_ids.append(row[:depth])
    return Ranking(queries.ids, product_ids, scores[:, :depth])


def rank(
    encoder: Encoder,
    catalogue: Catalogue,
    query_set: QuerySet,
    views: Sequence[View] = ("product",),
    depth: int = 100,
) -> dict[View, Ranking]:
    """Returns the `depth` nearest products of each query, by each view's vectors."""
    queries = encode_queries(encoder, query_set)
    encoded = encode_products(encoder, catalogue, views)
    own = own_products(catalogue, query_set)
    return {
        view: search(queries, vectors, own, depth)
        for view, vectors in encoded.items()
        if vectors.ids
    }
