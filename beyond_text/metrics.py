"""Ranking metrics that never lose a query, and the significance of their differences.

`ir_measures` (trec_eval) computes every number; this file decides what is averaged. Notable:

- Gain is 2^grade - 1; recall and reciprocal rank call a product relevant from grade 1 on.
- A query with a positive judgement always counts, as 0 where the ranking does not hold it or
  holds nothing relevant. A query without a positive judgement has no metric: it is counted under
  `queries_without_judgements` and left out of the means.
- Order is trec_eval's: score descending, equal scores by product_id descending (code points).
  Scores are float32, and `write_trec` writes each digit of them, so ties stay ties on disk.
- `retrieval_metrics(*read_trec(folder))` gives again what was computed before `write_trec`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, R, nDCG
from jaxtyping import Float
from scipy import stats

# trec_eval keeps an array as long as the largest gain for every query.
MAX_GRADE = 10
GAINS = {grade: 2**grade - 1 for grade in range(MAX_GRADE + 1)}
MEASURES = {
    "ndcg@1": nDCG(gains=GAINS) @ 1,
    "ndcg@10": nDCG(gains=GAINS) @ 10,
    "recall@10": R(rel=1) @ 10,
    "recall@100": R(rel=1) @ 100,
    "mrr": RR(rel=1),
}
RESAMPLES = 10_000


class Ranking(NamedTuple):
    """The products found for each query, best first; scores are float32."""

    query_ids: list[str]
    product_ids: list[list[str]]
    scores: Float[np.ndarray, "queries k"]


class Judged(NamedTuple):
    """A ranking with the queries (`query_id`, `kind`) and judgements that it is measured on."""

    ranking: Ranking
    queries: pd.DataFrame
    qrels: pd.DataFrame


class Comparison(NamedTuple):
    """A mean paired difference, its 95 % interval and its two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def retrieval_metrics(
    ranking: Ranking, queries: pd.DataFrame, qrels: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Gives `{"all": block, kind: block, ...}` over all queries and over those of each kind.

    A block holds the means of `MEASURES`, `queries` (how many the means are over) and
    `queries_without_judgements`, all for the grade column `relevance` (the first one where
    there is none of that name); each further grade column has a block of its own in it. A block
    over no query has the two counts only. Recall and mrr see no deeper than the ranking is.

    Args:
        ranking: at most one row a query; queries missing from it count 0.
        queries: `query_id`, `kind`, one row a query; other columns are ignored.
        qrels: `query_id`, `product_id` and the grade columns, whole numbers from 0 to 10;
            judgements of queries not in `queries` are ignored.

    Raises:
        ValueError: a grade that is no such number (names query and product), a column that is
            missing, a duplicate, a ranked query not in `queries`, a kind "all" or "training", a
            score that is not finite or not in order, or no query with a positive judgement.
    """
    kinds = _kinds(queries)
    columns = {grade: _grades(qrels, grade) for grade in grade_columns(qrels)}
    values = {grade: _values(ranking, kinds.index, table) for grade, table in columns.items()}
    main, *further = values
    if values[main].empty:
        raise ValueError(f"none of {len(kinds)} queries has a positive judgement of {main!r}")

    def block(query_ids: pd.Index) -> dict[str, Any]:
        return _means(values[main], query_ids) | {
            grade: _means(values[grade], query_ids) for grade in further
        }

    by_kind = {kind: block(kinds.index[kinds == kind]) for kind in sorted(kinds.unique())}
    return {"all": block(kinds.index)} | by_kind


def per_query(
    ranking: Ranking,
    queries: pd.DataFrame,
    qrels: pd.DataFrame,
    measure: str = "ndcg@10",
    grade: str | None = None,
) -> pd.Series:
    """Gives the measure of each query with a positive judgement, indexed by query_id, in order.

    Its mean is what `retrieval_metrics` reports. `per_query(*read_trec(folder), "mrr")` reads it
    from disk. `grade` names the grade column; the default is that of `retrieval_metrics`.

    Raises:
        ValueError: an unknown measure or grade column, or what `retrieval_metrics` refuses.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}: expected one of {', '.join(MEASURES)}")
    grade = grade or grade_columns(qrels)[0]
    return _values(ranking, _kinds(queries).index, _grades(qrels, grade))[measure]


def grade_columns(qrels: pd.DataFrame) -> list[str]:
    """Gives the names of the grade columns, `relevance` first.

    Raises:
        ValueError: no grade column, or query_id or product_id missing.
    """
    names = [str(name) for name in qrels.columns if name not in ("query_id", "product_id")]
    if len(names) + 2 != len(qrels.columns) or not names:
        raise ValueError(
            "judgements: expected columns query_id, product_id and at least one grade, "
            f"got {', '.join(map(str, qrels.columns))}"
        )
    return sorted(names, key=lambda name: name != "relevance")


def interval(values: Float[np.ndarray, " queries"], seed: int = 0) -> tuple[float, float, float]:
    """Gives the mean and its 95 % percentile-bootstrap interval: (mean, low, high).

    The interval of fewer than two values is (nan, nan). Efron and Tibshirani 1993, chapter 13.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(values),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return mean, float(result.confidence_interval.low), float(result.confidence_interval.high)


def compare_paired(
    a: Float[np.ndarray, " queries"], b: Float[np.ndarray, " as_many"], seed: int = 0
) -> Comparison:
    """Compares two systems on the same queries: mean of a - b, its 95 % interval, and p.

    The interval is a bootstrap over queries; p is that of the paired sign-flip permutation test
    (Fisher's randomisation test, recommended by Smucker et al. 2007), exact where all sign
    patterns number no more than 10,000.

    Raises:
        ValueError: the two do not have the same length.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values expected, got {len(a)} and {len(b)} queries")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(differences) < 2:
        return Comparison(*interval(differences), p=1.0)
    test = stats.permutation_test(
        (differences,),
        lambda flipped, axis: np.mean(flipped, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(differences),
        rng=np.random.default_rng(seed),
    )
    return Comparison(*interval(differences, seed), p=float(test.pvalue))


def write_trec(
    folder: Path, ranking: Ranking, qrels: pd.DataFrame, queries: pd.DataFrame | None = None
) -> None:
    """Writes run.trec, qrels.trec (relevance), qrels.NAME.trec (further grades), queries.csv.

    The formats are trec_eval's. Ids are written with white space and % percent-encoded, as the
    format splits at white space. Without `queries`, what is read back knows every judged query
    and gives all of them the kind "query".

    Raises:
        ValueError: an id is empty, or what `retrieval_metrics` refuses.
    """
    _check(ranking)
    if queries is None:
        queries = pd.DataFrame({"query_id": list(dict.fromkeys(qrels["query_id"]))})
        queries["kind"] = "query"
    kept = qrels[qrels["query_id"].isin(_kinds(queries).index)]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("qrels*.trec"):
        stale.unlink()
    rows = zip(ranking.query_ids, ranking.product_ids, ranking.scores, strict=True)
    _write_lines(
        folder / "run.trec",
        # repr of the double that a float32 is: nothing is rounded, so no tie appears or goes.
        (
            f"{_word(query_id)} Q0 {_word(product_id)} {rank} {float(score)!r} beyond-text"
            for query_id, product_ids, scores in rows
            for rank, (product_id, score) in enumerate(
                zip(product_ids, scores, strict=True), start=1
            )
        ),
    )
    main, *_ = grades = grade_columns(kept)
    for grade in grades:
        _write_lines(
            folder / ("qrels.trec" if grade == main else f"qrels.{grade}.trec"),
            (
                f"{_word(query_id)} 0 {_word(product_id)} {value}"
                for (query_id, product_id), value in _grades(kept, grade).items()
            ),
        )
    queries[["query_id", "kind"]].to_csv(folder / "queries.csv", index=False)


def read_trec(folder: Path) -> Judged:
    """Reads what `write_trec` wrote; the main grade column is then named `relevance`.

    Raises:
        ValueError: names file, line, what was expected and what was found.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for query_id, _, product_id, _, score, _ in _read_lines(folder / "run.trec", 6):
        found.setdefault(_unword(query_id), []).append((_unword(product_id), float(score)))
    lengths = {len(row) for row in found.values()}
    if len(lengths) > 1:
        raise ValueError(
            f"{folder / 'run.trec'}: {min(lengths)} to {max(lengths)} products a query, "
            "expected the same number for each"
        )
    scores = np.array([[score for _, score in row] for row in found.values()], dtype=np.float32)
    ranking = Ranking(
        list(found),
        [[product_id for product_id, _ in row] for row in found.values()],
        scores.reshape(len(found), -1 if found else 0),
    )
    columns = {}
    for path in [folder / "qrels.trec", *sorted(folder.glob("qrels.*.trec"))]:
        name = path.name.removeprefix("qrels.").removesuffix("trec").rstrip(".") or "relevance"
        columns[name] = pd.Series(
            {
                (_unword(query_id), _unword(product_id)): int(value)
                for query_id, _, product_id, value in _read_lines(path, 4)
            },
            dtype="int64",
        )
    qrels = pd.DataFrame(columns).rename_axis(["query_id", "product_id"]).reset_index()
    queries = pd.read_csv(folder / "queries.csv", dtype=str, keep_default_na=False)
    return Judged(ranking, queries, qrels)


def _kinds(queries: pd.DataFrame) -> pd.Series:
    """Gives the kind of each query, indexed by query_id."""
    if missing := {"query_id", "kind"} - set(queries.columns):
        raise ValueError(f"queries: column {min(missing)!r} missing, got {list(queries.columns)}")
    kinds = queries.set_index("query_id")["kind"]
    _check_text(kinds.index, "queries")
    if kinds.index.has_duplicates:
        raise ValueError(f"queries: duplicate query_id {kinds.index[kinds.index.duplicated()][0]}")
    if reserved := {"all", "training"} & set(kinds):
        raise ValueError(f'queries: the kind "{min(reserved)}" is a name that metrics.json uses')
    return kinds


def _grades(qrels: pd.DataFrame, grade: str) -> pd.Series:
    """Gives the checked whole grades, indexed by (query_id, product_id)."""
    if grade not in qrels:
        raise ValueError(f"judgements: no column {grade!r}, got {', '.join(qrels.columns)}")
    table = qrels.set_index(["query_id", "product_id"])[grade]
    if table.index.has_duplicates:
        query_id, product_id = table.index[table.index.duplicated()][0]
        raise ValueError(f"judgements: query {query_id!r}, product {product_id!r} judged twice")
    for level in table.index.levels:  # type: ignore[attr-defined]
        _check_text(level, "judgements")
    numbers = pd.to_numeric(table, errors="coerce")
    wrong = ~numbers.isin(list(GAINS))
    if wrong.any():
        (query_id, product_id), got = next(iter(table[wrong].items()))  # type: ignore[misc]
        raise ValueError(
            f"judgements: query {query_id!r}, product {product_id!r}: {grade} is {got!r}, "
            f"expected a whole number from 0 to {MAX_GRADE}"
        )
    return numbers.astype("int64")


def _check_text(identities: pd.Index, where: str) -> None:
    """Refuses ids that are numbers: they match no id of the ranking, so all would score 0."""
    for identity in identities:
        if not isinstance(identity, str):
            raise ValueError(f"{where}: {identities.name} {identity!r} is not text: read it as str")


def _check(ranking: Ranking) -> None:
    """Refuses a ranking that trec_eval would read differently from what it says."""
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


def _values(ranking: Ranking, query_ids: pd.Index, grades: pd.Series) -> pd.DataFrame:
    """Gives a row for each of the queries with a positive judgement, a column for each measure."""
    _check(ranking)
    if unknown := set(ranking.query_ids) - set(query_ids):
        raise ValueError(f"ranking: query {min(unknown)!r} is not among the {len(query_ids)} given")
    positive = set(grades[grades > 0].index.get_level_values("query_id"))
    judged = [query_id for query_id in query_ids if query_id in positive]
    qrels: dict[str, dict[str, int]] = {query_id: {} for query_id in judged}
    for (query_id, product_id), grade in grades.items():  # type: ignore[misc]
        if query_id in qrels:
            qrels[query_id][product_id] = grade
    rows = zip(ranking.query_ids, ranking.product_ids, ranking.scores, strict=True)
    run = {
        query_id: dict(zip(product_ids, scores.astype(np.float32).tolist(), strict=True))
        for query_id, product_ids, scores in rows
        if query_id in qrels
    }
    values = pd.DataFrame(0.0, index=pd.Index(judged, name="query_id"), columns=list(MEASURES))
    if not run:
        return values
    names = {measure: name for name, measure in MEASURES.items()}
    evaluator = ir_measures.pytrec_eval.evaluator(list(names), qrels)
    found: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for query_id, measure, value in evaluator.iter_calc(run):
        found[names[measure]][query_id] = value
    return pd.DataFrame(found).reindex(values.index, fill_value=0.0)


def _means(values: pd.DataFrame, query_ids: pd.Index) -> dict[str, Any]:
    kept = values.loc[values.index.intersection(query_ids)]
    means = {name: float(mean) for name, mean in kept.mean().items()} if len(kept) else {}
    counts = {"queries": len(kept), "queries_without_judgements": len(query_ids) - len(kept)}
    return means | counts


def _batch(values: np.ndarray) -> int:
    """How many resamples to hold at once: some 30 MB of them."""
    return max(1, 4_000_000 // len(values))


def _word(identity: str) -> str:
    if not identity:
        raise ValueError("an empty query_id or product_id cannot be written to a TREC file")
    return re.sub(r"[%\s]", lambda match: quote(match.group()), identity)


def _unword(word: str) -> str:
    return unquote(word)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _read_lines(path: Path, fields: int) -> Iterable[list[str]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if len(words) != fields:
                raise ValueError(
                    f"{path}:{number}: expected {fields} fields, got {len(words)}: {line.rstrip()}"
                )
            yield words
