"""Makes queries by which the recall of an index is measured, and how many lists it must read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beyond_text.indexing.generation import Generation
from beyond_text.indexing.models import ModelFacts
from beyond_text.retrieval.described import Described
from beyond_text.retrieval.truncate import truncate

# Queries that are made.
DRAWN = 500


def vectors_asked(
    model: ModelFacts,
    dim: int,
    products: Sequence[Described],
    vectors: np.ndarray,
    old: Generation | None,
) -> np.ndarray:
    """Returns vectors of queries like those that will be asked, to measure a search by.

    What will be asked is not known: titles of products stand for it, as queries, drawn by a fixed
    seed. Where products have no texts it will be pictures, and the products themselves do. Those of
    an older state, by the same model at the same width, are taken again.

    Args:
        model: that encodes them.
        dim: the index's width.
        products: those of the index.
        vectors: theirs, float16.
        old: such an older state, if there is one.
    """
    if old and (kept := old.asked()) is not None:
        return kept.astype(np.float16)
    random = np.random.default_rng(0)
    rows = np.sort(random.choice(len(products), min(DRAWN, len(products)), replace=False))
    texts = [products[row].columns.get("title") or products[row].text for row in rows]
    if not (texts := [text for text in texts if text.strip()]):
        return vectors[rows]
    # Imports torch, where the model is a run's.
    from beyond_text.encoding.model import load

    return truncate(load(model.path).encode_queries(texts), dim).astype(np.float16)
