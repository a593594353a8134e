"""Gives products what a shop sells them by (brand, numbers, price, stock), and queries for these.

None of it is part of a product's title or description, save the brand. It is drawn apart from
products and queries, which are the same with it and without. Queries that look something up are of
two kinds, and their judgments follow from what they name:

- `sku`: the number of an article (its variants, which share the model number, are of grade 1), a
  model number, or a product_id; as they stand, in small letters, or with blanks for the joints.
- `brand`: a brand's name alone, or with one of its series, whose products are then of grade 2, and
  the brand's others of grade 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.catalogue.products import Product
from data_prep.catalogue.vocabulary import BRANDS

COLUMNS = ("brand", "sku", "mpn", "price", "in_stock")
SPLITS = ("dev", "train", "test")
NUMBERS_PER_PRODUCT = 0.25
SHARE_IN_STOCK = 0.85
LEAST_PRICE, HIGHEST_PRICE = 4.0, 250.0
BRAND_WORDINGS = ("{brand}", "{brand} products", "everything by {brand}")
SERIES_WORDINGS = (
    "{brand} {series}", "{series} by {brand}", "{brand} {series} series", "{series} {brand}",
)  # fmt: skip


class Article(NamedTuple):
    """What a shop sells a product by; the fields are those of COLUMNS."""

    brand: str
    sku: str
    mpn: str
    price: str
    in_stock: str


class Lookup(NamedTuple):
    """A query with the grade of each product that answers it, by product_id."""

    query_id: str
    query: str
    split: str
    kind: str
    grades: dict[str, int]


def make_articles(products: Sequence[Product], seed: int) -> list[Article]:
    """Makes the article of each product; a design has one model number and one price."""
    rng = np.random.default_rng([seed, 0xA271])
    designs = {product.design.group_id: product.design for product in products}
    numbers = rng.choice(np.arange(1000, 100_000), len(designs), replace=False).tolist()
    prices = np.exp(rng.uniform(np.log(LEAST_PRICE), np.log(HIGHEST_PRICE), len(designs)))
    of_design = {
        name: (f"{design.brand[0]}{design.series[0]}{number}", f"{int(price)}.99")
        for (name, design), number, price in zip(designs.items(), numbers, prices, strict=True)
    }
    variants: dict[str, int] = dict.fromkeys(designs, 0)
    articles = []
    for product, stock in zip(products, rng.random(len(products)), strict=True):
        name = product.design.group_id
        variants[name] += 1
        mpn, price = of_design[name]
        sku = f"{mpn}-{variants[name]:02d}"
        in_stock = "true" if stock < SHARE_IN_STOCK else "false"
        articles.append(Article(product.design.brand, sku, mpn, price, in_stock))
    return articles


def make_lookups(
    products: Sequence[Product], articles: Sequence[Article], seed: int
) -> list[Lookup]:
    """Makes queries of kinds `sku` and `brand` for every split; no two read the same."""
    rng = np.random.default_rng([seed, 0x100C])
    found: dict[str, tuple[str, str, dict[str, int]]] = {}
    for split in SPLITS:
        shelf = [
            (product, article)
            for product, article in zip(products, articles, strict=True)
            if product.design.split == split
        ]
        wanted = rng.permutation(len(shelf))[: round(NUMBERS_PER_PRODUCT * len(shelf))]
        for place in wanted.tolist():
            query, grades = _number(rng, place, shelf)
            found.setdefault(query, (split, "sku", grades))
    for query, brand, series, split in _names(rng):
        grades = {
            product.product_id: 2 if series in ("", product.design.series) else 1
            for product in products
            if product.design.split == split and product.design.brand == brand
        }
        if 2 in grades.values():
            found.setdefault(query, (split, "brand", grades))
    return [
        Lookup(f"l-{number:05d}", query, *rest)
        for number, (query, rest) in enumerate(found.items())
    ]


def _number(
    rng: np.random.Generator, place: int, shelf: Sequence[tuple[Product, Article]]
) -> tuple[str, dict[str, int]]:
    """Words a query for a number of one product of a shelf; returns the grades of the products."""
    product, article = shelf[place]
    variants = [other for other, its in shelf if its.mpn == article.mpn]
    asked = ("sku", "mpn", "product_id")[rng.integers(3)]
    if asked == "product_id":
        number, grades = product.product_id, {product.product_id: 2}
    elif asked == "mpn":
        number, grades = article.mpn, {other.product_id: 2 for other in variants}
    else:
        number = article.sku
        grades = {other.product_id: 1 for other in variants} | {product.product_id: 2}
    parted = number.replace("-", " ") if "-" in number else f"{number[:2]} {number[2:]}"
    word = "model" if asked == "mpn" else "article"
    typed = (number, number.lower(), parted, f"{word} {number}")
    return typed[rng.integers(len(typed))], grades


def _names(rng: np.random.Generator) -> list[tuple[str, str, str, str]]:
    """Words the queries for brands and series: query, brand, series or "", and split."""
    names = [
        (wording.format(brand=brand, series=series), brand, series)
        for brand, all_series in BRANDS.items()
        for series, wordings in (("", BRAND_WORDINGS), *((s, SERIES_WORDINGS) for s in all_series))
        for wording in wordings
    ]
    rows = []
    for turn, place in enumerate(rng.permutation(len(names)).tolist()):
        query, brand, series = names[place]
        typed = query.lower() if rng.random() < 0.5 else query
        rows.append((typed, brand, series, SPLITS[turn % len(SPLITS)]))
    return rows
