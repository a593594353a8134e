"""Composes queries of the fields of products: what is asked, in which words, and how written."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_text.tables.text import normal_text
from data_prep.asking.rules import PLACE, Ask, Rules
from data_prep.asking.values import Field, key_of, singular


class Query(NamedTuple):
    """A query: its text, and the word by which it asks for each field, in the order of names."""

    text: str
    asked: tuple[tuple[str, str], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are asked."""
        return tuple(name for name, _ in self.asked)


def compose(
    rules: Rules,
    fields: Mapping[str, Field],
    rows: Sequence[int],
    product_ids: Sequence[str] | pd.Series,
    per_product: int,
    seed: int,
) -> dict[str, Query]:
    """Draws queries of each product; those of one wording are one, by their normal form.

    A draw depends on the product's id, its fields, the rules and the seed alone.

    Args:
        rules: say what is asked and how.
        fields: of all products, by name.
        rows: numbers of the products to compose queries of.
        product_ids: of all products.
        per_product: how often is drawn for each product.
        seed: of the draws.
    """
    asks = rules.asks_of(fields)
    codes = np.stack([field.codes for field in fields.values()], axis=1)
    ids = list(product_ids)
    found: dict[str, Query] = {}
    possible: dict[tuple[int, ...], list[Ask]] = {}
    for row in rows:
        values = tuple(codes[row].tolist())
        if values not in possible:
            possible[values] = list(_possible(asks, fields, values))
        if not possible[values]:
            continue
        code = dict(zip(fields, values, strict=True))
        draw = random.Random(number_of(f"{seed} {ids[row]}"))
        for _ in range(per_product):
            query = _drawn(draw, rules, possible[values], fields, code)
            if query is None:
                continue
            key = normal_text(query.text)
            # Which product comes first must not decide what an ambiguous wording means.
            found[key] = min(query, found.get(key, query), key=lambda each: (each.asked, each.text))
    return found


def number_of(text: str) -> int:
    """Returns a number from 0 to below 2^64 that is drawn by a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def smallest(queries: Mapping[str, Query], number: int) -> dict[str, Query]:
    """Returns so many queries, drawn by their words alone, so that a smaller draw is nested."""
    names = sorted(queries, key=lambda key: (number_of(key), key))[:number]
    return {name: queries[name] for name in names}


def _possible(
    asks: Sequence[Ask], fields: Mapping[str, Field], values: Sequence[int]
) -> Iterator[Ask]:
    """Yields what can be asked of a product with these values."""
    known = {
        name
        for (name, field), code in zip(fields.items(), values, strict=True)
        if code >= 0 and field.words_of(code)
    }
    return (ask for ask in asks if set(ask.fields) <= known)


def _drawn(
    draw: random.Random,
    rules: Rules,
    asks: Sequence[Ask],
    fields: Mapping[str, Field],
    code: Mapping[str, int],
) -> Query | None:
    """Draws one query for the values of a product; None where it would say a word twice."""
    ask = draw.choices(asks, [each.weight for each in asks])[0]
    form = draw.choice(ask.forms)
    words = {}
    for place in PLACE.finditer(form):
        name = place[1]
        words[name] = draw.choice(fields[name].words_of(code[name], is_first=not place.start()))
    said = [singular(each) for word in words.values() for each in key_of(word).split()]
    if len(said) > len(set(said)):
        return None
    asked = tuple((name, key_of(words[name])) for name in ask.fields)
    way = draw.random()
    for name, share in sorted(rules.written.items()):
        if 0 <= way < share:
            words, form = _written(draw, name, words, form, rules)
        way -= share
    return Query(PLACE.sub(lambda place: words[place[1]], form), asked)


def _written(
    draw: random.Random, way: str, words: dict[str, str], form: str, rules: Rules
) -> tuple[dict[str, str], str]:
    """Writes words another way."""
    if way == "plural":
        return {
            name: plural(word) if rules.fields[name].required else word
            for name, word in words.items()
        }, form
    if way == "no_hyphen":
        joint = draw.choice(["", " "])
        return {name: word.replace("-", joint) for name, word in words.items()}, form
    if way == "capitals":
        return {name: word.capitalize() for name, word in words.items()}, form
    name = draw.choice(sorted(words))
    return words | {name: mistyped(draw, words[name])}, form


def plural(word: str) -> str:
    """Returns the plural of an English noun; one that ends in s stays."""
    if word.endswith(("ss", "sh", "ch", "x")):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return word if word.endswith("s") else f"{word}s"


def mistyped(draw: random.Random, text: str) -> str:
    """Swaps two letters of a text, or leaves one out, behind its first; short texts stay."""
    places = [at for at in range(1, len(text) - 1) if text[at : at + 2].isalpha()]
    if len(text) < 5 or not places:
        return text
    at = draw.choice(places)
    middle = text[at + 1] + text[at] if draw.random() < 0.5 else text[at + 1]
    return text[:at] + middle + text[at + 2 :]
