"""Knows which words shoppers have for the values of a field, and which values are neighbours."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int, Int8

from beyond_text.tables.text import normal_text
from data_prep.asking.keys import key_of
from data_prep.asking.parts import LISTED, cell_text, parts_of
from data_prep.asking.schema import FieldRules

# A longer value is a sentence, unless it is a list; nobody asks in its words, nor in long ones of
# what it lists.
MOST_CHARACTERS = 60
MOST_OF_A_PART = 25
# Values that are named among those that nobody asks for, and their characters.
MOST_SAID = 5
MOST_SHOWN = 40
# Share of a value's products that makes a family one of the value's.
FAMILY_SHARE = 0.25
OFF, NEAR, EXACT, UNKNOWN = 0, 1, 2, -1
# A word that may be short for another, with its full stop.
SHORT = re.compile(r"\b([^\W\d_]+)\b\.?")


class Names:
    """The table of words of one field, by any of its words.

    Args:
        name: of the field.
        rules: have the table.
        missing: values that say nothing.
    """

    def __init__(self, name: str, rules: FieldRules, missing: Iterable[str] = ()) -> None:
        self.spoken = name.replace("_", " ")
        self.rules = rules
        self.holds: set[str] = set()
        self.fails: set[str] = set()
        self.missing = {normal_text(each) for each in missing}
        # Words that another field has for its values, too.
        self.shared: set[str] = set()
        self.entry: dict[str, str] = {}
        self._keys: dict[str, set[str]] = {}
        for table in (rules.words, rules.first_words):
            for name in table:
                self.entry.setdefault(key_of(name), name)
        for table in (rules.words, rules.first_words):
            for name, words in table.items():
                for word in words:
                    self.entry.setdefault(key_of(word), name)

    def find_truths(self, cells: Iterable[str]) -> None:
        """Takes `holds` and `fails` of the rules where half of the values, or more, are of them.

        Numbers that are all 0, or all 1, count something. Beside other values only words count,
        and only where some hold and some fail: `no` may be a language, and `x` a size.
        """
        holds, fails = set(self.rules.holds), set(self.rules.fails)
        if not holds | fails:
            return
        values = {key_of(cell_text(cell)) for cell in set(cells)} - self.missing - {""}
        if not values <= holds | fails:
            holds, fails = ({each for each in one & values if each.isalpha() and len(each) > 1}
                            for one in (holds, fails))  # fmt: skip
            is_decided = holds and fails and 2 * len(holds | fails) >= len(values)
        else:
            is_decided = len(values) > 1 or not values <= {"0", "1"}
        if is_decided:
            self.holds, self.fails = holds, fails

    def entries(self, value: str) -> list[str]:
        """Lists what a cell is called in the table: its entries, or its own names.

        A cell without any says nothing.
        """
        if normal_text(value) in self.missing:
            return []
        if known := self.entry.get(key_of(value)):
            return [known]
        value = self._in_full(value)
        parts = parts_of(
            value, self.missing, self.rules.parted_by, self.rules.shares, self.rules.people
        )
        return list(dict.fromkeys(self.entry.get(key_of(part), part) for part in parts))

    def _in_full(self, value: str) -> str:
        """Replaces the words of a value that are short for others."""
        short = self.rules.short
        return (
            SHORT.sub(lambda word: short.get(word[1].lower(), word[0]), value) if short else value
        )

    def words(self, entry: str, is_first: bool = False) -> list[str]:
        """Lists how shoppers call an entry; nothing where nobody asks for it."""
        if any(fnmatchcase(normal_text(entry), normal_text(each)) for each in self.rules.not_asked):
            return []
        words = self.rules.words.get(entry) or self._own_words(entry)
        return self.rules.first_words.get(entry, words) if is_first else words

    def rename(self, shared: set[str]) -> None:
        """Says the field's name beside words that are shared with other fields, by `key_of`."""
        self.shared = shared
        self._keys.clear()

    def keys(self, entry: str) -> set[str]:
        """Returns `key_of` each way in which people may call an entry."""
        if entry not in self._keys:
            self._keys[entry] = {key_of(word) for word in self.called(entry)}
        return self._keys[entry]

    def called(self, entry: str) -> list[str]:
        """Lists how people may call an entry: in shoppers' words, or as the table names it."""
        words = [*self.words(entry), *self.words(entry, is_first=True)]
        is_named = words and (entry in self.rules.words or entry in self.rules.first_words)
        return [*words, entry] if is_named else words

    def _own_words(self, entry: str) -> list[str]:
        """Lists how an entry is called that has no words in the table.

        A number, a letter, and what another field may mean are called by their field too, and
        what holds by its field alone.
        """
        if (folded := key_of(entry)) in self.holds | self.fails:
            return [] if folded in self.fails else [re.sub(r"^(?:is|has) ", "", self.spoken)]
        if self.rules.people:
            family, comma, given = (each.strip().lower() for each in entry.partition(","))
            return [f"{given} {family}", family] if comma else [family]
        is_letter = self.rules.numbers and len(entry) == 1 and entry.isascii()
        if any(map(str.isalpha, entry)) and not is_letter and key_of(entry) not in self.shared:
            return [entry.lower()]
        return [f"{self.spoken} {entry.lower()}"] if self.rules.numbers else []


class Field:
    """One field of all products: a code for each, and the words of each value.

    Attributes:
        values: the distinct values, as the shop writes them.
        codes: of each product, -1 where it has no value.
        neighbours_by: the column that says which values are neighbours, or "the rules"; "" where
            none are.
    """

    def __init__(
        self, name: str, rules: FieldRules, cells: Iterable[str], missing: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.rules = rules
        self.names = names = Names(name, rules, missing)
        cells = list(cells)
        names.find_truths(cells)
        self.values, self.codes = coded(cells, names)
        self.entries = [names.entries(value) for value in self.values]
        covers = {key_of(name): others for name, others in rules.covers.items()}
        self.agrees = [
            {*entries, *(one for each in entries for other in covers.get(key_of(each), ())
                         for one in names.entries(other))}
            for entries in self.entries
        ]  # fmt: skip
        self.is_asked = [
            self._is_asked(value, entries)
            for value, entries in zip(self.values, self.entries, strict=True)
        ]
        self.families: list[set[int]] = [set() for _ in self.values]
        self.family_codes: Int[np.ndarray, " products"] | None = None
        self.neighbours_by = "the rules" if rules.neighbours or rules.same_last_word else ""

    def _is_asked(self, value: str, entries: Sequence[str]) -> bool:
        """Says whether anybody asks for a value; nobody does in the words of code or a sentence."""
        is_list = len(value) <= MOST_CHARACTERS or (
            len(entries) > 1
            and (LISTED.search(value) is not None or max(map(len, entries)) <= MOST_OF_A_PART)
        )
        folded = normal_text(value)
        is_left = any(fnmatchcase(folded, normal_text(each)) for each in self.rules.not_asked)
        return is_list and not is_left and not folded.startswith(('{"', "{'"))

    @property
    def names_of_products(self) -> list[str]:
        """What products have: names of parts in the table of words, then values as they stand."""
        return [*sorted(set().union(*self.entries)), *self.values]

    def name_shared(self, shared: set[str]) -> None:
        """Says the field's name beside words by which other fields are asked for, too."""
        if self.rules.numbers and not shared.isdisjoint(self.codes_of):
            self.names.rename(shared)
            del self.codes_of

    def words_of(self, code: int, is_first: bool = False) -> list[str]:
        """Lists how shoppers call a value; nothing where nobody asks for it."""
        if not self.is_asked[code]:
            return []
        entries = self.entries[code]
        if len(self.values[code]) > MOST_CHARACTERS:
            entries = [each for each in entries if len(each) <= MOST_OF_A_PART]
        words = [word for each in entries for word in self.names.words(each, is_first)]
        return list(dict.fromkeys(words))

    def called(self, code: int) -> list[str]:
        """Lists how people may call a value; nothing where nobody asks for it."""
        if not self.words_of(code):
            return []
        return list(
            dict.fromkeys(way for one in self.entries[code] for way in self.names.called(one))
        )

    @cached_property
    def codes_of(self) -> dict[str, list[int]]:
        """The values that agree with each word, by `key_of` the word."""
        found: dict[str, list[int]] = {}
        for code, entries in enumerate(self.agrees):
            for key in sorted(set().union(*map(self.names.keys, entries))):
                found.setdefault(key, []).append(code)
        return found

    def counts(self) -> dict[str, Any]:
        """Counts values, each of a list, and products; and those of cells that nobody asks for."""
        known = self.codes[self.codes >= 0]
        number = np.bincount(known, minlength=len(self.values)).tolist()
        codes = sorted(range(len(number)), key=lambda code: (-number[code], code))
        left = [code for code in codes if not self.words_of(code)]
        return {
            "values": len(set().union(*self.entries)),
            "products": len(known),
            "without": len(self.codes) - len(known),
            "neighbours_by": self.neighbours_by,
            "not_asked": {
                self.values[code][:MOST_SHOWN]: number[code] for code in left[:MOST_SAID]
            },
            "more_not_asked": len(left[MOST_SAID:]),
        }

    def set_families(self, column: str, cells: Iterable[str], missing: Sequence[str]) -> None:
        """Takes a column of `near_by`: its values are families of this field's."""
        self.neighbours_by = column
        _, families = coded(cells, Names(self.name, FieldRules(), missing))
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
            state[self._neighbours(word)] = NEAR
        state[asked] = EXACT
        return state

    def near_families(self, word: str) -> list[int]:
        """Lists the families of the values that a word means, of those that mean nothing else."""
        codes = self.codes_of.get(key_of(word), [])
        alone = [code for code in codes if len(self.entries[code]) == 1]
        return sorted(set().union(*(self.families[code] for code in alone or codes)))

    def _neighbours(self, word: str) -> list[int]:
        """Lists the values of which a part is a neighbour of what a word means."""
        key = key_of(word)
        meant = {each for code in self.codes_of.get(key, ()) for each in self.entries[code]}
        groups = [self._groups(each) for each in meant if key in self.names.keys(each)]
        found = (self._codes_of_group[group] for group in set().union(*groups))
        return sorted(set().union(*found))

    @cached_property
    def _codes_of_group(self) -> dict[str, list[int]]:
        """The values of which a part is in each group of neighbours."""
        found: dict[str, list[int]] = {}
        for code, entries in enumerate(self.entries):
            for group in set().union(*map(self._groups, entries)):
                found.setdefault(group, []).append(code)
        return found

    def _groups(self, entry: str) -> set[str]:
        """Returns the groups of neighbours in which an entry is."""
        key = key_of(entry)
        last = key.split()[-1] if key and self.rules.same_last_word else ""
        # Red gloss and white gloss have a finish in common, and nude 02 and ruby 02 a number.
        return self._listed.get(key, set()) | ({f"last {last}"} if last in self._alone else set())

    @cached_property
    def _alone(self) -> set[str]:
        """The words that are values by themselves, of the rules' or of the shop's."""
        own = {key_of(each) for entries in self.entries for each in entries}
        return {each for each in {*own, *self.names.entry, *self._listed} if " " not in each}

    @cached_property
    def _listed(self) -> dict[str, set[str]]:
        """The groups that the rules list, by each name in them."""
        listed: dict[str, set[str]] = {}
        for number, group in enumerate(self.rules.neighbours):
            for name in group:
                # By the name that the table has for it, too: cream is an off white there.
                for key in {key_of(name), key_of(self.names.entry.get(key_of(name), name))}:
                    listed.setdefault(key, set()).add(f"group {number}")
        return listed


def number_of(text: str) -> int:
    """Returns a number from 0 to below 2^64 that is drawn by a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def coded(cells: Iterable[str], names: Names) -> tuple[list[str], Int[np.ndarray, " products"]]:
    """Returns the distinct values of a column in the order of their letters, and each one's code.

    Texts are as a shopper reads them; values that differ in case and blanks alone are one. What
    says nothing has no code.
    """
    known: dict[str, str] = {}
    folded: list[str] = []
    texts: dict[str, str] = {}
    for cell in cells:
        if cell not in known:
            text = cell_text(cell)
            known[cell] = normal_text(text) if names.entries(text) else ""
            texts[known[cell]] = min(text, texts.get(known[cell], text))
        folded.append(known[cell])
    order = sorted(texts.keys() - {""})
    place = {name: code for code, name in enumerate(order)} | {"": -1}
    codes = np.fromiter((place[each] for each in folded), dtype=np.int32, count=len(folded))
    return [texts[each] for each in order], codes
