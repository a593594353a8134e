"""Gives local files of a folder of shards, wherever it lies: on a disk or in any store of fsspec.

Of a URL (`cloud.py`), whole shards are fetched into a cache of bounded size, ahead of their use,
and compared with the manifest once, when they arrive. So training reads the files of a disk, and
its batches are the same.

webdataset's own openers and cache are not used: they start shell commands (`pipe:`, curl), name a
cached shard by the end of its URL alone, check no sums, and stream a tar from its beginning, where
batches are drawn by number. Shards are tars that webdataset's plain reader reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from beyond_text.config.settings import Data
from beyond_text.config.urls import LOCAL, is_url, scheme_of
from beyond_text.shards.manifest import FILE, ShardError

Entry = Mapping[str, Any]


class Store:
    """A plain folder of shards; `name` is as the user wrote it, without credentials."""

    is_remote = False

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def of(place: Path | str | Store, data: Data | None = None) -> Store:
        """Returns the store of a folder or a URL; a store is its own.

        The cache is that of a run's settings, or the default one.
        """
        if isinstance(place, Store):
            return place
        if not is_url(str(place)):
            return Store(_local_path(str(place)))
        # It imports this module, and what a plain folder does not need.
        from beyond_text.shards.cloud import open_cloud

        return open_cloud(str(place), data or Data())

    def __str__(self) -> str:
        """Returns the name."""
        return self.name

    @property
    def label(self) -> str:
        """The last part of the name."""
        return self.name.rstrip("/").rpartition("/")[2]

    def where(self, file: str) -> str:
        """Returns the name of a file in messages."""
        return str(Path(self.name) / file)

    def read_manifest_bytes(self) -> bytes:
        """Reads the manifest.

        Raises:
            ShardError: there is none, which an interrupted build also looks like.
        """
        path = Path(self.name) / FILE
        if not path.is_file():
            raise self.no_manifest()
        try:
            return path.read_bytes()
        except OSError as error:
            raise ShardError(f"{path}: not a manifest: {error}") from error

    def no_manifest(self) -> ShardError:
        """Returns the error of a folder without a manifest."""
        return ShardError(
            f"{self.name}: no {FILE}: not a finished folder of shards; make one with "
            "`python -m data_prep.shards TABLES OUT`"
        )

    def local(self, entry: Entry) -> Path:
        """Returns the local file of an entry of the manifest.

        Of a URL it is whole and has the entry's checksum. It stays while this process asks for few
        others; a file that is open or mapped can be read on in any case.

        Raises:
            ShardError: it cannot be fetched, is another than the manifest says, or has no room.
            OSError: the cache cannot be written.
        """
        return Path(self.name) / entry["file"]

    def path_of(self, file: str) -> Path | None:
        """Returns the local file of a name, as `local` does; None where there is none."""
        path = Path(self.name) / file
        return path if path.is_file() else None

    def ahead(self, entries: Sequence[Entry]) -> None:
        """Is told which shards are read next, and starts to fetch them.

        Where the cache has no room for all, it says so once, and the others are fetched when they
        are needed. Told of none, it forgets those before.
        """

    def check_window(self, entries: Sequence[Entry], shards: int) -> None:
        """Compares so many of the entries as are read at a time with the room that there is.

        Raises:
            ShardError: they do not fit. Where the next ones do not, this is said.
        """

    def sizes(self, files: Sequence[str]) -> Mapping[str, int] | None:
        """Returns the sizes of those of the files that are there; None where that is not known."""
        paths = {file: Path(self.name) / file for file in files}
        # Reading a pipe would never end.
        return {file: path.stat().st_size for file, path in paths.items() if path.is_file()}


# Where shards or tables lie; tables are on a disk.
Folder = Path | Store


def folder_of(place: Path | str) -> Folder:
    """Returns what a user named: a path, or the store of a URL, which can hold shards alone."""
    return Store.of(place) if is_url(str(place)) else Path(place)


def holds_shards(folder: Folder) -> bool:
    """Says whether a folder holds shards, or is to be read as tables."""
    return isinstance(folder, Store) or (folder / FILE).is_file()


def _local_path(place: str) -> str:
    """Returns the path of a folder, which may be named by a URL."""
    return url2pathname(urlsplit(place).path) if scheme_of(place) in LOCAL else place
