"""Turns query-title logs into products, queries and judgments.

Ids are made of content, so a query or title has the same one in every log.
"""

from __future__ import annotations

import pandas as pd

from beyond_text.tables.checks import RowFilter
from beyond_text.tables.layouts import JUDGMENT_COLUMNS
from beyond_text.tables.splits import content_id
from beyond_text.tables.text import normal_text


def title_log(
    log: pd.DataFrame, row_filter: RowFilter
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Returns products, queries and judgments of a log: each title is a product.

    The lowest relevance in the file becomes grade 0. Queries of one wording are one query, of kind
    "log".
    """
    log = row_filter.drop(log, log["query"] == "", "empty query", "query", "a text")
    log = row_filter.drop(log, log["title"] == "", "no text and no picture", "title", "a text")
    log = row_filter.grades(log, ["relevance"])
    # Rounded, so that 2.67 - 1 is written as 1.67.
    log["relevance"] = (log["relevance"] - log["relevance"].min()).round(6)
    log["product_id"] = [content_id("title", title) for title in log["title"]]
    log, queries = _queries(log, row_filter)
    products = log[["row", "product_id", "title"]].drop_duplicates("product_id")
    columns = [name for name in ("row", *JUDGMENT_COLUMNS, "split") if name in log]
    return products.reset_index(drop=True), queries, log[columns]


def _queries(log: pd.DataFrame, row_filter: RowFilter) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the log with a query_id for each wording, and the queries, shown as first written.

    A row of another split than the first of its query is rejected.
    """
    ids = [content_id("query", normal_text(query)) for query in log["query"]]
    log = log.assign(query_id=ids)
    if "split" in log:
        log = row_filter.splits(log)
        first = log.groupby("query_id")["split"].transform("first")
        one = "the split of the query's first row"
        log = row_filter.drop(log, log["split"] != first, "crosses splits", "split", one)
    columns = [name for name in ("row", "query_id", "query", "split") if name in log]
    queries = log[columns].drop_duplicates("query_id").reset_index(drop=True)
    return log, queries.assign(kind="log", image="", product_id="")
