"""Computes ranking measures of judgments that are fractions, or above what trec_eval can hold.

trec_eval takes whole grades. These functions have the same definitions, so they give its numbers
where both apply: nDCG (Järvelin and Kekäläinen 2002) with the gain 2^grade - 1 and the discount
log2(rank + 1), recall, and reciprocal rank. A product is relevant where its grade is above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Grades = Mapping[str, float]


def exact_values(
    measures: Mapping[str, Any], qrels: Mapping[str, Grades], run: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Returns the value of each measure, by its name and query_id, of the queries in `run`.

    Args:
        measures: measures of `ir_measures` by name: nDCG, R and RR.
        qrels: the grade of each judged product, by query_id.
        run: the score of each product found, by query_id.

    Raises:
        ValueError: another measure.
    """
    unknown = [name for name, measure in measures.items() if measure.NAME not in COMPUTED]
    if unknown:
        raise ValueError(f"{unknown[0]}: cannot be computed of grades that are fractions")
    values: dict[str, dict[str, float]] = {name: {} for name in measures}
    for query_id, scores in run.items():
        # trec_eval's order: by score, equal scores by product_id, both descending.
        order = sorted(scores, key=lambda product: (scores[product], product), reverse=True)
        for name, measure in measures.items():
            cutoff, level = measure.params.get("cutoff"), measure.params.get("rel", 1)
            grades = qrels[query_id]
            values[name][query_id] = COMPUTED[measure.NAME](order[:cutoff], grades, cutoff, level)
    return values


def _ndcg(order: Sequence[str], grades: Grades, cutoff: int | None, level: int) -> float:
    best = sorted(grades.values(), reverse=True)[:cutoff]
    return _dcg([grades.get(product, 0.0) for product in order]) / _dcg(best)


def _dcg(grades: Sequence[float]) -> float:
    gains = np.expm1(np.array(grades, dtype=float) * np.log(2))
    return float(np.sum(gains / np.log2(np.arange(len(gains)) + 2)))


def _recall(order: Sequence[str], grades: Grades, cutoff: int | None, level: int) -> float:
    relevant = _relevant(grades, level)
    return len(relevant.intersection(order)) / len(relevant) if relevant else 0.0


def _reciprocal_rank(order: Sequence[str], grades: Grades, cutoff: int | None, level: int) -> float:
    relevant = _relevant(grades, level)
    return next((1 / rank for rank, name in enumerate(order, 1) if name in relevant), 0.0)


def _relevant(grades: Grades, level: int) -> set[str]:
    return {name for name, grade in grades.items() if grade > 0 and (level == 1 or grade >= level)}


COMPUTED = {"nDCG": _ndcg, "R": _recall, "RR": _reciprocal_rank}
