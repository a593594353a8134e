"""Reads one file of a shop as our columns of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from beyond_text.files import MALFORMED
from beyond_text.tables.cells import LIST, picture_cell, picture_names
from beyond_text.tables.compact import TEXT, column_of, expanded, packed, unpacked
from beyond_text.tables.delimited import RawTable, fold
from beyond_text.tables.formats import read_file
from beyond_text.tables.further import further_columns, merged, say_cut
from beyond_text.tables.layouts import (
    TEXT_COLUMNS,
    MissingError,
    Reject,
    Source,
    TableError,
    TableFile,
    stem_and_ending,
)
from beyond_text.tables.templates import fields_of, fill, present
from beyond_text.tables.text import plain_text, shown_text
from beyond_text.terminal import say

# Columns that pandas and spreadsheets add.
NUMBERING = re.compile(r"unnamed: \d+|index|row|level_\d+", re.IGNORECASE)
MOST_NAMED = 8


class _Part(NamedTuple):
    """Some rows of a file: our columns, those by which rows are merged, and counts.

    `used` are the names of the file's columns that the source reads, `kept` those that are further
    ones; `cut` values were too long, and `left_out` rows are not wanted.
    """

    ours: pd.DataFrame
    last: pd.DataFrame
    names: list[str]
    used: set[str]
    kept: list[str]
    cut: int
    rows: int
    left_out: int


def read_source(
    path: Path, source: Source, rejects: list[Reject]
) -> tuple[pd.DataFrame, TableFile]:
    """Reads one file as our columns of text, and `row`; optional columns may be missing.

    Texts are as a shopper reads them (`shown_text`); a cell of `image` may name several pictures,
    as `picture_names` reads it. A source of products with further columns has them in `further`, a
    dict a row. Prints which columns of the file are kept there, and which are ignored.

    Raises:
        TableError: the file cannot be read, or lacks a column.
    """
    frame, file = read_compact(path, source, rejects)
    return expanded(frame), file


def read_compact(
    path: Path,
    source: Source,
    rejects: list[Reject],
    keep: Callable[[pd.DataFrame], pd.DataFrame] = lambda part: part,
) -> tuple[pd.DataFrame, TableFile]:
    """Reads one file as `read_source` does, but `further` is JSON (`compact.packed`).

    `keep` returns what is kept in memory of each part of the rows.
    """
    wanted = {fold(name) for name in _their_names(source)}
    raw = read_file(path, wanted, source.overflow, rejects, source.others)
    parts = [
        part._replace(ours=keep(part.ours))
        for part in (_part_of(path, source, table) for table in raw)
    ]
    ours = pd.concat([part.ours for part in parts], ignore_index=True)
    first = parts[0]
    if source.further or source.others:
        say_cut(path, sum(part.cut for part in parts))
        _say_columns(path, "kept for search by words and for filters", first.kept)
    used = first.used | set(first.kept)
    _say_columns(
        path, "ignored", [n for n in first.names if n not in used and not _numbers_rows(n)]
    )
    if source.split_by_file:
        ours["split"] = stem_and_ending(path)[0]
    if source.distinct:
        ours = ours.drop_duplicates(list(source.columns))
    if source.merge:
        ours = _merged(ours, pd.concat([part.last for part in parts], ignore_index=True), source)
    rows, left_out = (sum(getattr(part, name) for part in parts) for name in ("rows", "left_out"))
    # Rejects are counted by what is rejected: of merged rows all together.
    number = len(ours) if source.merge else rows - left_out
    return ours.reset_index(drop=True), TableFile(path.name, number, left_out)


def _part_of(path: Path, source: Source, table: RawTable) -> _Part:
    """Reads some rows of a file."""
    whole = table.frame
    names = whole.attrs.get("names", list(whole.columns.drop("row")))
    theirs, used = _renamed(path, whole, source)
    for column, value in source.keep.items():
        if column not in theirs:
            raise _missing(path, column, names)
        theirs = theirs[theirs[column] == value]
    left_out = table.rows - len(theirs) if source.keep else 0
    ours = _filled(path, source, theirs, names)
    kept: list[str] = []
    cut = 0
    if source.further or source.others:
        unnamed = [name for name in whole if name not in used and not _numbers_rows(name)]
        further, kept, cut = further_columns(theirs, whole.loc[theirs.index, unnamed], source)
        ours["further"] = column_of([pa.array(packed(further), TEXT)], TEXT, ours.index)
    last = theirs[[name for name in source.last if name in theirs]]
    return _Part(ours, last, names, used, kept, cut, table.rows, left_out)


def _filled(path: Path, source: Source, theirs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Fills our columns from theirs.

    Raises:
        TableError: the file, of the columns `names`, lacks one.
    """
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
        cleaned = _cleaned_values(column, values, source.values.get(column, {}))
        ours[column] = column_of([pa.array(cleaned, TEXT)], TEXT, ours.index)
    if source.one_of and not any(column in ours for column in source.one_of):
        raise _missing(path, " or ".join(source.one_of), names)
    return ours


def _their_names(source: Source) -> list[str]:
    """Lists the names of columns that the source reads, those of other exporters too."""
    return [each for name in _named(source) for each in (name, *source.other_names.get(name, ()))]


def _named(source: Source) -> list[str]:
    """Lists the names of columns that the source has for them, each once."""
    templates = [*source.columns.values(), *source.further.values()]
    named = [name for template in templates for name in fields_of(template)]
    return list(dict.fromkeys([*named, *source.keep, *source.last]))


def _renamed(path: Path, theirs: pd.DataFrame, source: Source) -> tuple[pd.DataFrame, set[str]]:
    """Gives the columns that the source reads the names that it has for them; returns theirs too.

    Raises:
        TableError: two columns have a name.
    """
    folded: dict[str, list[str]] = {}
    for name in theirs.columns.drop("row"):
        folded.setdefault(fold(name), []).append(name)
    names = {}
    for name in _named(source):
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


def _cleaned_values(column: str, values: Iterable[str], meanings: Mapping[str, str]) -> list[str]:
    """Cleans the values of one of our columns; `meanings` are ours for some of theirs."""
    ours = (meanings.get(value, meanings.get(value.lower(), value)) for value in values)
    return [_cleaned(column, value) for value in ours]


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
    further: dict[object, list[dict[str, str]]] = {}
    for record in ours.to_dict("records"):
        # Rows without an id are no one's.
        key = record[source.merge] or (record["row"],)
        first = found.setdefault(key, dict(record))
        first["row"] = min(first["row"], record["row"])
        first |= {name: first[name] or value for name, value in record.items()}
        pictures.setdefault(key, []).extend(picture_names(record.get("image", "")))
        further.setdefault(key, []).append(unpacked(record.get("further", "")))
    records = []
    for key, record in found.items():
        if "image" in record:
            record["image"] = picture_cell(pictures[key])
        if "further" in record:
            record["further"] = packed([merged(further[key], source.joined)])[0]
        records.append(record)
    frame = pd.DataFrame(records, columns=ours.columns).astype({"row": int})
    return frame.drop(columns="position", errors="ignore").sort_values("row", kind="stable")


def _missing(path: Path, column: str, names: Sequence[str]) -> MissingError:
    """Makes the error of a missing column; it names the nearest column that is there."""
    nearest = get_close_matches(column, names, n=1, cutoff=0.0)
    hint = f"; the nearest is '{nearest[0]}'" if nearest else ""
    got = ", ".join(name or "''" for name in names)
    return MissingError(f"{path}: expected a column '{column}', got {got}{hint}")


def _numbers_rows(name: str) -> bool:
    """Says whether a column only numbers the rows."""
    return name == "row" or NUMBERING.fullmatch(name) is not None


def _say_columns(path: Path, what: str, names: Sequence[str]) -> None:
    """Prints what becomes of columns that have no place among ours."""
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        shown = ", ".join(names[:MOST_NAMED])
        say(f"{path.name}: columns {what}: {shown}{more}")
