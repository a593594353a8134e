"""Reads cells that name pictures: one, a JSON list, or several with `|` between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec

from beyond_text.files import MALFORMED

# A scheme of one letter is a drive of Windows.
URL = re.compile(r"[a-z][a-z0-9+.-]*://|//|data:", re.IGNORECASE)
# A `|` may be part of a URL, so one ends only before the next, or where both sides are named as
# pictures are.
AFTER_URL = re.compile(
    r"\|(?=\s*(?:$|\||(?:https?:)?//))"
    r"|(?:(?<=\.jpg)|(?<=\.jpeg)|(?<=\.png)|(?<=\.webp)|(?<=\.gif))\s*"
    r"\|(?=[^|]*\.(?:jpe?g|png|webp|gif)\s*(?:\||$))",
    re.IGNORECASE,
)
LIST = msgspec.json.Decoder(list[str | None])


def picture_names(cell: str) -> list[str]:
    """Lists the pictures that a cell names, each once, without empty ones."""
    names: Iterable[str | None] = [cell]
    if cell.startswith("["):
        try:
            names = LIST.decode(cell)
        except MALFORMED:
            names = [cell]
    elif "|" in cell:
        names = AFTER_URL.split(cell) if is_url(cell.lstrip(" |")) else cell.split("|")
    return list(dict.fromkeys(name for each in names if (name := (each or "").strip())))


def picture_cell(names: Iterable[str]) -> str:
    """Writes a cell that names the pictures, each once."""
    distinct = list(dict.fromkeys(names))
    if len(distinct) == 1 and picture_names(distinct[0]) == distinct:
        return distinct[0]
    return json.dumps(distinct, ensure_ascii=False) if distinct else ""


def is_url(name: str) -> bool:
    """Says whether a picture is a URL, of any scheme or none (`//host/...`), and no path."""
    return URL.match(name) is not None
