"""Finds values and words whatever the way in which they are written."""

from __future__ import annotations

import re
from functools import lru_cache

from beyond_text.tables.text import normal_text

# Signs that exports write in several ways: women's, 3-6 years, 140 x 200.
SIGNS = str.maketrans(
    dict.fromkeys("\u2019\u02bc\u2018`\u00b4", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | {"\u00d7": "x"}
)
# A hyphen between words, but not the sign of a number: -5.
HYPHEN = re.compile(r"(?<=[^\W_])-|-(?![.,]?\d)")
# 140 x 200 is 140x200.
TIMES = re.compile(r"(?<=\d)\s*x\s*(?=\d)")
# 1,000 is 1000, and 0,75 is 0.75.
THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
DECIMAL = re.compile(r"(?<![\d.,])(\d+),(\d+)(?![\d,])")
# 5.0 is 5.
WHOLE = re.compile(r"(?<![\d.])(\d+)\.0{1,2}(?![\d.])")
# A blank between a number and its unit: 250 g.
UNIT = re.compile(
    r"(\d)\s+([kmμ]?g|[cmkμ]?m|[cm]?l|m?ah|k?wh|[kmg]?hz|[kmgt]b|m?[vw]|kw|oz|lbs?|fl|in|ft|yd|"
    r"pcs|pc|ct|bar|psi|rpm|nm|hp|ps|lm|db|mp|dpi|gsm|tc|%|°\s?[cf]?|[\"\u2033])(?!\w)"
)
# How English nouns end that have another plural than by -s: bookshelves.
ENDS = {
    "elves": "elf", "knives": "knife", "housewives": "housewife", "scarves": "scarf",
    "leaves": "leaf", "loaves": "loaf", "halves": "half", "wolves": "wolf", "hooves": "hoof",
    "women": "woman", "children": "child", "teeth": "tooth", "feet": "foot",
    "series": "series", "species": "species",
}  # fmt: skip
END = re.compile(f"(?:{'|'.join(ENDS)})$")
# Words in -ies whose singular is in -ie.
IE = re.compile(
    r"(?:hood|bean|boot|ones|cook|mov|brown|smooth|neckt|bowt|zomb|gen|pix|self|bird|budg|vegg|"
    r"rook|cut|sweet|night|hipp|calor|coll|prair|magp)ies$"
)


@lru_cache(maxsize=2**16)
def key_of(text: str) -> str:
    """Returns the form by which values and words are found.

    Case, hyphens, the plural, and how numbers, their units and signs are written are aside.
    """
    text = TIMES.sub("x", normal_text(text).translate(SIGNS))
    text = THOUSANDS.sub(lambda number: number[1].replace(",", ""), text)
    text = WHOLE.sub(r"\1", DECIMAL.sub(r"\1.\2", text))
    words = UNIT.sub(r"\1\2", HYPHEN.sub(" ", text)).split()
    return " ".join([*words[:-1], singular(words[-1])]) if words else ""


def singular(word: str) -> str:
    """Takes the plural's ending off an English noun; a few others lose an s, which does no harm."""
    if match := END.search(word):
        return word[: match.start()] + ENDS[match[0]]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-1] if IE.match(word) else f"{word[:-3]}y"
    if re.search(r"(?:sh|ch|ss|x)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "su" else word
