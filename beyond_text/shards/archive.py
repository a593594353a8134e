"""Reads the bytes of samples in WebDataset shards, which are tar files, by offset.

A sample is its members of one key, next to each other: `KEY.json` and, where there are pictures,
`KEY.jpg`, `KEY.1.jpg`, `KEY.2.jpg` ...; only these are ever used. The index beside a shard says
where each begins, so one read gives all of a sample. What lies there must be regular files.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from beyond_text.shards.manifest import ShardError
from beyond_text.shards.records import Records, map_records
from beyond_text.shards.store import Store
from beyond_text.tables.layouts import MAX_PICTURES

BLOCK = tarfile.BLOCKSIZE
# The extensions of a sample's pictures, the main one first.
PICTURES = ("jpg", *(f"{number}.jpg" for number in range(1, MAX_PICTURES)))
READ = frozenset(("json", *PICTURES))
# A key and an extension, never a path.
MEMBER_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_.-]+)")
# The most indexes that a process maps at a time; each takes one of its open files.
MOST_MAPPED = 64


class SampleError(ShardError):
    """One sample cannot be used; the others of its shard can."""


class Member(NamedTuple):
    """Where one file of a sample lies in its tar."""

    offset: int
    size: int


def _walk(file: str, data: bytes, is_last: bool) -> Iterator[tuple[str, str, Member]]:
    """Yields key, extension and place of each member of a sample's part of a tar.

    Header by header: tarfile's own walk follows extended headers, which may claim any size, any
    name, or send it backwards for ever. Only the last sample of a shard ends in an empty block.
    """
    offset = 0
    while is_last or offset < len(data):
        block = data[offset : offset + BLOCK]
        if is_last and block == bytes(BLOCK):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise ShardError(f"{file}: not a readable tar: {error}") from error
        name = MEMBER_NAME.fullmatch(header.name)
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name is None:
            raise ShardError(
                f"{file}: expected regular files called KEY.EXTENSION, got "
                f"{header.name!r:.200} of type {header.type!r}"
            )
        offset += BLOCK
        if not 0 <= header.size <= len(data) - offset:
            raise ShardError(
                f"{file}: member {header.name} of {header.size} bytes, expected no more than the "
                f"{len(data) - offset} bytes that follow"
            )
        yield name[1], name[2], Member(offset, header.size)
        offset += -(-header.size // BLOCK) * BLOCK


def _members(file: str, data: bytes, is_last: bool) -> dict[str, Member]:
    """Returns the members of a sample by extension, placed within its part of the tar.

    Raises:
        ShardError: not a sample of regular files, one without its json or with two of a kind.
    """
    members: dict[str, Member] = {}
    first = None
    for key, extension, member in _walk(file, data, is_last):
        first = first or key
        if key != first:
            raise ShardError(f"{file}: expected sample {first} alone, got one of {key} with it")
        if extension in members:
            raise ShardError(f"{file}: sample {key} has two members {extension}")
        if extension in READ:
            members[extension] = member
    if "json" not in members:
        raise ShardError(f"{file}: sample {first} has no json")
    return members


class Shards:
    """Reads samples by number from the shards that a manifest lists."""

    def __init__(self, store: Store, entries: Sequence[Mapping[str, Any]]) -> None:
        self.store = store
        self.entries = entries
        self.sizes = [entry["samples"] for entry in entries]
        self._starts = np.cumsum([0, *self.sizes])
        self._records: dict[int, Records] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Returns what another process needs, which maps the indexes itself."""
        return self.__dict__ | {"_records": {}}

    def records(self, shard: int) -> Records:
        """Returns the index of a shard, memory-mapped.

        Raises:
            ShardError: it is none of that shard.
        """
        if shard not in self._records:
            if not self._records:
                # Small and many: of a URL, they come side by side.
                self.store.ahead([entry["index"] for entry in self.entries])
            if len(self._records) >= MOST_MAPPED:
                del self._records[next(iter(self._records))]
            entry = self.entries[shard]
            path = self.store.local(entry["index"])
            self._records[shard] = map_records(path, entry["samples"], entry["bytes"])
        return self._records[shard]

    def record(self, sample: int) -> Any:
        """Returns the record of a sample.

        Raises:
            SampleError, ShardError: as for `read`.
        """
        shard, position = self._place(sample)
        return self.records(shard)[position]

    def place(self, sample: int, extension: str) -> tuple[str, Member] | None:
        """Returns the file of a sample's member and its place there, or None where it has none."""
        shard, start, _, members = self._read(sample)
        if extension not in members:
            return None
        member = members[extension]
        return self.entries[shard]["file"], Member(start + member.offset, member.size)

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """Reads the bytes of a sample's members that exist, by extension.

        Raises:
            SampleError: the shards hold no such sample.
            ShardError: its shard is damaged, or no longer there.
        """
        _, _, data, members = self._read(sample)
        found = {name: members[name] for name in extensions if name in members}
        return {name: data[each.offset : each.offset + each.size] for name, each in found.items()}

    def _place(self, sample: int) -> tuple[int, int]:
        """Returns the number of a sample's shard, and its number there."""
        if not 0 <= sample < len(self):
            raise SampleError(f"{self.store}: expected a sample below {len(self)}, got {sample}")
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return shard, sample - int(self._starts[shard])

    def _read(self, sample: int) -> tuple[int, int, bytes, dict[str, Member]]:
        """Reads all of a sample; returns its shard, its place there, its bytes and its members."""
        shard, position = self._place(sample)
        offsets = self.records(shard)["offset"][position : position + 2].tolist()
        start, stop = offsets if len(offsets) == 2 else (*offsets, self.entries[shard]["bytes"])
        entry = self.entries[shard]
        path, name = self.store.local(entry), self.store.where(entry["file"])
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(file, stop - start, start)
            finally:
                os.close(file)
        except OSError as error:
            raise ShardError(f"{name}: no longer readable: {error.strerror}") from error
        if len(data) < stop - start:
            raise ShardError(f"{name}: cut short since it was opened")
        return shard, start, data, _members(name, data, len(offsets) == 1)
