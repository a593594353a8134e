"""Reads a shop's products and their structured fields, and writes the products without these."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from beyond_text.tables.cells import picture_cell
from beyond_text.tables.columns import read_compact
from beyond_text.tables.compact import parts, places, unpacked
from beyond_text.tables.delimited import fold
from beyond_text.tables.layouts import (
    TEXT_COLUMNS,
    Layout,
    Reject,
    Source,
    TableError,
)
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import MAX_REJECTED, Rejects
from beyond_text.tables.tables import Tables
from beyond_text.tables.text import shown_text
from beyond_text.terminal import plain
from data_prep.asking.details import Details
from data_prep.asking.phrases import Cutter, Texts
from data_prep.asking.rules import Rules
from data_prep.asking.values import Field, number_of

PICTURES = "pictures"
# Where details are looked for.
TEXT = ("title", "description")
WRITTEN = ("product_id", *TEXT_COLUMNS, "image", "group_id", "split")


class Shop(NamedTuple):
    """Products, and their fields by name; `hidden` are columns that are no text of a product's.

    `details` are those of title and description, None where the rules ask for none.
    """

    tables: Tables
    fields: dict[str, Field]
    hidden: set[str]
    details: Details | None = None


def attributes_of(text: str) -> dict[str, str]:
    """Reads `colour,pattern=graphical_appearance_name`: our field -> the shop's column.

    Raises:
        ValueError: a name is empty or given twice.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, column = (each.strip() for each in part.partition("="))
        if not name or name in found or (not column and "=" in part):
            raise ValueError(
                f"--attributes: expected names such as colour,pattern=COLUMN, each once, got "
                f"{part.strip() or text!r}"
            )
        found[name] = column or name
    return found


def check_attributes(attributes: Mapping[str, str], rules: Rules) -> None:
    """Raises ValueError where the rules have no use for an attribute, or cannot ask anything."""
    used = {name for ask in rules.asks_of(attributes) for name in ask.fields}
    used |= {column for name in used for column in rules.fields[name].near_by}
    if unused := [name for name in attributes if name not in used]:
        known = dict.fromkeys(name for ask in rules.asks for name in ask.fields)
        raise ValueError(
            f"--attributes: expected fields that a form of the rules asks for together "
            f"({', '.join(known)}), got {unused[0]!r} in {','.join(attributes)}"
        )


def read_shop(
    path: Path,
    layout: Layout,
    rules: Rules,
    attributes: Mapping[str, str],
    fields_path: Path | None,
    **options: object,
) -> Shop:
    """Reads the products, with their splits, and the fields.

    Raises:
        TableError: a file or column is missing or cannot be read.
        RejectError: too many rows are rejected.
    """
    alone = replace(layout, queries=None, qrels=None, clicks=None, log=None, pairs="")
    tables = read_tables(path, alone, compact=True, **options)  # type: ignore[arg-type]
    Rejects(tables.rejects, tables.files.values(), MAX_REJECTED).check()
    asked = {name for ask in rules.asks_of(attributes) for name in ask.fields}
    near = {column for name in asked for column in rules.fields[name].near_by} - set(attributes)
    wanted = {**attributes, **{name: name for name in sorted(near)}}
    optional = {*near}
    if fields_path is None:
        cells = _own_cells(tables, wanted, optional)
    else:
        cells = _cells_of_file(tables, fields_path, wanted, optional)
    fields = {}
    for name in sorted(asked):
        fields[name] = Field(name, rules.fields[name], cells[name], rules.missing)
        for column in rules.fields[name].near_by:
            if column in cells:
                fields[name].set_families(cells[column], rules.missing)
                break
    hidden = {fold(each) for pair in wanted.items() for each in pair}
    details = None
    if any(ask.details for ask in rules.asks_of(attributes)):
        details = _details_of(tables.products, rules, fields, hidden)
    return Shop(tables, fields, hidden, details)


def _details_of(
    products: pd.DataFrame, rules: Rules, fields: Mapping[str, Field], hidden: Collection[str]
) -> Details:
    """Reads the details of title and description, where these are no fields themselves."""
    # Words of a required field or of one with shades would ask for that twice.
    breaking = [
        field for field in fields.values() if field.rules.required or field.rules.same_last_word
    ]
    names = {key for field in breaking for key in field.codes_of} - set(rules.mapped.never)
    texts = Texts(Cutter(rules.details, names))
    place: dict[int, int] = {}
    text_of = []
    columns = [name for name in TEXT if fold(name) not in hidden]
    for part in parts(products):
        for cells in zip(*(part[name] for name in columns), strict=True):
            text = ". ".join(cells)
            number = number_of(text)
            if number not in place:
                place[number] = len(place)
                texts.add(shown_text(text))
            text_of.append(place[number])
    required = next((field.codes for field in breaking if field.rules.required), None)
    types = [-1] * len(text_of) if required is None else required.tolist()
    return Details(rules.details, texts, text_of, types)


def _own_cells(
    tables: Tables, wanted: Mapping[str, str], optional: set[str]
) -> dict[str, list[str]]:
    """Returns the cells of the products' own columns, by our names."""
    products = tables.products
    folded = {fold(column): name for name, column in wanted.items()}
    cells = {name: [""] * len(products) for name in wanted}
    found = set()
    known: dict[str, None] = dict.fromkeys(TEXT_COLUMNS)
    for column in TEXT_COLUMNS:
        if name := folded.get(fold(column)):
            cells[name] = products[column].tolist()
            found.add(name)
    for row, text in enumerate(products["further"]):
        for column, value in unpacked(text).items():
            known.setdefault(column)
            if name := folded.get(fold(column)):
                cells[name][row] = value
                found.add(name)
    for name in wanted.keys() - found:
        if name not in optional:
            raise TableError(
                f"{tables.files['products'].name}: expected a column {wanted[name]!r} with a "
                f"value, got {', '.join(known)}; --fields FILE gives fields of another file"
            )
        del cells[name]
    return cells


def _cells_of_file(
    tables: Tables, path: Path, wanted: Mapping[str, str], optional: set[str]
) -> dict[str, list[str]]:
    """Returns the cells of a file of fields, in the order of the products."""
    if not path.is_file():
        raise TableError(f"{path}: expected a file of fields with a column product_id, found none")
    # Two of our fields may be one column of theirs.
    source = Source(
        path.stem,
        {
            "product_id": "{product_id}",
            **{name: f"{{{column}}}" for name, column in wanted.items()},
        },
        optional=frozenset(optional),
        other_names={"product_id": ("article_id", "id")},
    )
    rejects: list[Reject] = []
    frame, file = read_compact(path, source, rejects)
    Rejects(rejects, [file], MAX_REJECTED).check()
    ids = frame["product_id"]
    twice = (ids != "") & ids.duplicated()
    if (unfit := twice | (ids == "")).any():
        row = frame[unfit].iloc[0]
        raise TableError(
            f"{path} row {row['row']}: expected an id of a product, each once, got "
            f"{plain(row['product_id'])!r}"
        )
    place = places(tables.products["product_id"], ids)
    known = int((place >= 0).sum())
    if not known:
        raise TableError(
            f"{path}: expected ids of {tables.files['products'].name}, such as "
            f"{plain(tables.products['product_id'].iloc[0])!r}, got "
            f"{plain(ids.iloc[0]) if len(ids) else 'no row'!r}"
        )
    if known < len(place):
        print(
            f"{path.name}: {len(place) - known} of {len(place)} products not in it", file=sys.stderr
        )
    return {
        name: [column[at] if at >= 0 else "" for at in place.tolist()]
        for name in wanted
        if name in frame
        for column in [frame[name].tolist()]
    }


def write_products(shop: Shop, out: Path, folder: Path) -> None:
    """Writes products.csv: texts, groups and splits as they are read; no column of a field.

    Pictures stay where they are: `folder`, which becomes `out`, has a link to their folder.
    """
    products = shop.tables.products
    root = shop.tables.pictures.resolve()
    further = _further_columns(products, shop.hidden)
    has_picture = False
    with (folder / "products.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*WRITTEN, *further])
        for part in parts(products):
            columns = [part[name] for name in ("product_id", *TEXT_COLUMNS)]
            columns += [_image_cells(part["images"], root), part["group_id"], part["split"]]
            for *cells, text in zip(*columns, part["further"], strict=True):
                values = unpacked(text)
                has_picture |= bool(cells[4])
                writer.writerow([*cells, *(values.get(name, "") for name in further)])
    if has_picture:
        (folder / PICTURES).symlink_to(os.path.relpath(root, out.resolve()), True)


def _further_columns(products: pd.DataFrame, hidden: set[str]) -> list[str]:
    """Lists the further columns that are no fields."""
    names = dict.fromkeys(name for text in products["further"] for name in unpacked(text))
    return [name for name in names if fold(name) not in hidden]


def _image_cells(images: Sequence[Sequence[str]], root: Path) -> Iterator[str]:
    """Yields the cells that name the pictures by the link."""
    for paths in images:
        yield picture_cell(f"{PICTURES}/{Path(path).relative_to(root)}" for path in paths)
