"""Parts a text, of any language, into the words by which a lexical search finds it.

- Case, accents, digits and compatibility forms are folded: `Café`, `CAFE` and `ｃａｆé` are `cafe`.
- A word that has joints is kept whole and in parts, so that a model number is found however it is
  typed: `WH-1000XM5` gives `wh1000xm5`, `wh`, `1000xm5`, `1000`, `xm`, `5`. Joints are marks inside
  a word (`-`, `/`, `.`, `'`, `&` ...), and where letters meet digits.
- Scripts that leave no blanks between words (Chinese, Japanese, Thai ...) give each character and
  each pair of neighbours.

There is no stemming and no list of stop words: both belong to one language.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import regex

# Longer words are cut, those of products and those of queries alike.
LONGEST_WORD = 64
# Letters with a stroke and the like, which Unicode does not decompose.
LETTERS = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "\u0131": "i",
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
    }
)
# Accents of Latin, Greek and Cyrillic, points that Hebrew and Arabic are written with or without,
# and what has no width. Other scripts' marks are vowels that a word cannot lose.
DROPPED = regex.compile(
    r"[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    r"\u00ad\u200b-\u200d\u2060\ufeff]+"
)
DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
WITHOUT_BLANKS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30fc\u3005\u3007"
)
LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{WITHOUT_BLANKS}]]"
JOINT = r"[-\u2010-\u2015\u2212_/\\.'\u2019+&#:\u00b7]"
# A run of a script without blanks, or a word, perhaps with joints and a word after each.
WORD = regex.compile(
    rf"(?V1)(?P<run>[{WITHOUT_BLANKS}][{WITHOUT_BLANKS}\p{{M}}]*)|{LETTER}+(?:{JOINT}{LETTER}+)*"
)
PART = regex.compile(r"[\p{L}\p{M}\p{N}]+")
# Without joints, but 12.5 is not 125.
WHOLE = regex.compile(r"(?<=\p{N})\.(?=\p{N})|[\p{L}\p{M}\p{N}]+")
LETTERS_OR_NUMBER = regex.compile(r"\p{N}+|[\p{L}\p{M}]+")


def words_of(text: str) -> list[str]:
    """Lists the words of a text, folded, in order; a word with joints whole and in parts."""
    # No word reaches across a blank, and shops say most things again and again.
    words: list[str] = []
    for piece in text.split():
        words += _known(piece) if len(piece) <= LONGEST_WORD else _of_piece(piece)
    return words


def _of_piece(piece: str) -> list[str]:
    return [word[:LONGEST_WORD] for word in _words(folded(piece))]


_known = lru_cache(maxsize=1 << 16)(_of_piece)


def folded(text: str) -> str:
    """Returns a text without differences of case, accents, digits and compatibility forms."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    text = unicodedata.normalize("NFC", DROPPED.sub("", text)).translate(LETTERS)
    return DIGIT.sub(lambda found: str(unicodedata.digit(found[0], found[0])), text)


def _words(text: str) -> Iterator[str]:
    for found in WORD.finditer(text):
        word = found[0]
        if word.isascii() and (word.isalpha() or word.isdigit()):
            yield word
        elif found["run"]:
            # A character has its marks with it.
            characters = regex.findall(r"\X", word)
            yield from characters
            yield from map("".join, pairwise(characters))
        else:
            yield from _whole_and_parts(word)


def _whole_and_parts(word: str) -> Iterator[str]:
    """Yields a word without its joints, its parts between them, and their letters and numbers."""
    parts = PART.findall(word)
    if len(parts) > 1:
        yield "".join(WHOLE.findall(word))
    for part in parts:
        pieces = LETTERS_OR_NUMBER.findall(part)
        yield part
        if len(pieces) > 1:
            yield from pieces
