"""Reads tables of products, queries and judgments: every row is used or is in `rejects`.

What makes a row unfit is decided in `checks.py`; which split it belongs to is decided here.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from beyond_text.tables.checks import RowFilter, check_judgments, check_products, check_queries
from beyond_text.tables.columns import read_source
from beyond_text.tables.layouts import (
    DEFAULT_LAYOUT,
    JUDGMENT_COLUMNS,
    QUERY_COLUMNS,
    Layout,
    Reject,
    Source,
    TableError,
    TableFile,
    find_table,
)
from beyond_text.tables.pairs import read_pairs, trigger_id
from beyond_text.tables.splits import hash_splits, spread_over_splits


class Tables(NamedTuple):
    """Three tables whose ids and splits agree; every frame has the column `row` of its file.

    Attributes:
        folder: where the tables lie.
        products: product_id, title, description, category, image (absolute path or ""),
            group_id, split; a product of several splits has a row in each.
        queries: query_id, query (may be "" where there is an image), kind, image (as the
            products'), product_id (the product that the query itself is, or ""), split; likewise.
        qrels: query_id, product_id, split and one float column per grade, 0 to HIGHEST_GRADE.
        grades: names of the grade columns, "relevance" first.
        rejects: what was left aside, and why.
        files: by table name ("products", "queries", "qrels") the file it came from.
        products_have_split: whether each product has a split of its own; if not, products are in
            the splits of the queries that they answer, and unjudged ones in train.
    """

    folder: Path
    products: pd.DataFrame
    queries: pd.DataFrame
    qrels: pd.DataFrame
    grades: list[str]
    rejects: list[Reject]
    files: dict[str, TableFile]
    products_have_split: bool = True


def read_tables(
    path: Path,
    layout: Layout = DEFAULT_LAYOUT,
    dev_share: float = 0.1,
    pictures: Path | None = None,
) -> Tables:
    """Reads a folder of tables, a query-title log or a file of pairs; gives every row its split.

    `_read_folder`, `_read_log` and `_read_pairs` say how each draws its splits. A hash puts
    `dev_share` of the ids into dev and the rest into train, the same ones on every machine.

    Args:
        path: folder with products (and queries and qrels), pairs or a log; or the file of pairs or
            the log itself.
        layout: whose files and column names these are.
        dev_share: share of ids, 0 to 1, that a hash puts into dev.
        pictures: folder in which the pictures lie; None for that of the tables.

    Raises:
        TableError: a file or column is missing, ambiguous or not readable.
    """
    path = Path(path)
    if not 0 <= dev_share <= 1:
        raise TableError(f"{path}: expected a dev_share from 0 to 1, got {dev_share}")
    if path.is_file():
        if layout.pairs and path.suffix == ".jsonl":
            return _read_pairs(path, pictures or path.parent, dev_share)
        if layout.log is None or path.suffix not in (".csv", ".parquet"):
            raise TableError(
                f"{path}: expected a folder of tables, a .csv or .parquet log or .jsonl pairs"
            )
        return _read_log(path.parent, path, layout.log, dev_share)
    if not path.is_dir():
        raise TableError(f"{path}: no such file or folder")
    products_path = find_table(path, layout.products)
    if layout.products is not None and products_path is not None:
        return _read_folder(path, products_path, layout, dev_share, pictures or path)
    if layout.pairs and (path / layout.pairs).is_file():
        return _read_pairs(path / layout.pairs, pictures or path, dev_share)
    log_path = find_table(path, layout.log)
    if layout.log is not None and log_path is not None:
        return _read_log(path, log_path, layout.log, dev_share)
    raise _no_table(path, layout)


def _no_table(folder: Path, layout: Layout) -> TableError:
    """Makes the error of a folder that holds none of the layout's tables."""
    wanted = [source.file for source in (layout.products, layout.log) if source is not None]
    return TableError(
        f"{folder}: expected {' or '.join(wanted)} as .csv or .parquet"
        f"{f' or {layout.pairs}' if layout.pairs else ''}, "
        f"got {', '.join(sorted(entry.name for entry in folder.iterdir())[:20]) or 'nothing'}"
    )


def _read_folder(
    folder: Path, path: Path, layout: Layout, dev_share: float, pictures: Path
) -> Tables:
    """Reads products, and queries and qrels where they are there.

    Products without queries and without a split column are split by hash of group_id.
    """
    if layout.products is None:
        raise TableError(f"{folder}: the layout names no products")
    rejects: list[Reject] = []
    products, file = read_source(path, layout.products, rejects)
    files = {"products": file}
    absent = layout.absent_pictures
    row_filter = RowFilter(file.name, rejects, "product_id")
    products = check_products(products, pictures, absent, row_filter)

    query_path = find_table(folder, layout.queries)
    judgment_path = find_table(folder, layout.qrels)
    if (query_path is None) != (judgment_path is None):
        present = query_path or judgment_path
        raise TableError(f"{present}: expected queries and qrels together, the other is missing")
    if layout.queries is None or layout.qrels is None or not (query_path and judgment_path):
        if "split" not in products:
            products["split"] = hash_splits(products["group_id"], dev_share)
        queries = pd.DataFrame(columns=["row", *QUERY_COLUMNS])
        qrels = pd.DataFrame(columns=["row", *JUDGMENT_COLUMNS, "split"])
        return Tables(folder, products, queries, qrels, ["relevance"], rejects, files)

    queries, files["queries"] = read_source(query_path, layout.queries, rejects)
    row_filter = RowFilter(files["queries"].name, rejects, "query_id")
    queries = check_queries(queries, products, pictures, absent, row_filter)
    qrels, files["qrels"] = read_source(judgment_path, layout.qrels, rejects)
    grades = [str(name) for name in qrels.columns.drop(["row", "query_id", "product_id"])]
    row_filter = RowFilter(files["qrels"].name, rejects, "query_id", "product_id")
    qrels = check_judgments(row_filter.grades(qrels, grades), products, queries, row_filter)
    own = "split" in products
    products, queries, qrels = _split(products, queries, qrels, dev_share, row_filter)
    return Tables(folder, products, queries, qrels, grades, rejects, files, own)


def _split(
    products: pd.DataFrame,
    queries: pd.DataFrame,
    qrels: pd.DataFrame,
    dev_share: float,
    row_filter: RowFilter,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Gives products, queries and judgments splits that agree.

    Where products have a split column, judgments across splits are rejected, and queries without
    one belong to every split they are judged in. Where they have none, the split is the queries'
    (their column, or by hash of query_id); a product belongs to every split it is judged in, and
    to train where it is not judged.
    """
    products_have_split = "split" in products
    if not products_have_split and "split" not in queries:
        queries["split"] = hash_splits(queries["query_id"], dev_share)
    query_splits = qrels["query_id"].map(queries.set_index("query_id").get("split", pd.Series()))
    if not products_have_split:
        qrels["split"] = query_splits
        return spread_over_splits(products, "product_id", qrels), queries, qrels
    qrels["split"] = qrels["product_id"].map(products.set_index("product_id")["split"])
    if "split" not in queries:
        return products, spread_over_splits(queries, "query_id", qrels), qrels
    crosses = query_splits != qrels["split"]
    expected = "query and product to be of one split"
    qrels = row_filter.drop(qrels, crosses, "crosses splits", "split", expected)
    return products, queries, qrels


def _read_log(folder: Path, path: Path, source: Source, dev_share: float) -> Tables:
    """Reads a log: each distinct title is a product, each distinct query a query of kind "log".

    The lowest relevance in the file becomes grade 0.
    """
    rejects: list[Reject] = []
    log, file = read_source(path, source, rejects)
    row_filter = RowFilter(file.name, rejects, "query")
    log = row_filter.drop(log, log["query"] == "", "empty query", "query", "a text")
    log = row_filter.drop(log, log["title"] == "", "no text and no picture", "title", "a text")
    log = row_filter.grades(log, ["relevance"])
    if "split" in log:
        log = row_filter.splits(log)
        first = log.groupby("query")["split"].transform("first")
        one = "the split of the query's first row"
        log = row_filter.drop(log, log["split"] != first, "crosses splits", "split", one)
    # Rounded, so that 2.67 - 1 is written as 1.67.
    log["relevance"] = (log["relevance"] - log["relevance"].min()).round(6)
    log["product_id"] = [f"title-{number}" for number in pd.factorize(log["title"])[0]]
    log["query_id"] = [f"query-{number}" for number in pd.factorize(log["query"])[0]]
    if "split" not in log:
        log["split"] = hash_splits(log["query_id"], dev_share)

    queries = log[["row", "query_id", "query", "split"]].drop_duplicates("query_id")
    products = log[["row", "product_id", "title"]].drop_duplicates("product_id")
    row_filter = RowFilter(file.name, rejects, "product_id")
    products = check_products(products.copy(), folder, False, row_filter)
    queries = queries.assign(kind="log", image="", product_id="").reset_index(drop=True)
    qrels = log[["row", *JUDGMENT_COLUMNS, "split"]]
    row_filter = RowFilter(file.name, rejects, "query_id", "product_id")
    qrels = check_judgments(qrels, products, queries, row_filter)
    return Tables(
        folder,
        spread_over_splits(products, "product_id", qrels),
        queries,
        qrels,
        ["relevance"],
        rejects,
        dict.fromkeys(("products", "queries", "qrels"), file),
        products_have_split=False,
    )


def _read_pairs(path: Path, pictures: Path, dev_share: float) -> Tables:
    """Reads M-BEER's JSONL, as `read_pairs` says: each distinct item is a product.

    Each item 1 is also a query of the same text and picture, which is that product (`product_id`)
    and for which its item 2s have relevance 1; its kind is the pair's tag, or "pair". Items joined
    by pairs are one design, the group_id of its products, and of one split: the stated one, else
    by hash.
    """
    rejects: list[Reject] = []
    pairs, file = read_pairs(path, rejects)
    hashed = pd.Series(hash_splits(pairs["design"], dev_share), index=pairs.index, dtype=object)
    pairs["split"] = pairs["split"].where(pairs["split"] != "", hashed)
    triggers, recalled = (
        pd.DataFrame(
            {
                "row": pairs["row"],
                "product_id": pairs[f"item_id_{side}"],
                "title": pairs[f"item_title_{side}"],
                "image": pairs[f"item_image_{side}"],
                "group_id": pairs["design"],
                "split": pairs["split"],
            }
        )
        for side in (1, 2)
    )
    products = pd.concat([triggers, recalled]).sort_values("row", kind="stable")
    products = products.drop_duplicates("product_id").reset_index(drop=True)
    row_filter = RowFilter(file.name, rejects, "product_id")
    products = check_products(products, pictures, False, row_filter)

    query_id = triggers["product_id"].map(trigger_id)
    queries = triggers.drop(columns="group_id").rename(columns={"title": "query"})
    queries = queries.assign(query_id=query_id, kind=pairs["tag"].mask(pairs["tag"] == "", "pair"))
    queries = queries.drop_duplicates("query_id").reset_index(drop=True)
    row_filter = RowFilter(file.name, rejects, "query_id")
    queries = check_queries(queries, products, pictures, False, row_filter)

    qrels = recalled[["row", "product_id", "split"]].assign(query_id=query_id, relevance=1.0)
    row_filter = RowFilter(file.name, rejects, "query_id", "product_id")
    qrels = check_judgments(qrels, products, queries, row_filter)
    files = dict.fromkeys(("products", "queries", "qrels"), file)
    return Tables(path.parent, products, queries, qrels, ["relevance"], rejects, files)
