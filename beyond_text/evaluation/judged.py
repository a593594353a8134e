"""The kind and the information need of each judged query, as an experiment keeps them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Int

from beyond_text.metrics.ranking import needs, query_kinds
from beyond_text.retrieval.query_set import QuerySet

# By query_id. The needs are numbered: queries of one number want the same products.
Judged = dict[str, tuple[str, int]]


def kinds_and_needs(query_set: QuerySet, query_ids: Collection[str]) -> Judged:
    """Returns the kind and need of each of the queries, which are judged."""
    kinds, need = query_kinds(query_set.queries), needs(query_ids, query_set.qrels).tolist()
    return {query: (kinds[query], n) for query, n in zip(query_ids, need, strict=True)}


def parts_of(judged: Judged) -> dict[str, Bool[np.ndarray, " queries"]]:
    """Returns which queries are of each kind; "all" comes first."""
    kind = np.array([kind for kind, _ in judged.values()])
    return {"all": np.ones(len(kind), bool)} | {str(name): kind == name for name in np.unique(kind)}


def needs_of(judged: Judged) -> Int[np.ndarray, " queries"]:
    """Returns the need of each query."""
    return np.array([need for _, need in judged.values()])
