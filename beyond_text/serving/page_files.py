"""The files of the page, read once: no path of a request reaches the file system."""

from __future__ import annotations

from importlib.resources import files

from beyond_text.serving.pictures import Sent, sent

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def page_files() -> dict[str, Sent]:
    """Returns the files of the page by name."""
    found = {}
    for file in (files("beyond_text.serving") / "page").iterdir():
        _, _, ending = file.name.rpartition(".")
        if ending in TYPES:
            found[file.name] = sent(file.read_bytes(), TYPES[ending])
    return found
