"""Finds the details that the texts of products name, such as long sleeves, and who has them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from data_prep.asking.keys import key_of, singular
from data_prep.asking.phrases import Phrase, Texts
from data_prep.asking.schema import DetailRules

# The most words of a part of a phrase that is looked for.
LONGEST = 6
# Details whose documents are kept as masks, of a byte a document.
KEPT = 64
Tokens = tuple[str, ...]
Words = Mapping[str, list[str]]
Ways = Counter[Phrase]


class Detail(NamedTuple):
    """How shoppers say a detail: `before` the product, or `behind` it, where `link` leads to it."""

    key: str
    link: str
    before: list[str]
    behind: list[str]


class Details:
    """The details of all products, by their numbers.

    Products of one text and one type share a document, and a document has a row of a sparse table.

    Attributes:
        known: the details, each once.
    """

    def __init__(
        self, rules: DetailRules, texts: Texts, text_of: Sequence[int], types: Sequence[int]
    ) -> None:
        """Finds the details.

        Args:
            rules: say what is a detail.
            texts: phrases of the distinct texts.
            text_of: the text of each product, by its number.
            types: of each product, -1 where it has none.
        """
        self.rules = rules
        self._mask_of = lru_cache(maxsize=KEPT)(self._mask)
        self.known, text, code = _found(rules, texts)
        pairs = np.stack([np.asarray(text_of), np.asarray(types)], axis=1)
        documents, document = np.unique(pairs, axis=0, return_inverse=True)
        self.document = document.ravel()
        self.is_told = np.diff(texts.starts)[documents[:, 0]] > 0
        # Of documents as of texts: `text` is in order.
        first, last = (np.searchsorted(text, documents[:, 0], side) for side in ("left", "right"))
        number = last - first
        self.starts = np.concatenate([[0], np.cumsum(number)])
        place = np.arange(self.starts[-1]) - np.repeat(self.starts[:-1] - first, number)
        self.codes = code[place]
        self.weights = self._weights(documents[:, 1], np.repeat(np.arange(len(number)), number))

    def _weights(
        self, types: Int[np.ndarray, " documents"], document: Int[np.ndarray, " pairs"]
    ) -> Float[np.ndarray, " pairs"]:
        """Returns how often each detail of a document is asked for: p (1 - p).

        p is the share of the documents of the type that have it, so what parts the type best is
        asked for most, and what more than `most` of it have is not.
        """
        _, kind = np.unique(types, return_inverse=True)
        cell = kind.ravel()[document] * np.int64(max(len(self.known), 1)) + self.codes
        _, place, count = np.unique(cell, return_inverse=True, return_counts=True)
        share = count[place.ravel()] / np.bincount(kind.ravel())[kind.ravel()[document]]
        return np.where(share > self.rules.most, 0.0, share * (1 - share))

    def of(self, row: int) -> tuple[list[int], list[float]]:
        """Returns the details that can be asked of a product, and their weights, summed up."""
        at = self.document[row]
        part = slice(self.starts[at], self.starts[at + 1])
        weights = self.weights[part]
        asked = weights > 0
        return self.codes[part][asked].tolist(), list(accumulate(weights[asked].tolist()))

    @cached_property
    def _codes_of(self) -> dict[str, list[int]]:
        """The details that are called by each word, by `key_of` the word."""
        found: dict[str, list[int]] = defaultdict(list)
        for code, detail in enumerate(self.known):
            for key in sorted({key_of(word) for word in (*detail.before, *detail.behind)}):
                found[key].append(code)
        return found

    @cached_property
    def _documents_of(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " starts"]]:
        """The documents of each detail, and where they begin."""
        document = np.repeat(np.arange(len(self.is_told)), np.diff(self.starts))
        count = np.bincount(self.codes, minlength=len(self.known))
        order = np.argsort(self.codes, kind="stable")
        return document[order], np.concatenate([[0], np.cumsum(count)])

    def has(self, word: str, rows: Int[np.ndarray, " some"]) -> Bool[np.ndarray, " some"]:
        """Says which products have a detail that is called by a word."""
        return self._mask_of(key_of(word))[self.document[rows]]

    def _mask(self, key: str) -> Bool[np.ndarray, " documents"]:
        """Says which documents have a detail that is called so."""
        documents, starts = self._documents_of
        mask = np.zeros(len(self.is_told), dtype=bool)
        for code in self._codes_of.get(key, ()):
            mask[documents[starts[code] : starts[code + 1]]] = True
        return mask

    def tells(self, rows: Int[np.ndarray, " some"]) -> Bool[np.ndarray, " some"]:
        """Says which products have a text at all."""
        return self.is_told[self.document[rows]]


def _found(
    rules: DetailRules, texts: Texts
) -> tuple[list[Detail], Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Returns the details, and the pairs of a text and a detail that it has, texts in order."""
    phrases, starts, codes = texts.phrases, texts.starts, texts.codes
    count = np.bincount(codes, minlength=len(phrases)).tolist()
    ways: dict[Tokens, Ways] = defaultdict(Counter)
    for phrase, number in zip(phrases, count, strict=True):
        ways[phrase.tokens][phrase] += number
    tables = [
        {key_of(name): words for name, words in table.items()}
        for table in (rules.words, rules.first_words)
    ]
    named = {tuple(name.split()) for table in tables for name in table}
    asked = sorted(
        key
        for key, each in ways.items()
        if each.total() >= rules.least and (key in named or _is_detail(rules, key, each))
    )
    place = {key: at for at, key in enumerate(asked)}
    has = [_contained(phrase, place, rules.anywhere) for phrase in phrases]
    number = np.asarray([len(each) for each in has], dtype=np.int64)
    flat = np.asarray([one for each in has for one in each], dtype=np.int64)
    first = np.cumsum(number) - number
    text = np.repeat(np.repeat(np.arange(len(starts) - 1), np.diff(starts)), number[codes])
    ends = np.cumsum(number[codes])
    within = np.arange(len(text)) - np.repeat(ends - number[codes], number[codes])
    detail = flat[np.repeat(first[codes], number[codes]) + within]
    pairs = np.unique(text * np.int64(max(len(asked), 1)) + detail)
    known = [_detail(rules, tables, key, ways[key]) for key in asked]
    return known, pairs // max(len(asked), 1), pairs % max(len(asked), 1)


def _is_detail(rules: DetailRules, key: Tokens, ways: Ways) -> bool:
    """Says whether a phrase that no table names is asked for, by how it stands in the texts."""
    words = {form for each in key for form in (each, singular(each))}
    linked = sum(number for way, number in ways.items() if way.link)
    return (
        len(key) <= rules.longest
        and not words & set(rules.never)
        and not any(map(str.isdigit, "".join(key)))
        and len(key[-1]) > 1
        and not (len(key) == 1 and key[0] in rules.not_alone)
        and (len(key) > 1 or linked >= rules.linked * ways.total())
    )


def _contained(phrase: Phrase, place: dict[Tokens, int], anywhere: Iterable[str]) -> list[int]:
    """Lists the details that a phrase has: its ends, or all parts of what it is made of."""
    tokens = phrase.tokens
    ends = range(1, len(tokens) + 1) if phrase.link in anywhere else [len(tokens)]
    parts = {
        (*tokens[begin : end - 1], singular(tokens[end - 1]))
        for end in ends
        for begin in range(max(0, end - LONGEST), end)
    }
    return sorted(place[part] for part in parts if part in place)


def _detail(rules: DetailRules, tables: Sequence[Words], key: Tokens, ways: Ways) -> Detail:
    """Returns how shoppers say a phrase: by the tables, or as the shop's texts mostly do."""
    texts: Counter[str] = Counter()
    links: Counter[str] = Counter()
    for way, number in ways.items():
        texts[way.text] += number
        links[way.link] += number
    text = max(texts, key=lambda each: (texts[each], each))
    # A list hides the link of most: with a collar, long sleeves.
    link = max(rules.links, key=lambda each: links[each], default="")
    if links[link] < rules.linked * links.total():
        link = rules.links[0] if rules.links and not text.endswith(key[-1]) else ""
    words, first_words = (table.get(" ".join(key), []) for table in tables)
    behind = words or ([] if first_words else [text])
    is_adjective = not link or link in rules.anywhere
    before = first_words or [
        singular_text(word) for word in behind if is_adjective or len(key_of(word).split()) > 1
    ]
    return Detail(" ".join(key), link, before, behind)


def singular_text(text: str) -> str:
    """Takes the plural's ending off the last word of a text."""
    head, blank, last = text.rpartition(" ")
    return f"{head}{blank}{singular(last)}"
