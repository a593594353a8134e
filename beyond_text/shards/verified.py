"""Remembers which files have the checksum that their manifest says, so that none is read twice.

A file is known by its size and the times at which it, and what is known of it, last changed. The
memory lies in the user's own cache folder; whoever deletes it has everything compared again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from beyond_text.files import MALFORMED, FileState, state_of, user_cache, write_text


class Compared(NamedTuple):
    """A file as it was compared with its checksum."""

    state: FileState
    sha256: str


FILES = msgspec.json.Decoder(dict[str, Compared])


class Verified:
    """The files of a folder that were compared before, by name."""

    def __init__(self, folder: Path) -> None:
        digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
        self.path = user_cache() / "verified" / f"{digest[:32]}.json"
        self.files: dict[str, Compared] = {}
        # Whatever cannot be read is not known.
        with suppress(OSError, *MALFORMED):
            self.files = FILES.decode(self.path.read_bytes())

    def knows(self, path: Path, entry: Mapping[str, Any]) -> bool:
        """Says whether a file is as it was when it had the checksum of its entry.

        Raises:
            OSError: there is no such file.
        """
        return self.files.get(path.name) == (state_of(path), entry["sha256"])

    def add(self, path: Path, entry: Mapping[str, Any], begun: int) -> None:
        """Adds a file that was read from `begun` on and has the checksum of its entry.

        One that has changed just before is not added, since it could change again unseen.
        """
        state = state_of(path)
        if state.is_settled(begun):
            self.files[path.name] = Compared(state, entry["sha256"])

    def save(self) -> None:
        """Writes the memory; where it cannot be written, files are compared again."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, msgspec.json.encode(self.files).decode())
