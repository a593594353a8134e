"""Tables become a folder of WebDataset shards that is whole, or is not there.

Notable: the folder is built beside its final name and renamed when its manifest is written; what a
killed or failed build left is removed, at the latest by the next. One sample is one product, so a
picture is stored once however many queries reach it; a query's picture is stored once however many
products answer it. The same tables give the same bytes, hence the same checksums.

    python -m data_prep.shards TABLES OUT
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from itertools import compress
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm
from webdataset import TarWriter

from beyond_text.layouts import OWN_LAYOUT, TEXT_COLUMNS, Layout, Reject, TableError
from beyond_text.manifest import FILE, VERSION, ShardError, read_manifest
from beyond_text.pictures import MAX_PIXELS, PictureError, read_picture, reduce_picture
from beyond_text.tables import Tables, read_tables
from data_prep.adapters import ADAPTERS

# Faults of the machine rather than of the tables, in words.
FAULTS: dict[type[BaseException], str] = {
    OSError: "not written",
    BrokenProcessPool: "a process that reduces pictures was killed, perhaps for want of memory",
}


class BuildError(ValueError):
    """Shards that were not written; the message says what was wrong and what to do."""


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


def build_shards(
    tables_path: Path,
    out: Path,
    layout: Layout = OWN_LAYOUT,
    picture_size: int = 256,
    max_pixels: int = MAX_PIXELS,
    samples_per_shard: int = 1000,
    max_rejected: float = 0.05,
    workers: int | None = None,
    dev_share: float = 0.1,
    seed: int = 0,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Write `out`: shards of every split, queries and judgements of all but train, a manifest.

    A picture that cannot be used is rejected and its product or query goes on by its text; with no
    text either, the product or query and the judgements naming it are rejected too. An empty file
    of pairs gives an empty train split, for there may be shops without designs.

    Args:
        tables_path: what `read_tables` takes.
        out: folder to make; replaced if it is empty or holds an earlier build.
        layout: whose files and column names the tables have.
        picture_size: longest side of the stored pictures, in pixels.
        max_pixels: most pixels a source picture's header may announce.
        samples_per_shard: most products in one tar file.
        max_rejected: share of any one file's rows, 0 to 1, above which nothing is built.
        workers: processes that reduce pictures; None for one per core.
        dev_share: share put into dev where the tables name no splits.
        seed: of the order of the samples within a split.
        pictures: folder in which the pictures lie; None for that of the tables.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        BuildError: too much is rejected (OUT.rejects.csv then lists it), nothing is left, `out`
            holds something that is no build, the disk is full or a worker process was killed.
            Nothing new is then in `out`; what an earlier build put there stays.
        TableError: the tables cannot be read.
    """
    tables_path, out = Path(tables_path).resolve(), Path(out).resolve()
    if samples_per_shard < 1 or picture_size < 1:
        raise BuildError("samples_per_shard and picture_size must be at least 1")
    partial_out, old_out, left_rejects = (
        out.with_name(out.name + suffix) for suffix in (".partial", ".old", ".rejects.csv")
    )
    if _is_build(old_out) and not out.exists():
        # Killed between the two renames below.
        old_out.rename(out)
    _check_replaceable(out)
    for leftover in (partial_out, old_out):
        if leftover.exists():
            shutil.rmtree(leftover)
    left_rejects.unlink(missing_ok=True)

    tables = read_tables(tables_path, layout, dev_share, pictures)
    rejects = _Rejects(tables, max_rejected, left_rejects)
    try:
        rejects.check()
        partial_out.mkdir(parents=True)
        splits = _write_splits(
            tables, partial_out, rejects, workers, samples_per_shard, seed,
            partial(_read_picture, size=picture_size, max_pixels=max_pixels),
        )  # fmt: skip
        file = tables.files["products"]
        without_pairs = file.name.endswith(".jsonl") and not file.rows
        if not without_pairs and not any(entry["products"] for entry in splits.values()):
            raise BuildError(f"{tables_path}: no product is left to write")
        manifest = {
            "version": VERSION,
            "source": tables_path.name,
            "picture_size": picture_size,
            "grades": {
                grade: {"max": float(tables.qrels[grade].max()) if len(tables.qrels) else 0.0}
                for grade in tables.grades
            },
            "splits": splits,
            "rejects": rejects.by_reason(),
            "left_out": {file.name: file.left_out for file in rejects.files if file.left_out},
        }
        rejects.write(partial_out / "rejects.csv")
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (partial_out / FILE).write_text(text + "\n", encoding="utf-8")
        # Renamed away first: a folder half deleted could still hold its manifest.
        if out.exists():
            out.rename(old_out)
        partial_out.rename(out)
    except BaseException as error:
        shutil.rmtree(partial_out, ignore_errors=True)
        for fault, said in FAULTS.items():
            if isinstance(error, fault):
                raise BuildError(f"{out}: {said}: {error}; nothing of it is kept") from error
        raise
    shutil.rmtree(old_out, ignore_errors=True)
    return manifest


class _Rejects:
    """Every reject of a build, and the limit on them."""

    def __init__(self, tables: Tables, max_share: float, left_at: Path) -> None:
        self.rejects = dict.fromkeys(tables.rejects)
        self.files = sorted(set(tables.files.values()))
        self.bad_rows = {file.name: set[int]() for file in self.files}
        self.max_share = max_share
        self.left_at = left_at
        for reject in tables.rejects:
            self.bad_rows[reject.file].add(reject.row)

    def add(self, reject: Reject) -> None:
        """Count one; the same picture met in two splits counts once."""
        self.rejects[reject] = None
        self.bad_rows[reject.file].add(reject.row)

    def by_reason(self) -> dict[str, int]:
        """Number of rejects of each reason, the most frequent first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())

    def check(self) -> None:
        """Raise BuildError, leaving the list behind, if a file has lost too large a share."""
        for file in self.files:
            bad = len(self.bad_rows[file.name])
            if bad <= self.max_share * file.rows:
                continue
            self.write(self.left_at)
            here = [reject for reject in self.rejects if reject.file == file.name]
            counts = Counter(reject.reason for reject in here).most_common()
            examples = "".join(
                f"\n  row {each.row} ({each.id}): {each.reason}: {each.detail}" for each in here[:5]
            )
            raise BuildError(
                f"{file.name}: {bad} of {file.rows} rows rejected, expected at most a share of "
                f"{self.max_share:g}: "
                + ", ".join(f"{count} {reason}" for reason, count in counts)
                + f"; all are listed in {self.left_at}; the first:{examples}"
            )

    def write(self, path: Path) -> None:
        """Write rejects.csv."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Reject._fields)
            writer.writerows(self.rejects)


class _Build(NamedTuple):
    """What writing any part of a build needs."""

    tables: Tables
    out: Path
    rejects: _Rejects
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


def _write_splits(
    tables: Tables,
    out: Path,
    rejects: _Rejects,
    workers: int | None,
    samples_per_shard: int,
    seed: int,
    read_picture: partial[Picture],
) -> dict[str, dict[str, Any]]:
    """Write every split's files; returns the manifest's entry of each."""
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
        read_all = partial(pool.map, read_picture, chunksize=16) if pool else partial(
            map, read_picture
        )  # fmt: skip
        build = _Build(tables, out, rejects, samples_per_shard, read_all, progress)
        entries = {split: _write_split(split, seed, build) for split in splits}
    rejects.check()
    return entries


def _write_split(split: str, seed: int, build: _Build) -> dict[str, Any]:
    """Write the files of one split; returns its entry in the manifest."""
    products, queries, qrels = (
        table[table["split"] == split]
        for table in (build.tables.products, build.tables.queries, build.tables.qrels)
    )
    grades = build.tables.grades
    queries, asked = _write_query_pictures(split, queries, build)
    qrels = _without(qrels, asked.gone, QUERIES, build)
    answers = _answers(queries, qrels, grades)
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
    """Store the queries' pictures; their column `image` is then the picture's number, or ""."""
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
    """Write shards NAME-00000.tar ... of the usable rows; `metadata` is a sample's JSON."""
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
    """The rows that have a text or a picture, with the picture; notes what failed."""
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
    queries: pd.DataFrame, qrels: pd.DataFrame, grades: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """The queries judged for each product, and those that are the product itself.

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
    for product_id, query_id in own:
        answers.setdefault(product_id, []).append(asked[query_id] | {"own": True})
    return answers


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
    """The judgements whose product or query is used; the others are rejected."""
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
    """What the manifest says of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _members(
    first_key: int, samples: Iterable[tuple[bytes, bytes | None]]
) -> Iterator[dict[str, Any]]:
    for key, (metadata, jpeg) in enumerate(samples, first_key):
        # Product ids hold dots and slashes, which a member's name cannot.
        sample: dict[str, Any] = {"__key__": f"{key:08d}", "json": metadata}
        yield sample if jpeg is None else sample | {"jpg": jpeg}


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not _is_build(out)):
        raise BuildError(f"{out}: expected a new or empty folder or an earlier build, got neither")


def _is_build(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except ShardError:
        # Many a folder that is not ours has a manifest.json too.
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Build from the command line; prints the counts, or the error and returns 1."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.shards", description=__doc__)
    parser.add_argument("tables", type=Path, help="folder of tables, a log or pairs")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--layout", choices=sorted(ADAPTERS), help="default: this project's own")
    parser.add_argument("--picture-size", type=int, default=256, help="longest side, in pixels")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--max-rejected", type=float, default=0.05, help="share of a file's rows")
    parser.add_argument("--workers", type=int, help="default: one per core")
    parser.add_argument("--dev-share", type=float, default=0.1)
    parser.add_argument("--pictures", type=Path, help="folder of the pictures, default: TABLES")
    given = vars(parser.parse_args(arguments))
    name = given.pop("layout")
    layout = ADAPTERS[name] if name else OWN_LAYOUT
    try:
        manifest = build_shards(given.pop("tables"), given.pop("out"), layout, **given)
    except (BuildError, TableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, entry in manifest["splits"].items():
        counts = {**entry, "shards": len(entry["shards"])}
        counts.pop("tables", None)
        asked = sum(shard["samples"] for shard in counts.pop("query_shards", []))
        counts |= {"query_pictures": asked} if asked else {}
        said = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        print(f"{split}: {said}")
    rejected = ", ".join(f"{count} {reason}" for reason, count in manifest["rejects"].items())
    print(f"rejected: {rejected or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
