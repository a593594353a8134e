"""Reads the tables of a shop whose pictures are URLs, and writes them with files in their place."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from beyond_text.files import atomic_write
from beyond_text.tables.cells import is_url, picture_cell
from beyond_text.tables.checks import RowFilter, add_images, leaves_folder
from beyond_text.tables.columns import read_source
from beyond_text.tables.layouts import (
    ATTRIBUTES,
    CLICK_COLUMNS,
    PRODUCT_COLUMNS,
    QUERY_COLUMNS,
    Layout,
    Reject,
    Source,
    TableError,
    TableFile,
    find_parts,
    find_table,
    find_tables,
)
from data_prep.fetch.cells import clean_names
from data_prep.fetch.status import Outcome

TABLES = ("products", "queries", "qrels", "clicks")


class Table(NamedTuple):
    """One of our tables as it was read: `row` and text columns, and the pictures of each row.

    `name` is one of TABLES; without a column `image` no row has any.
    """

    name: str
    id: str
    file: TableFile
    frame: pd.DataFrame
    pictures: list[list[str]]

    def urls(self) -> Iterator[str]:
        """Yields the URLs of all rows."""
        return (name for names in self.pictures for name in names if is_url(name))


class Shop(NamedTuple):
    """The tables of a folder, products last, and all files that were read."""

    folder: Path
    tables: list[Table]
    files: list[TableFile]


def read_shop(path: Path, layout: Layout, rejects: list[Reject]) -> Shop:
    """Reads products and what is beside them in our columns; further pictures join the products.

    Rows that are no rows are listed in `rejects`; all others are kept, fit or not.

    Args:
        path: folder of tables, or the file of products in it.
        layout: whose files and column names the tables have.
        rejects: receives the rows that are not used.

    Raises:
        TableError: there is no table of products, none with pictures, or one cannot be read.
    """
    if not path.exists():
        raise TableError(f"{path}: no such file or folder")
    folder = path.parent if path.is_file() else path
    found = path if path.is_file() else find_table(folder, layout.products)
    if layout.products is None or found is None:
        wanted = layout.products.names if layout.products else "a table of products"
        raise TableError(f"{folder}: expected {wanted}, got none")
    sources = [layout.products, layout.queries, layout.images]
    if not any(source and "image" in source.columns for source in sources):
        raise TableError(f"{path}: layout {layout.name} has no pictures to fetch")
    products, file = read_source(found, layout.products, rejects)
    tables, files = [], [file]
    for each in find_tables(folder, layout.images):
        images, images_file = read_source(each, layout.images, rejects)  # type: ignore[arg-type]
        files.append(images_file)
        products = add_images(products, images, RowFilter(images_file.name, rejects, "product_id"))
    others: list[tuple[str, str, Source | None, tuple[str, ...]]] = [
        ("clicks", "query", layout.clicks, CLICK_COLUMNS),
        ("qrels", "query_id", layout.qrels, ()),
        ("queries", "query_id", layout.queries, QUERY_COLUMNS),
    ]
    for name, identity, source, columns in others:
        beside = find_parts(folder, source) if name == "clicks" else [find_table(folder, source)]
        read = [read_source(each, source, rejects) for each in beside if source and each]
        if read:
            frame = pd.concat([part for part, _ in read], ignore_index=True)
            files += [other for _, other in read]
            tables.append(_table(folder, name, identity, read[0][1], frame, columns))
    # Products last: without them a folder is not yet one of tables.
    tables.append(_table(folder, "products", "product_id", file, products, PRODUCT_COLUMNS))
    return Shop(folder, tables, files)


def _table(
    folder: Path,
    name: str,
    identity: str,
    file: TableFile,
    frame: pd.DataFrame,
    columns: tuple[str, ...],
) -> Table:
    """Makes a table of those columns, or of all where none are named."""
    if "further" in frame:
        further = pd.DataFrame(list(frame["further"]), index=frame.index, dtype=str).fillna("")
        columns, frame = (*columns, *further), pd.concat([frame, further], axis=1)
    kept = [column for column in frame if not columns or column in ("row", *columns)]
    cells = frame["image"] if "image" in frame else [""] * len(frame)
    return Table(name, identity, file, frame[kept], [clean_names(c, folder) for c in cells])


def with_files(
    table: Table,
    outcomes: dict[str, Outcome],
    folder: Path,
    out: Path,
    absent_pictures: bool,
    rejects: list[Reject],
) -> pd.DataFrame:
    """Returns a table whose `image` names files of `out`; what is not there is in `rejects`.

    A file of `folder` is linked into `out`, or copied where it cannot be. A path that names none
    stays, for the shards' builder to list; with `absent_pictures` it is left out.
    """
    frame = table.frame.drop(columns="row")
    if "image" not in frame:
        return frame
    images = []
    for record, names in zip(table.frame.to_dict("records"), table.pictures, strict=True):
        kept = []
        for image in names:
            file, reason, detail = _place(image, outcomes, folder, out, absent_pictures)
            if file:
                kept.append(file)
            if reason:
                detail = f"image {image[:200]!r}: {detail}"
                row = int(record["row"])
                rejects.append(Reject(table.file.name, row, record[table.id], reason, detail))
        images.append(picture_cell(kept))
    return frame.assign(image=images)


def _place(
    image: str, outcomes: dict[str, Outcome], folder: Path, out: Path, absent_pictures: bool
) -> tuple[str, str, str]:
    """Returns what stands for a picture in the written table, and reason and detail of a fault."""
    if is_url(image):
        outcome = outcomes[image]
        return outcome.file, outcome.reason, outcome.detail
    if _link(image, folder, out):
        return image, "", ""
    if absent_pictures:
        return "", "", ""
    return image, "picture missing", "expected a URL, or a file inside the folder"


def _link(image: str, folder: Path, out: Path) -> bool:
    """Links a file of `folder` into `out` under the same path; False where there is none."""
    # No table of `out` may be replaced.
    if leaves_folder(image) or image.endswith(".csv"):
        return False
    # Not by Path: it raises where a name is too long for the disk.
    if not os.path.isfile(folder / image):
        return False
    target = out / image
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to((folder / image).resolve())
    except OSError:
        # The two are on different disks.
        with (folder / image).open("rb") as source, atomic_write(target, binary=True) as file:
            shutil.copyfileobj(source, file)
    return True


def copy_fields(folder: Path, out: Path) -> None:
    """Copies the table of fields, if the folder has one, in the place of an earlier one."""
    for earlier in find_tables(out, ATTRIBUTES):
        earlier.unlink()
    for found in find_tables(folder, ATTRIBUTES):
        with found.open("rb") as source, atomic_write(out / found.name, binary=True) as file:
            shutil.copyfileobj(source, file)


def write_table(out: Path, name: str, frame: pd.DataFrame) -> None:
    """Writes a table as CSV."""
    with atomic_write(out / f"{name}.csv") as file:
        # All quoted, since pandas leaves a text with a bare carriage return unquoted.
        frame.to_csv(file, index=False, quoting=csv.QUOTE_ALL)
