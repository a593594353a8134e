"""Reads which fields a free-text query asks for, by the words that shoppers have for values."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence, Set
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
TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[,;]")
# What stands behind these words, up to a pause, is of a part of the product or of another one.
ASIDE = frozenset({"with", "without", "featuring", "having", "for", "under", "over"})
PAUSES = frozenset(",;")


class Mapped(NamedTuple):
    """A query of people, by the row of its file; `query` is None where no field is found."""

    row: int
    identity: str
    text: str
    split: str
    kind: str
    query: Query | None


class _Found(NamedTuple):
    """A phrase of a query that asks for values of fields, and what it may mean: field -> word.

    `at` is the place of its first word, and `part` the number of its part of the query: parts begin
    behind pauses and at asides.
    """

    at: int
    part: int
    is_aside: bool
    meanings: list[dict[str, str]]

    @property
    def fields(self) -> set[str]:
        """The fields that it may ask for."""
        return set().union(*self.meanings)

    def without(self, names: Set[str]) -> _Found:
        """Returns it without the fields of these names."""
        left = ({n: word for n, word in one.items() if n not in names} for one in self.meanings)
        return self._replace(meanings=[meaning for meaning in left if meaning])


class Mapper:
    """Finds fields in texts: the longest phrase that is a word of one counts."""

    def __init__(self, rules: Rules, fields: Mapping[str, Field]) -> None:
        self.rules = rules
        self.fields = [name for name in rules.mapped.fields if name in fields]
        self.required = {name for name in self.fields if rules.fields[name].required}
        self.phrases: dict[str, list[dict[str, str]]] = {}
        for name in self.fields:
            for code in range(len(fields[name].values)):
                for word in fields[name].called(code):
                    for phrase in self._phrases_of(word):
                        meanings = self.phrases.setdefault(phrase, [])
                        if not any(name in meaning for meaning in meanings):
                            meanings.append({name: key_of(word)})
        for name in set(rules.mapped.broad) & set(self.fields):
            self._add_last_words(fields[name])
        for phrase, words in rules.mapped.phrases.items():
            if words.keys() <= set(self.fields):
                keys = {name: key_of(word) for name, word in words.items()}
                self.phrases.setdefault(" ".join(tokens_of(phrase)), [keys])
        self.longest = max((len(phrase.split()) for phrase in self.phrases), default=0)

    def _add_last_words(self, field: Field) -> None:
        """Lets blue mean light blue, and so its neighbours, in a shop without a plain blue."""
        if field.rules.same_last_word:
            for code in range(len(field.values)):
                for word in field.words_of(code):
                    for last in tokens_of(word)[-1:]:
                        self.phrases.setdefault(last, [{field.name: key_of(word)}])

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
        """Returns the query of a text, or None where a needed field is not found.

        A phrase that fields share asks for the first of them that no other phrase asks for: in
        "transparent black top" transparent is no colour.
        """
        found = self._of_the_product(list(self._found(tokens_of(text))))
        asked: dict[str, str] = {}
        for phrase in sorted(found, key=lambda each: len(each.meanings) > 1):
            for meaning in phrase.meanings:
                if asked.keys().isdisjoint(meaning) or len(phrase.meanings) == 1:
                    asked = meaning | asked
                    break
        if not set(self.rules.mapped.needed) <= set(asked):
            return None
        return Query(text, tuple(sorted(asked.items())), is_broad=True)

    def _of_the_product(self, found: Sequence[_Found]) -> list[_Found]:
        """Returns the phrases that are of the product itself, what it is last.

        Its noun is the last of the first part that has one: "shirt dress" is a dress, and so is a
        "dress with shirt collar". Other nouns are no part of it, nor is what stands before one in
        an aside: the black of "top for black trousers". A "jean jacket" is still of denim.
        """
        nouns = [each for each in found if each.fields & self.required]
        if not nouns:
            return [*found]
        part = next((each.part for each in nouns if not each.is_aside), nouns[0].part)
        noun = [each for each in nouns if each.part == part][-1]
        others = [each for each in nouns if each.part != part]
        ends = {e.part: e.at for e in others if e.is_aside and e.meanings != noun.meanings}
        rest = (each for each in found if each.at > ends.get(each.part, -1))
        rest = (each for each in rest if each != noun and each not in others)
        return [*(each.without(self.required) for each in rest), noun]

    def _found(self, tokens: Sequence[str]) -> Iterator[_Found]:
        """Yields the phrases of fields in their order."""
        at = part = 0
        is_aside = False
        while at < len(tokens):
            if tokens[at] in ASIDE | PAUSES:
                part, is_aside = part + 1, tokens[at] in ASIDE
            for length in range(min(self.longest, len(tokens) - at), 0, -1):
                if known := self.phrases.get(" ".join(tokens[at : at + length])):
                    yield _Found(at, part, is_aside, known)
                    at += length
                    break
            else:
                at += 1


def tokens_of(text: str) -> list[str]:
    """Lists the words and pauses of a text, without hyphens."""
    return TOKEN.findall(normal_text(text).replace("\u2019", "'"))


def read_mapped(
    path: Path, mapper: Mapper, split_products: Mapping[str, int], rejects: list[Reject]
) -> list[Mapped]:
    """Reads queries of people; those without a split get one drawn by their words.

    Args:
        path: a file with a column `query`; query_id, split and kind are kept where they are there.
        mapper: finds fields.
        split_products: how many products each split has; a split gets its share of the queries.
        rejects: receives rows that are no rows, or no query, or that repeat one.

    Raises:
        TableError: the file cannot be read or has no query, an id stands twice, or a split has no
            products.
    """
    if not path.is_file():
        raise TableError(f"{path}: expected a file of queries with a column query, found none")
    faults: list[Reject] = []
    frame, file = read_compact(path, SOURCE, faults)
    mapped: dict[str, Mapped] = {}
    repeats: list[Reject] = []
    for record in frame.to_dict("records"):
        text, row = " ".join(record["query"].split()), int(record["row"])
        own, key = record.get("query_id") or "", normal_text(text)
        if not key:
            faults.append(Reject(file.name, row, own, "empty query", "expected a text"))
            continue
        split = record.get("split") or _drawn(key, split_products)
        if split not in split_products:
            raise TableError(
                f"{path} row {row}: expected a split of the products "
                f"({', '.join(split_products)}), got {plain(split)!r}"
            )
        identity = own or content_id("mapped", f"{split} {key}")
        if (first := mapped.get(identity)) is None:
            kind = record.get("kind") or KIND
            mapped[identity] = Mapped(row, identity, text, split, kind, mapper.query_of(text))
        elif own:
            raise TableError(f"{path} row {row}: expected a new query_id, got {plain(identity)!r}")
        else:
            detail = f"as in row {first.row}: {text}"
            repeats.append(Reject(file.name, row, "", "repeats a query", detail))
    Rejects(faults, [file], MAX_REJECTED).check()
    if not mapped:
        raise TableError(f"{path}: expected queries, got no row")
    rejects += faults + repeats
    return list(mapped.values())


def _drawn(key: str, split_products: Mapping[str, int]) -> str:
    """Draws a split by the words of a query alone, as those of products are by their contents."""
    names = sorted(split_products)
    ends = [sum(split_products[name] for name in names[: place + 1]) for place in range(len(names))]
    place = number_of(f"0 split {key}") / 2**64 * ends[-1]
    return names[min(bisect(ends, place), len(names) - 1)]
