"""Reads item-item pairs in the layout of M-BEER, the benchmark of UniECS (arXiv 2508.13843).

The file holds one JSON object a line; a line is used, or is in `rejects` with its number. Item 1 is
the trigger, item 2 the product recalled for it. Ours adds the optional field `split`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from beyond_text.files import MALFORMED
from beyond_text.tables.layouts import SPLIT_NAME, Reject, TableError, TableFile
from beyond_text.tables.splits import components

ITEM_FIELDS = (
    "item_id_1", "item_title_1", "item_image_1", "item_id_2", "item_title_2", "item_image_2",
)  # fmt: skip
OPTIONAL_FIELDS = ("tag", "split")
# The fields that may also be numbers.
NUMERIC: dict[str, tuple[type, ...]] = {
    "item_id_1": (int,), "item_id_2": (int,), "tag": (int, float),
}  # fmt: skip


class _LineError(ValueError):
    """A line is not a usable pair; the arguments are reason and detail."""


def trigger_id(product_id: str) -> str:
    """Makes the query_id of a product that asks for others."""
    return f"trigger/{product_id}"


def read_pairs(path: Path, rejects: list[Reject]) -> tuple[pd.DataFrame, TableFile]:
    """Reads a JSONL file of pairs; every column is stripped text.

    An id may also be a whole number, a tag any number, and null is the empty text. Of lines that
    disagree on an item's title or picture, or on the split of a design, the first one counts. A
    design is a connected component of items under pairs, named by the smallest of its ids.

    Args:
        path: the file.
        rejects: receives the lines that are not used.

    Returns:
        A row a pair: row (line number from 1), the six fields of items, tag, split ("" where no
        line of the design states one) and design; and the file's count of lines.

    Raises:
        TableError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise TableError(f"{path}: not readable: {error.strerror}") from error
    records: list[dict[str, str | int]] = []
    items: dict[str, tuple[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    total = 0
    for row, line in enumerate(lines, 1):
        if not line.strip():
            continue
        total += 1
        pair: dict[str, str] = {}
        try:
            pair = _parse(line)
            _check_new(pair, items, seen)
        except _LineError as error:
            identity = f"{pair['item_id_1']} {pair['item_id_2']}" if pair else ""
            rejects.append(Reject(path.name, row, identity, *error.args))
            continue
        records.append({"row": row, **pair})
    columns = ["row", *ITEM_FIELDS, *OPTIONAL_FIELDS]
    pairs = pd.DataFrame(records, columns=columns).astype({"row": int})
    pairs["design"] = designs_of(pairs)
    return _one_split_a_design(pairs, path.name, rejects), TableFile(path.name, total, 0)


def _parse(line: bytes) -> dict[str, str]:
    """Parses one line and checks its fields."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except MALFORMED as error:
        raise _LineError("malformed row", f"expected a JSON object in UTF-8: {error}") from error
    missing = [name for name in ITEM_FIELDS if name not in fields]
    if missing:
        detail = f"expected {', '.join(missing)}, got {', '.join(fields)}"[:500]
        raise _LineError("missing field", detail)
    pair = {name: _text(name, fields.get(name)) for name in (*ITEM_FIELDS, *OPTIONAL_FIELDS)}
    for name in ("item_id_1", "item_id_2"):
        if not pair[name]:
            raise _LineError("empty id", f"{name} is empty")
    if pair["item_id_1"] == pair["item_id_2"]:
        raise _LineError("pair of one item", f"item 1 and item 2 are {pair['item_id_1']!r}")
    if pair["split"] and not re.fullmatch(SPLIT_NAME, pair["split"]):
        raise _LineError("bad split", f"split {pair['split'][:200]!r}, expected {SPLIT_NAME}")
    return pair


def _text(name: str, value: object) -> str:
    """Returns the value of a field as stripped text."""
    if value is None:
        return ""
    if isinstance(value, NUMERIC.get(name, ())) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _LineError("field is no text", f"{name} is {str(value)[:200]}")
    return value.strip()


def _check_new(
    pair: dict[str, str], items: dict[str, tuple[str, str]], seen: set[tuple[str, str]]
) -> None:
    """Records the pair and its items; raises _LineError, and records neither, on a conflict."""
    ids = pair["item_id_1"], pair["item_id_2"]
    if ids in seen:
        raise _LineError("duplicate pair", "expected one line for the pair")
    contents = {
        identity: (pair[f"item_title_{side}"], pair[f"item_image_{side}"])
        for side, identity in enumerate(ids, 1)
    }
    for identity, content in contents.items():
        if items.get(identity, content) != content:
            detail = f"title and picture {content}, expected {items[identity]} as before"
            raise _LineError("conflicting item", f"item {identity!r}: {detail}")
    items |= contents
    seen.add(ids)


def pair_tables(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Returns products, queries and judgments of pairs, without splits; group_id is the design.

    Each distinct item is a product. Each item 1 is also a query of the same text and picture, which
    is that product (`product_id`) and for which its item 2s have relevance 1; its kind is the
    pair's tag, or "pair".
    """
    triggers, recalled = (
        pd.DataFrame(
            {
                "row": pairs["row"],
                "product_id": pairs[f"item_id_{side}"],
                "title": pairs[f"item_title_{side}"],
                "image": pairs[f"item_image_{side}"],
                "group_id": pairs["design"],
            }
        )
        for side in (1, 2)
    )
    products = pd.concat([triggers, recalled]).sort_values("row", kind="stable")
    products = products.drop_duplicates("product_id").reset_index(drop=True)
    query_id = triggers["product_id"].map(trigger_id)
    kind = pairs["tag"].mask(pairs["tag"] == "", "pair")
    queries = triggers.rename(columns={"title": "query"}).assign(query_id=query_id, kind=kind)
    queries = queries.drop_duplicates("query_id").reset_index(drop=True)
    judged = recalled[["row", "product_id", "group_id"]]
    return products, queries, judged.assign(query_id=query_id, relevance=1.0)


def designs_of(pairs: pd.DataFrame) -> list[str]:
    """Names each pair's design: the smallest id of its connected component."""
    if pairs.empty:
        return []
    component = components(pairs["item_id_1"].tolist(), pairs["item_id_2"].tolist())
    ids = pairs[["item_id_1", "item_id_2"]].min(axis=1)
    return ids.groupby(component).transform("min").tolist()


def _one_split_a_design(pairs: pd.DataFrame, file: str, rejects: list[Reject]) -> pd.DataFrame:
    """Gives a design the split of its first line that states one; rejects lines of another."""
    stated = pairs[pairs["split"] != ""].drop_duplicates("design").set_index("design")["split"]
    split = pairs["design"].map(stated).fillna("").astype(str)
    crosses = (pairs["split"] != "") & (pairs["split"] != split)
    for pair in pairs[crosses].to_dict("records"):
        detail = f"split {pair['split']!r}, expected that of its design {pair['design']!r}"
        identity = f"{pair['item_id_1']} {pair['item_id_2']}"
        rejects.append(Reject(file, int(pair["row"]), identity, "crosses splits", detail))
    return pairs.assign(split=split)[~crosses].reset_index(drop=True)
