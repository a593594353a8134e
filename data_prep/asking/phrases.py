"""Cuts texts of products into phrases, such as `v-neck` or `soft cotton`, and counts them once."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from beyond_text.tables.text import normal_text
from data_prep.asking.schema import DetailRules
from data_prep.asking.values import singular

# Ends a phrase: a blank or a hyphen between letters does not.
PAUSE = re.compile(r"[^\w\s'\u2019-]+|(?<!\w)-|-(?!\w)")
TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")


class Phrase(NamedTuple):
    """Words of a text between two breaks, and the connecting word before them, or ''."""

    link: str
    text: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words without hyphens, the last one in the singular."""
        words = TOKEN.findall(self.text)
        return (*words[:-1], singular(words[-1]))


class Cutter:
    """Cuts texts where a connecting word, a pause, or a name of a type or a colour stands.

    This is the candidate step of RAKE (Rose et al., 2010, "Automatic Keyword Extraction from
    Individual Documents").

    Args:
        rules: say which words connect and which break.
        names: further breaks, by `key_of` them: words that shoppers have for values of fields.
    """

    def __init__(self, rules: DetailRules, names: Collection[str]) -> None:
        self.links = frozenset(rules.links)
        self.passed = frozenset(rules.passed)
        self.denied = frozenset(rules.denied)
        self.denied_on = frozenset(rules.denied_on)
        self.breaks = self.denied | self.denied_on | set(rules.breaks)
        self.names = {tuple(TOKEN.findall(name)) for name in names} - {()}
        self.longest: dict[str, int] = {}
        for name in self.names:
            self.longest[name[0]] = max(len(name), self.longest.get(name[0], 0))

    def phrases(self, text: str) -> Iterator[Phrase]:
        """Yields the phrases of a text in their order."""
        for part in PAUSE.split(normal_text(text)):
            link = ""
            begin = end = at = 0
            spans = [(found[0], found.start(), found.end()) for found in TOKEN.finditer(part)]
            while at < len(spans):
                word, start, stop = spans[at]
                length = self._named(spans, at)
                # The a of a-line, and the on of pull-on, connect nothing.
                is_joined = "-" in (part[start - 1 : start], part[stop : stop + 1])
                goes_on = link in self.denied and word in self.denied_on
                is_passed = not is_joined and (word in self.passed or goes_on)
                is_link = not is_joined and word in self.links
                if length or is_passed or is_link or (not is_joined and word in self.breaks):
                    if end and link not in self.denied:
                        yield Phrase(link, part[begin:end])
                    begin = end = 0
                    if length or not is_passed:
                        leads = not length and (is_link or word in self.denied)
                        link = word if leads else ""
                    at += max(length, 1)
                else:
                    begin, end = (begin if end else start), stop
                    at += 1
            if end and link not in self.denied:
                yield Phrase(link, part[begin:end])

    def _named(self, spans: list[tuple[str, int, int]], at: int) -> int:
        """Returns how many words from a place on are a name."""
        word = spans[at][0]
        most = max(self.longest.get(word, 0), self.longest.get(singular(word), 0))
        for length in range(min(most, len(spans) - at), 0, -1):
            words = tuple(each[0] for each in spans[at : at + length])
            if words in self.names or (*words[:-1], singular(words[-1])) in self.names:
                return length
        return 0


class Texts:
    """The phrases of distinct texts, as numbers: those of text n are codes[starts[n]:starts[n+1]].

    `phrases` are the distinct ones, in the order in which they are met.
    """

    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter
        self.place: dict[Phrase, int] = {}
        self._codes = array("i")
        self._starts = array("q", [0])

    def add(self, text: str) -> None:
        """Reads one more text."""
        found = dict.fromkeys(self.cutter.phrases(text))
        self._codes.extend(self.place.setdefault(each, len(self.place)) for each in found)
        self._starts.append(len(self._codes))

    @property
    def phrases(self) -> list[Phrase]:
        """The distinct phrases, by their numbers."""
        return list(self.place)

    @property
    def codes(self) -> Int[np.ndarray, " all"]:
        """Numbers of phrases, those of the first text first."""
        return np.frombuffer(self._codes, dtype=np.int32)

    @property
    def starts(self) -> Int[np.ndarray, " texts_and_1"]:
        """Where each text's numbers begin; the last is their end."""
        return np.frombuffer(self._starts, dtype=np.int64)
