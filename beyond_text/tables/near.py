"""Finds what is near to an id or a path that names nothing, for a message."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def near_ids(unknown: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Returns for unknown ids the known one that is the same number, or the same in another case.

    Ids become floats (`p4.0`, `4.0`) where a spreadsheet or pandas reads a column with gaps, and
    lose leading zeros where they are read as numbers.
    """
    wanted = {identity: _folded(identity) for identity in set(unknown)}
    folded = dict.fromkeys(wanted.values(), "")
    for identity in known if wanted else ():
        key = _folded(identity)
        if key in folded:
            folded[key] = min(folded[key] or identity, identity)
    found = {identity: folded[key] for identity, key in wanted.items()}
    return {identity: near for identity, near in found.items() if near and near != identity}


def _folded(identity: str) -> str:
    """Returns an id without what tools change in it."""
    return re.sub(r"\.0+$", "", "".join(identity.casefold().split())).lstrip("0#'")


def near_picture(folder: Path, name: str) -> str:
    """Returns a file of the folder that the name of a picture may mean, as a path in it, or ""."""
    for guess in _guesses(name):
        found = _find(folder, guess)
        if found:
            return found
    return ""


def _guesses(name: str) -> Iterator[str]:
    """Yields what a shop may have meant: decoded, without query, of another folder or ending."""
    path = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/*|^/+", "", name.replace("\\", "/"))
    for written in dict.fromkeys((path, path.split("?")[0].split("#")[0], unquote(path),
                                  unquote(path.split("?")[0]))):  # fmt: skip
        last = written.rpartition("/")[2]
        stem = os.path.splitext(last)[0]
        yield from dict.fromkeys((written, last, f"images/{last}", f"images/{written}"))
        for ending in ENDINGS:
            yield from (f"{written[: len(written) - len(last)]}{stem}{ending}",
                        f"images/{stem}{ending}")  # fmt: skip


def _find(folder: Path, guess: str) -> str:
    """Finds a file by its path in the folder, in any case of letters; "" where there is none."""
    found = folder
    for part in guess.split("/"):
        if part in ("", "."):
            continue
        there = _entries(str(found)).get(part.casefold())
        if there is None:
            return ""
        found /= there
    return found.relative_to(folder).as_posix() if os.path.isfile(found) else ""


@lru_cache(maxsize=64)
def _entries(folder: str) -> dict[str, str]:
    """Returns the names of a folder's files by their lower case."""
    try:
        return {name.casefold(): name for name in os.listdir(folder)}
    except (OSError, ValueError):
        return {}
