"""Reads tables of products, queries and judgments: every row is used or is in `rejects`.

What makes a row unfit is decided in `checks.py`; which split it belongs to in `tables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_text.tables.checks import (
    RowFilter,
    add_images,
    check_judgments,
    check_products,
    check_queries,
    rejected_rows,
)
from beyond_text.tables.clicks import read_clicks
from beyond_text.tables.columns import read_compact
from beyond_text.tables.compact import by_code, expanded
from beyond_text.tables.layouts import (
    CLICKS,
    DEFAULT_LAYOUT,
    JUDGMENT_COLUMNS,
    QUERY_COLUMNS,
    SPLIT_NAME,
    Layout,
    MissingError,
    Reject,
    Source,
    TableError,
    TableFile,
    find_judgments,
    find_parts,
    find_table,
    find_tables,
    stem_and_ending,
)
from beyond_text.tables.single import read_pair_file, read_title_log
from beyond_text.tables.splits import (
    check_shares,
    product_splits,
    seen_in_train,
    spread_over_splits,
)
from beyond_text.tables.tables import Shares, Tables, split_tables
from beyond_text.terminal import say

# Columns beside grades, of judgments as they are read and as shards hold them.
NO_GRADES = ("query_id", "product_id", "row", "split", "file", "sample", "query", "own")


def read_tables(
    path: Path,
    layout: Layout = DEFAULT_LAYOUT,
    dev_share: float = 0.1,
    pictures: Path | None = None,
    test_share: float = 0.0,
    grades: Sequence[str] | None = None,
    compact: bool = False,
) -> Tables:
    """Reads a folder of tables, an export, a log or a file of pairs; gives every row its split.

    Where no table names splits, they are drawn by content (`splits.py`), the same on every machine.

    Args:
        path: folder with products (and queries and qrels, or clicks), pairs or a log; or the file
            of products, of pairs or the log itself.
        layout: whose files and column names these are.
        dev_share: share, 0 to 1, that is drawn for dev.
        pictures: folder in which the pictures lie, or a table beside them; None for that of the
            tables.
        test_share: share, 0 to 1, that is drawn for test.
        grades: the columns of judgments that are grades, "relevance" among them; None for the
            layout's.
        compact: in a tenth of the memory: ids, splits and files of judgments are categorical
            columns, the products' `images` lists of Arrow, and `further` is JSON.

    Raises:
        TableError: a file or column is missing, ambiguous or not readable, or an argument is out of
            range.
    """
    path = Path(path)
    check_shares(path, dev_share, test_share)
    folder = path.parent if path.is_file() else path
    if pictures is not None and not Path(pictures).exists():
        raise TableError(f"{pictures}: expected the folder of the pictures, got none")
    pictures = Path(pictures or folder)
    pictures = pictures.parent if pictures.is_file() else pictures
    tables = _read(path, with_grades(layout, grades), Shares(dev_share, test_share), pictures)
    if compact:
        return tables
    frames = {name: expanded(getattr(tables, name)) for name in ("products", "queries", "qrels")}
    return tables._replace(**frames)


def _read(path: Path, layout: Layout, shares: Shares, pictures: Path) -> Tables:
    """Reads compact tables of what lies at a path."""
    if path.is_file():
        return _read_file(path, layout, shares, pictures)
    if not path.is_dir():
        raise TableError(f"{path}: no such file or folder")
    products_path = find_table(path, layout.products)
    if products_path is not None:
        return _read_folder(path, products_path, layout, shares, pictures)
    if layout.pairs and (path / layout.pairs).is_file():
        return read_pair_file(path / layout.pairs, pictures, shares)
    log_path = find_table(path, layout.log)
    if layout.log is not None and log_path is not None:
        return read_title_log(log_path, layout.log, shares, pictures)
    raise _no_table(path, layout)


def _read_file(path: Path, layout: Layout, shares: Shares, pictures: Path) -> Tables:
    """Reads a file of products with what lies beside it, a file of pairs or a log."""
    if layout.pairs and path.suffix == ".jsonl":
        return read_pair_file(path, pictures, shares)
    if layout.log is None or _is_named(path, layout.products):
        return _read_folder(path.parent, path, layout, shares, pictures)
    if any(_is_named(path, source) for source in (layout.queries, layout.qrels)):
        raise TableError(f"{path}: expected the folder of this table: give {path.parent}")
    if stem_and_ending(path)[1] not in layout.log.endings:
        raise TableError(
            f"{path}: expected a folder of tables, a .csv, .tsv or .parquet log or .jsonl pairs"
        )
    return read_title_log(path, layout.log, shares, pictures)


def with_grades(layout: Layout, grades: Sequence[str] | None) -> Layout:
    """Returns the layout with other columns of grades.

    Raises:
        TableError: "relevance" is not among them, or one cannot be part of a file's name.
    """
    if grades is None:
        return layout
    if unfit := [name for name in grades if not re.fullmatch(SPLIT_NAME, name)]:
        raise TableError(
            f"grades: expected names of letters, digits, - or _, got {unfit[0]!r}; "
            "give the column another name"
        )
    for name in grades:
        if name in NO_GRADES or list(grades).count(name) > 1:
            raise TableError(
                f"grades: expected names other than {', '.join(NO_GRADES)}, each once, got {name!r}"
            )
    if "relevance" not in grades or layout.qrels is None:
        raise TableError(f"grades: expected relevance among {', '.join(grades)}, and judgments")
    old = layout.qrels
    columns = {name: value for name, value in old.columns.items() if name not in old.grades}
    columns |= {name: old.columns.get(name, f"{{{name}}}") for name in grades}
    ordered = ("relevance", *(name for name in grades if name != "relevance"))
    qrels = replace(old, columns=columns, grades=ordered, optional=old.optional - set(grades))
    return replace(layout, qrels=qrels)


def _is_named(path: Path, source: Source | None) -> bool:
    """Says whether a file has the name of a table."""
    return path.resolve() in [each.resolve() for each in find_tables(path.parent, source)]


def _no_table(folder: Path, layout: Layout) -> MissingError:
    """Makes the error of a folder that holds none of the layout's tables."""
    wanted = [source.names for source in (layout.products, layout.log) if source is not None]
    found = sorted(entry.name for entry in folder.iterdir())
    stems = {source.file for source in (layout.products, layout.log) if source is not None}
    near = [name for name in found if name.casefold().split(".")[0] in stems]
    advice = f"; {near[0]} is of another format: save it as CSV UTF-8" if near else ""
    return MissingError(
        f"{folder}: expected {' or '.join([*wanted, *filter(None, [layout.pairs])])}, "
        f"got {', '.join(found[:20]) or 'nothing'}{advice}"
    )


def _read_folder(
    folder: Path, path: Path, layout: Layout, shares: Shares, pictures: Path
) -> Tables:
    """Reads products, and judgments where they are there: queries and qrels, or a log of clicks."""
    if layout.products is None:
        raise TableError(f"{folder}: the layout names no products")
    rejects: list[Reject] = []
    products, file = read_compact(path, layout.products, rejects)
    if not file.rows:
        raise TableError(f"{path}: expected a row of a product at least, got the header alone")
    files = {"products": file}
    products = _with_images(products, folder, layout, files, rejects)
    row_filter = RowFilter(file.name, rejects, "product_id")
    products = check_products(products, pictures, layout, row_filter)
    own, none = "split" in products, pd.DataFrame()
    tables = Tables(folder, products, none, none, [], rejects, files, pictures, own)

    queries_path = find_table(folder, layout.queries)
    clicks_paths = find_parts(folder, layout.clicks)
    qrels_paths = find_judgments(folder, layout.qrels)
    if bool(queries_path) != bool(qrels_paths):
        present = queries_path or qrels_paths[0]
        raise TableError(f"{present}: expected queries and qrels together, the other is missing")
    if clicks_paths and queries_path:
        log = clicks_paths[0].name
        raise TableError(
            f"{folder}: expected {queries_path.name} with judgments or {log}, got both"
        )
    if layout.clicks is None and (logs := find_parts(folder, CLICKS)):
        say(f"{logs[0].name}: not read: --layout clicks makes judgments of it")
    if layout.queries and layout.qrels and queries_path:
        return _read_judgments(tables, layout, queries_path, shares)
    if layout.clicks and clicks_paths:
        return _read_clicks(tables, clicks_paths, layout.clicks, shares)
    if layout.clicks and not layout.queries:
        raise TableError(f"{folder}: expected {layout.clicks.names} beside {path.name}, got none")
    if is_drawn := "split" not in products:
        products["split"] = product_splits(products, *shares)
    queries = pd.DataFrame(columns=["row", *QUERY_COLUMNS, "seen"])
    qrels = pd.DataFrame(columns=["row", *JUDGMENT_COLUMNS, "split", "file"])
    return tables._replace(
        queries=queries,
        qrels=qrels,
        grades=["relevance"],
        products_have_split=True,
        splits_are_drawn=is_drawn,
    )


def _with_images(
    products: pd.DataFrame,
    folder: Path,
    layout: Layout,
    files: dict[str, TableFile],
    rejects: list[Reject],
) -> pd.DataFrame:
    """Adds the pictures of the tables `images` to the products' own."""
    for path in find_tables(folder, layout.images):
        images, file = read_compact(path, layout.images, rejects)  # type: ignore[arg-type]
        files[file.name] = file
        row_filter = RowFilter(file.name, rejects, "product_id")
        products = add_images(products, images, row_filter)
    return products


def _read_judgments(tables: Tables, layout: Layout, path: Path, shares: Shares) -> Tables:
    """Reads queries and their judgments, and gives all three tables splits that agree."""
    if layout.queries is None or layout.qrels is None:
        raise TableError(f"{path}: the layout names no judgments")
    folder, products, rejects, files = tables.folder, tables.products, tables.rejects, tables.files
    queries, files["queries"] = read_compact(path, layout.queries, rejects)
    row_filter = RowFilter(files["queries"].name, rejects, "query_id")
    queries = check_queries(queries, products, tables.pictures, layout, row_filter)
    parts: list[tuple[pd.DataFrame, RowFilter]] = []
    part_paths = find_judgments(folder, layout.qrels)
    part_names = [part.name for part in part_paths]
    for part in part_paths:
        qrels, file = read_compact(part, layout.qrels, rejects)
        is_whole = stem_and_ending(part)[0] == layout.qrels.file
        files["qrels" if is_whole else f"qrels {file.name}"] = file
        row_filter = RowFilter(file.name, rejects, "query_id", "product_id")
        grades = [name for name in layout.qrels.grades if name in qrels]
        qrels = row_filter.grades(qrels, grades)
        if "split" in qrels:
            qrels = row_filter.splits(qrels)
            qrels["split"] = by_code(qrels["split"])
        causes = {
            each: rejected_rows(rejects, files[each].name) for each in ("queries", "products")
        }
        qrels = check_judgments(qrels, products, queries, row_filter, causes)
        names = pd.Categorical.from_codes(np.full(len(qrels), len(parts)), part_names)
        parts.append((qrels.assign(file=names), row_filter))
    if "split" in parts[0][0]:
        qrels = pd.concat([part for part, _ in parts], ignore_index=True)
        products = spread_over_splits(products, "product_id", qrels)
        queries = spread_over_splits(queries, "query_id", qrels)
    else:
        products, queries, qrels = split_tables(products, queries, parts, shares)
    queries = queries.assign(seen=seen_in_train(queries))
    return tables._replace(products=products, queries=queries, qrels=qrels, grades=grades)


def _read_clicks(tables: Tables, paths: Sequence[Path], source: Source, shares: Shares) -> Tables:
    """Reads a log of clicks as queries and graded judgments."""
    products, rejects, files = tables.products, tables.rejects, tables.files
    causes = rejected_rows(rejects, files["products"].name)
    known = products["product_id"]
    queries, qrels, logs = read_clicks(paths, source, known, causes, rejects)
    files |= {"queries": logs[0], "qrels": logs[0]}
    files |= {f"qrels {log.name}": log for log in logs[1:]}
    parts = [
        (part, RowFilter(log.name, rejects, "query_id", "product_id"))
        for part, log in zip(qrels, logs, strict=True)
    ]
    products, queries, qrels = split_tables(products, queries, parts, shares)
    queries = queries.assign(seen=seen_in_train(queries))
    return tables._replace(products=products, queries=queries, qrels=qrels, grades=["relevance"])
