"""What is measured: queries with their judgments, and the pictures of the queries that have one."""

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

# The columns of `QuerySet.queries`.
COLUMNS = ["query_id", "query", "kind", "product_id"]


def no_picture(number: int) -> Tensor | None:
    """Returns None: the picture of every query in a set of texts."""
    return None


class QuerySet(NamedTuple):
    """Queries and their judgments.

    Attributes:
        queries: query_id, query ("" where there is only a picture), kind, and product_id (the
            product that the query itself is, or "").
        qrels: query_id, product_id and the grade columns.
        query_image: gives the picture of the number-th query, or None.
    """

    queries: pd.DataFrame
    qrels: pd.DataFrame
    query_image: Callable[[int], Tensor | None] = no_picture


def _product_picture(
    products: Dataset[Sample], places: Sequence[int], number: int
) -> Tensor | None:
    return products[places[number]].image


def with_triggers(catalogue: Catalogue, pairs: Path) -> QuerySet:
    """Reads a JSONL of pairs as queries: each item 1 asks for its item 2s, which have grade 1.

    Both items must be products of the catalogue. A query's text is the title that the pairs give,
    as in training; its picture is the catalogue's. Prints how many pairs are used, and how many
    are left out because the catalogue lacks an item or because their line cannot be used.

    Raises:
        TableError: no pair is left.
    """
    rejects: list[Reject] = []
    found, file = read_pairs(Path(pairs), rejects)
    place = {product_id: number for number, product_id in enumerate(catalogue.product_ids)}
    known = found[["item_id_1", "item_id_2"]].isin(catalogue.product_ids).all(axis=1)
    reasons = Counter(reject.reason for reject in rejects)
    reasons["of products that the catalogue lacks"] = int((~known).sum())
    lost = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    counts = f"{pairs}: {known.sum()} of {file.rows} pairs used, left out: {lost or 'none'}"
    if not known.any():
        raise TableError(f"{counts}; expected pairs of the {len(place)} products of the catalogue")
    print(counts)
    found = found[known]
    first = found.drop_duplicates("item_id_1")
    places = [place[product_id] for product_id in first["item_id_1"]]
    triggers = pd.DataFrame(
        {
            "query_id": first["item_id_1"].map(trigger_id),
            "query": first["item_title_1"],
            "kind": first["tag"].mask(first["tag"] == "", "pair"),
            "product_id": first["item_id_1"],
        }
    )
    qrels = pd.DataFrame(
        {
            "query_id": found["item_id_1"].map(trigger_id),
            "product_id": found["item_id_2"],
            "relevance": 1.0,
        }
    )
    return QuerySet(
        triggers.reset_index(drop=True),
        qrels.reset_index(drop=True),
        partial(_product_picture, catalogue.products, places),
    )
