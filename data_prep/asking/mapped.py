"""Reads which fields a free-text query asks for, by the words that shoppers have for values."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from beyond_text.tables.columns import read_compact
from beyond_text.tables.layouts import Reject, Source, TableError
from beyond_text.tables.rejects import MAX_REJECTED, Rejects
from beyond_text.tables.splits import content_id
from beyond_text.tables.text import normal_text
from beyond_text.terminal import plain
from data_prep.asking.compose import Query, plural
from data_prep.asking.keys import key_of, singular
from data_prep.asking.schema import Rules
from data_prep.asking.values import Field, number_of

SOURCE = Source(
    "queries",
    {name: f"{{{name}}}" for name in ("query_id", "query", "split", "kind")},
    optional=frozenset({"query_id", "split", "kind"}),
    other_names={"query": ("english_query", "search_query", "search_term", "text")},
)
KIND = "human"
TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# What stands behind these words is of some part of the product.
ASIDE = frozenset({"with", "without", "featuring", "having"})


class Mapped(NamedTuple):
    """A query of people, by the row of its file; `query` is None where no field is found."""

    row: int
    identity: str
    text: str
    split: str
    kind: str
    query: Query | None


class _Found(NamedTuple):
    """A phrase of a query that asks for values of fields; `at` is the place of its first word."""

    at: int
    words: dict[str, str]


class Mapper:
    """Finds fields in texts: the longest phrase that is a word of one counts."""

    def __init__(self, rules: Rules, fields: Mapping[str, Field]) -> None:
        self.rules = rules
        self.fields = [name for name in rules.mapped.fields if name in fields]
        self.phrases: dict[str, dict[str, str]] = {}
        for name in self.fields:
            for code in range(len(fields[name].values)):
                for is_first in (False, True):
                    for word in fields[name].words_of(code, is_first):
                        for phrase in self._phrases_of(word):
                            self.phrases.setdefault(phrase, {name: key_of(word)})
        for name in set(rules.mapped.broad) & set(self.fields):
            self._add_last_words(fields[name])
        for phrase, words in rules.mapped.phrases.items():
            if words.keys() <= set(self.fields):
                keys = {name: key_of(word) for name, word in words.items()}
                self.phrases.setdefault(" ".join(tokens_of(phrase)), keys)
        self.longest = max((len(phrase.split()) for phrase in self.phrases), default=0)

    def _add_last_words(self, field: Field) -> None:
        """Lets blue mean light blue, and so its neighbours, in a shop without a plain blue."""
        if field.rules.same_last_word:
            for code in range(len(field.values)):
                for word in field.words_of(code):
                    for last in tokens_of(word)[-1:]:
                        self.phrases.setdefault(last, {field.name: key_of(word)})

    def _phrases_of(self, word: str) -> set[str]:
        """Lists how a word may stand in a query, as tokens."""
        spelled = {word, word.replace("-", "")}
        spelled |= {plural(each) for each in spelled}
        words = word.split()
        last = singular(words[-1])
        if last not in self.rules.mapped.never:
            spelled.add(" ".join([*words[:-1], last]))
        return {" ".join(tokens_of(each)) for each in spelled} - {""}

    def query_of(self, text: str) -> Query | None:
        """Returns the query of a text, or None where a needed field is not found."""
        tokens = tokens_of(text)
        found = list(self._found(tokens))
        aside = next((at for at, token in enumerate(tokens) if token in ASIDE), len(tokens))
        asked: dict[str, str] = {}
        for name in self.fields:
            phrases = [each for each in found if name in each.words]
            if not phrases:
                continue
            # "shirt dress" is a dress, and a "dress with shirt collar" too.
            head = [each for each in phrases if each.at < aside]
            is_noun = self.rules.fields[name].required and head
            asked[name] = (head[-1] if is_noun else phrases[0]).words[name]
        if not set(self.rules.mapped.needed) <= set(asked):
            return None
        return Query(text, tuple(sorted(asked.items())), is_broad=True)

    def _found(self, tokens: Sequence[str]) -> Iterator[_Found]:
        """Yields the words of fields in their order."""
        at = 0
        while at < len(tokens):
            for length in range(min(self.longest, len(tokens) - at), 0, -1):
                if known := self.phrases.get(" ".join(tokens[at : at + length])):
                    yield _Found(at, known)
                    at += length
                    break
            else:
                at += 1


def tokens_of(text: str) -> list[str]:
    """Lists the words of a text, without hyphens."""
    return TOKEN.findall(normal_text(text).replace("\u2019", "'"))


def read_mapped(
    path: Path,
    mapper: Mapper,
    split_products: Mapping[str, int],
    seed: int,
    rejects: list[Reject],
) -> list[Mapped]:
    """Reads queries of people; those without a split get one drawn by their words.

    Args:
        path: a file with a column `query`; query_id, split and kind are kept where they are there.
        mapper: finds fields.
        split_products: how many products each split has; a split gets its share of the queries.
        seed: of the draws.
        rejects: receives rows that are no rows.

    Raises:
        TableError: the file cannot be read, an id stands twice, or a split has no products.
    """
    if not path.is_file():
        raise TableError(f"{path}: expected a file of queries with a column query, found none")
    faults: list[Reject] = []
    frame, file = read_compact(path, SOURCE, faults)
    Rejects(faults, [file], MAX_REJECTED).check()
    rejects += faults
    mapped: dict[str, Mapped] = {}
    for record in frame.to_dict("records"):
        text, row = " ".join(record["query"].split()), int(record["row"])
        key = normal_text(text)
        split = record.get("split") or _drawn(key, split_products, seed)
        if split not in split_products:
            raise TableError(
                f"{path} row {row}: expected a split of the products "
                f"({', '.join(split_products)}), got {plain(split)!r}"
            )
        own = record.get("query_id")
        identity = own or content_id("mapped", f"{split} {key}")
        if own and identity in mapped:
            raise TableError(f"{path} row {row}: expected a new query_id, got {plain(identity)!r}")
        kind = record.get("kind") or KIND
        # Of queries of one wording the first counts.
        if identity not in mapped:
            query = mapper.query_of(text)
            mapped[identity] = Mapped(row, identity, text, split, kind, query)
    return list(mapped.values())


def _drawn(key: str, split_products: Mapping[str, int], seed: int) -> str:
    """Draws a split by the words of a query."""
    names = sorted(split_products)
    ends = [sum(split_products[name] for name in names[: place + 1]) for place in range(len(names))]
    place = number_of(f"{seed} split {key}") / 2**64 * ends[-1]
    return names[min(bisect(ends, place), len(names) - 1)]
