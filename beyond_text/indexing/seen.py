"""Remembers the digests of pictures' files, so that an update reads only those that have changed.

One that changed in the seconds before it was read is read again: a clock may not tell its next
change from that one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from beyond_text.files import FileState, state_of
from beyond_text.indexing.arrow_files import DIGEST, open_arrow, write_arrow
from beyond_text.indexing.facts import IndexFormatError

FILE = "seen.arrow"
SCHEMA = {"file": pa.string(), **dict.fromkeys(FileState._fields, pa.int64()), "digest": DIGEST}


class Seen:
    """The digests of files, by name; reads what an earlier build wrote into `index`."""

    def __init__(self, index: Path) -> None:
        self.path = index / FILE
        self._known: dict[str, tuple[FileState, bytes]] = {}
        self._now: dict[str, tuple[FileState, bytes]] = {}
        try:
            table = open_arrow(self.path, None, SCHEMA)
        except IndexFormatError:
            # There is none, or it is damaged: everything is read.
            return
        file, *state, digest = (column.to_pylist() for column in table.columns)
        known = zip(map(FileState, *state), digest, strict=True)
        self._known = dict(zip(file, known, strict=True))

    def digest(self, file: str, path: str) -> bytes | None:
        """Returns the digest of a file that has not changed since; None of any other."""
        known = self._known.get(file)
        if known is None or known[0] != _state(path):
            return None
        self._now[file] = known
        return known[1]

    def note(self, file: str, path: str, read: Callable[[], bytes]) -> bytes:
        """Returns the digest of a file, which is read, and takes it down."""
        state, begun = _state(path), time.time_ns()
        digest = read()
        if state is not None and state.is_settled(begun):
            self._now[file] = state, digest
        return digest

    def save(self) -> None:
        """Writes the digests of the files that this build has asked for."""
        if self._now == self._known:
            return
        rows = sorted((file, *state, digest) for file, (state, digest) in self._now.items())
        columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
        arrays = [pa.array(v, kind) for v, kind in zip(columns, SCHEMA.values(), strict=True)]
        write_arrow(self.path, pa.table(dict(zip(SCHEMA, arrays, strict=True))))


def _state(path: str) -> FileState | None:
    """Returns the state of a file; None where there is none."""
    try:
        return state_of(path)
    except (OSError, ValueError):
        return None
