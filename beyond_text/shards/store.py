"""Gives local files of a folder of shards, wherever it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beyond_text.shards.manifest import FILE, ShardError


class Store:
    """A plain folder of shards; `name` is as the user wrote it."""

    is_remote = False

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def of(cls, place: Path | str) -> Store:
        """Returns the store of a folder."""
        return cls(str(place))

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

    def local(self, entry: Mapping[str, Any]) -> Path:
        """Returns the local file of an entry of the manifest."""
        return Path(self.name) / entry["file"]

    def ahead(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Is told which files are read next."""
