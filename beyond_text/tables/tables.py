"""Products, queries and judgments as they are read, and how their splits agree."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from beyond_text.tables.checks import RowFilter
from beyond_text.tables.compact import looked_up
from beyond_text.tables.layouts import Reject, TableFile
from beyond_text.tables.splits import query_splits, spread_over_splits


class Tables(NamedTuple):
    """Three tables whose ids and splits agree; every frame has the column `row` of its file.

    Attributes:
        folder: where the tables lie.
        products: product_id, title, description, category, images (absolute paths), image (the
            first of them or ""), group_id, split, and further: a dict of the columns beside ours,
            without empty values; a product of several splits has a row in each.
        queries: query_id, query (may be "" where there is an image), kind, image (absolute path or
            ""), product_id (the product that the query itself is, or ""), split; likewise; and seen
            ("1" where another split's query has the words or picture of a train query, else "").
        qrels: query_id, product_id, split, file and one float column per grade, 0 to HIGHEST_GRADE.
        grades: names of the grade columns, "relevance" first.
        rejects: what was left aside, and why.
        files: by table name ("products", "queries", "qrels") the file it came from.
        pictures: the folder in which pictures lie.
        products_have_split: whether each product has a split of its own; if not, products are in
            the splits of the queries that they answer, and unjudged ones in train.
        splits_are_drawn: whether the products' splits are drawn by their content.
    """

    folder: Path
    products: pd.DataFrame
    queries: pd.DataFrame
    qrels: pd.DataFrame
    grades: list[str]
    rejects: list[Reject]
    files: dict[str, TableFile]
    pictures: Path
    products_have_split: bool = True
    splits_are_drawn: bool = False


class Shares(NamedTuple):
    """Shares of what has no split that go into dev and test."""

    dev: float
    test: float


def split_tables(
    products: pd.DataFrame,
    queries: pd.DataFrame,
    parts: list[tuple[pd.DataFrame, RowFilter]],
    shares: Shares,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Gives products, queries and judgments splits that agree.

    Where products have a split column, judgments across splits are rejected, and queries without
    one belong to every split they are judged in. Where they have none, the split is the queries'
    (their column, or drawn by content); a product belongs to every split it is judged in, and to
    train where it is not judged.
    """
    products_have_split = "split" in products
    whole = pd.concat([qrels for qrels, _ in parts], ignore_index=True)
    if not products_have_split and "split" not in queries:
        queries["split"] = query_splits(queries, whole, products, *shares)
    done = []
    splits = sorted({*products.get("split", ()), *queries.get("split", ())})
    for qrels, row_filter in parts:
        of_query = None
        if "split" in queries:
            of_query = looked_up(qrels["query_id"], queries["query_id"], queries["split"], splits)
        if not products_have_split:
            done.append(qrels.assign(split=of_query))
            continue
        ids = qrels["product_id"], products["product_id"]
        qrels = qrels.assign(split=looked_up(*ids, products["split"], splits))
        if of_query is not None:
            expected = "query and product to be of one split"
            crosses = of_query != qrels["split"]
            qrels = row_filter.drop(qrels, crosses, "crosses splits", "split", expected)
        done.append(qrels)
    whole = pd.concat(done, ignore_index=True)
    if not products_have_split:
        return spread_over_splits(products, "product_id", whole), queries, whole
    if "split" not in queries:
        return products, spread_over_splits(queries, "query_id", whole), whole
    return products, queries, whole
