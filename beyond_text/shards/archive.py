"""Reads the bytes of samples in WebDataset shards, which are plain local tar files, by offset.

A sample is its members of one key, next to each other: `KEY.json` and, where there are pictures,
`KEY.jpg`, `KEY.1.jpg`, `KEY.2.jpg` ...; only these are ever read. A shard that is not a complete
tar of regular files is an error.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beyond_text.shards.manifest import ShardError
from beyond_text.tables.layouts import MAX_PICTURES
from beyond_text.tables.pictures import MAX_BYTES

BLOCK = tarfile.BLOCKSIZE
# The extensions of a sample's pictures, the main one first.
PICTURES = ("jpg", *(f"{number}.jpg" for number in range(1, MAX_PICTURES)))
READ = frozenset(("json", *PICTURES))
# A key and an extension, never a path.
MEMBER_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_.-]+)")


class SampleError(ShardError):
    """One sample cannot be used; the others of its shard can."""


class Member(NamedTuple):
    """Where one file of a sample lies in its tar."""

    offset: int
    size: int


def _walk(path: Path) -> Iterator[tuple[str, str, Member]]:
    """Yields key, extension and place of each member of a tar of regular files.

    Header by header: tarfile's own walk follows extended headers, which may claim any size, any
    name, or send it backwards for ever.
    """
    try:
        with path.open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            offset = 0
            while (block := file.read(BLOCK)) != bytes(BLOCK):
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                name = MEMBER_NAME.fullmatch(header.name)
                if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name is None:
                    raise ShardError(
                        f"{path}: expected regular files called KEY.EXTENSION, got "
                        f"{header.name!r:.200} of type {header.type!r}"
                    )
                offset += BLOCK
                if not 0 <= header.size <= min(end - offset, MAX_BYTES):
                    raise ShardError(
                        f"{path}: member {header.name} of {header.size} bytes, expected at most "
                        f"{MAX_BYTES}, and no more than the {end - offset} bytes that follow"
                    )
                yield name[1], name[2], Member(offset, header.size)
                offset += -(-header.size // BLOCK) * BLOCK
                file.seek(offset)
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{path}: not a readable tar: {error}") from error


def index_shard(path: Path) -> list[dict[str, Member]]:
    """Indexes the members of each sample by extension, in the order of the shard.

    Raises:
        ShardError: not a complete tar of regular files, a sample without its json or with two of a
            kind, or interleaved samples.
    """
    samples: list[dict[str, Member]] = []
    seen: dict[str, dict[str, Member]] = {}
    last = None
    for key, extension, member in _walk(path):
        if key != last:
            if key in seen:
                raise ShardError(f"{path}: members of sample {key} do not stand together")
            seen[key] = {}
            samples.append(seen[key])
            last = key
        if extension in seen[key]:
            raise ShardError(f"{path}: sample {key} has two members {extension}")
        if extension in READ:
            seen[key][extension] = member
    for key, members in seen.items():
        if "json" not in members:
            raise ShardError(f"{path}: sample {key} has no json")
    return samples


class Shards:
    """Reads samples by number from the shards that a manifest lists."""

    def __init__(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
        self.folder = folder
        self.entries = entries
        self.sizes = [entry["samples"] for entry in entries]
        self._starts = np.cumsum([0, *self.sizes])
        self._index: dict[int, list[dict[str, Member]]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _members(self, shard: int) -> list[dict[str, Member]]:
        """Indexes a shard when it is first read, and checks its number of samples."""
        if shard not in self._index:
            expected = self.entries[shard]["samples"]
            path = self.folder / self.entries[shard]["file"]
            samples = index_shard(path)
            if len(samples) != expected:
                raise ShardError(f"{path}: {len(samples)} samples, the manifest says {expected}")
            self._index[shard] = samples
        return self._index[shard]

    def members(self, sample: int) -> dict[str, Member]:
        """Returns the members of a sample by extension.

        Raises:
            SampleError, ShardError: as for `read`.
        """
        return self._find(sample)[1]

    def place(self, sample: int, extension: str) -> tuple[str, Member] | None:
        """Returns the file of a sample's member and its place there, or None where it has none."""
        shard, members = self._find(sample)
        member = members.get(extension)
        return None if member is None else (self.entries[shard]["file"], member)

    def _find(self, sample: int) -> tuple[int, dict[str, Member]]:
        """Returns the number of a sample's shard, and its members by extension."""
        if not 0 <= sample < len(self):
            raise SampleError(f"{self.folder}: expected a sample below {len(self)}, got {sample}")
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return shard, self._members(shard)[sample - int(self._starts[shard])]

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """Reads the bytes of a sample's members that exist, by extension.

        Raises:
            SampleError: the shards hold no such sample.
            ShardError: its shard is damaged, or no longer there.
        """
        shard, members = self._find(sample)
        path = self.folder / self.entries[shard]["file"]
        content = {}
        try:
            with path.open("rb") as file:
                for extension in extensions:
                    if extension in members:
                        file.seek(members[extension].offset)
                        content[extension] = file.read(members[extension].size)
                        if len(content[extension]) < members[extension].size:
                            raise ShardError(f"{path}: cut short since it was opened")
        except OSError as error:
            raise ShardError(f"{path}: no longer readable: {error.strerror}") from error
        return content
