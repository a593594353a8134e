"""Files of mined negatives: products that a model ranks high for a query, but nobody judged so.

    mined-SPLIT.npy    a row a query, in the order of asked-SPLIT.arrow: numbers of samples, those
                       that are judged 0 first, then the mined ones, best first; -1: no more
    mined.json         the manifest and the run that they are made of, and the array's SHA-256

They lie beside the shards, or in a folder of their own. Sample numbers mean nothing in other
shards, so what was mined of another manifest is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Int32

from beyond_text.files import MALFORMED, atomic_write, sha256_of, write_json
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.schema import MinedRecord
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store

RECORD = "mined.json"
ARRAY = "mined-{split}.npy"
TRAIN = "train"
DECODER = msgspec.json.Decoder(MinedRecord)
AGAIN = "make it with `python -m beyond_text.mine RUN`"
Mined = Int32[np.ndarray, "queries top"]


def folder_of_mined(store: Store, folder: str = "") -> Path | None:
    """Returns the folder of the mined negatives of shards: one of their own, or theirs.

    None where the shards lie at a URL, beside which none are.
    """
    if folder:
        return Path(folder)
    return None if store.is_remote else Path(store.name)


def has_mined(folder: Path | None) -> bool:
    """Says whether negatives were mined in a folder."""
    return folder is not None and (folder / RECORD).is_file()


def manifest_digest(store: Store) -> str:
    """Computes the SHA-256 of the manifest of shards."""
    return hashlib.sha256(store.read_manifest_bytes()).hexdigest()


def write_mined(folder: Path, rows: Mined, record: MinedRecord) -> None:
    """Writes mined negatives of train, each file completely or not at all; fills in the SHA-256.

    Of a write that is killed between the two, the array is not that of the record, and is refused.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ARRAY.format(split=TRAIN)
    with atomic_write(path, binary=True) as file:
        np.save(file, rows)
    write_json(folder / RECORD, record | {"sha256": sha256_of(path)})


def read_mined(folder: Path, split: Split) -> Mined:
    """Maps the mined negatives of a split of train into memory, checked.

    Raises:
        ShardError: there are none, they are of other shards, or are damaged; names the file.
    """
    record = _record(folder / RECORD)
    if record["manifest"] != manifest_digest(split.store):
        raise ShardError(
            f"{folder / RECORD}: mined of other shards than those now in {split.store}; {AGAIN}"
        )
    path = folder / ARRAY.format(split=TRAIN)
    try:
        if sha256_of(path) != record["sha256"]:
            raise ShardError(f"{path}: not the file that {RECORD} tells of; {AGAIN}")
        rows = np.lib.format.open_memmap(path, mode="r")
    except ShardError:
        raise
    # NumPy's reader of headers raises whatever Python's parser does.
    except Exception as error:
        raise ShardError(f"{path}: not readable: {error}; {AGAIN}") from error
    expected = len(split.asked), record["top"]
    if rows.dtype != np.int32 or rows.shape != expected:
        raise ShardError(
            f"{path}: expected {expected} numbers of int32, got {rows.shape} of "
            f"{rows.dtype!s:.200}; {AGAIN}"
        )
    low, high = int(rows.min(initial=-1)), int(rows.max(initial=-1))
    if low < -1 or high >= len(split):
        raise ShardError(
            f"{path}: expected samples below {len(split)}, -1 for none; got {low} to {high}; "
            f"{AGAIN}"
        )
    return rows


def _record(path: Path) -> MinedRecord:
    """Reads what is known of mined negatives.

    Raises:
        ShardError: there is none, or it is damaged.
    """
    try:
        return DECODER.decode(path.read_bytes())
    except OSError as error:
        raise ShardError(f"{path}: {error.strerror}; {AGAIN}") from error
    except MALFORMED as error:
        raise ShardError(f"{path}: not what mining writes: {error}; {AGAIN}") from error
