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
from beyond_text.retrieval.truncate import truncate

# Less than every cosine.
BELOW_ALL = np.float32(-2)


def rank(
    encoder: Encoder,
    catalogue: Catalogue,
    query_set: QuerySet,
    views: Sequence[View] = ("product",),
    depth: int = 100,
) -> dict[View, Ranking]:
    """Returns, for each view, the `depth` nearest products of each query by that view's vectors.

    A view that no product has is left out.
    """
    return rank_at_widths(encoder, catalogue, query_set, views, (), depth)[0]


def rank_at_widths(
    encoder: Encoder,
    catalogue: Catalogue,
    query_set: QuerySet,
    views: Sequence[View],
    widths: Sequence[int],
    depth: int = 100,
) -> tuple[dict[View, Ranking], dict[int, Ranking]]:
    """Returns what `rank` does, and rankings by fused vectors that are shortened to each width.

    Everything is encoded once.
    """
    queries = encode_queries(encoder, query_set)
    encoded = encode_products(encoder, catalogue, views)
    return rank_encoded(queries, encoded, own_products(catalogue, query_set), widths, depth)


def rank_encoded(
    queries: Vectors,
    encoded: Mapping[View, Vectors],
    own: Mapping[str, Collection[str]],
    widths: Sequence[int] = (),
    depth: int = 100,
) -> tuple[dict[View, Ranking], dict[int, Ranking]]:
    """Returns what `rank_at_widths` does, of what is encoded already; `own` is as for `search`."""
    by_view = {
        view: search(queries, vectors, own, depth)
        for view, vectors in encoded.items()
        if vectors.ids
    }
    by_width = {
        width: search(_shortened(queries, width), _shortened(encoded["product"], width), own, depth)
        for width in widths
    }
    return by_view, by_width


def _shortened(vectors: Vectors, width: int) -> Vectors:
    return Vectors(vectors.ids, truncate(vectors.vectors, width))


def search(
    queries: Vectors, products: Vectors, own: Mapping[str, Collection[str]], depth: int = 100
) -> Ranking:
    """Returns the `depth` nearest products of each query, by exact search.

    A query's own products (`own`, by query_id) are no result. They rank below all others, so they
    appear, last, only where the catalogue has too few others. Without queries or products the
    ranking is empty.
    """
    if not queries.ids or not products.ids:
        return Ranking([], [], np.zeros((0, 0), dtype=np.float32))
    spare = max(map(len, own.values()), default=0)
    ranking = ProductIndex.build(*products).search(queries.vectors, queries.ids, depth + spare)
    product_ids, scores = [], ranking.scores.copy()
    for number, (query_id, row) in enumerate(zip(queries.ids, ranking.product_ids, strict=True)):
        if own_ids := own.get(query_id):
            is_own = np.isin(row, list(own_ids))
            order = np.argsort(is_own, kind="stable")
            below = BELOW_ALL - np.cumsum(is_own[order])
            scores[number] = np.where(is_own[order], below, scores[number][order])
            row = [row[position] for position in order]
        product_ids.append(row[:depth])
    return Ranking(queries.ids, product_ids, scores[:, :depth])


def own_products(catalogue: Catalogue, query_set: QuerySet) -> dict[str, set[str]]:
    """Returns, by query_id, the products that are no result for a query that is a product.

    These are the product itself and all others of the same picture.
    """
    pairs = zip(query_set.queries["query_id"], query_set.queries["product_id"], strict=True)
    own = {query_id: product_id for query_id, product_id in pairs if product_id}
    if not own:
        return {}
    key_of: dict[str, object] = {}
    by_key: dict[object, set[str]] = {}
    for number, product_id in enumerate(catalogue.product_ids):
        picture = catalogue.products[number].image
        # A product without a picture equals no other.
        key = product_id if picture is None else picture_digest(picture)
        key_of[product_id] = key
        by_key.setdefault(key, set()).add(product_id)
    return {
        query_id: by_key.get(key_of.get(product_id), {product_id})
        for query_id, product_id in own.items()
    }


def picture_digest(picture: Tensor) -> bytes:
    """Returns a digest of the picture's shape and pixels."""
    shape = ",".join(map(str, picture.shape))
    return hashlib.sha256(shape.encode() + picture.contiguous().numpy().tobytes()).digest()
