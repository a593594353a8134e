"""Gives local files of a folder of shards, wherever it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beyond_text.shards.manifest import FILE, ShardError

Entry = Mapping[str, Any]


class Store:
    """A plain folder of shards; `name` is as the user wrote it."""

    is_remote = False

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def of(place: Path | str | Store) -> Store:
        """Returns the store of a folder; a store is its own."""
        return place if isinstance(place, Store) else Store(str(place))

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
            raise ShardError(
                f"{self.name}: no {FILE}: not a finished folder of shards; make one with "
                "`python -m data_prep.shards TABLES OUT`"
            )
        try:
            return path.read_bytes()
        except OSError as error:
            raise ShardError(f"{path}: not a manifest: {error}") from error

    def local(self, entry: Entry) -> Path:
        """Returns the local file of an entry of the manifest."""
        return Path(self.name) / entry["file"]

    def ahead(self, entries: Sequence[Entry]) -> None:
        """Is told which files are read next."""

    def sizes(self, files: Sequence[str]) -> Mapping[str, int] | None:
        """Returns the sizes of those of the files that are there; None where that is not known."""
        paths = {file: Path(self.name) / file for file in files}
        # Reading a pipe would never end.
        return {file: path.stat().st_size for file, path in paths.items() if path.is_file()}
