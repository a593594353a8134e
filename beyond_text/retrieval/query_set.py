"""The query set that is measured: queries, their judgments and their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.shards.batch import Sample
from beyond_text.tables.layouts import Reject, TableError
from beyond_text.tables.pairs import read_pairs, trigger_id
from beyond_text.terminal import plain

# The columns of `QuerySet.queries`.
COLUMNS = ["query_id", "query", "kind", "product_id"]


def no_picture(number: int) -> Tensor | None:
    """Returns None, the picture of every query where queries are texts."""
    return None


class QuerySet(NamedTuple):
    """Queries and their judgments.

    Attributes:
        queries: query_id, query ("" where there is only a picture), kind, and product_id (where
            the query is itself a product, else ""); and, where the split says so, `seen`: "1" for
            one that has the words or the picture of a train query.
        qrels: query_id, product_id and the grade columns.
        query_image: returns the picture of the number-th query, or None.
    """

    queries: pd.DataFrame
    qrels: pd.DataFrame
    query_image: Callable[[int], Tensor | None] = no_picture


def with_triggers(catalogue: Catalogue, pairs: Path) -> QuerySet:
    """Reads a JSONL of pairs as queries: each item 1 is a query for its item 2s, of grade 1.

    Both items must be products of the catalogue. A query's text is the title in the pairs, as in
    training; its picture is the one in the catalogue. Prints how many pairs are used, and how many
    are left out because the catalogue lacks an item or because their line cannot be used.

    Raises:
        TableError: no pair is left.
    """
    rejects: list[Reject] = []
    frame, file = read_pairs(Path(pairs), rejects)
    position = catalogue.positions
    known = frame[["item_id_1", "item_id_2"]].isin(catalogue.product_ids).all(axis=1)
    reasons = Counter(reject.reason for reject in rejects)
    reasons["of products that the catalogue lacks"] = int((~known).sum())
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    counts = f"{pairs}: {known.sum()} of {file.rows} pairs used, left out: {left_out or 'none'}"
    if not known.any():
        raise TableError(
            f"{counts}; expected pairs of the {len(position)} products of the catalogue"
        )
    print(plain(counts))
    frame = frame[known]
    first = frame.drop_duplicates("item_id_1")
    positions = [position[product_id] for product_id in first["item_id_1"]]
    queries = pd.DataFrame(
        {
            "query_id": first["item_id_1"].map(trigger_id),
            "query": first["item_title_1"],
            "kind": first["tag"].mask(first["tag"] == "", "pair"),
            "product_id": first["item_id_1"],
        }
    )
    qrels = pd.DataFrame(
        {
            "query_id": frame["item_id_1"].map(trigger_id),
            "product_id": frame["item_id_2"],
            "relevance": 1.0,
        }
    )
    return QuerySet(
        queries.reset_index(drop=True),
        qrels.reset_index(drop=True),
        partial(_product_picture, catalogue.products, positions),
    )


def _product_picture(
    products: Dataset[Sample], positions: Sequence[int], number: int
) -> Tensor | None:
    return products[positions[number]].image
