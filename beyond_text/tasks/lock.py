"""Lets one process at a time write a folder, or the jobs of one array; a kill frees it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of this process. A forked one, such as a loader, would keep the lock when this one is killed.
_HANDLES: set[int] = set()


def _leave() -> None:
    for handle in _HANDLES:
        os.close(handle)
    _HANDLES.clear()


os.register_at_fork(after_in_child=_leave)


class Lock:
    """A lock that this process holds, by the kernel, on an open file or folder."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def is_last(self) -> bool:
        """Says whether a job of an array, which finds all done, now holds the lock alone.

        Of several such jobs one does: at the latest the one that asks last.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def locked(path: Path, message: str, shared: bool = False) -> Iterator[Lock]:
    """Holds a lock on a folder, or on a file that is made.

    Args:
        path: of the folder or file.
        message: of the error.
        shared: with other jobs of an array.

    Raises:
        BlockingIOError: another process holds it.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    handle = os.open(path, flags, 0o666)
    _HANDLES.add(handle)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(message) from error
        yield Lock(handle)
    finally:
        # Not in a process that was forked meanwhile.
        if handle in _HANDLES:
            _HANDLES.remove(handle)
            os.close(handle)
