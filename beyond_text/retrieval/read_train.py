"""Reads the train products and queries of shards or tables as something to search and measure.

Shards keep the judgments of train with its products alone, where a training reads them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor

from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.retrieval.read_split import read_products, read_split
from beyond_text.shards.manifest import FILE
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError

TRAIN = "train"


def read_train(
    folder: Path, text_fields: list[str], picture_size: int, stored_size: int = 256
) -> tuple[Catalogue, QuerySet]:
    """Returns the products of train, and the queries that are judged for them.

    The arguments are those of `read_split`.

    Raises:
        TableError, ShardError: there is no such split, or it has no queries.
        RejectError: too many rows or pictures cannot be used.
    """
    if not (folder / FILE).is_file():
        return read_split(folder, TRAIN, text_fields, picture_size, stored_size, "split")
    catalogue = read_products(folder, TRAIN, text_fields, picture_size)
    split = Split(folder, TRAIN, text_fields)
    queries: dict[str, dict[str, str]] = {}
    pictures: dict[str, int | None] = {}
    judgments = []
    for sample in range(len(split)):
        fields, _ = split.read(sample, None)
        for item in fields["queries"]:
            identity, product_id = item["query_id"], fields["product_id"]
            query = {"query_id": identity, "query": item["query"], "kind": item["kind"]}
            found = queries.setdefault(identity, {**query, "product_id": ""})
            pictures[identity] = item.get("picture")
            if item.get("own"):
                found["product_id"] = product_id
            else:
                judgments.append({"query_id": identity, "product_id": product_id, **item["grades"]})
    if not judgments:
        raise TableError(f"{folder}: split {TRAIN!r} has no judged queries")
    frame = pd.DataFrame(queries.values(), columns=COLUMNS)
    columns = ["query_id", "product_id", *split.highest]
    picture = partial(_picture, split, list(pictures.values()), picture_size)
    return catalogue, QuerySet(frame, pd.DataFrame(judgments, columns=columns), picture)


def _picture(
    split: Split, numbers: list[int | None], picture_size: int, query: int
) -> Tensor | None:
    number = numbers[query]
    return None if number is None else split.read_query_picture(number, picture_size)
