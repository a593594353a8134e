"""Writes queries and judgments of every split, and counts them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from beyond_text.tables.layouts import Reject
from beyond_text.tables.splits import content_id
from data_prep.asking.compose import Query, compose, smallest
from data_prep.asking.grade import Products
from data_prep.asking.mapped import Mapped
from data_prep.asking.schema import Rules
from data_prep.asking.shop import Shop

KIND = "attribute"
UNMAPPED = "unmapped.csv"
REJECTS = "rejects.csv"
# Of a query of train and a grade; a popular query has tens of thousands in a large shop.
MOST_JUDGMENTS = 1000


class Draw(NamedTuple):
    """How many queries and judgments are made.

    Attributes:
        per_product: how often a query is drawn for a product; equal ones are one.
        queries: most queries of a split, drawn by their words; None for all.
        judgments: most judgments of a query of train for each grade above 0, drawn by content; the
            other splits have all, because there a missing one would be measured as wrong. Where a
            type has more products in a split, one that agrees in the type alone has grade 0.
        negatives: judgments of grade 0 of a query of train, whose required fields agree.
        fine_kinds: the kind of a query names the fields it asks for.
        seed: of the draws.
    """

    per_product: int = 4
    queries: int | None = None
    judgments: int = MOST_JUDGMENTS
    negatives: int = 0
    fine_kinds: bool = False
    seed: int = 0

    def check(self, least_per_product: int) -> None:
        """Raises ValueError where a number is out of range."""
        least = {"per_product": least_per_product, "queries": 1, "judgments": 1, "negatives": 0}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: expected a number from {number} on, got {value}")


class _Asked(NamedTuple):
    """A query as it is written; `is_mapped` says that people have written it."""

    identity: str
    text: str
    kind: str
    query: Query
    is_mapped: bool


def write_queries(
    shop: Shop, rules: Rules, draw: Draw, mapped: Sequence[Mapped], folder: Path
) -> dict[str, Any]:
    """Writes queries.csv, qrels.csv and, of people's queries without fields, unmapped.csv.

    Returns:
        Counts of each split.
    """
    product_ids = shop.tables.products["product_id"].tolist()
    splits = shop.tables.products["split"].to_numpy()
    made = {}
    with (
        (folder / "queries.csv").open("w", newline="", encoding="utf-8") as queries_file,
        (folder / "qrels.csv").open("w", newline="", encoding="utf-8") as qrels_file,
    ):
        queries_out, qrels_out = csv.writer(queries_file), csv.writer(qrels_file)
        queries_out.writerow(["query_id", "query", "split", "kind", "asked"])
        qrels_out.writerow(["query_id", "product_id", "relevance"])
        for split in sorted(set(splits.tolist())):
            rows = np.flatnonzero(splits == split).tolist()
            products = Products(
                rules, shop.fields, rows, product_ids, shop.details, common=draw.judgments
            )
            most, negatives = draw.judgments, draw.negatives
            if split != "train":
                most, negatives = len(product_ids), 0
            counts = _Counts(len(rows))
            own = [each for each in mapped if each.split == split]
            asked_here, unasked = _asked(shop, rules, draw, own, rows, split)
            for each in tqdm(asked_here, desc=f"judging {split}", leave=False, disable=None):
                judged = list(products.judgments(each.query, each.identity, most, negatives))
                asked = " ".join(each.query.fields)
                queries_out.writerow([each.identity, each.text, split, each.kind, asked])
                qrels_out.writerows((each.identity, one, f"{grade:g}") for one, grade in judged)
                counts.add(each, [grade for _, grade in judged], most)
            made[split] = counts.summary() | {"products_without_a_query": unasked}
    _write_unmapped(mapped, folder)
    return made


def _asked(
    shop: Shop, rules: Rules, draw: Draw, mapped: Sequence[Mapped], rows: Sequence[int], split: str
) -> tuple[list[_Asked], int]:
    """Returns the queries of a split: those composed, then those of people.

    Also returns of how many products none is composed.
    """
    product_ids = shop.tables.products["product_id"]
    queries, unasked = compose(
        rules, shop.fields, rows, product_ids, draw.per_product, draw.seed, shop.details
    )
    if draw.queries is not None:
        queries = smallest(queries, draw.queries)
    found = []
    for text, query in sorted(queries.items()):
        kind = "-".join([KIND, *query.fields]) if draw.fine_kinds else KIND
        identity = content_id("asked", f"{split} {text}")
        found.append(_Asked(identity, query.text, kind, query, False))
    found += [
        _Asked(each.identity, each.text, each.kind, each.query, True)
        for each in mapped
        if each.query is not None
    ]
    return found, unasked if draw.per_product else 0


def _write_unmapped(mapped: Sequence[Mapped], folder: Path) -> None:
    """Lists people's queries in which no field was found, where there are any."""
    if left := [each for each in mapped if each.query is None]:
        with (folder / UNMAPPED).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "query_id", "query"])
            writer.writerows((each.row, each.identity, each.text) for each in left)


def write_rejects(rejects: Sequence[Reject], folder: Path) -> dict[str, int]:
    """Lists the rows that are not used, where there are any; returns how many of each reason.

    A file that is read for products and for fields rejects a row twice, and it counts once.
    """
    rejects = list(dict.fromkeys(rejects))
    if rejects:
        with (folder / REJECTS).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([Reject._fields, *rejects])
    return dict(Counter(f"{each.file}: {each.reason}" for each in rejects).most_common())


class _Counts:
    """Counts what is made of a split."""

    def __init__(self, products: int) -> None:
        self.products = products
        self.asked: Counter[str] = Counter()
        self.mapped: Counter[str] = Counter()
        self.grades: Counter[float] = Counter()
        self.at_limit = 0

    def add(self, asked: _Asked, grades: list[float], most: int) -> None:
        """Counts a query and the grades of its judgments."""
        number = Counter(grades)
        (self.mapped if asked.is_mapped else self.asked)[" ".join(asked.query.fields)] += 1
        self.grades += number
        self.at_limit += any(count >= most for grade, count in number.items() if grade > 0)

    def summary(self) -> dict[str, Any]:
        """Returns the counts; `at_limit` are queries of which a grade has the most judgments."""
        return {
            "products": self.products,
            "queries": self.asked.total() + self.mapped.total(),
            "asked": dict(sorted(self.asked.items())),
            "mapped": dict(sorted(self.mapped.items())),
            "judgments": {f"{grade:g}": self.grades[grade] for grade in sorted(self.grades)},
            "at_limit": self.at_limit,
        }
