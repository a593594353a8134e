"""Composes queries of the fields of products: what is asked, in which words, and how written."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pandas as pd

from beyond_text.tables.text import normal_text
from data_prep.asking.details import Details
from data_prep.asking.keys import ENDS, key_of, singular
from data_prep.asking.schema import BESIDE, DETAILS, PLACE, Ask, Rules
from data_prep.asking.values import Field, number_of

# Nouns without a plural.
UNCOUNTED = re.compile(
    r"(?:wear|ware|\b(?:furniture|equipment|clothing|bedding|lighting|jewell?ery|luggage|storage|tea|"
    r"coffee|milk|water|juice|wine|bread|rice|food|hair|paper|pasta|flour|honey|butter|cheese|oil|"
    r"sugar|salt|fiction|poetry|fantasy|music|soap|shampoo))$",
    re.IGNORECASE,
)
# Not of a range: 3-6 years.
INNER_HYPHEN = re.compile(r"(?<!\d)-(?!\d)")
# But no unit of a number: 12 inch.
LONG_WORD = re.compile(r"(?<!\d)(?<!\d )\b[^\W\d_]{4,}")
# Words that begin with the sound of a vowel; those of `unit` and `one` do not.
VOWEL = re.compile(r"(?!uni|us[aeiu]|usb|eu|one\b|once)[aeiou]", re.IGNORECASE)


class Query(NamedTuple):
    """A query: its text, and the word by which it asks for each field, in the order of names.

    `is_broad` says that neighbours agree in the fields `mapped.broad`, as where people wrote it.
    """

    text: str
    asked: tuple[tuple[str, str], ...]
    is_broad: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields and details that are asked."""
        return tuple(name for name, _ in self.asked)


def compose(
    rules: Rules,
    fields: Mapping[str, Field],
    rows: Sequence[int],
    product_ids: Sequence[str] | pd.Series,
    per_product: int,
    seed: int,
    details: Details | None = None,
) -> tuple[dict[str, Query], int]:
    """Draws queries of each product; those of one wording are one, by their normal form.

    Also returns of how many products there is none.

    A draw depends on the product's id, its fields, the rules and the seed alone, and one of a
    detail on what share of the shop's texts have it too.

    Args:
        rules: say what is asked and how.
        fields: of all products, by name.
        rows: numbers of the products to compose queries of.
        product_ids: of all products.
        per_product: how often is drawn for each product.
        seed: of the draws.
        details: of the products' texts; None where none are asked for.
    """
    found: dict[str, Query] = {}
    unasked = 0
    drawer = Drawer(rules, fields, details)
    codes = np.stack([field.codes for field in fields.values()], axis=1)
    ids = list(product_ids)
    for row in rows:
        draw = random.Random(number_of(f"{seed} {ids[row]}"))
        of_text = details.of(row) if details else ([], [])
        queries = list(drawer.queries(draw, codes[row].tolist(), of_text, per_product))
        unasked += not queries
        for query in queries:
            name = normal_text(query.text)
            # Which product comes first must not decide what an ambiguous wording means.
            first = found.get(name, query)
            found[name] = query if _order(query) < _order(first) else first
    return found, unasked


def _order(query: Query) -> tuple[object, ...]:
    """Returns what queries of one wording are ordered by: strict ones come first."""
    return query.is_broad, query.asked, query.text


def smallest(queries: Mapping[str, Query], number: int) -> dict[str, Query]:
    """Returns so many queries, drawn by their words alone, so that a smaller draw is nested."""
    names = sorted(queries, key=lambda key: (number_of(key), key))[:number]
    return {name: queries[name] for name in names}


def _possible(
    asks: Sequence[Ask], fields: Mapping[str, Field], values: Sequence[int], details: int
) -> Iterator[Ask]:
    """Yields what can be asked of a product with these values and so many details."""
    known = {
        name
        for (name, field), code in zip(fields.items(), values, strict=True)
        if code >= 0 and field.words_of(code)
    }
    return (
        ask
        for ask in asks
        if known.issuperset(ask.fields) and known.isdisjoint(ask.unless) and ask.details <= details
    )


class Drawer:
    """Draws the words and the form of a query."""

    def __init__(self, rules: Rules, fields: Mapping[str, Field], details: Details | None) -> None:
        self.rules = rules
        self.fields = fields
        self.details = details
        self.asks = rules.asks_of(fields)
        self.possible: dict[tuple[tuple[int, ...], int], tuple[list[Ask], list[float]]] = {}
        self.required = {name for name, field in rules.fields.items() if field.required}
        self.written = sorted(rules.written.items())
        self.besides = {name: beside.said(fields) for name, beside in rules.besides.items()}
        self.words_of = cache(lambda name, *code: fields[name].words_of(*code))
        self.phrases = [
            (phrase, words, {name: set(fields[name].codes_of.get(key_of(word), ()))
                             for name, word in words.items()})
            for phrase, words in rules.mapped.phrases.items()
            if words.keys() <= fields.keys() and len(words) > 1
        ]  # fmt: skip

    def queries(
        self,
        draw: random.Random,
        values: Sequence[int],
        of_text: tuple[Sequence[int], Sequence[float]],
        number: int,
    ) -> Iterator[Query]:
        """Draws queries for a product so many times; yields those that say no word twice.

        Args:
            draw: the numbers that are drawn.
            values: of the fields, in their order.
            of_text: the product's details, and their weights, summed up.
            number: of draws.
        """
        key = tuple(values), min(len(of_text[0]), len(DETAILS))
        if key not in self.possible:
            can = list(_possible(self.asks, self.fields, *key))
            self.possible[key] = can, list(accumulate(ask.weight for ask in can))
        can, weights = self.possible[key]
        code = dict(zip(self.fields, values, strict=True))
        for _ in range(number if can else 0):
            ask = draw.choices(can, cum_weights=weights)[0]
            if query := self.query(draw, ask, code, of_text):
                yield query

    def query(
        self,
        draw: random.Random,
        ask: Ask,
        code: Mapping[str, int],
        of_text: tuple[Sequence[int], Sequence[float]],
    ) -> Query | None:
        """Draws one query for a product, or None where it would say a word twice.

        Args:
            draw: the numbers that are drawn.
            ask: what is asked.
            code: the value of each field.
            of_text: the product's details, and their weights, summed up.
        """
        form = draw.choice(ask.forms)
        besides = [draw.choice(self.besides[name]) for name in BESIDE.findall(form)]
        left = iter(besides)
        form = BESIDE.sub(lambda _: next(left), form)
        places = list(PLACE.finditer(form))
        noun = next((at.start() for at in places if at[1] in self.required), len(form))
        words, asked = {}, {}
        told: set[int] = set()
        for place in places:
            name, at = place[1], place.start()
            if name in DETAILS:
                said = self._detail(draw, of_text, form[:at], at > noun)
                if said is None or said[2] in told:
                    return None
                words[name], asked[name], number = said
                told.add(number)
            else:
                words[name] = draw.choice(self.words_of(name, code[name], not at))
                asked[name] = key_of(words[name])
        nouns = [words[place[1]] for place in places if place[1] in self.required]
        said_as = asked | self._without_repeated(words, nouns)
        if _says_twice(PLACE.sub(" ", form), said_as.values()):
            return None
        query = tuple((name, asked[name]) for name in ask.places)
        if ask.broad and (found := self._phrase(draw, code, asked)):
            words |= found
        nouns = [words[place[1]] for place in places if place[1] in self.required]
        way = draw.random()
        for name, share in self.written:
            if 0 <= way < share:
                words, form = _written(draw, name, words, form, self.required)
                nouns = [*map(plural, nouns)] if name == "plural" else nouns
            way -= share
        text = " ".join(PLACE.sub(lambda place: words[place[1]], form).split())
        has_article = any(said.endswith(" a") for said in besides)
        called = next(filter(None, nouns), "")
        return Query(with_article(text, called) if has_article else text, query, ask.broad)

    def _without_repeated(self, words: dict[str, str], nouns: Sequence[str]) -> dict[str, str]:
        """Takes from a field's own name, as it is said, what the noun says: wheel, size 21.

        Changes `words`; returns `key_of` those that changed.
        """
        named = {singular(each) for noun in nouns for each in noun.split()}
        changed = {}
        for name in words.keys() - DETAILS:
            spoken = self.fields[name].names.spoken.split()
            kept = [each for each in spoken if singular(each) not in named]
            own, *rest = words[name].split(" ".join(spoken) + " ", 1)
            if rest and not own and len(kept) < len(spoken):
                words[name] = " ".join([*kept, *rest])
                changed[name] = key_of(words[name])
        return changed

    def _detail(
        self,
        draw: random.Random,
        of_text: tuple[Sequence[int], Sequence[float]],
        before: str,
        is_behind: bool,
    ) -> tuple[str, str, int] | None:
        """Draws a detail: how it is said behind `before`, the word that asks for it, its number."""
        assert self.details is not None
        number = draw.choices(of_text[0], cum_weights=of_text[1])[0]
        detail = self.details.known[number]
        if words := detail.behind if is_behind else detail.before:
            word = draw.choice(words)
            # "jacket with hood", but "jacket, black, hood".
            link = detail.link if is_behind and not before.endswith(", ") else ""
            return f"{link} {word}".strip(), key_of(word), number
        return None

    def _phrase(
        self, draw: random.Random, code: Mapping[str, int], asked: Mapping[str, str]
    ) -> dict[str, str]:
        """Draws whether fields are called by one phrase, as jeans for denim trousers."""
        for phrase, words, codes in self.phrases:
            fits = all(name in asked and code[name] in codes[name] for name in words)
            if fits and draw.random() < 0.5:
                noun = next((name for name in words if name in self.required), next(iter(words)))
                return {name: phrase if name == noun else "" for name in words}
        return {}


def with_article(text: str, noun: str = "") -> str:
    """Gives the first `a` of an English text its form: an oak bed, but headphones, tea.

    Without `noun`, the last word before a comma, for, in or with is taken for it.
    """
    head, _, tail = text.partition(" a ")
    words = (noun or re.split(r",| (?:for|in|with)\b", tail)[0]).split()
    word = words[-1].lower() if words else ""
    if word and (singular(word) != word or UNCOUNTED.search(word)):
        return f"{head} {tail}"
    return f"{head} an {tail}" if VOWEL.match(tail) else text


def _says_twice(form: str, asked: Iterable[str]) -> bool:
    """Says whether a word, in singular or plural, stands twice; for and in of a form may.

    One value may say it twice, as bed frame bed does, and signs may stand anywhere.
    """
    words = ({singular(each) for each in text.split()} for text in asked)
    said = [each for one in words for each in sorted(one) if any(map(str.isalnum, each))]
    said += [singular(each) for each in key_of(form).split() if len(each) > 3]
    return len(said) > len(set(said))


def _written(
    draw: random.Random, way: str, words: dict[str, str], form: str, required: Collection[str]
) -> tuple[dict[str, str], str]:
    """Writes words another way."""
    if way == "plural":
        return {
            name: plural(word) if name in required else word for name, word in words.items()
        }, form
    if way == "no_hyphen":
        joint = draw.choice(["", " "])
        return {name: INNER_HYPHEN.sub(joint, word) for name, word in words.items()}, form
    if way == "capitals":
        return {name: word.capitalize() for name, word in words.items()}, form
    name = draw.choice(sorted(words))
    return words | {name: mistyped(draw, words[name])}, form


def plural(word: str) -> str:
    """Returns the plural of an English noun; one that ends in s stays, or in no letter of ours."""
    if not re.search(r"[A-Za-z]$", word) or UNCOUNTED.search(word):
        return word
    if end := next((one for one in ENDS if word.endswith(ENDS[one])), ""):
        return f"{word.removesuffix(ENDS[end])}{end}"
    if word.endswith(("ss", "sh", "ch", "x")):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return word if word.endswith("s") else f"{word}s"


def mistyped(draw: random.Random, text: str) -> str:
    """Swaps two letters of a text, or leaves one out, behind its first; short texts stay.

    Words of three letters and units stay too.
    """
    words = LONG_WORD.finditer(text)
    places = [at for word in words for at in range(max(word.start(), 1), word.end() - 1)]
    if len(text) < 5 or not places:
        return text
    at = draw.choice(places)
    middle = text[at + 1] + text[at] if draw.random() < 0.5 else text[at + 1]
    return text[:at] + middle + text[at + 2 :]
