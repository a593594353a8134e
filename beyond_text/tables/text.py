"""Turns the values of a shop's tables into text as a shopper reads it."""

from __future__ import annotations

import html.entities
import re
import unicodedata
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Elements of HTML that often stand without an end.
SINGLE = _names("br dd dt hr img input li link meta option p source td th tr wbr")
# Elements whose edges part words; an edge of the others may lie inside a word.
BLOCKS = SINGLE - {"wbr"} | _names(
    "address article aside blockquote body button caption center dd details dialog dir div dl "
    "fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 head header html iframe legend main "
    "menu nav noscript object ol optgroup picture pre section select summary svg table tbody "
    "textarea tfoot thead title ul video"
)
HIDDEN = _names("script style")
INLINE = _names(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr o:p "
    "path q rp rt ruby s samp small span strike strong sub sup time tt u var wbr"
)
ELEMENTS = BLOCKS | HIDDEN | INLINE
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:]*)((?:\s[^<>]*)?)/?>")
# Comments, declarations and the marks around character data.
ASIDE = re.compile(
    r"<!--(?:(?!<!--).)*?-->|<!doctype[^<>]*>|<!\[[^<>\[]*[\[>]|\]\]>|<\?xml[^<>]*>", re.I | re.S
)
ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
# Of the characters without a width, only U+200C and U+200D change how letters look.
INVISIBLE = (
    "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
BLANKS = "\v\f\u0085\u00a0\u2007\u2028\u2029\u202f"
CONTROLS = "".join(map(chr, (*range(9), *range(14, 32), *range(127, 160))))
AS_SHOWN = dict.fromkeys(map(ord, CONTROLS + INVISIBLE)) | dict.fromkeys(map(ord, BLANKS), " ")
UNSEEN = re.compile(f"[{re.escape(''.join(map(chr, AS_SHOWN)))}]")
# Exports escape markup once more on its way through XML or a database, seldom twice.
MOST_ROUNDS = 4


class _Words(HTMLParser):
    """Collects the text between tags; an edge of a block is a blank."""

    def __init__(self, ended: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.hides = HIDDEN & ended
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begins an element; one that hides its text must have an end."""
        self.hidden += tag in self.hides
        self.parts.append(" " if tag in BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        """Ends an element."""
        self.hidden = max(0, self.hidden - (tag in self.hides))
        self.parts.append(" " if tag in BLOCKS else "")

    def handle_data(self, data: str) -> None:
        """Keeps text that is not code."""
        if not self.hidden:
            self.parts.append(data)


def plain_text(value: str) -> str:
    """Strips a value, takes out characters that nobody sees, and makes every blank a plain one."""
    return value.translate(AS_SHOWN).strip() if UNSEEN.search(value) else value.strip()


def shown_text(value: str) -> str:
    """Returns a value as a shopper reads it: no markup, entities resolved, nothing invisible.

    Only HTML's own elements and complete entities are markup: `size < 5 & > 3`, `AC/DC <3`, `<S>`
    and `R&D` stay. Where elements were, blanks in a row become one; elsewhere they stay.
    """
    text = plain_text(value)
    for _ in range(MOST_ROUNDS):
        if "<" not in text and "&" not in text:
            break
        before, text = text, plain_text(_parsed(ASIDE.sub("", text)))
        if text == before:
            break
    return text


def product_text(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """Joins the chosen fields of a product that are not empty, as sentences."""
    return ". ".join(fields[name].strip(" .") for name in names if fields.get(name))


def normal_text(value: str) -> str:
    """Returns the form in which equal texts are found: NFKC, one case, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def _parsed(text: str) -> str:
    """Parses a text as HTML in which every `<` and `&` that is no markup stands for itself."""
    tags = [tag for tag in TAG.finditer(text) if tag[2].lower() in ELEMENTS]
    # A bare `<small>` alone is a word of the shop's.
    if not any(tag[1] or "=" in tag[3] or tag[2].lower() in SINGLE for tag in tags):
        tags = []
    safe, last = [], 0
    for tag in tags:
        safe += [_escaped(text[last : tag.start()]), tag[0]]
        last = tag.end()
    parser = _Words(frozenset(tag[2].lower() for tag in tags if tag[1]))
    parser.feed("".join([*safe, _escaped(text[last:])]))
    parser.close()
    words = "".join(parser.parts)
    return " ".join(words.split()) if tags else words


def _escaped(text: str) -> str:
    """Escapes `<`, and `&` where it begins no entity."""
    parts, last = [], 0
    for entity in ENTITY.finditer(text):
        if entity[1][0] == "#" or f"{entity[1]};" in html.entities.html5:
            parts += [text[last : entity.start()].replace("&", "&amp;"), entity[0]]
            last = entity.end()
    return "".join([*parts, text[last:].replace("&", "&amp;")]).replace("<", "&lt;")
