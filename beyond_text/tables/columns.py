"""Reads one file of a shop as our columns of text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from beyond_text.files import MALFORMED
from beyond_text.tables.cells import LIST, picture_cell, picture_names
from beyond_text.tables.delimited import fold
from beyond_text.tables.formats import read_file
from beyond_text.tables.layouts import (
    TEXT_COLUMNS,
    MissingError,
    Reject,
    Source,
    TableError,
    TableFile,
)
from beyond_text.tables.templates import fields_of, fill, present
from beyond_text.tables.text import plain_text, shown_text

# Columns that pandas and spreadsheets add.
NUMBERING = re.compile(r"unnamed: \d+|index|row|level_\d+", re.IGNORECASE)
MOST_NAMED = 8


def read_source(
    path: Path, source: Source, rejects: list[Reject]
) -> tuple[pd.DataFrame, TableFile]:
    """Reads one file as our columns of text, and `row`; optional columns may be missing.

    Texts are as a shopper reads them (`shown_text`); a cell of `image` may name several pictures,
    as `picture_names` reads it. Prints which columns of the file are ignored.

    Raises:
        TableError: the file cannot be read, or lacks a column.
    """
    wanted = {fold(name) for name in _their_names(source)}
    theirs, rows = read_file(path, wanted, source.overflow, rejects)
    names = theirs.attrs.get("names", list(theirs.columns.drop("row")))
    theirs, used = _renamed(path, theirs, source)
    left_out = 0
    for column, value in source.keep.items():
        if column not in theirs:
            raise _missing(path, column, names)
        theirs = theirs[theirs[column] == value]
        left_out = rows - len(theirs)

    ours = theirs[["row"]].copy()
    for column, template in source.columns.items():
        known = {**{name: theirs[name] for name in theirs}, **{name: ours[name] for name in ours}}
        usable = present(template, known)
        if usable is None:
            if column not in source.optional:
                absent = next(name for name in fields_of(template) if name not in known)
                raise _missing(path, absent, names)
            continue
        values = fill(usable, {name: known[name] for name in fields_of(usable)})
        meanings = source.values.get(column, {})
        known_values = [meanings.get(value, meanings.get(value.lower(), value)) for value in values]
        cleaned = [_cleaned(column, value) for value in known_values]
        ours[column] = pd.Series(cleaned, index=ours.index, dtype=str)
    if source.one_of and not any(column in ours for column in source.one_of):
        raise _missing(path, " or ".join(source.one_of), names)
    _say_ignored(path, names, used)
    if source.split_by_file:
        ours["split"] = path.name[: -len(path.suffix)]
    if source.distinct:
        ours = ours.drop_duplicates(list(source.columns))
    if source.merge:
        ours = _merged(ours, theirs, source)
    return ours.reset_index(drop=True), TableFile(path.name, rows - left_out, left_out)


def _their_names(source: Source) -> list[str]:
    """Lists the names of columns that the source reads, those of other exporters too."""
    named = [name for template in source.columns.values() for name in fields_of(template)]
    names = dict.fromkeys([*named, *source.keep, *source.last])
    return [each for name in names for each in (name, *source.other_names.get(name, ()))]


def _renamed(path: Path, theirs: pd.DataFrame, source: Source) -> tuple[pd.DataFrame, set[str]]:
    """Gives the columns that the source reads the names that it has for them; returns theirs too.

    Raises:
        TableError: two columns have a name.
    """
    folded: dict[str, list[str]] = {}
    for name in theirs.columns.drop("row"):
        folded.setdefault(fold(name), []).append(name)
    named = [name for template in source.columns.values() for name in fields_of(template)]
    names = {}
    for name in dict.fromkeys([*named, *source.keep, *source.last]):
        for other in (name, *source.other_names.get(name, ())):
            found = [other] if other in theirs else folded.get(fold(other), [])
            if len(found) > 1:
                raise TableError(
                    f"{path}: expected one column '{other}', got {' and '.join(found)}"
                )
            if found and found[0] not in names:
                names[found[0]] = name
                break
    return theirs[["row", *names]].rename(columns=names), set(names)


def _cleaned(column: str, value: str) -> str:
    """Cleans a value of one of our columns."""
    if column == "image":
        return value
    if column not in (*TEXT_COLUMNS, "query"):
        return plain_text(value)
    if value.startswith("["):
        try:
            parts = [part or "" for part in LIST.decode(value)]
            value = (" > " if column == "category" else ", ").join(filter(None, parts))
        except MALFORMED:
            pass
    return shown_text(value)


def _merged(ours: pd.DataFrame, theirs: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Makes one row of the rows that have one value in the column `source.merge`."""
    order = pd.DataFrame(index=ours.index)
    order["last"] = [
        any(value.lower().startswith(source.last[name]) for name, value in row.items())
        for row in theirs[[name for name in source.last if name in theirs]].to_dict("records")
    ]
    order["position"] = pd.to_numeric(ours.get("position", pd.Series(0.0, ours.index)), "coerce")
    ours = ours.loc[order.sort_values(["last", "position"], kind="stable").index]
    found: dict[object, dict] = {}
    pictures: dict[object, list[str]] = {}
    for record in ours.to_dict("records"):
        # Rows without an id are no one's.
        key = record[source.merge] or (record["row"],)
        merged = found.setdefault(key, dict(record))
        merged["row"] = min(merged["row"], record["row"])
        merged |= {name: merged[name] or value for name, value in record.items()}
        pictures.setdefault(key, []).extend(picture_names(record.get("image", "")))
    records = [
        merged | ({"image": picture_cell(pictures[key])} if "image" in merged else {})
        for key, merged in found.items()
    ]
    frame = pd.DataFrame(records, columns=ours.columns).astype({"row": int})
    return frame.drop(columns="position", errors="ignore").sort_values("row", kind="stable")


def _missing(path: Path, column: str, names: Sequence[str]) -> MissingError:
    """Makes the error of a missing column; it names the nearest column that is there."""
    nearest = get_close_matches(column, names, n=1, cutoff=0.0)
    hint = f"; the nearest is '{nearest[0]}'" if nearest else ""
    got = ", ".join(name or "''" for name in names)
    return MissingError(f"{path}: expected a column '{column}', got {got}{hint}")


def _say_ignored(path: Path, names: Iterable[str], used: set[str]) -> None:
    """Prints which columns are not read, save those that number the rows."""
    ignored = [name for name in names if name not in used and not NUMBERING.fullmatch(name)]
    if ignored:
        more = f" and {len(ignored) - MOST_NAMED} more" if len(ignored) > MOST_NAMED else ""
        shown = ", ".join(ignored[:MOST_NAMED])
        print(f"{path.name}: columns ignored: {shown}{more}", file=sys.stderr)
