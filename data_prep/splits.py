"""Writes the files of a build's splits: shards of products and query pictures, queries, judgments.

One sample is one product, so a picture is stored once however many queries reach it; a query's
picture is stored once however many products answer it. The same tables give the same bytes, hence
the same checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm
from webdataset import TarWriter

from beyond_text.shards.archive import PICTURES
from beyond_text.shards.columns import write_columns
from beyond_text.shards.judged import ASKED, judged_schema
from beyond_text.shards.manifest import sha256_of
from beyond_text.shards.records import record_of, write_records
from beyond_text.tables.layouts import TEXT_COLUMNS
from beyond_text.tables.pictures import PictureError, digest_of
from beyond_text.tables.rejects import Rejects, drop_judgments
from beyond_text.tables.tables import Tables
from data_prep.crossing import count_crossing
from data_prep.reduce import Picture, picture_reader
from data_prep.rejects import BuildError
from data_prep.rows import PRODUCTS, QUERIES, StoredTable, has_text, usable_rows


class _Build(NamedTuple):
    """What every step of a build needs; `digests` are of each split's pictures."""

    tables: Tables
    out: Path
    rejects: Rejects
    samples_per_shard: int
    read_pictures: Callable[[list[str]], Iterable[Picture]]
    progress: tqdm
    digests: dict[str, set[bytes]]


class _Written(NamedTuple):
    """The shards of a table: manifest entries, rows used, and the number of pictures of each.

    `unused` are the ids of the other rows, and `digests` are of the pictures as they are stored.
    """

    shards: list[dict[str, Any]]
    records: list[dict[str, Any]]
    pictures: list[int]
    unused: set[str]
    digests: set[bytes]


def write_splits(
    tables: Tables,
    out: Path,
    rejects: Rejects,
    workers: int | None,
    samples_per_shard: int,
    seed: int,
    picture_size: int,
    max_pixels: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, int]]]:
    """Writes every split's files; the arguments are those of `build_shards`.

    Returns:
        The manifest's entry of each split, and what of each split is in train too.

    Raises:
        BuildError: a split of a reserved name, or too much is rejected.
    """
    splits = ["train", *sorted({*tables.products["split"], *tables.queries["split"]} - {"train"})]
    taken = [split for split in splits if f"queries-{split}" in splits]
    if taken:
        raise BuildError(f"split 'queries-{taken[0]}': query pictures of {taken[0]!r} go there")
    rows = len(tables.products) + int((tables.queries["image"] != "").sum())
    with (
        picture_reader(workers, picture_size, max_pixels) as read_pictures,
        tqdm(total=rows, unit="row", disable=None) as progress,
    ):
        build = _Build(tables, out, rejects, samples_per_shard, read_pictures, progress, {})
        entries = {split: _write_split(split, seed, build) for split in splits}
    rejects.check()
    return entries, count_crossing(tables, build.digests)


def _write_split(split: str, seed: int, build: _Build) -> dict[str, Any]:
    """Writes the files of one split; returns its entry in the manifest."""
    products, queries, qrels = (
        table[table["split"] == split]
        for table in (build.tables.products, build.tables.queries, build.tables.qrels)
    )
    grades = build.tables.grades
    queries, query_pictures = _write_query_pictures(split, queries, build)
    qrels = drop_judgments(qrels, query_pictures.unused, QUERIES.id, build.rejects)
    written = _write_rows(split, _shuffled(products, seed), PRODUCTS, _fields, build)
    qrels = drop_judgments(qrels, written.unused, PRODUCTS.id, build.rejects)
    queries = queries.sort_values("query_id", ignore_index=True)
    asked, judged = (build.out / f"{name}-{split}.arrow" for name in ("asked", "judged"))
    write_columns(asked, ASKED, [_asked(queries)])
    numbers = {record["product_id"]: number for number, record in enumerate(written.records)}
    pairs = _judged(queries, qrels, grades, _twins(products, queries), numbers)
    write_columns(judged, judged_schema(grades), [pairs])
    build.digests[split] = written.digests
    entry = {
        "products": len(written.records),
        "pictures": sum(count > 0 for count in written.pictures),
        "texts": sum(has_text(record, PRODUCTS) for record in written.records),
        "queries": len(queries),
        "judged_pairs": int((qrels[grades] > 0).any(axis=1).sum()),
        "shards": written.shards,
        "asked": _file_entry(asked),
        "judged": _file_entry(judged),
    }
    further_pictures = sum(max(0, count - 1) for count in written.pictures)
    optional = {
        "query_shards": query_pictures.shards,
        "further_pictures": further_pictures,
    }
    return entry | {name: files for name, files in optional.items() if files}


def _write_query_pictures(
    split: str, queries: pd.DataFrame, build: _Build
) -> tuple[pd.DataFrame, _Written]:
    """Stores the queries' pictures; their column `image` becomes the picture's number, or ""."""
    pictured = queries[queries["image"] != ""].to_dict("records")
    written = _write_rows(
        f"queries-{split}",
        [record | {"images": [record["image"]]} for record in pictured],
        QUERIES,
        lambda record: {"query_id": record["query_id"]},
        build,
    )
    stored = compress(written.records, written.pictures)
    numbers = {record["query_id"]: number for number, record in enumerate(stored)}
    queries = queries[~queries["query_id"].isin(written.unused)]
    return queries.assign(image=[numbers.get(each, "") for each in queries["query_id"]]), written


def _write_rows(
    name: str,
    records: list[Any],
    table: StoredTable,
    fields: Callable[[dict[str, Any]], dict[str, Any]],
    build: _Build,
) -> _Written:
    """Writes shards NAME-00000.tar ... of the usable rows; `fields` makes a sample's JSON."""
    written = _Written([], [], [], set(), set())
    first_key = 0
    for start in range(0, len(records), build.samples_per_shard):
        part = records[start : start + build.samples_per_shard]
        # One shard at a time, to bound the memory of the finished pictures.
        paths = list(chain.from_iterable(record["images"] for record in part))
        pictures = iter(build.read_pictures(paths))
        usable = list(usable_rows(part, pictures, table, build.tables, build.rejects))
        build.progress.update(len(part))
        build.rejects.check()
        written.records.extend(record for record, _ in usable)
        written.pictures.extend(len(jpegs) for _, jpegs in usable)
        written.digests.update(
            hashlib.sha256(jpeg).digest()[:16] for _, jpegs in usable for jpeg in jpegs[:1]
        )
        written.unused.update(record[table.id] for record in part)
        written.unused.difference_update(record[table.id] for record, _ in usable)
        samples = [
            (fields(record), jpegs) for record, jpegs in usable if table.stores_text or jpegs
        ]
        if samples:
            path = build.out / f"{name}-{len(written.shards):05d}.tar"
            written.shards.append(_write_shard(path, first_key, samples))
            first_key += len(samples)
    return written


def _shuffled(products: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Orders products by a hash, which parts neighbours and is the same on every machine."""
    records: list[Any] = products.to_dict("records")

    def digest(record: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{seed}/{record['product_id']}".encode()).digest()

    return sorted(records, key=digest)


def _asked(queries: pd.DataFrame) -> pa.RecordBatch:
    """Makes the columns of a split's queries."""
    columns = {
        **{name: queries[name].tolist() for name in ("query_id", "query", "kind", "product_id")},
        "picture": [-1 if number == "" else int(number) for number in queries["image"]],
        "seen": [seen == "1" for seen in queries["seen"]],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in ASKED]
    return pa.RecordBatch.from_arrays(arrays, schema=ASKED)


def _judged(
    queries: pd.DataFrame,
    qrels: pd.DataFrame,
    grades: list[str],
    twins: dict[str, list[str]],
    numbers: dict[str, int],
) -> pa.RecordBatch:
    """Makes the columns of a split's judgments, in the order of sample and query.

    Judgments of grade 0 are kept, since a stated no is information. A query that is a product has a
    row of its own for that product and its twins, but for those that are judged.

    Args:
        queries: sorted by query_id.
        qrels: judgments of the queries and of the products that are stored.
        grades: its columns of grades.
        twins: the products of one picture.
        numbers: the sample of each product.
    """
    rows = {query_id: row for row, query_id in enumerate(queries["query_id"])}
    judged = zip(qrels["product_id"], qrels["query_id"], strict=True)
    pairs = [(numbers[product], rows[query]) for product, query in judged]
    known = set(pairs)
    for row, product_id in enumerate(queries["product_id"]):
        own = [numbers[twin] for twin in twins.get(product_id, [product_id]) if twin in numbers]
        pairs += [(sample, row) for sample in own if (sample, row) not in known]
    sample, query = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    order = np.lexsort((query, sample))
    is_own = np.arange(len(pairs)) >= len(qrels)
    graded = np.zeros((len(pairs), len(grades)), dtype=np.float32)
    graded[: len(qrels)] = qrels[grades].to_numpy()
    columns = [sample, query, is_own, *graded.T]
    schema = judged_schema(grades)
    arrays = [
        pa.array(column[order], field.type) for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _twins(products: pd.DataFrame, queries: pd.DataFrame) -> dict[str, list[str]]:
    """Lists each product's twins, of the same picture; nothing where no query is a product."""
    if (queries["product_id"] == "").all():
        return {}
    by_digest: dict[str, list[str]] = {}
    for product_id, path in zip(products["product_id"], products["image"], strict=True):
        # A picture that cannot be read is reported when it is stored.
        with suppress(PictureError):
            by_digest.setdefault(digest_of(Path(path)), []).append(product_id)
    return {product_id: twins for twins in by_digest.values() for product_id in twins}


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    """Makes the JSON of a product."""
    content = {name: record[name] for name in ("product_id", *TEXT_COLUMNS, "group_id")}
    return content | ({"further": record["further"]} if record["further"] else {})


def _write_shard(
    path: Path, first_key: int, samples: Iterable[tuple[dict[str, Any], list[bytes]]]
) -> dict[str, Any]:
    """Writes one shard and its index; returns their entry in the manifest."""
    records = []
    # A file object, since webdataset would take a name such as "pipe:..." for a command.
    with path.open("wb") as file, TarWriter(
        file, user="", group="", mtime=0, encoder=False
    ) as writer:  # fmt: skip
        for key, (fields, jpegs) in enumerate(samples, first_key):
            records.append(record_of(writer.tarstream.offset, fields, len(jpegs)))
            # Product ids hold dots and slashes, which a member's name cannot.
            data = json.dumps(fields, ensure_ascii=False).encode()
            sample = {"__key__": f"{key:08d}", "json": data}
            writer.write(sample | dict(zip(PICTURES, jpegs, strict=False)))
    index = path.with_suffix(".npy")
    write_records(index, records)
    return {"samples": len(records)} | _file_entry(path) | {"index": _file_entry(index)}


def _file_entry(path: Path) -> dict[str, Any]:
    """Makes the manifest's entry of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
