"""Cuts texts of products into phrases, such as `v-neck` or `soft cotton`, and counts them once."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from beyond_text.tables.text import normal_text
from data_prep.asking.keys import singular
from data_prep.asking.schema import DetailRules

# Ends a phrase: a blank or a hyphen between letters does not.
PAUSE = re.compile(r"([^\w\s'\u2019-]+|(?<!\w)-|-(?!\w))")
TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
# The most words of an item of a list that is denied as one: no zip, buttons or pockets.
ITEM = 3


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
        self.denied_whole = frozenset(rules.denied_whole)
        self.denied_until = frozenset(rules.denied_until)
        self.denied_on = frozenset(rules.denied_on)
        self.denied_behind = [tuple(each.split()) for each in rules.denied_behind]
        self.leading = self.links | self.passed | self.denied
        self.breaks = self.denied | self.denied_on | self.denied_until | set(rules.breaks)
        self.names = {tuple(TOKEN.findall(name)) for name in names} - {()}
        self.longest: dict[str, int] = {}
        for name in self.names:
            self.longest[name[0]] = max(len(name), self.longest.get(name[0], 0))

    def phrases(self, text: str) -> list[Phrase]:
        """Lists the phrases of a text in their order."""
        pieces = PAUSE.split(normal_text(text).replace("\u2019", "'"))
        parts = [list(TOKEN.finditer(part)) for part in pieces[::2]]
        # What stands before each part.
        pauses = ["", *(pause.strip() for pause in pieces[1::2])]
        found: list[Phrase] = []
        earlier: list[Phrase] = []
        link, denied_to = "", 0
        for place, part in enumerate(parts):
            if pauses[place] not in (",", "("):
                earlier += found
                found = []
            link = self._add(found, pieces[2 * place], part, link if place < denied_to else "")
            if link in self.denied and place >= denied_to:
                listed = takewhile(",".__eq__, pauses[place + 1 :])
                end = place + 1 + sum(1 for _ in listed)
                denied_to = place + 1 + self._denied_parts(parts[place + 1 : end])
        return earlier + found

    def _add(
        self, found: list[Phrase], part: str, spans: Sequence[re.Match[str]], link: str
    ) -> str:
        """Adds the phrases of a part to those that are found; returns the link of its end.

        Args:
            found: the phrases before, of the same sentence.
            part: text without a pause.
            spans: its words.
            link: the word that led to the part, or ''.
        """
        begin = end = at = 0
        words = [span[0] for span in spans]
        while at < len(spans):
            word, start, stop = words[at], spans[at].start(), spans[at].end()
            length = self._named(words, at)
            # The a of a-line, and the on of pull-on, connect nothing.
            is_joined = "-" in (part[start - 1 : start], part[stop : stop + 1])
            goes_on = link in self.denied and word in self.denied_on
            is_passed = not is_joined and (word in self.passed or goes_on)
            is_link = not is_joined and word in self.links
            if behind := self._denied_behind(words, at):
                if not end:
                    found[-1:] = []
                begin = end = 0
                link = ""
                at += behind
            elif length or is_passed or is_link or (not is_joined and word in self.breaks):
                if end and link not in self.denied:
                    found.append(Phrase(link, part[begin:end]))
                begin = end = 0
                is_denied = link in self.denied_whole and word not in self.denied_until
                if not is_denied and (length or not is_passed):
                    leads = not length and (is_link or word in self.denied)
                    link = word if leads else ""
                at += max(length, 1)
            else:
                begin, end = (begin if end else start), stop
                at += 1
        if end and link not in self.denied:
            found.append(Phrase(link, part[begin:end]))
        return link

    def _denied_behind(self, words: Sequence[str], at: int) -> int:
        """Returns how many words from a place on deny what stands before them, as not included."""
        return next((len(one) for one in self.denied_behind
                     if tuple(words[at : at + len(one)]) == one), 0)  # fmt: skip

    def _denied_parts(self, parts: Iterable[Sequence[re.Match[str]]]) -> int:
        """Returns how many parts of a list a denial goes on for, as in no zip, buttons or pockets.

        A list without such an `or` ends with its first item: no zip, long sleeves.
        """
        for number, part in enumerate(parts, 1):
            words = [span[0] for span in part]
            last = next((at for at, word in enumerate(words) if word in self.denied_on), len(words))
            if last > ITEM or self.leading & set(words[:last]):
                return 0
            if last < len(words):
                return number
        return 0

    def _named(self, texts: Sequence[str], at: int) -> int:
        """Returns how many words from a place on are a name."""
        word = texts[at]
        most = max(self.longest.get(word, 0), self.longest.get(singular(word), 0))
        for length in range(min(most, len(texts) - at), 0, -1):
            words = tuple(texts[at : at + length])
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
