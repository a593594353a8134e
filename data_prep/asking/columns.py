"""Finds the columns of fields, in the products' own file or in one beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from string import Formatter

import numpy as np
import pandas as pd
from jaxtyping import Int

from beyond_text.tables.columns import read_compact
from beyond_text.tables.compact import places, unpacked
from beyond_text.tables.delimited import fold
from beyond_text.tables.layouts import TEXT_COLUMNS, Reject, Source, TableError
from beyond_text.tables.rejects import MAX_REJECTED, Rejects
from beyond_text.tables.tables import Tables
from beyond_text.tables.templates import Template
from beyond_text.terminal import plain, say

# What else a file of fields may call its column product_id.
OTHER_IDS = ("article_id", "id", "sku")
# Columns that a message names.
MOST_NAMED = 20
# Our field -> names of its column, of which the first that is there counts.
Wanted = Mapping[str, Sequence[str]]


def own_cells(
    tables: Tables, wanted: Wanted, optional: Collection[str]
) -> tuple[dict[str, list[str]], set[str]]:
    """Returns the cells of the products' own columns, by our names, and which columns these are.

    Raises:
        TableError: a column is missing or without any value, or there are two of a name.
    """
    file = tables.files["products"].name
    columns, known = _own_columns(tables, wanted)
    cells, used = {}, set()
    for name, candidates in wanted.items():
        if chosen := _first(file, candidates, columns):
            cells[name] = columns[chosen]
            used.add(chosen)
            if fold(chosen) != fold(candidates[0]):
                say(f"{file}: field {name} is of column {chosen}")
        elif name not in optional:
            raise _missing(file, name, candidates[0], known)
    return cells, used


def own_names(tables: Tables, wanted: Wanted) -> set[str]:
    """Returns our names of the fields that the products' own columns have."""
    columns, _ = _own_columns(tables, wanted)
    file = tables.files["products"].name
    return {name for name, candidates in wanted.items() if _first(file, candidates, columns)}


def _own_columns(tables: Tables, wanted: Wanted) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the cells of the products' columns that are wanted and not empty; names all."""
    products = tables.products
    names = {fold(each) for columns in wanted.values() for each in columns}
    known = dict.fromkeys(TEXT_COLUMNS, False)
    columns = {each: products[each].tolist() for each in TEXT_COLUMNS if fold(each) in names}
    columns = {each: values for each, values in columns.items() if any(values)}
    for row, text in enumerate(products["further"]):
        for column, value in unpacked(text).items():
            if column not in known:
                known[column] = fold(column) in names
            if known[column]:
                columns.setdefault(column, [""] * len(products))[row] = value
    return columns, list(known)


def _first(file: str, candidates: Sequence[str], columns: Collection[str]) -> str | None:
    """Returns the first candidate that is there, spelled as it is there."""
    for each in candidates:
        found = [each] if each in columns else [one for one in columns if fold(one) == fold(each)]
        if len(found) > 1:
            raise TableError(f"{file}: expected one column {each!r}, got {' and '.join(found)}")
        if found:
            return found[0]
    return None


def _missing(file: str, name: str, column: str, known: Sequence[str]) -> TableError:
    """Makes the error of a column that is not there."""
    near = get_close_matches(fold(column), [fold(each) for each in known], n=1)
    hint = next((f"; the nearest is {each!r}" for each in known if fold(each) in near), "")
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return TableError(
        plain(
            f"{file}: expected a column {column!r} with a value, got "
            f"{', '.join(known[:MOST_NAMED])}{more}{hint}; name it as {name}=COLUMN; "
            f"--fields FILE gives fields of another file"
        )
    )


def cells_of_file(
    tables: Tables,
    path: Path,
    wanted: Wanted,
    optional: Collection[str],
    rejects: list[Reject],
    id_template: Template = "{product_id}",
) -> dict[str, list[str]]:
    """Returns the cells of a file of fields, in the order of the products.

    `rejects` receives rows that are no rows, and that repeat one; who is missing on either side is
    printed. Ids are filled up as `id_template` of the products' layout fills theirs.

    Raises:
        TableError: the file cannot be read, lacks a column, or has other ids, or one twice.
    """
    if not path.is_file():
        raise TableError(f"{path}: expected a file of fields with a column product_id, found none")
    # Two of our fields may be one column of theirs.
    columns = {name: f"{{{candidates[0]}}}" for name, candidates in wanted.items()}
    source = Source(
        path.stem,
        {"product_id": _filled_up(id_template), **columns},
        optional=frozenset(optional),
        other_names={
            "product_id": OTHER_IDS,
            **{first: tuple(rest) for first, *rest in wanted.values()},
        },
    )
    faults: list[Reject] = []
    frame, file = read_compact(path, source, faults)
    is_repeat = frame.drop(columns="row").duplicated()
    for row, identity in frame.loc[is_repeat, ["row", "product_id"]].itertuples(index=False):
        detail = "repeats an earlier row in every column"
        faults.append(Reject(file.name, int(row), identity, "duplicate id", detail))
    Rejects(faults, [file], MAX_REJECTED).check()
    rejects += faults
    frame = frame[~is_repeat]
    ids = frame["product_id"]
    _check_ids(path, frame)
    place = places(tables.products["product_id"], ids)
    if not (place >= 0).any():
        expected = plain(tables.products["product_id"].iloc[0])
        got = plain(ids.iloc[0]) if len(ids) else "no row"
        raise TableError(
            f"{path}: expected ids of {tables.files['products'].name}, such as {expected!r}, "
            f"got {got!r}"
        )
    _say_unmet(path, frame, place)
    return {
        name: [column[at] if at >= 0 else "" for at in place.tolist()]
        for name in wanted
        if name in frame
        for column in [frame[name].tolist()]
    }


def _check_ids(path: Path, frame: pd.DataFrame) -> None:
    """Raises TableError where a row has no id, or that of an earlier one."""
    ids = frame["product_id"]
    unfit = frame[ids.duplicated() | (ids == "")]
    if len(unfit):
        row = unfit.iloc[0]
        first = frame[ids == row["product_id"]].iloc[0]["row"]
        again = f", as in row {first}" if first != row["row"] else ""
        raise TableError(
            f"{path} row {row['row']}: expected an id of a product, each once, got "
            f"{plain(row['product_id'])!r}{again}"
        )


def _filled_up(template: Template) -> str:
    """Returns a template of ids that fills them up as another does, as with leading zeros."""
    parsed = Formatter().parse(template) if isinstance(template, str) else []
    spec = next((spec for _, name, spec, _ in parsed if name and spec), "")
    return f"{{product_id:{spec}}}" if spec else "{product_id}"


def _say_unmet(path: Path, frame: pd.DataFrame, place: Int[np.ndarray, " products"]) -> None:
    """Prints how many products a file of fields lacks, and how many of its ids are of none."""
    if absent := int((place < 0).sum()):
        say(f"{path.name}: {absent} of {len(place)} products not in it")
    unknown = np.ones(len(frame), dtype=bool)
    unknown[place[place >= 0]] = False
    if unknown.any():
        row = frame[unknown].iloc[0]
        first = f"{plain(row['product_id'])!r} in row {row['row']}"
        say(
            f"{path.name}: {unknown.sum()} of {len(frame)} ids are of no product, the first is "
            f"{first}"
        )
