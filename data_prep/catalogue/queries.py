"""Makes shopper-like queries and their graded judgments, which are known by construction.

A query asks for a kind, for at least one of colour and pattern, and often for a brand, a material
or a feature. It is worded from what one product, its seed, has: that product has a picture and a
text that names every text attribute asked for, so an answer can always be found. Every product
of the query's split is then judged by its true attributes, products without a picture or
description included: the shop knows what they are. The grade of a product is

* 2 if every attribute asked for agrees;
* 1 if kind, brand, material and feature asked for agree, and so do colour and pattern but for one
  of the two, whose value is a neighbour (`NEIGHBOUR_COLOURS`, `NEIGHBOUR_PATTERNS`) of the one
  asked for. If only one of the two is asked for, a neighbour of it is enough;
* 0 otherwise.

Queries of kind `attribute` are terse; those of kind `phrase` are whole phrases with synonyms.
They come from templates; no person wrote them. No two queries, of whatever split, read the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_prep.catalogue.products import Product
from data_prep.catalogue.vocabulary import (
    COLOURS,
    FEATURES,
    KINDS,
    NEIGHBOUR_COLOURS,
    NEIGHBOUR_PATTERNS,
    PATTERNS,
)

QUERIES_PER_PRODUCT = {"dev": 1.25, "train": 1.56, "test": 1.25}
_PICTURE_MIX = (("colour", "pattern"), ("colour",), ("pattern",))
_PICTURE_SHARES = (0.6, 0.25, 0.15)
_TEXT_MIX = ((), ("brand",), ("feature",), ("material",), ("brand", "feature"))
_TEXT_SHARES = (0.22, 0.28, 0.25, 0.15, 0.10)


class Asked(NamedTuple):
    """The attributes that a query asks for; None where it accepts any."""

    kind: str
    colour: str | None = None
    pattern: str | None = None
    brand: str | None = None
    material: str | None = None
    feature: str | None = None


class Query(NamedTuple):
    """One query with what it asks for; `kind` is the query's style, not the product's kind."""

    query_id: str
    query: str
    split: str
    kind: str
    asked: Asked


def grade(asked: Asked, product: Product) -> int:
    """Grades a product 2, 1 or 0, as the module's docstring defines it."""
    design = product.design
    if (
        asked.kind != design.kind
        or asked.brand not in (None, design.brand)
        or asked.material not in (None, design.material)
        or (asked.feature is not None and asked.feature not in design.features)
    ):
        return 0
    colour_agrees = asked.colour in (None, product.colour)
    pattern_agrees = asked.pattern in (None, product.pattern)
    if colour_agrees and pattern_agrees:
        return 2
    if pattern_agrees:
        return int(frozenset((asked.colour, product.colour)) in NEIGHBOUR_COLOURS)
    if colour_agrees:
        return int(frozenset((asked.pattern, product.pattern)) in NEIGHBOUR_PATTERNS)
    return 0


def make_queries(products: list[Product], seed: int) -> list[Query]:
    """Makes distinct queries, about 1.56 a train and 1.25 another product, half of either kind."""
    rng = np.random.default_rng([seed, 0x0E41])
    queries: list[Query] = []
    texts: set[str] = set()
    for split, rate in QUERIES_PER_PRODUCT.items():
        answers = [p for p in products if p.design.split == split]
        seeds = [p for p in answers if p.has_image]
        wanted = round(rate * len(answers)) if seeds else 0
        # A tiny catalogue may run out of wordings, so the number of attempts is bounded.
        for attempt in range(4 * wanted):
            if not wanted:
                break
            product = seeds[attempt % len(seeds)]
            kind = ("attribute", "phrase")[int(rng.random() < 0.5)]
            asked = _ask(rng, product)
            text = (_terse if kind == "attribute" else _phrase)(rng, asked)
            if text not in texts:
                texts.add(text)
                queries.append(Query(f"q-{len(queries):05d}", text, split, kind, asked))
                wanted -= 1
    return queries


def judge(queries: list[Query], products: list[Product]) -> list[tuple[str, str, int]]:
    """Lists (query_id, product_id, grade) of every pair within a split whose grade is not 0."""
    shelves: dict[tuple[str, str], list[Product]] = {}
    for product in products:
        shelves.setdefault((product.design.split, product.design.kind), []).append(product)
    return [
        (query.query_id, product.product_id, relevance)
        for query in queries
        for product in shelves[query.split, query.asked.kind]
        if (relevance := grade(query.asked, product))
    ]


def _ask(rng: np.random.Generator, product: Product) -> Asked:
    """Draws what a query that the product answers asks for."""
    design = product.design
    text = f"{design.title} {design.description}"
    picture = _PICTURE_MIX[rng.choice(len(_PICTURE_MIX), p=_PICTURE_SHARES)]
    further = _TEXT_MIX[rng.choice(len(_TEXT_MIX), p=_TEXT_SHARES)]
    return Asked(
        kind=design.kind,
        colour=product.colour if "colour" in picture else None,
        pattern=product.pattern if "pattern" in picture else None,
        brand=design.brand if "brand" in further else None,
        material=design.material if "material" in further and design.material in text else None,
        feature=_any(rng, design.features) if "feature" in further and design.description else None,
    )


def _any(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """Draws one of the words."""
    return words[int(rng.integers(len(words)))]


def _terse(rng: np.random.Generator, asked: Asked) -> str:
    """Words a query of kind `attribute`."""
    kind = KINDS[asked.kind]
    looks = [
        _any(rng, COLOURS[asked.colour].names[:2]) if asked.colour else "",
        _any(rng, PATTERNS[asked.pattern].adjectives) if asked.pattern else "",
    ]
    feature = _any(rng, FEATURES[asked.feature].terse) if asked.feature else ""
    noun = [feature, asked.material or "", _any(rng, kind.nouns + kind.query_nouns)]
    brand = (asked.brand or "").lower()
    order = [
        [*looks, *noun, brand],
        [brand, *looks, *noun],
        [brand, *noun, *looks],
    ][rng.integers(3)]
    return " ".join(word for word in order if word)


def _phrase(rng: np.random.Generator, asked: Asked) -> str:
    """Words a query of kind `phrase`."""
    kind = KINDS[asked.kind]
    colour = _any(rng, COLOURS[asked.colour].names) if asked.colour else ""
    adjective = after = ""
    if asked.pattern and rng.random() < 0.4:
        adjective = _any(rng, PATTERNS[asked.pattern].adjectives)
    elif asked.pattern:
        after = _any(rng, PATTERNS[asked.pattern].phrases)
    tail = [after]
    if asked.feature:
        tail.append(_any(rng, FEATURES[asked.feature].phrases))
    if asked.brand:
        tail.append(_any(rng, ("by ", "from ", "made by ")) + asked.brand)
    if rng.random() < 0.3:
        looks = " and ".join(word for word in (colour, adjective) if word)
        material = f"made of {asked.material}" if asked.material else ""
        start = _any(rng, ("", "I want ", "looking for "))
        words = ["something", looks, after, material, kind.purpose, *tail[1:]]
    else:
        start = _any(rng, ("", "I am looking for ", "do you have ", "I would like ", "we need "))
        noun = _any(rng, kind.nouns + kind.query_nouns)
        words = [word for word in (colour, adjective, asked.material, noun) if word]
        if kind.countable:
            words.insert(0, "an" if words[0][0] in "aeiou" else "a")
        words += tail
    return start + " ".join(word for word in words if word)
