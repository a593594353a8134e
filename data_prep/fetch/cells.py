"""Reads the cells of a column `image`: one picture, a JSON list, or several with `|` between."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from beyond_text.files import MALFORMED

# A scheme of one letter is a drive of Windows.
URL = re.compile(r"(?:[a-z][a-z0-9+.-]+:)?//|data:", re.IGNORECASE)

# A bar with nothing or a URL behind it.
BEFORE_URL = r"\|(?=\s*(?:$|\||(?:https?:)?//))"


class Cell(NamedTuple):
    """The pictures of a cell, and how they stand in it: "one", "bars" or "json"."""

    form: str
    images: list[str]

    def with_images(self, images: list[str]) -> str:
        """Returns a cell of the same form with other pictures; "" where there are none."""
        if self.form == "json" and images:
            return json.dumps(images, ensure_ascii=False)
        return "|".join(images)


def is_url(image: str) -> bool:
    """Says whether a picture is a URL, of any scheme or none (`//host/...`), and no path."""
    return URL.match(image) is not None


def clean_url(url: str) -> str:
    """Returns a URL without line breaks or blanks around it; `//host` becomes https.

    `&amp;`, left by an export from HTML, is an `&`.
    """
    url = re.sub(r"[\t\r\n]", "", url).strip().replace("&amp;", "&")
    return f"https:{url}" if url.startswith("//") else url


def parse_cell(value: str) -> Cell:
    """Splits a cell into its pictures, URLs cleaned and empty ones left out.

    A `|` inside a URL stays: where a URL comes first, a picture ends only before another URL.
    """
    if value.startswith("["):
        try:
            images = msgspec.json.decode(value, type=list[str | None])
        except MALFORMED:
            return Cell("one", [value])
        return Cell("json", _clean(each or "" for each in images))
    if "|" not in value:
        return Cell("one", _clean([value]))
    between = BEFORE_URL if is_url(value.lstrip(" |")) else r"\|"
    return Cell("bars", _clean(re.split(between, value, flags=re.IGNORECASE)))


def _clean(images: Iterable[str]) -> list[str]:
    """Strips pictures, cleans URLs, and leaves empty ones out."""
    stripped = (image.strip() for image in images)
    return [clean_url(image) if is_url(image) else image for image in stripped if image]
