"""Draws splits by content: what shows the same is of one split, on every machine, in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from beyond_text.tables.compact import by_code, mapped, places
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


def components(*keys: Iterable[str]) -> Int[np.ndarray, " rows"]:
    """Numbers the connected components of rows, where rows that have an equal key are connected.

    Args:
        keys: columns of keys, one for each row; "" connects nothing, and equal keys connect in
            different columns too.
    """
    columns = [pd.Series(column, dtype=str) for column in keys]
    rows = len(columns[0])
    whole = pd.concat(columns, ignore_index=True)
    key = pd.factorize(whole)[0]
    connects = (whole != "").to_numpy(dtype=bool)
    one, two = np.tile(np.arange(rows), len(columns))[connects], key[connects] + rows
    nodes = rows + key.max(initial=-1) + 1
    graph = coo_array((np.ones(len(one), dtype=bool), (one, two)), shape=(nodes, nodes))
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
    texts = product_keys(products)
    pictures = mapped(products[["image"]], _picture_keys)
    group = components(
        _named("group ", products["group_id"].astype(str)),
        _named("text ", texts),
        _named("picture ", pictures),
    )
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
    texts, pictures = normal_texts(queries["query"]), mapped(queries[["image"]], _picture_keys)
    place = places(queries["product_id"], products["product_id"])
    own = products["group_id"].reset_index(drop=True).reindex(place).fillna("")
    group = components(
        _named("text ", texts),
        _named("picture ", pictures),
        _named("design ", own),
        _needs(queries, qrels, products),
    )
    # Named by content, so that a log that numbers its queries anew keeps its splits.
    names = [
        text or picture or identity
        for text, picture, identity in zip(texts, pictures, queries["query_id"], strict=True)
    ]
    return draw_splits(names, group, dev_share, test_share)


def _needs(queries: pd.DataFrame, qrels: pd.DataFrame, products: pd.DataFrame) -> list[str]:
    """Returns a digest of the designs that are relevant for each query; "" where none is."""
    wanted = qrels[qrels["relevance"] > 0]
    design = pd.factorize(products["group_id"])[0]
    found = []
    for name, table in (("query_id", queries), ("product_id", products)):
        ids = by_code(wanted[name])
        found.append(places(ids.cat.categories, table[name])[ids.cat.codes])
    # A number for each pair of a query and a design, so that a sort orders them by both.
    pairs = np.unique(found[0] * len(products) + design[found[1]])
    query, designs = np.divmod(pairs, max(len(products), 1))
    needs = [""] * len(queries)
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(query)]):
        digest = hashlib.blake2b(designs[start:end].tobytes(), digest_size=16)
        needs[query[start]] = f"need {digest.hexdigest()}"
    return needs


def _named(kind: str, keys: pd.Series) -> pd.Series:
    """Puts a kind before the keys that are not empty, so that they meet only those of the kind."""
    return (kind + keys).where(keys != "", "")


def product_key(record: dict) -> str:
    """Returns the normal form of a product's texts, which is "" where it has none."""
    return " / ".join(normal_text(record[name]) for name in TEXT_COLUMNS).strip(" /")


def product_keys(products: pd.DataFrame) -> pd.Series:
    """Returns `product_key` of each row."""
    texts = products[list(TEXT_COLUMNS)]
    return mapped(texts, lambda part: [product_key(each) for each in part.to_dict("records")])


def normal_texts(texts: pd.Series) -> pd.Series:
    """Returns the normal form of each text."""
    return mapped(texts.to_frame("text"), lambda part: [normal_text(each) for each in part["text"]])


def seen_in_train(queries: pd.DataFrame) -> list[str]:
    """Returns "1" for each query of another split whose words or picture a train query has."""
    train = queries["split"] == "train"
    texts = normal_texts(queries["query"])
    known = {name: set(column[train]) - {""} for name, column in
             (("text", texts), ("image", queries["image"]))}  # fmt: skip
    seen = ~train & (texts.isin(known["text"]) | queries["image"].isin(known["image"]))
    return ["1" if each else "" for each in seen]


def is_in_share(identity: str, share: float) -> bool:
    """Says whether the hash of a text falls into a share, 0 to 1, of all."""
    return content_key(identity) < share * 2**64


def spread_over_splits(frame: pd.DataFrame, column: str, qrels: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each split that an id is judged in; ids that are not judged go to train."""
    membership = qrels[[column, "split"]].drop_duplicates().astype(str)
    spread = frame.merge(membership, on=column, how="left")
    return spread.assign(split=spread["split"].fillna("train"))


def content_id(kind: str, text: str) -> str:
    """Makes an id of a text, so that it is the same in every file."""
    return f"{kind}-{content_key(text):016x}"


def content_key(text: str) -> int:
    """Returns the number of 64 bits in a text's `content_id`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _place(name: str) -> float:
    """Returns where a hash puts a name, from 0 to 1."""
    return content_key(name) / 2**64


def _picture_keys(frame: pd.DataFrame) -> list[str]:
    """Returns a digest of the bytes of each picture; "" where there are none to read."""
    keys = []
    for path in frame["image"]:
        key = ""
        # What cannot be read is reported where it is stored.
        with suppress(PictureError):
            key = digest_of(Path(path)) if path else ""
        keys.append(key)
    return keys
