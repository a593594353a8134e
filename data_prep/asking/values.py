"""Knows which words shoppers have for the values of a field, and which values are neighbours."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int, Int8

from beyond_text.tables.text import normal_text, shown_text
from data_prep.asking.rules import FieldRules

# Between values of one cell, and between names of one value.
BETWEEN = re.compile(r"\s*[/,;|]\s*")
# A longer cell is a sentence; nobody asks in its words.
MOST_CHARACTERS = 60
# Share of a value's products that makes a family one of the value's.
FAMILY_SHARE = 0.25
OFF, NEAR, EXACT, UNKNOWN = 0, 1, 2, -1


@lru_cache(maxsize=2**16)
def key_of(text: str) -> str:
    """Returns the form by which values and words are found: case, hyphens and plural aside."""
    words = normal_text(text).replace("-", " ").split()
    return " ".join([*words[:-1], singular(words[-1])]) if words else ""


def singular(word: str) -> str:
    """Takes the plural's ending off an English noun; a few others lose an s, which does no harm."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if re.search(r"(?:sh|ch|ss|x)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "su" else word


class Names:
    """The table of words of one field, by any of its words."""

    def __init__(self, rules: FieldRules) -> None:
        self.rules = rules
        self.entry: dict[str, str] = {}
        for table in (rules.words, rules.first_words):
            for name in table:
                self.entry.setdefault(key_of(name), name)
        for table in (rules.words, rules.first_words):
            for name, words in table.items():
                for word in words:
                    self.entry.setdefault(key_of(word), name)

    def entries(self, value: str) -> list[str]:
        """Lists what a value is called in the table: its entries, or its own names."""
        if known := self.entry.get(key_of(value)):
            return [known]
        parts = [part for part in BETWEEN.split(value) if part]
        return list(dict.fromkeys(self.entry.get(key_of(part), part) for part in parts))

    def words(self, entry: str, is_first: bool = False) -> list[str]:
        """Lists how shoppers call an entry."""
        words = self.rules.words.get(entry, [entry.lower()])
        return self.rules.first_words.get(entry, words) if is_first else words


class Field:
    """One field of all products: a code for each, and the words of each value.

    Attributes:
        values: the distinct values, as the shop writes them.
        codes: of each product, -1 where it has no value.
    """

    def __init__(
        self, name: str, rules: FieldRules, cells: Iterable[str], missing: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.rules = rules
        self.values, self.codes = coded(cells, missing)
        names = Names(rules)
        self.names = names
        self.entries = [names.entries(value) for value in self.values]
        covers = {key_of(name): others for name, others in rules.covers.items()}
        self.agrees = [
            {*entries, *(one for each in entries for other in covers.get(key_of(each), ())
                         for one in names.entries(other))}
            for entries in self.entries
        ]  # fmt: skip
        self.is_asked = [self._is_asked(value) for value in self.values]
        self.families: list[set[int]] = [set() for _ in self.values]
        self.family_codes: Int[np.ndarray, " products"] | None = None

    def _is_asked(self, value: str) -> bool:
        folded = normal_text(value)
        if len(value) > MOST_CHARACTERS or not re.search(r"\w", folded):
            return False
        return not any(fnmatchcase(folded, pattern) for pattern in self.rules.not_asked)

    def words_of(self, code: int, is_first: bool = False) -> list[str]:
        """Lists how shoppers call a value; nothing where nobody asks for it."""
        if not self.is_asked[code]:
            return []
        words = [word for each in self.entries[code] for word in self.names.words(each, is_first)]
        return list(dict.fromkeys(words))

    @cached_property
    def codes_of(self) -> dict[str, list[int]]:
        """The values that agree with each word, by `key_of` the word."""
        found: dict[str, list[int]] = {}
        for code, entries in enumerate(self.agrees):
            keys = {
                key_of(word)
                for each in entries
                for is_first in (False, True)
                for word in self.names.words(each, is_first)
            }
            for key in sorted(keys):
                found.setdefault(key, []).append(code)
        return found

    def set_families(self, cells: Iterable[str], missing: Sequence[str]) -> None:
        """Takes the column `near_by`: its values are families of this field's."""
        _, families = coded(cells, missing)
        self.family_codes = families
        both = Counter(zip(self.codes.tolist(), families.tolist(), strict=True))
        total = Counter(self.codes.tolist())
        for (code, family), number in both.items():
            if code >= 0 and family >= 0 and number >= FAMILY_SHARE * total[code]:
                self.families[code].add(family)

    def state(self, word: str) -> Int8[np.ndarray, " values"]:
        """Says of each value whether it is EXACT, NEAR or OFF for a word; the last one, UNKNOWN.

        Neighbours by family depend on the product too: see `near_families`.
        """
        state = np.full(len(self.values) + 1, OFF, dtype=np.int8)
        state[-1] = UNKNOWN
        asked = self.codes_of.get(key_of(word), [])
        if self.family_codes is None:
            state[self._neighbours(asked)] = NEAR
        state[asked] = EXACT
        return state

    def near_families(self, word: str) -> list[int]:
        """Lists the families of the values that a word means."""
        found = (self.families[code] for code in self.codes_of.get(key_of(word), []))
        return sorted(set().union(*found))

    def _neighbours(self, asked: Sequence[int]) -> list[int]:
        """Lists the values that are neighbours of some."""
        wanted = {group for code in asked for group in self._groups[code]}
        return [code for code, groups in enumerate(self._groups) if groups & wanted]

    @cached_property
    def _groups(self) -> list[set[str]]:
        """The groups of neighbours in which each value is."""
        listed: dict[str, set[str]] = {}
        for number, group in enumerate(self.rules.neighbours):
            for name in group:
                listed.setdefault(key_of(name), set()).add(f"group {number}")
        found = []
        for entries in self.entries:
            groups = {group for each in entries for group in listed.get(key_of(each), ())}
            if self.rules.same_last_word:
                groups |= {f"last {key_of(each).split()[-1]}" for each in entries if key_of(each)}
            found.append(groups)
        return found


def number_of(text: str) -> int:
    """Returns a number from 0 to below 2^64 that is drawn by a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def coded(
    cells: Iterable[str], missing: Sequence[str]
) -> tuple[list[str], Int[np.ndarray, " products"]]:
    """Returns the distinct values of a column in the order of their letters, and each one's code.

    Texts are as a shopper reads them; values that differ in case and blanks alone are one.
    """
    nothing = {normal_text(each) for each in missing} | {""}
    known: dict[str, str] = {}
    folded: list[str] = []
    names: dict[str, str] = {}
    for cell in cells:
        if cell not in known:
            text = " ".join(shown_text(cell).split())
            known[cell] = "" if normal_text(text) in nothing else normal_text(text)
            names[known[cell]] = min(text, names.get(known[cell], text))
        folded.append(known[cell])
    order = sorted(names.keys() - {""})
    place = {name: code for code, name in enumerate(order)} | {"": -1}
    codes = np.fromiter((place[each] for each in folded), dtype=np.int32, count=len(folded))
    return [names[each] for each in order], codes
