"""Reads tables that come in one file: query-title logs, and pairs of products."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from beyond_text.tables.checks import RowFilter, check_judgments, check_products, check_queries
from beyond_text.tables.columns import read_compact
from beyond_text.tables.layouts import DEFAULT_LAYOUT, Reject, Source
from beyond_text.tables.logs import title_log
from beyond_text.tables.pairs import pair_tables, read_pairs
from beyond_text.tables.splits import product_splits, seen_in_train
from beyond_text.tables.tables import Shares, Tables, split_tables


def read_title_log(path: Path, source: Source, shares: Shares, pictures: Path) -> Tables:
    """Reads a query-title log."""
    rejects: list[Reject] = []
    log, file = read_compact(path, source, rejects)
    row_filter = RowFilter(file.name, rejects, "query")
    products, queries, qrels = title_log(log, row_filter)
    row_filter = RowFilter(file.name, rejects, "product_id")
    products = check_products(products, path.parent, DEFAULT_LAYOUT, row_filter)
    row_filter = RowFilter(file.name, rejects, "query_id", "product_id")
    qrels = check_judgments(qrels, products, queries, row_filter, {}).assign(file=file.name)
    products, queries, qrels = split_tables(products, queries, [(qrels, row_filter)], shares)
    queries = queries.assign(seen=seen_in_train(queries))
    files = dict.fromkeys(("products", "queries", "qrels"), file)
    return Tables(
        path.parent,
        products,
        queries,
        qrels,
        ["relevance"],
        rejects,
        files,
        pictures,
        products_have_split=False,
    )


def read_pair_file(path: Path, pictures: Path, shares: Shares) -> Tables:
    """Reads M-BEER's JSONL: each distinct item is a product, each item 1 a query as well."""
    rejects: list[Reject] = []
    pairs, file = read_pairs(path, rejects)
    products, triggers, recalled = pair_tables(pairs)
    row_filter = RowFilter(file.name, rejects, "product_id")
    products = check_products(products, pictures, DEFAULT_LAYOUT, row_filter)
    # A design that states no split is drawn with all that shows the same.
    drawn = dict(zip(products["product_id"], product_splits(products, *shares), strict=True))
    stated = dict(zip(pairs["design"], pairs["split"], strict=True))

    def with_split(frame: pd.DataFrame) -> pd.DataFrame:
        splits = [
            stated[design] or drawn.get(identity, "train")
            for identity, design in zip(frame["product_id"], frame["group_id"], strict=True)
        ]
        return frame.assign(split=pd.Series(splits, index=frame.index, dtype=object))

    products = with_split(products)
    queries = with_split(triggers).drop(columns="group_id")
    row_filter = RowFilter(file.name, rejects, "query_id")
    queries = check_queries(queries, products, pictures, DEFAULT_LAYOUT, row_filter)
    qrels = with_split(recalled).drop(columns="group_id")
    row_filter = RowFilter(file.name, rejects, "query_id", "product_id")
    qrels = check_judgments(qrels, products, queries, row_filter, {}).assign(file=file.name)
    queries = queries.assign(seen=seen_in_train(queries))
    files = dict.fromkeys(("products", "queries", "qrels"), file)
    return Tables(path.parent, products, queries, qrels, ["relevance"], rejects, files, pictures)
