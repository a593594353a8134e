"""Tests that numbers and brands can be looked up in the built-in catalogue, by rule alone."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from beyond_text.tables.read import read_tables
from data_prep.catalogue import build_catalogue, make_articles, make_lookups, make_products
from data_prep.catalogue.lookups import Article, Lookup
from data_prep.catalogue.products import Product
from data_prep.catalogue.queries import make_queries
from data_prep.catalogue.vocabulary import BRANDS, COLOURS, PATTERNS

Shop = tuple[list[Product], list[Article], list[Lookup]]


@pytest.fixture(scope="module")
def shop() -> Shop:
    products = make_products(2400, seed=0)
    articles = make_articles(products, seed=0)
    return products, articles, make_lookups(products, articles, seed=0)


def test_a_number_is_of_one_product_a_model_number_of_one_design(shop: Shop) -> None:
    products, articles, _ = shop
    assert len({article.sku for article in articles}) == len(products)
    designs = {(p.design.group_id, a.mpn, a.price) for p, a in zip(products, articles, strict=True)}
    assert len(designs) == len({p.design.group_id for p in products})
    for product, article in zip(products, articles, strict=True):
        assert re.fullmatch(r"[A-Z]{2}[0-9]{4,5}-[0-9]{2}", article.sku)
        assert article.sku.startswith(f"{article.mpn}-")
        assert article.brand == product.design.brand
        assert 4 <= float(article.price) < 251
    assert 0.8 < sum(a.in_stock == "true" for a in articles) / len(articles) < 0.9


def test_no_number_stands_in_a_text_and_no_column_tells_the_look(shop: Shop) -> None:
    looks = {word for names in (COLOURS, PATTERNS) for word in names}
    for product, article in zip(*shop[:2], strict=True):
        text = f"{product.design.title} {product.design.description}"
        assert article.mpn not in text
        assert not looks & set(" ".join(article).lower().split())


def test_queries_are_of_both_kinds_in_every_split_and_read_like_no_other(shop: Shop) -> None:
    products, _, lookups = shop
    counts = Counter((query.split, query.kind) for query in lookups)
    assert {split for split, _ in counts} == {"dev", "train", "test"}
    assert min(counts.values()) >= 50
    others = [query.query for query in make_queries(products, seed=0)]
    texts = [query.query for query in lookups] + others
    assert len(set(texts)) == len(texts)
    assert len({query.query_id for query in lookups}) == len(lookups)


def letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def test_judgments_are_those_of_the_rule(shop: Shop) -> None:
    products, articles, lookups = shop
    for query in lookups:
        shelf = [
            (product, article)
            for product, article in zip(products, articles, strict=True)
            if product.design.split == query.split
        ]
        asked = letters(query.query)
        expected = {}
        for product, article in shelf:
            design = product.design
            if query.kind == "brand":
                if letters(design.brand) in asked:
                    series = [s for s in BRANDS[design.brand] if letters(s) in asked]
                    exact = not series or design.series in series
                    expected[product.product_id] = 2 if exact else 1
            elif asked.removeprefix("article").removeprefix("model") in (
                letters(article.sku), letters(article.mpn), letters(product.product_id)
            ):  # fmt: skip
                expected[product.product_id] = 2
            elif asked.removeprefix("article")[:-2] == letters(article.mpn):
                expected[product.product_id] = 1
        assert query.grades == expected, query
        assert 2 in query.grades.values()


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_lookups_are_added_and_nothing_else_changes(tmp_path: Path) -> None:
    for name, lookups in (("without", False), ("with", True)):
        build_catalogue(tmp_path / name, 80, size=16, workers=1, lookups=lookups)
    files = {
        name: {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("without", "with")
    }
    changed = {path.name for path, data in files["with"].items() if files["without"][path] != data}
    assert changed == {"queries.csv", "qrels.csv", "catalogue.json"}
    for name in ("queries.csv", "qrels.csv"):
        before = rows(tmp_path / "without" / name)
        assert rows(tmp_path / "with" / name)[: len(before)] == before
    tables = read_tables(tmp_path / "with")
    assert tables.rejects == []
    assert set(tables.queries["kind"]) == {"attribute", "phrase", "sku", "brand"}
    assert set(tables.products["further"][0]) == {"brand", "sku", "mpn", "price", "in_stock"}
