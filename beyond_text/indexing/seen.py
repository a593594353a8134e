"""Remembers the digests of pictures' files, so that an update reads only those that have changed.

A file is as it was where its size, its number on the disk and its times of change are, as git tells
it. One that changed in the seconds before it was read is read again: a clock may not tell its next
change from that one.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pyarrow as pa

from beyond_text.indexing.arrow_files import DIGEST, open_arrow, write_arrow
from beyond_text.indexing.facts import IndexFormatError

FILE = "seen.arrow"
SCHEMA = {"file": pa.string(), "state": DIGEST, "digest": DIGEST}
# Nanoseconds: file systems round times of change to as much.
SETTLED = 2_000_000_000


class Seen:
    """The digests of files, by name; reads what an earlier build wrote into `index`."""

    def __init__(self, index: Path) -> None:
        self.path = index / FILE
        self._known: dict[str, tuple[bytes, bytes]] = {}
        self._now: dict[str, tuple[bytes, bytes]] = {}
        try:
            columns = (column.to_pylist() for column in open_arrow(self.path, None, SCHEMA).columns)
            self._known = {
                file: (state, digest) for file, state, digest in zip(*columns, strict=True)
            }
        except IndexFormatError:
            # There is none, or it is damaged: everything is read.
            pass

    def digest(self, file: str, path: Path) -> bytes | None:
        """Returns the digest of a file that has not changed since; None of any other."""
        known = self._known.get(file)
        if known is None or known[0] != state_of(path):
            return None
        self._now[file] = known
        return known[1]

    def note(self, file: str, state: bytes | None, digest: bytes) -> None:
        """Takes down the digest of a file, whose state is that from before it was read."""
        if state is not None:
            self._now[file] = state, digest

    def save(self) -> None:
        """Writes the digests of the files that this build has asked for."""
        if self._now == self._known:
            return
        rows = sorted((file, *both) for file, both in self._now.items())
        columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
        arrays = [pa.array(v, kind) for v, kind in zip(columns, SCHEMA.values(), strict=True)]
        write_arrow(self.path, pa.table(dict(zip(SCHEMA, arrays, strict=True))))


def state_of(path: Path) -> bytes | None:
    """Returns what tells one state of a file from another; None where nothing can tell."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if max(found.st_mtime_ns, found.st_ctime_ns) > time.time_ns() - SETTLED:
        return None
    numbers = found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
    return hashlib.blake2b(repr(numbers).encode(), digest_size=DIGEST.byte_width).digest()
