"""Fetches the shards of a folder at a URL into a cache, ahead of their use and once for all."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
from collections import ChainMap, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from beyond_text.config.settings import Data
from beyond_text.files import sha256_of, user_cache
from beyond_text.shards.cache import GB, Cache, give_back
from beyond_text.shards.fetch import LongError, MissingError, Remote
from beyond_text.shards.manifest import FILE, ShardError, files_of, read_manifest
from beyond_text.shards.store import Entry, Store
from beyond_text.terminal import say

# Files that a process fetches ahead at a time.
FETCHES = 16
# Shards that a process keeps in use: those that it asked for last.
IN_USE = 8
# The longest manifest, in bytes.
MANIFEST_BYTES = 2**30
MB = 10**6


def open_cloud(url: str, data: Data) -> CloudStore:
    """Opens a folder at a URL, with the cache of a run's settings."""
    folder = Path(data.cache_dir) if data.cache_dir else user_cache() / "shards"
    return CloudStore(url, _cache(folder, round(data.cache_gb * GB)))


class CloudStore(Store):
    """A folder of shards at a URL, whose files come through a cache.

    Shards are in use while they are the last that this process asked for; other files of the
    manifest, which are small and memory-mapped, as long as the store is.
    """

    is_remote = True

    def __init__(self, url: str, cache: Cache) -> None:
        self.remote = Remote(url)
        super().__init__(self.remote.name)
        self.cache = cache
        self._has_warned = False
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves to another process its own locks, threads and connections."""
        return _opened_in, (self.remote.url, self.cache.folder, self.cache.limit)

    def __del__(self) -> None:
        """Gives back what is in use."""
        # When the interpreter ends, what this needs may be gone; so are the locks, then.
        try:  # noqa: SIM105
            self._close()
        except Exception:
            pass

    def where(self, file: str) -> str:
        """Returns the name of a file in messages."""
        return self.remote.where(file)

    def read_manifest_bytes(self) -> bytes:
        """Reads the manifest.

        Raises:
            ShardError: there is none, or the store does not give it.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            try:
                self.remote.fetch(FILE, path, MANIFEST_BYTES)
            except MissingError:
                raise self.no_manifest() from None
            except LongError as error:
                raise ShardError(f"{self.where(FILE)}: not a manifest: {error}") from None
            return path.read_bytes()

    def local(self, entry: Entry) -> Path:
        """Returns the local file of an entry; see `Store.local`."""
        self._check_process()
        name = self._name(entry)
        path = self.cache.folder / name
        if not _is_shard(entry):
            return self._keep(name, path, entry)
        with self._lock:
            if name in self._in_use:
                self._in_use.move_to_end(name)
                if self.cache.keep(self._in_use[name], name):
                    return path
                give_back(self._in_use.pop(name))
        handle = self.cache.add(name, entry["bytes"], self._fetch(entry), self._spare)
        assert handle is not None
        with self._lock:
            if name in self._in_use:
                give_back(handle)
            else:
                self._in_use[name] = handle
            while len(self._in_use) > IN_USE:
                give_back(self._in_use.popitem(last=False)[1])
        return path

    def path_of(self, file: str) -> Path | None:
        """Returns the local file of a name; None where the manifest lists none."""
        entry = self._entries.get(file)
        return None if entry is None else self.local(entry)

    @functools.cached_property
    def _entries(self) -> Mapping[str, Entry]:
        splits = read_manifest(self)["splits"].values()
        return {entry["file"]: entry for split in splits for entry in files_of(split)}

    def ahead(self, entries: Sequence[Entry]) -> None:
        """Is told which shards are read next, and starts to fetch them; see `Store.ahead`."""
        self._check_process()
        if not entries:
            self.cache.announced.pop(self.name, None)
            return
        small = [entry for entry in entries if not _is_shard(entry)]
        if small:
            self._hold_own()
        wanted = small + self._announce([entry for entry in entries if _is_shard(entry)])
        with self._lock:
            queued = {entry["file"] for entry in self._queue}
            self._queue.extend(entry for entry in wanted if entry["file"] not in queued)
            for _ in range(min(FETCHES - self._fetching, len(self._queue))):
                self._fetching += 1
                # It must not keep a process from ending.
                threading.Thread(target=self._work, daemon=True).start()

    def check_window(self, entries: Sequence[Entry], shards: int) -> None:
        """Compares a window of shards, and the next, with the cache; see `Store.check_window`."""
        largest = sorted((entry["bytes"] for entry in entries), reverse=True)
        needed, two = sum(largest[:shards]), sum(largest[: 2 * shards])
        if needed > self.cache.limit:
            # Nearly every sample would be fetched with a whole shard.
            raise ShardError(
                f"{self.name}: data.cache_gb={self.cache.limit / GB:g}: no room for the "
                f"{min(shards, len(largest))} shards that are read at a time, which may have "
                f"{needed / GB:.3g} GB; expected at least {two / GB:.3g}"
            )
        self._say_room(two)

    def sizes(self, files: Sequence[str]) -> Mapping[str, int] | None:
        """Returns the sizes of the store's files; None where it does not list them."""
        return self.remote.sizes()

    def _begin(self) -> None:
        """Begins in this process."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._in_use: OrderedDict[str, int] = OrderedDict()
        self._kept: set[str] = set()
        self._own: int | None = None
        self._queue: deque[Entry] = deque()
        self._fetching = 0

    def _check_process(self) -> None:
        """Begins anew in a process that was forked: it has no threads, and its parent's handles."""
        if self._process != os.getpid():
            self._close()
            self._begin()

    def _close(self) -> None:
        """Closes what this process has in use; another that shares a handle keeps its lock."""
        for handle in [*self._in_use.values(), *([] if self._own is None else [self._own])]:
            os.close(handle)
        self._in_use.clear()
        self._own = None

    def _name(self, entry: Entry) -> str:
        """Returns the name of an entry's file in the cache."""
        name = f"{entry['sha256']}-{entry['file']}"
        return name if _is_shard(entry) else f"{self._owner}.{name}"

    @functools.cached_property
    def _owner(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]

    def _keep(self, name: str, path: Path, entry: Entry) -> Path:
        """Fetches a file that stays in use."""
        self._hold_own()
        if name not in self._kept:
            handle = self.cache.add(name, entry["bytes"], self._fetch(entry), self._spare)
            assert handle is not None
            give_back(handle)
            self._kept.add(name)
        return path

    def _hold_own(self) -> None:
        """Puts the files that stay in use."""
        with self._lock:
            if self._own is None:
                self._own = self.cache.own(self._owner)

    def _spare(self) -> bool:
        """Gives back the shard that was asked for longest ago; says whether there was one."""
        with self._lock:
            if self._in_use:
                give_back(self._in_use.popitem(last=False)[1])
                return True
        return False

    def _announce(self, entries: Sequence[Entry]) -> list[Entry]:
        """Remembers shards that are read next; returns the first ones, which the cache can hold."""
        if not entries:
            return []
        others = [last[-1] for name, last in [*self.cache.announced.items()] if name != self.name]
        taken = sum(ChainMap(*others).values())
        ends = accumulate((entry["bytes"] for entry in entries), initial=taken)
        self._say_room(taken + sum(entry["bytes"] for entry in entries))
        next(ends)
        fitting = [e for e, end in zip(entries, ends, strict=True) if end <= self.cache.limit]
        announced = self.cache.announced.setdefault(self.name, deque(maxlen=2))
        announced.append({self._name(entry): entry["bytes"] for entry in fitting})
        return fitting

    def _say_room(self, size: int) -> None:
        """Prints, once, that the cache has no room for shards and those that are read next."""
        if size > self.cache.limit and not self._has_warned:
            self._has_warned = True
            line = (
                f"{self.name}: data.cache_gb={self.cache.limit / GB:g}: no room for the shards "
                "that are read next, some of which are fetched only when they are needed; "
                f"expected at least {size / GB:.3g}"
            )
            say(line)

    def _work(self) -> None:
        """Fetches what is queued, in a thread."""
        while True:
            with self._lock:
                if not self._queue:
                    self._fetching -= 1
                    return
                entry = self._queue.popleft()
            # Whoever needs the file meets the same error, and says it.
            with suppress(Exception):
                handle = self.cache.add(self._name(entry), entry["bytes"], self._fetch(entry))
                if handle is not None:
                    give_back(handle)

    def _fetch(self, entry: Entry) -> Callable[[Path], None]:
        """Returns what writes an entry's file to a path, and compares it with the manifest."""

        def fetch(path: Path) -> None:
            found = ""
            # A file that arrives damaged is fetched once more.
            for _ in range(2):
                try:
                    # What is a little longer has a checksum to name.
                    self.remote.fetch(entry["file"], path, 2 * entry["bytes"] + MB)
                except MissingError as error:
                    raise ShardError(f"{error}, the manifest lists it") from None
                except LongError as error:
                    found = str(error)
                    break
                size, digest = path.stat().st_size, sha256_of(path)
                if (size, digest) == (entry["bytes"], entry["sha256"]):
                    return
                found = f"{size} bytes of SHA-256 {digest}"
            raise ShardError(
                f"{self.where(entry['file'])}: changed: {found}, the manifest says "
                f"{entry['bytes']} bytes of SHA-256 {entry['sha256']}; upload the shards again "
                "with their manifest, or begin a new run where they are meant to be others"
            )

        return fetch


def _is_shard(entry: Entry) -> bool:
    return bool(entry["file"].endswith(".tar"))


@functools.cache
def _cache(folder: Path, limit: int) -> Cache:
    return Cache(folder, limit)


def _opened_in(url: str, folder: Path, limit: int) -> CloudStore:
    return CloudStore(url, _cache(folder, limit))
