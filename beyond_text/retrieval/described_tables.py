"""Describes the products of tables for an index; imports no torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from beyond_text.retrieval.described import Described, described, place_of_file
from beyond_text.retrieval.usable import usable_products
from beyond_text.tables.compact import as_array, unpacked
from beyond_text.tables.layouts import TEXT_COLUMNS
from beyond_text.tables.read import read_tables
from beyond_text.tables.text import product_text


def describe_tables(
    folder: Path,
    split: str | None,
    text_fields: Sequence[str],
    is_usable: Callable[[str], bool] | None = None,
) -> list[Described]:
    """Describes the products of a split, or each product of all, as `TableProducts` does.

    `is_usable` says of the path of a picture whether it was tried before, and could be used.

    Raises:
        TableError: no such folder or split, or no products in it.
        RejectError: too many rows or pictures cannot be used.
    """
    # Of all splits nobody asks which is whose, and to draw them takes the bytes of all pictures.
    tables = read_tables(folder, dev_share=0.1 if split else 0.0, compact=True)
    rows, tables = usable_products(tables, split, is_usable)
    root = tables.pictures.resolve()
    wanted = ("product_id", *TEXT_COLUMNS, "group_id", "image", "further")
    names = [name for name in wanted if name in rows]
    columns = [as_array(rows[name]).to_pylist() for name in names]
    found = []
    for values, paths in zip(zip(*columns, strict=True), rows["images"], strict=True):
        fields = dict(zip(names, values, strict=True))
        fields["further"] = unpacked(fields.get("further", ""))
        pictures = (path for path in (fields["image"], *paths[1:]) if path)
        places = tuple(place_of_file(path, root) for path in pictures)
        found.append(described(fields, product_text(fields, text_fields), places))
    return found
