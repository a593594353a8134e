"""Draws splits by content: what shows the same is of one split, on every machine, in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from beyond_text.tables.layouts import TEXT_COLUMNS, TableError
from beyond_text.tables.pictures import PictureError, digest_of
from beyond_text.tables.text import normal_text


def check_shares(path: Path, dev_share: float, test_share: float) -> None:
    """Raises TableError unless both shares, and their sum, are from 0 to 1."""
    if not (0 <= dev_share <= 1 and 0 <= test_share <= 1 and dev_share + test_share <= 1):
        raise TableError(
            f"{path}: expected a dev_share and a test_share from 0 to 1, and no more than 1 "
            f"together, got {dev_share} and {test_share}"
        )


def components(*keys: Sequence[Hashable]) -> Int[np.ndarray, " rows"]:
    """Numbers the connected components of rows, where rows that have an equal key are connected.

    Args:
        keys: columns of keys, one for each row; "" and None connect nothing, and equal keys connect
            in different columns too.
    """
    rows = len(keys[0])
    number: dict[Hashable, int] = {}
    pairs = [
        (row, number.setdefault(key, len(number)))
        for column in keys
        for row, key in enumerate(column)
        if key not in ("", None)
    ]
    one, two = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    nodes = rows + len(number)
    graph = coo_array((np.ones(len(one), dtype=bool), (one, two + rows)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:rows]


def draw_splits(
    names: Sequence[str],
    group: Int[np.ndarray, " rows"],
    dev_share: float,
    test_share: float = 0.0,
) -> list[str]:
    """Returns "train", "dev" or "test" for each row; rows of one group are of one split.

    A group is drawn by the hash of the smallest of its names. Where there are enough groups, no
    split whose share is above 0 is empty.
    """
    smallest: dict[int, str] = {}
    for name, number in zip(names, group.tolist(), strict=True):
        smallest[number] = min(name, smallest.get(number, name))
    place = {number: _place(name) for number, name in smallest.items()}
    order = sorted(place, key=lambda number: (place[number], smallest[number]))
    shares = {"dev": dev_share, "test": test_share, "train": 1 - dev_share - test_share}
    dev = sum(value < dev_share for value in place.values())
    held_out = sum(value < dev_share + test_share for value in place.values())
    counts = {"dev": dev, "test": held_out - dev, "train": len(order) - held_out}
    for split, share in shares.items():
        largest = max(counts, key=lambda name: counts[name])
        if share > 1e-9 and not counts[split] and counts[largest] > 1:
            counts[split], counts[largest] = 1, counts[largest] - 1
    split_of = dict(
        zip(order, (name for name, count in counts.items() for _ in range(count)), strict=True)
    )
    return [split_of[number] for number in group.tolist()]


def product_splits(products: pd.DataFrame, dev_share: float, test_share: float) -> list[str]:
    """Draws splits for products: those of one group_id, picture or text are of one split."""
    if not dev_share and not test_share:
        return ["train"] * len(products)
    texts = [
        ("text", text) if (text := product_key(record)) else None
        for record in products[list(TEXT_COLUMNS)].to_dict("records")
    ]
    groups = [("group", identity) for identity in products["group_id"]]
    pictures = [_picture_key(path) for path in products["image"]]
    group = components(groups, texts, pictures)
    return draw_splits(list(products["group_id"]), group, dev_share, test_share)


def query_splits(
    queries: pd.DataFrame,
    qrels: pd.DataFrame,
    products: pd.DataFrame,
    dev_share: float,
    test_share: float,
) -> list[str]:
    """Draws splits for queries: those of one wording, picture, need or own design are of one split.

    Queries have an equal need where the same designs are relevant for them.
    """
    if not dev_share and not test_share:
        return ["train"] * len(queries)
    design = dict(zip(products["product_id"], products["group_id"], strict=True))
    wanted = qrels[qrels["relevance"] > 0]
    needs = {
        query_id: ("need", *sorted({design[identity] for identity in rows}))
        for query_id, rows in wanted.groupby("query_id")["product_id"]
    }
    texts = [normal_text(query) for query in queries["query"]]
    pictures = [_picture_key(path) for path in queries["image"]]
    own = [("design", design[each]) if each else None for each in queries["product_id"]]
    group = components(
        [("text", text) if text else None for text in texts],
        pictures,
        own,
        [needs.get(identity) for identity in queries["query_id"]],
    )
    # Named by content, so that a log that numbers its queries anew keeps its splits.
    names = [
        text or (picture[1] if picture else identity)
        for text, picture, identity in zip(texts, pictures, queries["query_id"], strict=True)
    ]
    return draw_splits(names, group, dev_share, test_share)


def product_key(record: dict) -> str:
    """Returns the normal form of a product's texts, which is "" where it has none."""
    return " / ".join(normal_text(record[name]) for name in TEXT_COLUMNS).strip(" /")


def seen_in_train(queries: pd.DataFrame) -> list[str]:
    """Returns "1" for each query of another split whose words or picture a train query has."""
    train = queries["split"] == "train"
    texts = queries["query"].map(normal_text)
    known = {name: set(column[train]) - {""} for name, column in
             (("text", texts), ("image", queries["image"]))}  # fmt: skip
    seen = ~train & (texts.isin(known["text"]) | queries["image"].isin(known["image"]))
    return ["1" if each else "" for each in seen]


def is_in_share(identity: str, share: float) -> bool:
    """Says whether the hash of a text falls into a share, 0 to 1, of all."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") < share * 2**64


def spread_over_splits(frame: pd.DataFrame, column: str, qrels: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each split that an id is judged in; ids that are not judged go to train."""
    membership = qrels[[column, "split"]].drop_duplicates()
    spread = frame.merge(membership, on=column, how="left")
    return spread.assign(split=spread["split"].fillna("train"))


def content_id(kind: str, text: str) -> str:
    """Makes an id of a text, so that it is the same in every file."""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _place(name: str) -> float:
    """Returns where a hash puts a name, from 0 to 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _picture_key(path: str) -> tuple[str, str] | None:
    """Returns a key of a picture's bytes; None where there are none to read."""
    if not path:
        return None
    try:
        return "picture", digest_of(Path(path))
    except PictureError:
        # It is reported where it is stored.
        return None
