"""Reads the manifest of a folder of shards and checks the files against it.

Sizes are checked whenever a split is opened; that opens no file. Checksums are checked before the
first step, once as long as a file does not change (`verified.py`). Hashing a shard costs about a
hundredth of decoding its pictures once, so it need not be put off or left out however large the set
is, and nobody learns after a week of training that a download has lost a bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from tqdm import tqdm

from beyond_text.files import MALFORMED, sha256_of
from beyond_text.shards.schema import Earlier, File, Manifest, SplitEntry, Versioned
from beyond_text.shards.verified import Verified

if TYPE_CHECKING:
    from beyond_text.shards.store import Store

FILE = "manifest.json"
VERSION = 2
# A sample is at least a header and some content, each in blocks of 512 bytes.
SMALLEST_SAMPLE = 1024
VERSIONED = msgspec.json.Decoder(Versioned)
EARLIER = msgspec.json.Decoder(Earlier)
MANIFEST = msgspec.json.Decoder(Manifest)


class ShardError(ValueError):
    """A folder of shards that is missing, incomplete or not what its manifest says."""


class EarlierError(ShardError):
    """A finished folder of shards of an earlier version, which must be packed again."""


def read_manifest(place: Path | str | Store) -> Manifest:
    """Reads and checks the manifest of a finished folder of shards.

    Raises:
        ShardError: there is none, which an interrupted build also looks like, it is damaged or
            contradicts itself, or another version wrote it.
    """
    # A store raises this module's errors.
    from beyond_text.shards.store import Store

    store = Store.of(place)
    path, data = store.where(FILE), store.read_manifest_bytes()
    try:
        version = VERSIONED.decode(data)["version"]
        if version > VERSION:
            raise ShardError(
                f"{path}: of version {version}, expected {VERSION}: a newer beyond_text wrote it"
            )
        if version < VERSION:
            EARLIER.decode(data)
            raise EarlierError(
                f"{path}: of version {version}, expected {VERSION}: pack it again with "
                "`python -m data_prep.shards TABLES OUT`"
            )
        manifest = MANIFEST.decode(data)
    except MALFORMED as error:
        raise ShardError(f"{path}: not a manifest: {error}") from error
    if "relevance" not in manifest["grades"]:
        raise ShardError(f"{path}: expected a grade 'relevance', got {list(manifest['grades'])}")
    for split, entry in manifest["splits"].items():
        stored = sum(shard["samples"] for shard in entry["shards"])
        if stored != entry["products"]:
            raise ShardError(
                f"{path}: split {split!r}: expected {entry['products']} products, got {stored} "
                "samples in its shards"
            )
    return manifest


def files_of(split: SplitEntry) -> list[File]:
    """Lists every file of a split: shards with their indexes, queries and judgments."""
    shards = [*split["shards"], *split.get("query_shards", [])]
    indexed = [file for shard in shards for file in (shard, shard["index"])]
    return [*indexed, split["asked"], split["judged"]]


def check_sizes(store: Store, entries: Sequence[Mapping[str, Any]]) -> None:
    """Checks that every entry of the manifest is a file of the size that it says.

    Raises:
        ShardError: one is not, or is too small for as many samples.
    """
    sizes = store.sizes([entry["file"] for entry in entries])
    if sizes is None:
        # Each is compared when it is fetched.
        return
    for entry in entries:
        file = store.where(entry["file"])
        size, least = sizes.get(entry["file"]), SMALLEST_SAMPLE * entry.get("samples", 0)
        if size is None:
            raise ShardError(f"{file}: no such file, the manifest lists it")
        if size != entry["bytes"] or size < least:
            raise ShardError(
                f"{file}: {size} bytes, the manifest says {entry['bytes']}, at least {least}"
            )


def check_sums(store: Store, entries: Sequence[Mapping[str, Any]]) -> None:
    """Checks that every file has the SHA-256 that the manifest says; reads those not read before.

    Those of a URL are left out: each is compared when it is fetched.

    Raises:
        ShardError: one has another, or cannot be read.
    """
    if store.is_remote:
        return
    verified = Verified(Path(store.name))
    try:
        for entry in tqdm(entries, desc=f"checking {store.label}", unit="file", disable=None):
            _check_sum(store.local(entry), entry, verified)
    finally:
        verified.save()


def _check_sum(path: Path, entry: Mapping[str, Any], verified: Verified) -> None:
    """Compares a file with its checksum, unless that was done before."""
    try:
        if verified.knows(path, entry):
            return
        begun = time.time_ns()
        digest = sha256_of(path)
        if digest != entry["sha256"]:
            raise ShardError(
                f"{path}: damaged: SHA-256 {digest}, the manifest says {entry['sha256']}; "
                "fetch or build it again"
            )
        verified.add(path, entry, begun)
    except OSError as error:
        raise ShardError(f"{path}: not readable: {error.strerror}") from error
