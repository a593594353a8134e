"""Counts what a person should know of tables before a model is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from beyond_text.tables.text import normal_text
from data_prep.report.usable import Usable

EXAMPLES = 5
# The usual splits come first.
ORDER = ("train", "dev", "test")


class SplitCounts(NamedTuple):
    """Counts of one split; a product is judged where a query of the split has a grade for it."""

    split: str
    products: int
    with_text: int
    with_picture: int
    with_both: int
    judged: int
    queries: int
    judged_queries: int
    judgments: int
    positive: int


class Duplicates(NamedTuple):
    """Rows with an equal value: their groups, rows in these, of all, and the largest groups.

    `rows_are` and `equal` name them, such as "products" and "picture".
    """

    rows_are: str
    equal: str
    groups: int
    rows: int
    of: int
    examples: list[tuple[str, list[str]]]


class Crossing(NamedTuple):
    """What two splits share: rows of the second whose value stands in the first too."""

    kind: str
    first: str
    second: str
    rows: int
    of: int
    examples: list[str]


class RejectGroup(NamedTuple):
    """The rejects of one reason in one file, with the first of them."""

    file: str
    reason: str
    times: int
    examples: list[tuple[int, str, str]]


class FileShare(NamedTuple):
    """Rows of a file that are rejected, of all; `stops` where the builder would refuse them."""

    file: str
    rejected: int
    rows: int
    left_out: int
    stops: bool


def splits_of(usable: Usable) -> list[str]:
    """Lists the splits of products and queries, train, dev and test first."""
    found = {*usable.products["split"], *usable.queries["split"]}
    return [split for split in ORDER if split in found] + sorted(found - set(ORDER))


def count_splits(usable: Usable) -> list[SplitCounts]:
    """Counts products, queries and judgments of each split."""
    counts = []
    for split in splits_of(usable):
        products, queries, qrels = (
            table[table["split"] == split]
            for table in (usable.products, usable.queries, usable.qrels)
        )
        text, picture = products["text"] != "", products["picture"] != ""
        counts.append(
            SplitCounts(
                split=split,
                products=len(products),
                with_text=int(text.sum()),
                with_picture=int(picture.sum()),
                with_both=int((text & picture).sum()),
                judged=int(products["product_id"].isin(qrels["product_id"]).sum()),
                queries=len(queries),
                judged_queries=int(queries["query_id"].isin(qrels["query_id"]).sum()),
                judgments=len(qrels),
                positive=int((qrels["relevance"] > 0).sum()),
            )
        )
    return counts


def judgments_a_query(usable: Usable) -> dict[str, list[int]]:
    """Counts by split the judgments of each query, those without any included."""
    counts = {}
    for split in splits_of(usable):
        queries = usable.queries.loc[usable.queries["split"] == split, "query_id"]
        judged = usable.qrels.loc[usable.qrels["split"] == split, "query_id"].value_counts()
        if len(queries):
            counts[split] = [int(judged.get(query_id, 0)) for query_id in queries]
    return counts


def count_grades(usable: Usable) -> dict[str, dict[str, dict[float, int]]]:
    """Counts judgments by column of grades, split and grade, from the lowest grade."""
    found: dict[str, dict[str, dict[float, int]]] = {}
    for grade in usable.grades:
        for split in splits_of(usable):
            values = usable.qrels.loc[usable.qrels["split"] == split, grade]
            if len(values):
                counts = Counter(float(value) for value in values)
                found.setdefault(grade, {})[split] = dict(sorted(counts.items()))
    return found


def find_duplicates(usable: Usable) -> list[Duplicates]:
    """Finds products of equal pictures or texts, and queries of equal words."""
    products = usable.products.drop_duplicates("product_id")
    queries = usable.queries.drop_duplicates("query_id")
    return [
        _equal_rows("products", "picture", products, "product_id", products["picture"]),
        _equal_rows("products", "text", products, "product_id", products["text"].map(normal_text)),
        _equal_rows("queries", "words", queries, "query_id", _words(queries)),
    ]


def _words(queries: pd.DataFrame) -> pd.Series:
    """Returns the normal form of queries' words, or "" where a picture is asked with too."""
    return queries["text"].map(normal_text).where(queries["picture"] == "", "")


def _equal_rows(
    rows_are: str, equal: str, frame: pd.DataFrame, key: str, values: Iterable[str]
) -> Duplicates:
    """Groups rows by a value; rows without one are in no group."""
    groups: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if value:
            groups.setdefault(value, []).append(row)
    twice = sorted((rows for rows in groups.values() if len(rows) > 1), key=len, reverse=True)
    ids, texts = frame[key].tolist(), frame["text"].tolist()
    examples = [
        (texts[rows[0]], [str(ids[row]) for row in rows[:EXAMPLES]]) for rows in twice[:EXAMPLES]
    ]
    return Duplicates(rows_are, equal, len(twice), sum(map(len, twice)), len(frame), examples)


def find_crossings(usable: Usable) -> list[Crossing]:
    """Finds what two splits share, for every two of them; what nothing shares is counted as 0."""
    products, queries = usable.products, usable.queries
    kinds: list[tuple[str, pd.DataFrame, pd.Series, str]] = [
        ("query words", queries, _words(queries), "text"),
        ("query pictures", queries, queries["picture"], "query_id"),
        ("product texts", products, products["text"].map(normal_text), "text"),
        ("product pictures", products, products["picture"], "product_id"),
        ("products (product_id)", products, products["product_id"], "product_id"),
        ("designs (group_id)", products, products["group_id"], "group_id"),
    ]
    return [
        _crossing(kind, frame, values, shown, first, second)
        for kind, frame, values, shown in kinds
        for first, second in combinations(splits_of(usable), 2)
    ]


def _crossing(
    kind: str, frame: pd.DataFrame, values: pd.Series, shown: str, first: str, second: str
) -> Crossing:
    """Counts the rows of the second split whose value stands in the first."""
    known = set(values[frame["split"] == first]) - {""}
    of_second = frame["split"] == second
    shared = of_second & values.isin(known)
    examples = list(dict.fromkeys(map(str, frame.loc[shared, shown])))[:EXAMPLES]
    return Crossing(kind, first, second, int(shared.sum()), int(of_second.sum()), examples)


def group_rejects(usable: Usable) -> list[RejectGroup]:
    """Groups rejects by file and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for reject in usable.rejects.rejects:
        groups.setdefault((reject.file, reject.reason), []).append(
            (reject.row, reject.id, reject.detail)
        )
    found = [
        RejectGroup(file, reason, len(rows), rows[:EXAMPLES])
        for (file, reason), rows in groups.items()
    ]
    return sorted(found, key=lambda group: -group.times)


def share_rejected(usable: Usable) -> list[FileShare]:
    """Counts the rows of each file that are rejected."""
    rejects = usable.rejects
    shares = []
    for file in rejects.files:
        bad = len(rejects.bad_rows[file.name])
        stops = bad > rejects.max_share * file.rows
        shares.append(FileShare(file.name, bad, file.rows, file.left_out, stops))
    return shares
