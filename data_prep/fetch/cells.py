"""Reads the URLs among the pictures that a cell names."""

from __future__ import annotations

import re
from pathlib import Path

from beyond_text.tables.cells import is_url
from beyond_text.tables.checks import names_in


def clean_url(url: str) -> str:
    """Returns a URL without line breaks or blanks around it; `//host` becomes https.

    `&amp;`, left by an export from HTML, is an `&`.
    """
    url = re.sub(r"[\t\r\n]", "", url).strip().replace("&amp;", "&")
    return f"https:{url}" if url.startswith("//") else url


def clean_names(cell: str, folder: Path) -> list[str]:
    """Lists the pictures that a cell of a folder's table names, URLs cleaned."""
    return [clean_url(name) if is_url(name) else name for name in names_in(cell, folder)]
