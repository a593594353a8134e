"""Builds one shard from its rows: the tar, its index, and what became of each row.

A row's key is its number in its split, so that a shard needs to know of no other one. The same rows
and pictures give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from msgspec import Struct

from beyond_text.files import state_of
from beyond_text.shards.archive import PICTURES
from beyond_text.shards.columns import write_columns
from beyond_text.shards.records import record_of, write_records
from beyond_text.tables.compact import unpacked
from beyond_text.tables.layouts import TEXT_COLUMNS, Reject
from beyond_text.tables.splits import product_key
from data_prep.frozen import open_rows
from data_prep.reduce import read_reduced, short_digest
from data_prep.rows import PRODUCTS, STORED, StoredTable, has_text, outcome_of

# What becomes of each row. pictures: how many are stored. stored, source, text: digests of the
# first picture as it is stored, of its file, and of the product's text in its normal form.
BECAME = pa.schema(
    [
        ("is_used", pa.bool_()),
        ("has_text", pa.bool_()),
        ("pictures", pa.int32()),
        ("stored", pa.binary(16)),
        ("source", pa.binary(16)),
        ("text", pa.binary(16)),
    ]
)


class Shard(Struct, frozen=True):
    """One shard, and the rows that stand in it.

    Attributes:
        name: of its files, without an ending.
        table: "products" or "queries".
        split: whose rows they are.
        rows: file of rows.
        part: which of its parts are the shard's rows.
        first: number of the first of them in the split.
        file: name of the table's file, for rejects.
        pictures: folder of the pictures, resolved.
        picture_size: longest side of the stored pictures, in pixels.
        max_pixels: most pixels a source picture's header may announce.
    """

    name: str
    table: str
    split: str
    rows: str
    part: int
    first: int
    file: str
    pictures: str
    picture_size: int
    max_pixels: int


class _Row(NamedTuple):
    """A sample to write."""

    number: int
    fields: dict[str, Any]
    jpegs: list[bytes]


def write_shard(task: Shard, folder: Path) -> dict[str, int]:
    """Writes NAME.tar and NAME.npy where there is a sample, NAME.arrow and NAME.rejects.json.

    Returns:
        Counts of samples, of those with a text, those with a picture, and further pictures; and
        `state`, see `state_of_pictures`.
    """
    table = STORED[task.table]
    samples: list[_Row] = []
    became: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    records = records_of(task)
    state = state_of_pictures(records)
    for number, record in enumerate(records, task.first):
        pictures = [
            read_reduced(path, task.picture_size, task.max_pixels) for path in record["images"]
        ]
        outcome = outcome_of(record, pictures, table, task.file, Path(task.pictures))
        rejects += outcome.rejects
        source = pictures[0].digest if pictures else None
        became.append(_became(record, table, outcome.is_used, outcome.jpegs, source))
        if outcome.is_used and (table.stores_text or outcome.jpegs):
            samples.append(_Row(number, fields_of(record, table), outcome.jpegs))
    if samples:
        _write_samples(folder / f"{task.name}.tar", samples)
    write_columns(
        folder / f"{task.name}.arrow", BECAME, [pa.RecordBatch.from_pylist(became, BECAME)]
    )
    (folder / f"{task.name}.rejects.json").write_bytes(msgspec.json.encode(rejects))
    return {
        "samples": len(samples),
        "texts": sum(each["has_text"] for each in became if each["is_used"]),
        "pictures": sum(each["pictures"] > 0 for each in became),
        "further_pictures": sum(max(0, each["pictures"] - 1) for each in became),
        "state": state,
    }


def records_of(task: Shard) -> list[dict[str, Any]]:
    """Reads the rows of a shard; `images` are the paths of their pictures."""
    records = open_rows(Path(task.rows)).get_batch(task.part).to_pylist()
    for record in records:
        record.setdefault("images", [record.get("image")])
    return records


def state_of_pictures(records: Iterable[Mapping[str, Any]]) -> int:
    """Returns a digest of the sizes and times of the rows' pictures, which change with them."""
    digest = hashlib.blake2b(digest_size=7)
    for path in (path for record in records for path in record["images"]):
        try:
            found = state_of(path)
            digest.update(f"{found.size} {found.modified} ".encode())
        except (OSError, ValueError):
            digest.update(b"none ")
    return int.from_bytes(digest.digest())


def _became(
    record: dict[str, Any],
    table: StoredTable,
    is_used: bool,
    jpegs: list[bytes],
    source: bytes | None,
) -> dict[str, Any]:
    """Makes the row of BECAME."""
    text = product_key(record) if table is PRODUCTS else ""
    return {
        "is_used": is_used,
        "has_text": has_text(record, table),
        "pictures": len(jpegs),
        "stored": short_digest(jpegs[0]) if jpegs else None,
        "source": source,
        "text": short_digest(text.encode()) if text else None,
    }


def fields_of(record: Mapping[str, Any], table: StoredTable) -> dict[str, Any]:
    """Makes the JSON of a sample."""
    if table is not PRODUCTS:
        return {table.id: record[table.id]}
    content = {name: record[name] for name in (table.id, *TEXT_COLUMNS, "group_id")}
    further = unpacked(record["further"])
    return content | ({"further": further} if further else {})


def _write_samples(path: Path, samples: list[_Row]) -> None:
    """Writes a tar and its index, the bytes that webdataset's TarWriter writes.

    Importing that takes torch, and with it three seconds and 300 MB in every process.
    """
    records = []
    with tarfile.open(path, "w") as tar:
        for number, fields, jpegs in samples:
            records.append(record_of(tar.offset, fields, len(jpegs)))
            data = json.dumps(fields, ensure_ascii=False).encode()
            members = {"json": data} | dict(zip(PICTURES, jpegs, strict=False))
            for ending, content in sorted(members.items()):
                # Product ids hold dots and slashes, which a member's name cannot.
                member = tarfile.TarInfo(f"{number:08d}.{ending}")
                member.size, member.mode = len(content), 0o444
                tar.addfile(member, BytesIO(content))
    write_records(path.with_suffix(".npy"), records)
