"""Computes ranking metrics over all queries that have a positive judgment.

`ir_measures` (trec_eval) computes every number of whole grades to 10; `exact.py` computes those of
other grades, by the same definitions. This file decides what is averaged. Notable:

- Gain is 2^grade - 1; recall and reciprocal rank call a product relevant if its grade is above 0.
- A query with a positive judgment always counts: as 0 where the ranking lacks the query or holds
  nothing relevant. A query without a positive judgment has no metric: it is counted under
  `queries_without_judgements` and left out of the means.
- The order is trec_eval's: by score, equal scores by product_id (code points), both descending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, Measure, R, nDCG

from beyond_text.metrics.exact import exact_values
from beyond_text.metrics.found import Ranking as Ranking
from beyond_text.tables.layouts import HIGHEST_GRADE

# For every query trec_eval keeps an array that is as long as the largest gain.
MAX_GRADE = 10
GAINS = {grade: 2**grade - 1 for grade in range(MAX_GRADE + 1)}
MEASURES: dict[str, Measure] = {
    "ndcg@1": nDCG(gains=GAINS) @ 1,
    "ndcg@10": nDCG(gains=GAINS) @ 10,
    "recall@10": R(rel=1) @ 10,
    "recall@100": R(rel=1) @ 100,
    "mrr": RR(rel=1),
}


class Evaluation(NamedTuple):
    """A ranking with the queries (`query_id`, `kind`) and judgments that it is measured on."""

    ranking: Ranking
    queries: pd.DataFrame
    qrels: pd.DataFrame


def retrieval_metrics(
    ranking: Ranking,
    queries: pd.DataFrame,
    qrels: pd.DataFrame,
    measures: Mapping[str, Measure] = MEASURES,
) -> dict[str, dict[str, Any]]:
    """Returns `{"all": block, kind: block, ...}` over all queries and over those of each kind.

    Where `queries` say that some have the words or the picture of a train query (`seen` is "1"),
    there are blocks `seen` and `unseen` too.

    A block holds the means of the measures, `queries` (the number that the means are over) and
    `queries_without_judgements`, all for the grade column `relevance`, or the first one where
    none has that name. Each further grade column has a block inside the block. A block over no
    query holds only the two counts. Recall and mrr are cut off at the depth of the ranking.

    Args:
        ranking: at most one row a query; queries missing from it count 0.
        queries: `query_id`, `kind`, perhaps `seen`, one row a query; other columns are ignored.
        qrels: `query_id`, `product_id` and the grade columns, numbers from 0 to HIGHEST_GRADE;
            judgments of queries not in `queries` are ignored.
        measures: the measures, by their names in a block.

    Raises:
        ValueError: a grade that is no such number (names query and product), a column that is
            missing, a duplicate, a ranked query not in `queries`, a kind with a name of
            metrics.json's own, a score that is not finite or not in order, or no query with a
            positive judgment.
    """
    kinds = query_kinds(queries)
    columns = {grade: checked_grades(qrels, grade) for grade in grade_columns(qrels)}
    values = {
        grade: _values(ranking, kinds.index, table, measures) for grade, table in columns.items()
    }
    main, *further = values
    if values[main].empty:
        raise ValueError(f"none of {len(kinds)} queries has a positive judgment of {main!r}")

    def block(query_ids: pd.Index) -> dict[str, Any]:
        return _means(values[main], query_ids) | {
            grade: _means(values[grade], query_ids) for grade in further
        }

    by_kind = {kind: block(kinds.index[kinds == kind]) for kind in sorted(kinds.unique())}
    seen = queries.get("seen", pd.Series("", index=queries.index)) == "1"
    if seen.any():
        ids = queries["query_id"]
        by_kind |= {"seen": block(pd.Index(ids[seen])), "unseen": block(pd.Index(ids[~seen]))}
    return {"all": block(kinds.index)} | by_kind


def per_query(
    ranking: Ranking,
    queries: pd.DataFrame,
    qrels: pd.DataFrame,
    measure: str = "ndcg@10",
    grade: str | None = None,
) -> pd.Series:
    """Returns the measure of each query with a positive judgment, indexed by query_id, in order.

    The mean is the one that `retrieval_metrics` reports. `per_query(*read_trec(folder), "mrr")`
    measures a ranking on disk. `grade` names the grade column; the default is that of
    `retrieval_metrics`.

    Raises:
        ValueError: an unknown measure or grade column, or what `retrieval_metrics` refuses.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}: expected one of {', '.join(MEASURES)}")
    grades = checked_grades(qrels, grade or grade_columns(qrels)[0])
    return _values(ranking, query_kinds(queries).index, grades, MEASURES)[measure]


def needs(query_ids: Iterable[str], qrels: pd.DataFrame) -> np.ndarray:
    """Numbers the queries; those with equal positive judgments (first grade) share a number.

    Such queries express one need in other words. A query without a positive judgment has a number
    of its own.
    """
    grade = grade_columns(qrels)[0]
    positive = qrels[qrels[grade] > 0].sort_values("product_id")
    judgments = {
        query_id: tuple(zip(rows["product_id"], rows[grade], strict=True))
        for query_id, rows in positive.groupby("query_id")
    }
    keys = [judgments.get(query_id, query_id) for query_id in query_ids]
    number = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys])


def grade_columns(qrels: pd.DataFrame) -> list[str]:
    """Returns the names of the grade columns, `relevance` first.

    Raises:
        ValueError: no grade column, or query_id or product_id missing.
    """
    names = [str(name) for name in qrels.columns if name not in ("query_id", "product_id")]
    if len(names) + 2 != len(qrels.columns) or not names:
        raise ValueError(
            "judgments: expected columns query_id, product_id and at least one grade, "
            f"got {', '.join(map(str, qrels.columns))}"
        )
    return sorted(names, key=lambda name: name != "relevance")


def query_kinds(queries: pd.DataFrame) -> pd.Series:
    """Returns the kind of each query, indexed by query_id.

    Raises:
        ValueError: a column is missing, a query_id is no text or comes twice, or a kind has a name
            that metrics.json uses.
    """
    if missing := {"query_id", "kind"} - set(queries.columns):
        raise ValueError(f"queries: column {min(missing)!r} missing, got {list(queries.columns)}")
    kinds = queries.set_index("query_id")["kind"]
    _check_text(kinds.index, "queries")
    if kinds.index.has_duplicates:
        raise ValueError(f"queries: duplicate query_id {kinds.index[kinds.index.duplicated()][0]}")
    if reserved := {"all", "training", "seen", "unseen"} & set(kinds):
        raise ValueError(f'queries: the kind "{min(reserved)}" is a name that metrics.json uses')
    return kinds


def checked_grades(qrels: pd.DataFrame, grade: str) -> pd.Series:
    """Returns the grades, indexed by (query_id, product_id).

    They are int64 where all are whole numbers to MAX_GRADE, which trec_eval takes, else float64.

    Raises:
        ValueError: the column is missing, a pair is judged twice, an id is no text, or a grade is
            no number from 0 to HIGHEST_GRADE.
    """
    if grade not in qrels:
        raise ValueError(f"judgments: no column {grade!r}, got {', '.join(qrels.columns)}")
    table = qrels.set_index(["query_id", "product_id"])[grade]
    if table.index.has_duplicates:
        query_id, product_id = table.index[table.index.duplicated()][0]
        raise ValueError(f"judgments: query {query_id!r}, product {product_id!r} judged twice")
    for level in table.index.levels:  # type: ignore[attr-defined]
        _check_text(level, "judgments")
    numbers = pd.to_numeric(table, errors="coerce")
    wrong = ~numbers.between(0, HIGHEST_GRADE)
    if wrong.any():
        (query_id, product_id), got = next(iter(table[wrong].items()))  # type: ignore[misc]
        raise ValueError(
            f"judgments: query {query_id!r}, product {product_id!r}: {grade} is {got!r}, "
            f"expected a number from 0 to {HIGHEST_GRADE:g}"
        )
    return numbers.astype("int64" if numbers.isin(list(GAINS)).all() else "float64")


def check_measurable(queries: pd.DataFrame, qrels: pd.DataFrame) -> None:
    """Checks that a ranking of these queries can be measured by these judgments.

    Raises:
        ValueError: what `retrieval_metrics` refuses of either.
    """
    kinds = query_kinds(queries)
    columns = {grade: checked_grades(qrels, grade) for grade in grade_columns(qrels)}
    main = next(iter(columns))
    positive = columns[main][columns[main] > 0].index.get_level_values("query_id")
    if not positive.isin(kinds.index).any():
        raise ValueError(f"none of {len(kinds)} queries has a positive judgment of {main!r}")


def _check_text(identities: pd.Index, where: str) -> None:
    """Refuses ids that are numbers: they equal no id of the ranking, so all would score 0."""
    for identity in identities:
        if not isinstance(identity, str):
            raise ValueError(f"{where}: {identities.name} {identity!r} is not text: read it as str")


def check_ranking(ranking: Ranking) -> None:
    """Refuses a ranking that trec_eval would read differently.

    Raises:
        ValueError: ids and scores differ in number, a query or a product of a query comes twice,
            or scores are not finite or not best first.
    """
    query_ids, product_ids, scores = ranking
    if not len(query_ids) == len(product_ids) == len(scores):
        raise ValueError(
            f"ranking: {len(query_ids)} queries, {len(product_ids)} rows of products, "
            f"{len(scores)} rows of scores"
        )
    if len(set(query_ids)) < len(query_ids):
        raise ValueError("ranking: a query_id comes twice")
    for query_id, row, values in zip(query_ids, product_ids, scores, strict=True):
        if len(row) != len(values) or len(set(row)) < len(row):
            raise ValueError(
                f"ranking of query {query_id!r}: {len(values)} scores for {len(row)} products, "
                f"{len(set(row))} of them different"
            )
        if not np.isfinite(values).all() or (np.diff(values) > 0).any():
            raise ValueError(f"ranking of query {query_id!r}: scores not finite or not best first")


def _values(
    ranking: Ranking, query_ids: pd.Index, grades: pd.Series, measures: Mapping[str, Measure]
) -> pd.DataFrame:
    """Returns a row per query with a positive judgment, and a column per measure."""
    check_ranking(ranking)
    if unknown := set(ranking.query_ids) - set(query_ids):
        raise ValueError(f"ranking: query {min(unknown)!r} is not among the {len(query_ids)} given")
    positive = set(grades[grades > 0].index.get_level_values("query_id"))
    judged = [query_id for query_id in query_ids if query_id in positive]
    qrels: dict[str, dict[str, float]] = {query_id: {} for query_id in judged}
    for (query_id, product_id), grade in grades.items():  # type: ignore[misc]
        if query_id in qrels:
            qrels[query_id][product_id] = grade
    rows = zip(ranking.query_ids, ranking.product_ids, ranking.scores, strict=True)
    run = {
        query_id: dict(zip(product_ids, scores.astype(np.float32).tolist(), strict=True))
        for query_id, product_ids, scores in rows
        if query_id in qrels
    }
    values = pd.DataFrame(0.0, index=pd.Index(judged, name="query_id"), columns=list(measures))
    if not run:
        return values
    if grades.dtype != "int64":
        return pd.DataFrame(exact_values(measures, qrels, run)).reindex(
            values.index, fill_value=0.0
        )
    names = {measure: name for name, measure in measures.items()}
    evaluator = ir_measures.pytrec_eval.evaluator(list(names), qrels)
    columns: dict[str, dict[str, float]] = {name: {} for name in measures}
    for query_id, measure, value in evaluator.iter_calc(run):
        columns[names[measure]][query_id] = value
    return pd.DataFrame(columns).reindex(values.index, fill_value=0.0)


def _means(values: pd.DataFrame, query_ids: pd.Index) -> dict[str, Any]:
    """Returns the means over those of the queries that have values, and the two counts."""
    kept = values.loc[values.index.intersection(query_ids)]
    means = {name: float(mean) for name, mean in kept.mean().items()} if len(kept) else {}
    counts = {"queries": len(kept), "queries_without_judgements": len(query_ids) - len(kept)}
    return means | counts
