"""Keeps what FAISS builds of vectors in the user's own cache folder, and nowhere else.

FAISS's parser trusts its files. So none is read but one that this user's own program wrote, into a
folder that nobody else can write to; an index that was moved or sent has none, and gets its own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from beyond_text.config.names import IndexKind
from beyond_text.files import sha256_of, user_cache, write_text
from beyond_text.retrieval.nearest import Nearest

# Larger files, in bytes, are not read whole whenever they are opened.
CHECKED = 2**30


def open_nearest(
    kind: IndexKind, vectors: np.ndarray, digest: str, queries: np.ndarray | None = None
) -> Nearest:
    """Returns the search of a kind over vectors; what it learns is kept, by the vectors' digest.

    `queries` are as for `Nearest.build`.
    """
    kept = _kept(kind, vectors, digest)
    return kept or keep_nearest(Nearest.build(kind, vectors, queries=queries), digest)


def update_nearest(
    kind: IndexKind,
    old: tuple[np.ndarray, str],
    vectors: np.ndarray,
    digest: str,
    rows: np.ndarray,
    queries: np.ndarray | None = None,
) -> Nearest:
    """Returns the search over vectors of which most are those of an older state.

    Args:
        kind: of the search.
        old: vectors of the older state, and their digest.
        vectors: those of the new state, and `digest` theirs.
        digest: of the file of the vectors.
        rows: the older row whose vector each has; -1 where it is new.
        queries: that say how many lists must be read.
    """
    if _path(kind, digest).exists() or (before := _kept(kind, *old)) is None:
        return open_nearest(kind, vectors, digest, queries)
    return keep_nearest(before.updated(vectors, rows, queries=queries), digest)


def keep_nearest(nearest: Nearest, digest: str) -> Nearest:
    """Writes what a search has learned; returns it."""
    path = _path(nearest.kind, digest)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        nearest.save(partial)
        if partial.exists():
            partial.chmod(0o600)
            checksum = sha256_of(partial)
            os.replace(partial, path)
            write_text(path.with_suffix(".sha256"), checksum)
    except (OSError, RuntimeError):
        # Only the next search is slower for it.
        pass
    finally:
        partial.unlink(missing_ok=True)
    return nearest


def forget_nearest(kind: IndexKind, digest: str) -> None:
    """Removes what was kept of vectors that are gone."""
    path = _path(kind, digest)
    for each in (path, path.with_suffix(".sha256")):
        each.unlink(missing_ok=True)


def _path(kind: IndexKind, digest: str) -> Path:
    return user_cache() / f"{kind}-{digest}.faiss"


def _kept(kind: IndexKind, vectors: np.ndarray, digest: str) -> Nearest | None:
    """Returns the search that was kept; None where there is none, or it may be somebody else's."""
    path = _path(kind, digest)
    if kind != "exact" and not (_is_ours(path.parent, stat.S_ISDIR) and _is_whole(path)):
        return None
    try:
        return Nearest.load(kind, path, vectors)
    except (OSError, ValueError):
        return None


def _is_ours(path: Path, is_kind: Any) -> bool:
    """Says whether only this user can have written a file or folder; a link is none."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _is_whole(path: Path) -> bool:
    """Says whether a file is ours, and has the checksum that was written beside it."""
    check = path.with_suffix(".sha256")
    if not (_is_ours(path, stat.S_ISREG) and _is_ours(check, stat.S_ISREG)):
        return False
    try:
        wanted = check.read_text(encoding="utf-8")
        return path.stat().st_size > CHECKED or sha256_of(path) == wanted
    except (OSError, UnicodeDecodeError):
        return False
