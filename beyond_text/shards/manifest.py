"""Reads the manifest of a folder of shards and checks the files against it.

Sizes are checked whenever a split is opened; that opens no file. Checksums are checked once a run,
by one process before the first step. Hashing a shard costs about a hundredth of decoding its
pictures once, so it need not be put off or left out however large the set is, and nobody learns
after a week of training that a disk has lost a bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from beyond_text.files import MALFORMED
from beyond_text.shards.schema import File, Manifest, SplitEntry, Versioned

FILE = "manifest.json"
VERSION = 1
# A sample is at least a header and some content, each in blocks of 512 bytes.
SMALLEST_SAMPLE = 1024
VERSIONED = msgspec.json.Decoder(Versioned)
MANIFEST = msgspec.json.Decoder(Manifest)


class ShardError(ValueError):
    """A folder of shards that is missing, incomplete or not what its manifest says."""


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a finished folder of shards.

    Raises:
        ShardError: there is none, which an interrupted build also looks like, it is damaged or
            contradicts itself, or a newer version wrote it.
    """
    path = folder / FILE
    if not path.is_file():
        raise ShardError(
            f"{folder}: no {FILE}: not a finished folder of shards; make one with "
            "`python -m data_prep.shards TABLES OUT`"
        )
    try:
        data = path.read_bytes()
        version = VERSIONED.decode(data)["version"]
        if version > VERSION:
            raise ShardError(
                f"{path}: of version {version}, expected at most {VERSION}: "
                "a newer beyond_text wrote it"
            )
        manifest = MANIFEST.decode(data)
    except (*MALFORMED, OSError) as error:
        raise ShardError(f"{path}: not a manifest: {error}") from error
    if "relevance" not in manifest["grades"]:
        raise ShardError(f"{path}: expected a grade 'relevance', got {list(manifest['grades'])}")
    for name, split in manifest["splits"].items():
        stored = sum(shard["samples"] for shard in split["shards"])
        if stored != split["products"]:
            raise ShardError(
                f"{path}: split {name!r}: expected {split['products']} products, got {stored} "
                "samples in its shards"
            )
    return manifest


def sha256_of(path: Path) -> str:
    """Computes the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(split: SplitEntry) -> list[File]:
    """Lists every file of a split: shards of products and of queries' pictures, tables."""
    return [*split["shards"], *split.get("query_shards", []), *split.get("tables", [])]


def check_sizes(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Checks that every entry of the manifest is a file of the size that it says.

    Raises:
        ShardError: one is not, or is too small for as many samples.
    """
    for entry in entries:
        path = folder / entry["file"]
        # Reading a pipe would never end.
        if not path.is_file():
            raise ShardError(f"{path}: no such file, the manifest lists it")
        size, least = path.stat().st_size, SMALLEST_SAMPLE * entry.get("samples", 0)
        if size != entry["bytes"] or size < least:
            raise ShardError(
                f"{path}: {size} bytes, the manifest says {entry['bytes']}, at least {least}"
            )


def check_sums(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Checks that every file has the SHA-256 that the manifest says; reads all of them.

    Raises:
        ShardError: one has another, or cannot be read.
    """
    for entry in tqdm(entries, desc=f"checking {folder.name}", unit="file", disable=None):
        path = folder / entry["file"]
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise ShardError(f"{path}: not readable: {error.strerror}") from error
        if digest != entry["sha256"]:
            raise ShardError(
                f"{path}: damaged: SHA-256 {digest}, the manifest says {entry['sha256']}; "
                "fetch or build it again"
            )
