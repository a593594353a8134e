"""Decides which rows of products, queries and judgments are used, and says why others are not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from beyond_text.tables.cells import is_url, picture_cell, picture_names
from beyond_text.tables.compact import TEXTS, mapped, places
from beyond_text.tables.layouts import (
    HIGHEST_GRADE,
    MAX_PICTURES,
    SPLIT_NAME,
    TEXT_COLUMNS,
    Layout,
    Reject,
)
from beyond_text.tables.near import near_ids

URL_PICTURE = "picture is a URL"
# What these splits are called in any case.
SPLITS = ("train", "dev", "test")
# A path that is absolute (POSIX or Windows), goes up, is a URL or holds a NUL.
OUTSIDE = re.compile(r"[\\/]|[A-Za-z][A-Za-z0-9+.-]*:|.*\0|(?:.*[\\/])?\.\.(?:[\\/]|\Z)", re.DOTALL)

# Says of rows what each has and what was expected.
DetailsOf = Callable[[pd.DataFrame], list[str]]


class RowFilter:
    """Drops rows from the frames of one file and lists why; the columns `keys` identify a row."""

    def __init__(self, file: str, rejects: list[Reject], *keys: str) -> None:
        self.file = file
        self.rejects = rejects
        self.keys = keys

    def note(self, rows: pd.DataFrame, reason: str, column: str, expected: str) -> None:
        """Lists unfit rows as rejects; `column` holds the value that is wrong."""

        def details(rows: pd.DataFrame) -> list[str]:
            return [f"{column} {str(value)[:200]!r}, expected {expected}" for value in rows[column]]

        self.list_rows(rows, reason, column, details)

    def list_rows(self, rows: pd.DataFrame, reason: str, column: str, details: DetailsOf) -> None:
        """Lists rows as rejects, each with its detail, which is made of `column`."""
        for record, detail in zip(rows.to_dict("records"), details(rows), strict=True):
            self.add(record, reason, detail)

    def add(self, record: dict, reason: str, detail: str) -> None:
        """Lists one row as a reject."""
        identity = " ".join(str(record[key]) for key in self.keys)
        self.rejects.append(Reject(self.file, int(record["row"]), identity, reason, detail))

    def drop(
        self, frame: pd.DataFrame, unfit: pd.Series, reason: str, column: str, expected: str
    ) -> pd.DataFrame:
        """Lists the unfit rows as rejects and returns the others."""
        self.note(frame[unfit], reason, column, expected)
        return _without(frame, unfit)

    def ids(self, frame: pd.DataFrame, column: str) -> pd.DataFrame:
        """Drops rows without an id, and the later of two rows with the same id."""
        frame = self.drop(frame, frame[column] == "", "empty id", column, "an id")
        return self.drop(frame, frame[column].duplicated(), "duplicate id", column, "a new id")

    def splits(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Drops rows whose split cannot be part of a shard's file name; Train is train."""
        lower = frame["split"].str.lower()
        frame = frame.assign(split=lower.where(lower.isin(SPLITS), frame["split"]))
        unfit = ~frame["split"].str.fullmatch(SPLIT_NAME).astype(bool)
        return self.drop(frame, unfit, "bad split", "split", "a name of letters, digits, - or _")

    def grades(self, frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        """Parses grades as floats; drops rows where one is not a number from 0 to HIGHEST_GRADE."""
        return self.numbers(frame, columns, HIGHEST_GRADE, "bad grade")

    def numbers(
        self, frame: pd.DataFrame, columns: Sequence[str], highest: float, reason: str
    ) -> pd.DataFrame:
        """Parses columns as floats; drops rows where one is not a number from 0 to `highest`."""
        for column in columns:
            numbers = mapped(frame[[column]], _numbers, pa.float64()).astype(float)
            unfit = ~numbers.between(0, highest)
            expected = f"a number from 0 to {highest:g}"
            frame = self.drop(frame, unfit, reason, column, expected)
            frame[column] = numbers[~unfit].to_numpy()
        return frame

    def known(
        self,
        frame: pd.DataFrame,
        column: str,
        known: pd.Series | pd.Index,
        rejected: dict[str, Reject],
    ) -> pd.DataFrame:
        """Drops rows whose id is not one of the known ones, which are distinct, and says why.

        The column becomes categorical. `rejected` are rows of that other table which are not used,
        by id: the first cause.
        """
        code = places(frame[column], known)
        unknown = pd.Series(code < 0, index=frame.index)
        table = column.removesuffix("_id")

        def details(rows: pd.DataFrame) -> list[str]:
            near = near_ids(rows[column], known)
            found = []
            for identity in rows[column]:
                hint = f"; there is {near[identity]!r}" if identity in near else ""
                if cause := rejected.get(identity):
                    hint = f"; {cause.file} row {cause.row} was rejected: {cause.reason}"
                found.append(f"{column} {identity[:200]!r}, expected a {table} in use{hint}")
            return found

        self.list_rows(frame[unknown], f"unknown {table}", column, details)
        ids = pd.Categorical.from_codes(code[code >= 0], known)
        return _without(frame, unknown).assign(**{column: ids})


class PartFilter(RowFilter):
    """A filter of a file that is read in parts: its rejects are those of the whole, and so ordered.

    The rows are held until `release` lists them, check by check.
    """

    def __init__(self, file: str, rejects: list[Reject], *keys: str) -> None:
        super().__init__(file, rejects, *keys)
        self._held: dict[tuple[str, str], tuple[DetailsOf, list[pd.DataFrame]]] = {}

    def list_rows(self, rows: pd.DataFrame, reason: str, column: str, details: DetailsOf) -> None:
        """Holds rows that are to be listed."""
        kept = rows[list(dict.fromkeys(("row", *self.keys, column)))]
        _, parts = self._held.setdefault((reason, column), (details, []))
        # An empty one keeps the place of its check.
        if len(kept) or not parts:
            parts.append(kept)

    def release(self) -> None:
        """Lists the rows that are held as rejects."""
        for (reason, column), (details, parts) in self._held.items():
            super().list_rows(pd.concat(parts, ignore_index=True), reason, column, details)
        self._held.clear()


def _without(frame: pd.DataFrame, unfit: pd.Series) -> pd.DataFrame:
    """Returns the other rows, numbered anew."""
    return (frame[~unfit] if unfit.any() else frame).reset_index(drop=True)


def _numbers(frame: pd.DataFrame) -> list[float]:
    """Parses the one column of a frame; what is no number is NaN."""
    return pd.to_numeric(frame.iloc[:, 0], errors="coerce").astype(float).tolist()


def check_products(
    products: pd.DataFrame, folder: Path, layout: Layout, row_filter: RowFilter
) -> pd.DataFrame:
    """Returns the usable products with every column.

    `images` is a list of absolute paths, `image` the first of them or "", `further` a text.
    """
    for column in (*TEXT_COLUMNS, "image", "group_id"):
        if column not in products:
            products[column] = ""
    if "further" not in products:
        products["further"] = ""
    products = row_filter.ids(products, "product_id")
    products["images"] = _pictures(products, folder, layout.absent_pictures, row_filter)
    products["image"] = mapped(products[["images"]], _first)
    empty = (products[[*TEXT_COLUMNS, "image"]] == "").all(axis=1)
    reason = "no text and no picture"
    products = row_filter.drop(products, empty, reason, "title", "a text or a picture")
    if "split" in products:
        products = row_filter.splits(products)
    products["group_id"] = products["group_id"].where(
        products["group_id"] != "", products["product_id"]
    )
    return products


def check_queries(
    queries: pd.DataFrame,
    products: pd.DataFrame,
    folder: Path,
    layout: Layout,
    row_filter: RowFilter,
) -> pd.DataFrame:
    """Returns the usable queries with every column; `image` is an absolute path or ""."""
    for column in ("query", "image", "product_id", "kind"):
        if column not in queries:
            queries[column] = ""
    queries = row_filter.ids(queries, "query_id")
    pictures = _pictures(queries, folder, layout.absent_pictures, row_filter).to_frame("images")
    several = mapped(
        pictures, lambda part: [len(paths) > 1 for paths in part["images"]], pa.bool_()
    )
    several = several.astype(bool)
    row_filter.note(queries[several], "further pictures", "image", "one picture for a query")
    queries["image"] = mapped(pictures, _first)
    empty = (queries[["query", "image"]] == "").all(axis=1)
    queries = row_filter.drop(queries, empty, "empty query", "query", "a text or a picture")
    if "split" in queries:
        queries = row_filter.splits(queries)
    own = queries["product_id"]
    unknown = (own != "") & ~own.isin(products["product_id"])
    # A query whose own product is gone from the shop stays a query.
    row_filter.note(queries[unknown], "unknown product", "product_id", "a product in use")
    kinds = queries["kind"]
    return queries.assign(product_id=own.mask(unknown, ""), kind=kinds.where(kinds != "", "query"))


def check_judgments(
    qrels: pd.DataFrame,
    products: pd.DataFrame,
    queries: pd.DataFrame,
    row_filter: RowFilter,
    rejected: Mapping[str, dict[str, Reject]],
) -> pd.DataFrame:
    """Returns the judgments of usable queries and products, each pair once.

    `rejected` are rows of "queries" and of "products" that are not used, by id.
    """
    qrels = row_filter.known(qrels, "query_id", queries["query_id"], rejected.get("queries", {}))
    causes = rejected.get("products", {})
    qrels = row_filter.known(qrels, "product_id", products["product_id"], causes)
    query, product = (qrels[name].cat.codes.to_numpy() for name in ("query_id", "product_id"))
    own = places(queries["product_id"], products["product_id"])
    itself = pd.Series(own[query] == product, index=qrels.index)
    other = "another product than the query itself is"
    qrels = row_filter.drop(qrels, itself, "judges itself", "product_id", other)
    query, product = (qrels[name].cat.codes.to_numpy() for name in ("query_id", "product_id"))
    twice = pd.Series(query.astype(int) * len(products) + product, index=qrels.index).duplicated()
    return row_filter.drop(qrels, twice, "duplicate judgment", "relevance", "one row for the pair")


def rejected_rows(rejects: Sequence[Reject], file: str) -> dict[str, Reject]:
    """Returns the last reject of each id of a file, which is about the whole row."""
    return {each.id: each for each in rejects if each.file == file and each.id}


def add_images(products: pd.DataFrame, images: pd.DataFrame, row_filter: RowFilter) -> pd.DataFrame:
    """Adds the pictures of the table `images` to the cells of the products."""
    known = products["product_id"].drop_duplicates()
    images = row_filter.known(images, "product_id", known, {})
    further = dict(zip(images["product_id"], images["image"], strict=True))
    own = products["image"] if "image" in products else [""] * len(products)
    cells = [
        [*picture_names(cell), *picture_names(further.get(identity, ""))]
        for identity, cell in zip(products["product_id"], own, strict=True)
    ]
    return products.assign(image=[picture_cell(names) for names in cells])


def _pictures(
    frame: pd.DataFrame, folder: Path, absent_pictures: bool, row_filter: RowFilter
) -> pd.Series:
    """Returns absolute paths of each row's pictures; those that are no file's path are rejects."""
    root = folder.resolve()

    def paths_of(part: pd.DataFrame) -> list[list[str]]:
        pictures = []
        for row, cell in enumerate(part["image"]):
            paths, faults = _paths(cell, root, absent_pictures)
            for reason, detail in faults:
                row_filter.add(part.iloc[row].to_dict(), reason, detail)
            pictures.append(paths)
        return pictures

    return mapped(frame, paths_of, TEXTS)


def names_in(cell: str, root: Path) -> list[str]:
    """Lists the pictures that a cell names: itself, where it is a file of a folder."""
    # A name may hold what parts names elsewhere.
    whole = "|" in cell and not is_url(cell) and not leaves_folder(cell)
    return [cell] if whole and os.path.isfile(root / cell) else picture_names(cell)


def _paths(cell: str, root: Path, absent_pictures: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns absolute paths of a cell's pictures, and reason and detail of every fault."""
    paths, faults = [], []
    for name in names_in(cell, root):
        if is_url(name):
            if not absent_pictures:
                faults.append((URL_PICTURE, f"image {name[:200]!r}, expected a file"))
        elif leaves_folder(name):
            detail = f"image {name[:200]!r}, expected a path inside the folder"
            faults.append(("picture outside folder", detail))
        # Not by Path: it raises where a name is too long for the disk.
        elif not absent_pictures or os.path.isfile(root / name):
            paths.append(str(root / name))
    if len(paths) > MAX_PICTURES:
        detail = f"{len(paths)} pictures, expected at most {MAX_PICTURES}: the first are used"
        faults.append(("too many pictures", detail))
    return paths[:MAX_PICTURES], faults


def _first(frame: pd.DataFrame) -> list[str]:
    """Returns the first of each row's pictures, or ""."""
    return [paths[0] if len(paths) else "" for paths in frame["images"]]


def leaves_folder(image: str) -> bool:
    """Says whether a path is absolute (POSIX or Windows), goes up, is a URL or holds a NUL."""
    return bool(OUTSIDE.match(image))
