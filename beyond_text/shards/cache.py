"""Keeps fetched files in a folder of bounded size, which all processes of a machine share.

Files are named by their checksums, so runs, sources and URLs share what is equal. Every lock is one
of the system's on an open file (flock): it ends with the process that holds it, however that ends.

    SHA256-FILE            whole; its own lock, shared, says that it is in use, for a time
    OWNER.SHA256-FILE      whole; the lock of .OWNER.lock says so of all files of an owner
    FILE.BYTES.partial     being fetched, under its own lock; what a killed process left has none
    .lock                  held for the moment in which names and room are dealt with

The least recently used go first, by the time that a file was last taken or given back.

fsspec's caching file systems are not used: none is bounded in size, compares checksums, or lets
processes share a download. webdataset's cache is bounded, but deletes by age what others are
reading, checks no sums, and two processes fetch a shard twice.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from beyond_text.shards.manifest import ShardError

GB = 10**9
PARTIAL = ".partial"
# The user may name a folder that holds other things.
OURS = re.compile(
    r"(?:(?P<owner>[0-9a-f]{16})\.)?[0-9a-f]{64}-[A-Za-z0-9_-]+\.[a-z0-9]+"
    r"(?:\.(?P<claimed>[0-9]+)\.partial)?"
)
# Seconds: how long room is waited for that others use, and how often it is looked for.
PATIENCE, AGAIN = 60.0, 0.05
# Seconds without being asked for, after which a shard is not held to be in use any more: a process
# may be idle. Whoever has it open or mapped can read on.
LEASE = 5.0
# With so many bytes of room, files of less than SMALL are not counted again for ROOMY seconds: a
# large set has thousands, and to count a full cache takes a while.
ROOM, SMALL, ROOMY = GB, 10**6, 5.0


class _File(NamedTuple):
    """A whole file of the folder; ordered by the time of its last use."""

    used: int
    size: int
    name: str


class _Room(NamedTuple):
    """Whether a file fits, and whether others that are being fetched take room."""

    fits: bool
    is_claimed: bool


class Cache:
    """A folder for files of at most `limit` bytes together.

    `announced` are the names of the files that each store of this process reads now or next: what
    is fetched ahead takes no room from them.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.announced: dict[str, deque[dict[str, int]]] = {}
        self._roomy_until = 0.0

    def take(self, name: str, size: int) -> int | None:
        """Opens a file, which is in use until the handle is closed; None where it is not there."""
        path = self.folder / name
        while True:
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(handle, fcntl.LOCK_SH)
            if _is_at(handle, path):
                if os.fstat(handle).st_size == size:
                    os.utime(handle)
                    return handle
                give_back(handle)
                return None
            # Dropped meanwhile.
            give_back(handle)

    def _has(self, name: str, size: int) -> bool:
        """Says whether a file is there."""
        try:
            return (self.folder / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def keep(self, handle: int, name: str) -> bool:
        """Keeps a file in use that a handle of `take` is of; False where it was dropped."""
        if not _is_at(handle, self.folder / name):
            return False
        if time.time() - os.fstat(handle).st_mtime > LEASE / 4:
            os.utime(handle)
        return True

    def own(self, owner: str) -> int:
        """Puts an owner's files in use until the handle is closed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._owners_lock(owner), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle

    def add(
        self,
        name: str,
        size: int,
        fill: Callable[[Path], None],
        spare: Callable[[], bool] | None = None,
    ) -> int | None:
        """Takes a file, which `fill` writes to a path if it is not there.

        Of several processes one writes it. With `spare`, it is waited for, and for room: `spare`
        gives back a file that this process can spare, and says whether there was one. Without,
        returns None where another process writes it, or there is no room beside what is announced.

        Raises:
            ShardError: there is no room, and none came.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        until = time.monotonic() + PATIENCE
        while (handle := self.take(name, size)) is None:
            partial = self.folder / f"{name}.{size}{PARTIAL}"
            with self._locked():
                if self._has(name, size):
                    # Finished meanwhile.
                    continue
                handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                is_ours = _lock(handle, fcntl.LOCK_EX)
                room = _Room(False, False)
                if is_ours:
                    room = self._room(partial.name, size, spare is None)
                    if not room.fits:
                        partial.unlink()
            if room.fits:
                return self._fill(handle, partial, name, fill)
            if spare and not is_ours:
                # Until it is whole, or its process is gone.
                fcntl.flock(handle, fcntl.LOCK_SH)
            give_back(handle)
            if spare is None:
                return None
            if not is_ours or spare():
                continue
            if room.is_claimed:
                until = time.monotonic() + PATIENCE
            elif time.monotonic() > until:
                raise self._full(name, size)
            time.sleep(AGAIN)
        return handle

    def _fill(self, handle: int, partial: Path, name: str, fill: Callable[[Path], None]) -> int:
        """Writes a file, and takes it."""
        try:
            os.truncate(handle, 0)
            fill(partial)
            os.fsync(handle)
            with self._locked():
                partial.rename(self.folder / name)
            # From writing to use, under the one lock.
            fcntl.flock(handle, fcntl.LOCK_SH)
        except BaseException:
            with self._locked():
                partial.unlink(missing_ok=True)
            give_back(handle)
            raise
        return handle

    def _room(self, partial: str, size: int, is_ahead: bool) -> _Room:
        """Makes room, unless there was much a moment ago."""
        if size < SMALL and time.monotonic() < self._roomy_until:
            return _Room(True, False)
        return self._make_room(partial, size, is_ahead)

    def _make_room(self, partial: str, size: int, is_ahead: bool) -> _Room:
        """Drops the least recently used files until `size` bytes fit."""
        files: list[_File] = []
        total, is_claimed = size, False
        # Bytes that others have claimed, but that do not lie on the disk yet.
        pending = 0
        for item in os.scandir(self.folder):
            match = OURS.fullmatch(item.name)
            if match is None or item.name == partial:
                continue
            stat = item.stat()
            if match["claimed"] is None:
                total += stat.st_size
                files.append(_File(stat.st_mtime_ns, stat.st_size, item.name))
            elif not self._drop(item.name):
                claimed = int(match["claimed"])
                total += claimed
                is_claimed = True
                pending += max(0, claimed - stat.st_size)
        free = shutil.disk_usage(self.folder).free
        lacking = max(total - self.limit, size + pending - free)
        if lacking < -ROOM:
            self._roomy_until = time.monotonic() + ROOMY
        spared = self._announced_names() if is_ahead else frozenset[str]()
        droppable = sorted(file for file in files if file.name not in spared)
        if is_ahead and sum(file.size for file in droppable) < lacking:
            return _Room(False, is_claimed)
        for file in droppable:
            if lacking <= 0:
                break
            if self._drop(file.name, not is_ahead and time.time() - file.used / 1e9 > LEASE):
                lacking -= file.size
        return _Room(lacking <= 0, is_claimed)

    def _announced_names(self) -> Collection[str]:
        windows = [window for both in list(self.announced.values()) for window in list(both)]
        return frozenset(name for window in windows for name in window)

    def _drop(self, name: str, is_idle: bool = False) -> bool:
        """Deletes a file that is not in use, or whose users are idle; says whether it did."""
        path, match = self.folder / name, OURS.fullmatch(name)
        assert match is not None
        is_owned = match["owner"] and not match["claimed"]
        try:
            handle = os.open(
                self._owners_lock(match["owner"]) if is_owned else path, os.O_RDWR | os.O_CLOEXEC
            )
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            return True
        try:
            is_free = _lock(handle, fcntl.LOCK_EX)
            if not (is_free or (is_idle and not is_owned)):
                return False
            path.unlink(missing_ok=True)
            return True
        finally:
            give_back(handle)

    def _owners_lock(self, owner: str) -> Path:
        return self.folder / f".{owner}.lock"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process at a time deal with names and room."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            give_back(handle)

    def _full(self, name: str, size: int) -> ShardError:
        free = shutil.disk_usage(self.folder).free
        return ShardError(
            f"{self.folder}: no room for {name.partition('-')[2]} of {size / GB:.3g} GB: all of "
            f"the cache is in use, which may hold {self.limit / GB:.3g} GB (data.cache_gb), and "
            f"the disk has {free / GB:.3g} GB free"
        )


def give_back(handle: int) -> None:
    """Ends the use of a file, in this process and in those that it has forked."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """Locks a file if that needs no waiting; says whether it did."""
    with suppress(BlockingIOError):
        fcntl.flock(handle, how | fcntl.LOCK_NB)
        return True
    return False


def _is_at(handle: int, path: Path) -> bool:
    """Says whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
