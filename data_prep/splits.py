"""The files of a build's splits: shards of products and of query pictures, queries, judgments.

One sample is one product, so a picture is stored once however many queries reach it; a query's
picture is stored once however many products answer it. The same tables give the same bytes, hence
the same checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from itertools import compress
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm
from webdataset import TarWriter

from beyond_text.shards.manifest import sha256_of
from beyond_text.tables.layouts import TEXT_COLUMNS, Reject
from beyond_text.tables.pictures import PictureError, digest_of, read_picture, reduce_picture
from beyond_text.tables.read import Tables
from data_prep.rejects import BuildError, Rejects


class _Kind(NamedTuple):
    """What differs between rows of products and of queries on their way into shards."""

    table: str
    id: str
    text: tuple[str, ...]
    # Reason to reject a row that has neither text nor picture.
    empty: str
    # Rows without a picture are samples too.
    stores_text: bool


PRODUCTS = _Kind("products", "product_id", TEXT_COLUMNS, "no text and no picture", True)
QUERIES = _Kind("queries", "query_id", ("query",), "empty query", False)


class Picture(NamedTuple):
    """A reduced picture, or (reason, detail) why there is none; neither where none was named."""

    jpeg: bytes | None
    failure: tuple[str, str] | None


class _Build(NamedTuple):
    """What writing any part of a build needs."""

    tables: Tables
    out: Path
    rejects: Rejects
    samples_per_shard: int
    read_all: Callable[[list[str]], Iterable[Picture]]
    progress: tqdm


class _Written(NamedTuple):
    """Shards of rows: their entries in the manifest, the rows used, which of them have a picture.

    `gone` are the ids of the rows that were not used.
    """

    shards: list[dict[str, Any]]
    records: list[dict[str, Any]]
    pictured: list[bool]
    gone: set[str]


def write_splits(
    tables: Tables,
    out: Path,
    rejects: Rejects,
    workers: int | None,
    samples_per_shard: int,
    seed: int,
    picture_size: int,
    max_pixels: int,
) -> dict[str, dict[str, Any]]:
    """Writes every split's files; the arguments are those of `build_shards`.

    Returns:
        The manifest's entry of each split.

    Raises:
        BuildError: a split of a reserved name, or too much is rejected.
    """
    workers = workers if workers is not None else os.cpu_count() or 1
    splits = ["train", *sorted({*tables.products["split"], *tables.queries["split"]} - {"train"})]
    taken = [split for split in splits if f"queries-{split}" in splits]
    if taken:
        raise BuildError(f"split 'queries-{taken[0]}': query pictures of {taken[0]!r} go there")
    rows = len(tables.products) + int((tables.queries["image"] != "").sum())
    with (
        ProcessPoolExecutor(workers, initializer=_end_with_parent)
        if workers > 1
        else nullcontext() as pool,
        tqdm(total=rows, unit="row", disable=None) as progress,
    ):
        reduce = partial(_read_picture, size=picture_size, max_pixels=max_pixels)
        read_all = partial(pool.map, reduce, chunksize=16) if pool else partial(map, reduce)
        build = _Build(tables, out, rejects, samples_per_shard, read_all, progress)
        entries = {split: _write_split(split, seed, build) for split in splits}
    rejects.check()
    return entries


def _write_split(split: str, seed: int, build: _Build) -> dict[str, Any]:
    """Writes the files of one split; returns its entry in the manifest."""
    products, queries, qrels = (
        table[table["split"] == split]
        for table in (build.tables.products, build.tables.queries, build.tables.qrels)
    )
    grades = build.tables.grades
    queries, asked = _write_query_pictures(split, queries, build)
    qrels = _without(qrels, asked.gone, QUERIES, build)
    answers = _answers(queries, qrels, grades, _twins(products, queries))
    written = _write_rows(
        split,
        _shuffled(products, seed),
        PRODUCTS,
        lambda record: _metadata(record, answers.get(record["product_id"], [])),
        build,
    )
    qrels = _without(qrels, written.gone, PRODUCTS, build)
    tables: list[dict[str, Any]] = []
    if split != "train" and len(queries):
        further = [name for name in ("image", "product_id") if (queries[name] != "").any()]
        columns = ["query_id", "query", "kind", *further]
        queries.to_csv(build.out / f"queries-{split}.csv", columns=columns, index=False)
        columns = ["query_id", "product_id", *grades]
        qrels.to_csv(build.out / f"qrels-{split}.csv", columns=columns, index=False)
        tables = [_file_entry(build.out / f"{name}-{split}.csv") for name in ("queries", "qrels")]
    entry = {
        "products": len(written.records),
        "pictures": sum(written.pictured),
        "texts": sum(_has_text(record, PRODUCTS) for record in written.records),
        "queries": len(queries),
        "judged_pairs": int((qrels[grades] > 0).any(axis=1).sum()),
        "shards": written.shards,
    }
    listed = {"query_shards": asked.shards, "tables": tables}
    return entry | {name: files for name, files in listed.items() if files}


def _write_query_pictures(
    split: str, queries: pd.DataFrame, build: _Build
) -> tuple[pd.DataFrame, _Written]:
    """Stores the queries' pictures; their column `image` becomes the picture's number, or ""."""
    written = _write_rows(
        f"queries-{split}",
        queries[queries["image"] != ""].to_dict("records"),
        QUERIES,
        lambda record: json.dumps({"query_id": record["query_id"]}, ensure_ascii=False).encode(),
        build,
    )
    stored = compress(written.records, written.pictured)
    numbers = {record["query_id"]: number for number, record in enumerate(stored)}
    queries = queries[~queries["query_id"].isin(written.gone)]
    return queries.assign(image=[numbers.get(each, "") for each in queries["query_id"]]), written


def _write_rows(
    name: str,
    records: list[Any],
    kind: _Kind,
    metadata: Callable[[dict[str, Any]], bytes],
    build: _Build,
) -> _Written:
    """Writes shards NAME-00000.tar ... of the usable rows; `metadata` makes a sample's JSON."""
    written = _Written([], [], [], set())
    first_key = 0
    for start in range(0, len(records), build.samples_per_shard):
        part = records[start : start + build.samples_per_shard]
        # A shard at a time bounds the memory that finished pictures wait in.
        pictures = list(build.read_all([record["image"] for record in part]))
        build.progress.update(len(part))
        usable = list(_usable(part, pictures, kind, build))
        build.rejects.check()
        written.records.extend(record for record, _ in usable)
        written.pictured.extend(jpeg is not None for _, jpeg in usable)
        written.gone.update(record[kind.id] for record in part)
        written.gone.difference_update(record[kind.id] for record, _ in usable)
        samples = [
            (metadata(record), jpeg)
            for record, jpeg in usable
            if kind.stores_text or jpeg is not None
        ]
        if samples:
            path = build.out / f"{name}-{len(written.shards):05d}.tar"
            written.shards.append(_write_shard(path, first_key, samples))
            first_key += len(samples)
    return written


def _shuffled(products: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Neighbours in the catalogue part; ordered by hash, so alike on every machine."""
    records: list[Any] = products.to_dict("records")

    def place(record: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{seed}/{record['product_id']}".encode()).digest()

    return sorted(records, key=place)


def _usable(
    records: list[dict[str, Any]], pictures: list[Picture], kind: _Kind, build: _Build
) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """Yields the rows that have a text or a picture, with the picture; lists what failed."""
    for record, picture in zip(records, pictures, strict=True):
        if picture.failure is not None:
            build.rejects.add(_reject(build.tables, kind, record, *picture.failure))
        if picture.jpeg is not None or _has_text(record, kind):
            yield record, picture.jpeg
        else:
            detail = "expected a text or a picture, got neither"
            build.rejects.add(_reject(build.tables, kind, record, kind.empty, detail))


def _has_text(record: dict[str, Any], kind: _Kind) -> bool:
    return any(record[column] for column in kind.text)


def _answers(
    queries: pd.DataFrame, qrels: pd.DataFrame, grades: list[str], twins: dict[str, list[str]]
) -> dict[str, list[dict[str, Any]]]:
    """Lists the queries judged for each product, and those that are the product or its twin.

    Grade 0 stays, since a stated no is information.
    """
    asked: dict[str, dict[str, Any]] = {}
    own: list[tuple[str, str]] = []
    for record in queries.to_dict("records"):
        query = {key: record[key] for key in ("query_id", "query", "kind")}
        picture = {} if record["image"] == "" else {"picture": record["image"]}
        asked[record["query_id"]] = query | picture
        if record["product_id"]:
            own.append((record["product_id"], record["query_id"]))
    answers: dict[str, list[dict[str, Any]]] = {}
    for record in qrels.to_dict("records"):
        answer = asked[record["query_id"]] | {"grades": {grade: record[grade] for grade in grades}}
        answers.setdefault(record["product_id"], []).append(answer)
    # Only a twin may be judged: what judges itself is rejected before.
    judged = set(zip(qrels["product_id"], qrels["query_id"], strict=True)) if twins else set()
    for product_id, query_id in own:
        for twin in twins.get(product_id, [product_id]):
            if (twin, query_id) not in judged:
                answers.setdefault(twin, []).append(asked[query_id] | {"own": True})
    return answers


def _twins(products: pd.DataFrame, queries: pd.DataFrame) -> dict[str, list[str]]:
    """Lists each product's twins, of the same picture; nothing where no query is a product."""
    if (queries["product_id"] == "").all():
        return {}
    looks: dict[str, list[str]] = {}
    for product_id, path in zip(products["product_id"], products["image"], strict=True):
        # What cannot be read is told when the picture is stored.
        with suppress(PictureError):
            looks.setdefault(digest_of(Path(path)), []).append(product_id)
    return {product_id: alike for alike in looks.values() for product_id in alike}


def _metadata(record: dict[str, Any], answers: list[dict[str, Any]]) -> bytes:
    names = ("product_id", *TEXT_COLUMNS, "group_id")
    content = {name: record[name] for name in names} | {"queries": answers}
    return json.dumps(content, ensure_ascii=False).encode()


def _read_picture(path: str, size: int, max_pixels: int) -> Picture:
    if not path:
        return Picture(None, None)
    name = Path(path).name
    try:
        return Picture(reduce_picture(read_picture(Path(path)), size, max_pixels), None)
    except PictureError as error:
        return Picture(None, (error.reason, f"{name}: {error.detail}"))


def _end_with_parent() -> None:
    """Workers of a killed build would otherwise wait for work for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def _reject(
    tables: Tables, kind: _Kind, record: dict[str, Any], reason: str, detail: str
) -> Reject:
    return Reject(
        tables.files[kind.table].name, int(record["row"]), record[kind.id], reason, detail
    )


def _without(qrels: pd.DataFrame, gone: set[str], kind: _Kind, build: _Build) -> pd.DataFrame:
    """Returns the judgments whose product or query is used; lists the others as rejects."""
    lost = qrels[kind.id].isin(gone)
    name = kind.id.removesuffix("_id")
    for record in qrels[lost].to_dict("records"):
        identity = f"{record['query_id']} {record['product_id']}"
        file = build.tables.files["qrels"].name
        detail = f"expected a {name} that was not rejected"
        build.rejects.add(Reject(file, int(record["row"]), identity, f"unknown {name}", detail))
    return qrels[~lost]


def _write_shard(
    path: Path, first_key: int, samples: Iterable[tuple[bytes, bytes | None]]
) -> dict[str, Any]:
    count = 0
    # A file object, since webdataset would take a name such as "pipe:..." for a command.
    with path.open("wb") as file, TarWriter(
        file, user="", group="", mtime=0, encoder=False
    ) as writer:  # fmt: skip
        for sample in _members(first_key, samples):
            writer.write(sample)
            count += 1
    return {"samples": count} | _file_entry(path)


def _file_entry(path: Path) -> dict[str, Any]:
    """Makes the manifest's entry of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _members(
    first_key: int, samples: Iterable[tuple[bytes, bytes | None]]
) -> Iterator[dict[str, Any]]:
    for key, (metadata, jpeg) in enumerate(samples, first_key):
        # Product ids hold dots and slashes, which a member's name cannot.
        sample: dict[str, Any] = {"__key__": f"{key:08d}", "json": metadata}
        yield sample if jpeg is None else sample | {"jpg": jpeg}
