"""Reads the tables of a shop whose pictures are URLs, and writes them with files in their place."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd

from beyond_text.files import atomic_write
from beyond_text.tables.columns import read_source
from beyond_text.tables.layouts import Layout, Reject, TableError, TableFile, find_table
from data_prep.fetch.cells import Cell, is_url, parse_cell
from data_prep.fetch.status import Outcome


class Table(NamedTuple):
    """One of our tables as it was read: `row` and text columns, and the cells of `image`.

    `name` is "products", "queries" or "qrels"; without a column `image` there are no cells.
    """

    name: str
    id: str
    file: TableFile
    frame: pd.DataFrame
    cells: list[Cell]

    def urls(self) -> Iterator[str]:
        """Yields the URLs of all cells."""
        return (image for cell in self.cells for image in cell.images if is_url(image))


def read_shop(folder: Path, layout: Layout, rejects: list[Reject]) -> list[Table]:
    """Reads products, and queries and qrels where they are there, in our columns.

    Rows that are no rows are listed in `rejects`; all others are kept, fit or not.

    Raises:
        TableError: there is no table of products, or one cannot be read.
    """
    if not folder.is_dir():
        raise TableError(f"{folder}: expected a folder of tables, got none")
    tables = []
    # Products last: without them a folder is not yet one of tables.
    for name, identity in (
        ("qrels", "query_id"),
        ("queries", "query_id"),
        ("products", "product_id"),
    ):
        source = getattr(layout, name)
        path = find_table(folder, source)
        if path is None:
            continue
        frame, file = read_source(path, source, rejects)
        cells = [parse_cell(value) for value in frame.get("image", ())]
        tables.append(Table(name, identity, file, frame, cells))
    if layout.products is None or not tables or tables[-1].name != "products":
        wanted = layout.products.file if layout.products else "products"
        raise TableError(f"{folder}: expected {wanted} as .csv or .parquet, got none")
    return tables


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
    for record, cell in zip(table.frame.to_dict("records"), table.cells, strict=True):
        kept = []
        for image in cell.images:
            file, reason, detail = _place(image, outcomes, folder, out, absent_pictures)
            if file:
                kept.append(file)
            if reason:
                detail = f"image {image[:200]!r}: {detail}"
                row = int(record["row"])
                rejects.append(Reject(table.file.name, row, record[table.id], reason, detail))
        images.append(cell.with_images(kept))
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
    path = PurePath(image)
    # No table of `out` may be replaced.
    if path.is_absolute() or ".." in path.parts or "\0" in image or path.suffix == ".csv":
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


def write_table(out: Path, name: str, frame: pd.DataFrame) -> None:
    """Writes a table as CSV."""
    with atomic_write(out / f"{name}.csv") as file:
        # All quoted, since pandas leaves a text with a bare carriage return unquoted.
        frame.to_csv(file, index=False, quoting=csv.QUOTE_ALL)
