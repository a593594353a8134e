"""Reads a shop's products and their structured fields, and writes the products without these."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_text.tables.cells import picture_cell
from beyond_text.tables.compact import parts, unpacked
from beyond_text.tables.delimited import fold
from beyond_text.tables.layouts import (
    ATTRIBUTES,
    TEXT_COLUMNS,
    Layout,
    Reject,
    TableError,
    find_table,
)
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import MAX_REJECTED, Rejects
from beyond_text.tables.splits import check_shares, product_splits
from beyond_text.tables.tables import Tables
from beyond_text.tables.text import normal_text, shown_text
from beyond_text.terminal import say
from data_prep.asking.columns import cells_of_file, own_cells, own_names
from data_prep.asking.details import Details
from data_prep.asking.phrases import Cutter, Texts
from data_prep.asking.schema import DETAILS, Rules
from data_prep.asking.values import Field, number_of

PICTURES = "pictures"
# Where details are looked for.
TEXT = ("title", "description")
# Share of a shop's products that are of types which the rules name, where it sells clothes.
CLOTHES = 0.2
WRITTEN = ("product_id", *TEXT_COLUMNS, "image", "group_id", "split")


class Shop(NamedTuple):
    """Products, and their fields by name; `hidden` are columns that are no text of a product's.

    `cells` are those that fields and families of shades were read from, by our names. `rejects` are
    rows of the products and of a file of fields that are not used.

    `details` are those of title and description, None where the rules ask for none. `is_foreign`
    says that fields are in another script than the forms' words, `has_clothes` that it may sell
    clothes.
    """

    tables: Tables
    fields: dict[str, Field]
    cells: dict[str, list[str]]
    hidden: set[str]
    rejects: list[Reject]
    details: Details | None = None
    is_foreign: bool = False
    has_clothes: bool = True


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


def known_attributes(attributes: Mapping[str, str], rules: Rules) -> dict[str, str]:
    """Returns the attributes by the names that the rules have for them, else as one word.

    Raises:
        ValueError: two are one field, or one is nearly called as another is, or as details are.
    """
    name_of = {
        fold(each): name for name in rules.fields for each in (*_other_names(rules, name), name)
    }
    given = {name_of.get(fold(name)) for name in attributes}
    found: dict[str, str] = {}
    for name, column in attributes.items():
        ours = name_of.get(fold(name)) or re.sub(r"\W+", "_", normal_text(name)).strip("_")
        near = [] if fold(name) in name_of else get_close_matches(fold(name), name_of, 1, 0.8)
        # Beside a gender, an age_group is no misspelt target_group.
        near = [each for each in near if name_of[each] not in given]
        if ours in found:
            raise ValueError(f"--attributes: expected each field once, got {ours!r} twice")
        if near or not ours or ours in DETAILS:
            better = name_of[near[0]] if near else "NAME"
            another = f", or another field as NAME={column}" if near else ""
            raise ValueError(
                f"--attributes: expected {better}={column}{another}, got {name}={column}"
            )
        # Whoever calls it as the rules do has left the column to them.
        found[ours] = ours if fold(column) == fold(ours) else column
    return found


def check_attributes(attributes: Mapping[str, str], rules: Rules) -> None:
    """Raises ValueError where the rules have no use for an attribute, or cannot ask anything."""
    used = {name for ask in rules.asks_of(attributes) for name in ask.fields}
    used |= {column for name in used for column in rules.fields[name].near_by}
    if unused := [name for name in attributes if name not in used]:
        asks = [set(ask.fields) for ask in rules.asks if unused[0] in ask.fields]
        lacking = min((ask - set(attributes) for ask in asks), key=len, default=set())
        without = f" without {' and '.join(sorted(lacking))}" if lacking else ""
        known = dict.fromkeys(name for ask in rules.asks for name in ask.fields)
        raise ValueError(
            f"--attributes: expected fields that a form of the rules asks for together "
            f"({', '.join(known)}), got {unused[0]!r}{without} in {','.join(attributes)}"
        )


def _other_names(rules: Rules, name: str) -> Sequence[str]:
    """Lists what shops call the column of a field."""
    return rules.fields[name].other_names if name in rules.fields else ()


def read_shop(
    path: Path,
    layout: Layout,
    rules: Rules,
    attributes: Mapping[str, str],
    fields_path: Path | None,
    dev_share: float = 0.1,
    test_share: float = 0.0,
    pictures: Path | None = None,
) -> Shop:
    """Reads the products, with their splits, and the fields.

    Without `fields_path`, what the products lack is of a table `attributes` beside them, if there
    is one.

    Raises:
        TableError: a file or column is missing or cannot be read.
        RejectError: too many rows are rejected.
    """
    check_shares(path, dev_share, test_share)
    alone = replace(layout, queries=None, qrels=None, clicks=None, log=None, pairs="")
    # Splits are drawn below, by what stays of the texts.
    tables = read_tables(path, alone, 0.0, pictures, compact=True)
    Rejects(tables.rejects, tables.files.values(), MAX_REJECTED, layout=layout.name).check()
    rejects = [*tables.rejects]
    asked = {name for ask in rules.asks_of(attributes) for name in ask.fields}
    near = {column for name in asked for column in rules.fields[name].near_by} - set(attributes)
    wanted = {
        name: (column, *(_other_names(rules, name) if column == name else ()))
        for name, column in {**attributes, **dict.fromkeys(near)}.items()
        for column in [column or name]
    }
    cells: dict[str, list[str]] = {}
    known = near | own_names(tables, wanted)
    if fields_path is None and path.is_dir() and not known.issuperset(wanted):
        fields_path = find_table(path, ATTRIBUTES)
    if fields_path is not None:
        say(f"fields are of {fields_path}")
        template = layout.products.columns["product_id"] if layout.products else "{product_id}"
        cells = cells_of_file(tables, fields_path, wanted, known, rejects, template)
    # What the file lacks is of the products.
    lacking = {name: columns for name, columns in wanted.items() if name not in cells}
    own, used = own_cells(tables, lacking, near) if lacking else ({}, set())
    cells |= own
    fields = {}
    read = {name: cells[name] for name in attributes if name in asked}
    for name in sorted(asked):
        fields[name] = Field(name, rules.fields[name], cells[name], rules.missing)
        near_by = rules.fields[name].near_by
        for column in near_by:
            if column in cells:
                fields[name].set_families(column, cells[column], rules.missing)
                read[near_by[0]] = cells[column]
                break
    number = Counter(key for field in fields.values() for key in field.codes_of)
    shared = {key for key, count in number.items() if count > 1}
    for field in fields.values():
        field.name_shared(shared)
    hidden = {fold(each) for name, columns in wanted.items() for each in (name, *columns)}
    # A text stays one where the field is of another file.
    hidden -= {fold(each) for each in TEXT_COLUMNS} - {fold(each) for each in used}
    if tables.splits_are_drawn:
        kept = tables.products.assign(**dict.fromkeys(_left_out(hidden), ""))
        tables.products["split"] = product_splits(kept, dev_share, test_share)
    details = None
    if any(ask.details for ask in rules.asks_of(attributes)):
        details = _details_of(tables.products, rules, fields, hidden)
    script = is_foreign(fields)
    return Shop(tables, fields, read, hidden, rejects, details, script, has_clothes(fields))


def has_clothes(fields: Mapping[str, Field]) -> bool:
    """Says whether a share of the products are of types that the rules have words for.

    A shop without types may sell anything.
    """
    for field in fields.values():
        if field.rules.required:
            is_known = [not field.rules.words.keys().isdisjoint(each) for each in field.entries]
            codes = field.codes[field.codes >= 0]
            return not len(codes) or bool(np.mean(np.asarray(is_known)[codes]) >= CLOTHES)
    return True


def is_foreign(fields: Mapping[str, Field]) -> bool:
    """Says whether most products are called in a script that is not the forms'."""
    latin = other = 0
    for field in fields.values():
        number = np.bincount(field.codes[field.codes >= 0], minlength=len(field.values))
        for value, count in zip(field.values, number.tolist(), strict=True):
            letters = [each for each in value if each.isalpha()]
            is_latin = sum(unicodedata.name(each, "").startswith("LATIN") for each in letters)
            latin += count * (2 * is_latin >= len(letters))
            other += count * (2 * is_latin < len(letters))
    return other > latin


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


def write_products(shop: Shop, out: Path, folder: Path) -> None:
    """Writes products.csv: texts, groups and splits as they are read; no column of a field.

    Pictures stay where they are: `folder`, which becomes `out`, has a link to their folder.

    Raises:
        TableError: a product has no text beside its fields, and no picture.
    """
    products = shop.tables.products
    file = shop.tables.files["products"].name
    root = shop.tables.pictures.resolve()
    further = _further_columns(products, shop.hidden)
    left_out = _left_out(shop.hidden)
    if left_out:
        say(f"{file}: {', '.join(left_out)} left out as a field")
    has_picture = False
    with (folder / "products.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([*WRITTEN, *further])
        for part in parts(products):
            part = part.assign(**dict.fromkeys(left_out, ""))
            columns = [part[name] for name in ("product_id", *TEXT_COLUMNS)]
            columns += [_image_cells(part["images"], root), part["group_id"], part["split"]]
            for *cells, text, row in zip(*columns, part["further"], part["row"], strict=True):
                if not any(cells[1:5]):
                    raise TableError(
                        f"{file} row {row}: expected a text beside the fields, or a picture, got "
                        f"none; --fields FILE keeps the column {left_out[0]} as text"
                    )
                values = unpacked(text)
                has_picture |= bool(cells[4])
                writer.writerow([*cells, *(values.get(name, "") for name in further)])
    if has_picture:
        (folder / PICTURES).symlink_to(os.path.relpath(root, out.resolve()), True)


def write_fields(shop: Shop, folder: Path) -> None:
    """Writes attributes.csv: the fields as the shop says them, to be read beside the products."""
    with (folder / f"{ATTRIBUTES.file}.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["product_id", *shop.cells])
        writer.writerows(zip(shop.tables.products["product_id"], *shop.cells.values(), strict=True))


def _left_out(hidden: Collection[str]) -> list[str]:
    """Lists the columns of text that are fields."""
    return [name for name in TEXT_COLUMNS if fold(name) in hidden]


def _further_columns(products: pd.DataFrame, hidden: set[str]) -> list[str]:
    """Lists the further columns that are no fields."""
    names = dict.fromkeys(name for text in products["further"] for name in unpacked(text))
    return [name for name in names if fold(name) not in hidden]


def _image_cells(images: Sequence[Sequence[str]], root: Path) -> Iterator[str]:
    """Yields the cells that name the pictures by the link."""
    for paths in images:
        yield picture_cell(f"{PICTURES}/{Path(path).relative_to(root)}" for path in paths)
