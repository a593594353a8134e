"""Reads tables and plans their shards, in a folder of work beside the build that outlives a kill.

The folder holds the rows of the tables (`frozen.py`) and, in TASKS, the plan and its shards. Its
name is that of the tables and options, and it is made aside and renamed, so that of several jobs
that start together the first one's counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from beyond_text.tables.layouts import Layout, find_parts, find_tables
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import Rejects
from beyond_text.tasks.plan import PLAN, Plan, encode
from beyond_text.tasks.runner import is_alive
from beyond_text.tasks.sidecar import path_of, read_sidecars
from data_prep.frozen import FACTS, Facts, freeze, open_rows, read_facts, rows_path
from data_prep.shard import Shard, records_of, state_of_pictures

TASKS = "tasks"
# Of what work folders hold; those of another one are of no use.
VERSION = 1
# Characters of a key in a folder's name.
KEY = 12


class Options(NamedTuple):
    """What decides the bytes of a build beside its tables; see `build_shards`."""

    layout: Layout
    picture_size: int
    max_pixels: int
    samples_per_shard: int
    max_rejected: float
    dev_share: float
    seed: int
    pictures: Path | None
    test_share: float
    grades: Sequence[str] | None


def work_folders(out: Path) -> list[Path]:
    """Lists the folders of work that lie beside a build."""
    entries = out.parent.iterdir() if out.parent.is_dir() else []
    return [each for each in entries if _is_work(each.name, out)]


def discard(work: Path) -> None:
    """Removes a folder of work; what a kill leaves of it is not taken for a whole one."""
    (work / FACTS).unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _is_work(name: str, out: Path) -> bool:
    start, _, key = name.rpartition(".work-")
    return start == f".{out.name}" and len(key) == KEY


def prepare(tables_path: Path, out: Path, options: Options) -> tuple[Path, Facts]:
    """Reads tables into a folder of work, unless they are there; returns it with the facts.

    Raises:
        TableError: the tables cannot be read.
        RejectError: too much is rejected.
        BuildError: a split has a reserved name.
    """
    key = _key(tables_path, options)
    # Jobs that start together never remove what another one of them has made.
    work = out.with_name(f".{out.name}.work-{key[:KEY]}")
    for other in (*work_folders(out), *_leftovers(out)):
        if other != work:
            discard(other)
    if facts := read_facts(work):
        return work, facts
    discard(work)
    aside = out.with_name(f".{out.name}.{socket.gethostname()}.{os.getpid()}.aside")
    try:
        facts = _frozen(tables_path, out, options, aside, key)
        aside.rename(work)
    except OSError:
        # Another job may have been quicker.
        if (facts := read_facts(work)) is None:
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return work, facts


def _frozen(tables_path: Path, out: Path, options: Options, folder: Path, key: str) -> Facts:
    """Reads tables and writes them to a folder."""
    tables = read_tables(
        tables_path,
        options.layout,
        options.dev_share,
        options.pictures,
        options.test_share,
        options.grades,
        compact=True,
    )
    rejects_of(tables.rejects, tables.files.values(), out, options).check()
    folder.mkdir(parents=True)
    limits = options.seed, options.samples_per_shard
    facts = freeze(tables, folder, key, str(tables_path), *limits)
    del tables
    pa.default_memory_pool().release_unused()
    return facts


def rejects_of(found: Iterable, files: Iterable, out: Path, options: Options) -> Rejects:
    """Begins the list of a build's rejects with those of its tables."""
    list_path = out.with_name(f"{out.name}.rejects.csv")
    return Rejects(found, files, options.max_rejected, list_path, options.layout.name)


def plan_of(work: Path, facts: Facts, options: Options) -> Plan:
    """Plans the shards of a build: of each split those of its queries' pictures, then products."""
    tasks = [
        Shard(
            name=f"{prefix}{split.name}-{part:05d}",
            table=table,
            split=split.name,
            rows=str(rows_path(work, name, split.name)),
            part=part,
            first=part * options.samples_per_shard,
            file=facts.files[table].name,
            pictures=facts.pictures,
            picture_size=options.picture_size,
            max_pixels=options.max_pixels,
        )
        for split in facts.splits
        for table, name, prefix in (
            ("queries", "pictured", "queries-"), ("products", "products", "")
        )
        for part in range(_parts(rows_path(work, name, split.name)))
    ]  # fmt: skip
    return Plan(work / TASKS, "data_prep.shard:write_shard", tasks)


def forget_changed(plan: Plan) -> None:
    """Forgets which shards are done of whose pictures a file has changed since."""
    if not (plan.folder / PLAN).is_file():
        return
    for number, done in read_sidecars(encode(plan), range(len(plan.tasks))).items():
        task = plan.tasks[number]
        assert isinstance(task, Shard)
        if state_of_pictures(records_of(task)) != done.counts["state"]:
            path_of(plan.folder, number).unlink()


def _parts(path: Path) -> int:
    """Counts the parts of a file of rows that have any."""
    reader = open_rows(path)
    return sum(reader.get_batch(n).num_rows > 0 for n in range(reader.num_record_batches))


def _key(tables_path: Path, options: Options) -> str:
    """Returns a digest of the files of tables, by size and time, and of the options."""
    files = [
        [str(path), status.st_size, status.st_mtime_ns]
        for path in _files(tables_path, options.layout)
        if (status := path.stat())
    ]
    content = VERSION, str(tables_path), files, *options
    data = msgspec.json.encode(content, order="deterministic", enc_hook=str)
    return hashlib.sha256(data).hexdigest()


def _files(tables_path: Path, layout: Layout) -> Iterator[Path]:
    """Yields the files that tables may be read from."""
    folder = tables_path.parent if tables_path.is_file() else tables_path
    sources = (
        layout.products, layout.queries, layout.qrels, layout.images, layout.log
    )  # fmt: skip
    if folder.is_dir():
        yield from find_parts(folder, layout.clicks)
        for source in sources:
            yield from find_tables(folder, source)
    for path in (tables_path, folder / layout.pairs if layout.pairs else tables_path):
        if path.is_file():
            yield path


def _leftovers(out: Path) -> Iterator[Path]:
    """Yields folders that jobs of this machine, killed since, have left half done."""
    start, end = f".{out.name}.{socket.gethostname()}.", ".aside"
    for path in out.parent.iterdir() if out.parent.is_dir() else []:
        process = path.name.removeprefix(start).removesuffix(end)
        is_ours = path.name == f"{start}{process}{end}" and process.isdecimal()
        if is_ours and not is_alive(int(process)):
            yield path
