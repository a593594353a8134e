"""Joins what vectors and words find: a weighted sum of scores, and reciprocal rank fusion.

The score of a product is weight x cosine + (1 - weight) x the score of its words, which is 0 to 1
(`lexical.py`). Weight 1 is vectors alone, 0 words alone. Both parts are those among all products,
so a filter takes products away and changes no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress

import numpy as np
from jaxtyping import Float32, Float64, Int64

from beyond_text.retrieval.lexical import best_of

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
RRF_K = 60
# The cut of the nDCG that a weight is tuned for.
CUT = 10
# Of a kind's mean nDCG: smaller differences come and go with the rounding of vectors.
LEAST_LOSS = 0.0005


def weighted(
    vector_scores: Float32[np.ndarray, " products"],
    lexical_scores: Float32[np.ndarray, " products"],
    weight: float,
) -> Float32[np.ndarray, " products"]:
    """Returns the weighted scores of products, of their cosines and of their scores by words.

    Raises:
        ValueError: the weight is not from 0 to 1.
    """
    check_weight(weight)
    return np.float32(weight) * vector_scores + np.float32(1 - weight) * lexical_scores


def top_weighted(
    nearest: tuple[Float32[np.ndarray, " found"], Int64[np.ndarray, " found"]],
    lexical_scores: Float32[np.ndarray, " products"],
    vector_scores_of: Callable[[Int64[np.ndarray, " rows"]], Float32[np.ndarray, " rows"]],
    weight: float,
    k: int,
    allowed: Int64[np.ndarray, " rows"] | None = None,
) -> tuple[Float32[np.ndarray, " best"], Int64[np.ndarray, " best"]]:
    """Returns scores and positions of the k best products, as if all had been compared.

    The products that the vectors found bound the others: none of these has a cosine above the
    last that was found. So only those whose words could lift them into the first k are compared
    too. The result is exact where `nearest` is.

    Args:
        nearest: scores and positions of the nearest products, best first, and only allowed ones;
            more than k (some hundred) make the bound tight, so that few others are compared.
        lexical_scores: scores by words of all products.
        vector_scores_of: returns the cosines of the products at these positions.
        weight: of the vectors, 0 to 1.
        k: how many; fewer are returned where fewer are allowed.
        allowed: positions of the products that may be found; None for all.

    Raises:
        ValueError: the weight is out of range.
    """
    cosines, rows = nearest
    scores = weighted(cosines, lexical_scores[rows], weight)
    others = _others(rows, len(lexical_scores), allowed)
    if len(others) and len(rows):
        bound = weighted(np.full(len(others), cosines[-1]), lexical_scores[others], weight)
        # Not above the k-th either, for equal scores are put in order by position.
        least = np.sort(scores)[-k] if k <= len(scores) else -np.inf
        others = others[bound >= least - np.float32(1e-6)]
    if len(others):
        further = weighted(vector_scores_of(others), lexical_scores[others], weight)
        rows, scores = np.concatenate([rows, others]), np.concatenate([scores, further])
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def reciprocal_rank_fusion(
    rankings: Sequence[Int64[np.ndarray, " found"]], k: int = RRF_K
) -> tuple[Float64[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
    """Fuses rankings by reciprocal rank: the sum of 1 / (k + rank) over the rankings that have it.

    A ranking is positions of products, best first; rank counts from 1. Returns scores and
    positions, best first, equal scores by position. Source: Cormack, Clarke and Buettcher 2009.
    """
    joined = np.concatenate([np.zeros(0, np.int64), *rankings])
    parts = [1.0 / (k + np.arange(1, len(ranking) + 1)) for ranking in rankings]
    rows, places = np.unique(joined, return_inverse=True)
    scores = np.bincount(places, np.concatenate([np.zeros(0), *parts]), len(rows))
    order = np.argsort(-scores, kind="stable")
    return scores[order], rows[order]


def tune_weight(
    queries: Iterable[
        tuple[
            Float32[np.ndarray, " products"],
            Float32[np.ndarray, " products"],
            Mapping[int, float],
            str,
        ]
    ],
    weights: Sequence[float] = WEIGHTS,
) -> tuple[float, dict[float, float]]:
    """Returns the weight of the vectors to take, and the mean nDCG@10 of each weight.

    What words win for one kind of query must not cost another: a weight by which a kind does worse
    than by vectors alone, by more than half a standard error and LEAST_LOSS, is not taken. Of the
    others, those whose mean is within one standard error of the best, it is the highest, that is
    the nearest to vectors alone (the rule of one standard error of Breiman et al. 1984).

    Args:
        queries: for each query, the cosines and the scores by words of all products, the gain
            (2^grade - 1) of each product, by position, whose grade is above 0, and its kind.
        weights: the weights that are tried; the last is 1.

    Raises:
        ValueError: no query has a gain, or a weight is out of range.
    """
    found: list[list[float]] = []
    kinds: list[str] = []
    for vector_scores, lexical_scores, gains, kind in queries:
        if not gains:
            continue
        scores = (weighted(vector_scores, lexical_scores, weight) for weight in weights)
        found.append([_ndcg(each, gains) for each in scores])
        kinds.append(kind)
    if not found:
        raise ValueError("no query with a relevant product to tune the weight on")
    values = np.array(found)
    more = values - values[:, -1:]
    of_kind = (more[np.array(kinds) == kind] for kind in set(kinds))
    losses = (-part.mean(axis=0) > np.maximum(_error(part) / 2, LEAST_LOSS) for part in of_kind)
    harmless = ~np.any(list(losses), axis=0)
    mean = values.mean(axis=0)
    best = int(np.where(harmless, mean, -1).argmax())
    taken = harmless & (mean >= mean[best] - _error(values)[best])
    return max(compress(weights, taken)), dict(zip(weights, mean.tolist(), strict=True))


def _error(values: Float64[np.ndarray, "queries weights"]) -> Float64[np.ndarray, " weights"]:
    """Returns the standard error of each column's mean."""
    return values.std(axis=0) / len(values) ** 0.5


def check_weight(weight: float) -> None:
    """Checks the weight of the vectors.

    Raises:
        ValueError: it is not from 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: expected 0 (words alone) to 1 (vectors alone), got {weight}")


def _others(
    rows: np.ndarray, products: int, allowed: Int64[np.ndarray, " rows"] | None
) -> Int64[np.ndarray, " others"]:
    """Returns the allowed positions that are not among `rows`, ascending."""
    mask = np.zeros(products, dtype=bool)
    mask[slice(None) if allowed is None else allowed] = True
    mask[rows] = False
    return np.flatnonzero(mask)


def _ndcg(scores: np.ndarray, gains: Mapping[int, float]) -> float:
    """Returns nDCG@10 of products ordered by score."""
    _, rows = best_of(scores, np.arange(len(scores)), CUT)
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    found = np.array([gains.get(row, 0.0) for row in rows.tolist()])
    ideal = np.sort(np.fromiter(gains.values(), float))[::-1][:CUT]
    return float(found @ discounts[: len(found)] / (ideal @ discounts[: len(ideal)]))
