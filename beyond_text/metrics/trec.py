"""Writes rankings and judgments as TREC files, so that any evaluation tool can check the numbers.

Scores are float32 and all of their digits are written, so ties stay ties on disk:
`retrieval_metrics(*read_trec(folder))` returns the metrics from before `write_trec`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from beyond_text.metrics.ranking import (
    Evaluation,
    Ranking,
    check_ranking,
    checked_grades,
    grade_columns,
    query_kinds,
)


def write_trec(
    folder: Path, ranking: Ranking, qrels: pd.DataFrame, queries: pd.DataFrame | None = None
) -> None:
    """Writes run.trec, qrels.trec (relevance), qrels.NAME.trec (further grades), queries.csv.

    The formats are trec_eval's, which splits at white space, so white space and % are
    percent-encoded in ids. Grades that are fractions are written as they are; trec_eval takes whole
    ones alone. Without `queries`, queries.csv holds every judged query, with the kind "query".

    Raises:
        ValueError: an id is empty, or what `retrieval_metrics` refuses.
    """
    check_ranking(ranking)
    if queries is None:
        queries = pd.DataFrame({"query_id": list(dict.fromkeys(qrels["query_id"]))})
        queries["kind"] = "query"
    kept = qrels[qrels["query_id"].isin(query_kinds(queries).index)]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("qrels*.trec"):
        stale.unlink()
    rows = zip(ranking.query_ids, ranking.product_ids, ranking.scores, strict=True)
    _write_lines(
        folder / "run.trec",
        # float() is exact for a float32 and repr() keeps all digits, so ties neither appear nor go.
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
                for (query_id, product_id), value in checked_grades(kept, grade).items()
            ),
        )
    columns = [name for name in ("query_id", "kind", "seen") if name in queries]
    queries[columns].to_csv(folder / "queries.csv", index=False)


def read_trec(folder: Path) -> Evaluation:
    """Reads the files that `write_trec` wrote; the main grade column is named `relevance`.

    Raises:
        ValueError: a line has another number of fields (names file and line), or queries differ in
            their number of products.
    """
    rows: dict[str, list[tuple[str, float]]] = {}
    for query_id, _, product_id, _, score, _ in _read_lines(folder / "run.trec", 6):
        rows.setdefault(_unword(query_id), []).append((_unword(product_id), float(score)))
    lengths = {len(row) for row in rows.values()}
    if len(lengths) > 1:
        raise ValueError(
            f"{folder / 'run.trec'}: {min(lengths)} to {max(lengths)} products a query, "
            "expected the same number for each"
        )
    scores = np.array([[score for _, score in row] for row in rows.values()], dtype=np.float32)
    ranking = Ranking(
        list(rows),
        [[product_id for product_id, _ in row] for row in rows.values()],
        scores.reshape(len(rows), -1 if rows else 0),
    )
    columns = {}
    for path in [folder / "qrels.trec", *sorted(folder.glob("qrels.*.trec"))]:
        name = path.name.removeprefix("qrels.").removesuffix("trec").rstrip(".") or "relevance"
        columns[name] = pd.Series(
            {
                (_unword(query_id), _unword(product_id)): value
                for query_id, _, product_id, value in _read_lines(path, 4)
            },
            dtype=object,
        )
        whole = columns[name].str.fullmatch(r"\d+").all()
        columns[name] = columns[name].astype("int64" if whole else "float64")
    qrels = pd.DataFrame(columns).rename_axis(["query_id", "product_id"]).reset_index()
    queries = pd.read_csv(folder / "queries.csv", dtype=str, keep_default_na=False)
    return Evaluation(ranking, queries, qrels)


def _word(identity: str) -> str:
    """Encodes an id as one word without white space."""
    if not identity:
        raise ValueError("an empty query_id or product_id cannot be written to a TREC file")
    return re.sub(r"[%\s]", lambda match: quote(match.group()), identity)


def _unword(word: str) -> str:
    """Returns the id that `_word` encoded."""
    return unquote(word)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _read_lines(path: Path, fields: int) -> Iterable[list[str]]:
    """Yields the fields of each line; refuses another number of them."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if len(words) != fields:
                raise ValueError(
                    f"{path}:{number}: expected {fields} fields, got {len(words)}: {line.rstrip()}"
                )
            yield words
