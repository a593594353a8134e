"""What planning batches costs at the size of a large shop: time, and memory of each process.

    python -m tests.benchmarks.plan

Needs no pictures: it writes the arrays of a split of made-up products, a quarter as many queries
and ten judgments a product, and plans batches for one of many processes. Times are those of a core
of its own. Memory is what a process does not share with others (USS), less what it had before, in
two at once: workers that have read the index and the judgments of all products, and processes that
plan. It is measured at two sizes, and computed for a larger one by the line through both.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from beyond_text.shards.columns import ROWS, write_columns
from beyond_text.shards.hard_negatives import hard_negatives
from beyond_text.shards.judged import ASKED, judged_schema
from beyond_text.shards.records import RECORD
from beyond_text.shards.roles import Roles, roles_of
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.split import Split

SHARD, QUERY, JUDGED, SAMPLE = 1000, 4, 10, 2048
PROCESSES, FAR, LARGE = 64, 10**6, 10**7
NO_SUM = "0" * 64


def write_split(folder: Path, products: int) -> None:
    """Writes a split as large as asked for; its tars are holes, which no plan reads."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number in range(products // SHARD):
        records = np.zeros(SHARD, RECORD)
        records["offset"] = np.arange(SHARD) * SAMPLE
        records["category"] = random.integers(1, 500, SHARD)
        records["pictures"], records["texts"] = 1, 7
        np.save(folder / f"train-{number:05d}.npy", records)
        with (folder / f"train-{number:05d}.tar").open("wb") as file:
            file.truncate(SHARD * SAMPLE)
        index = _entry(folder / f"train-{number:05d}.npy")
        shards.append(_entry(folder / f"train-{number:05d}.tar", samples=SHARD, index=index))
    queries, pairs = products // QUERY, products * JUDGED
    write_columns(folder / "asked-train.arrow", ASKED, _queries(queries))
    schema = judged_schema(["relevance"])
    write_columns(folder / "judged-train.arrow", schema, _judgments(products, queries, random))
    counts = {"products": products, "pictures": products, "texts": products, "queries": queries}
    files = {name: _entry(folder / f"{name}-train.arrow") for name in ("asked", "judged")}
    train = {**counts, "judged_pairs": pairs, "shards": shards, **files}
    manifest = {"version": 2, "picture_size": 256, "grades": {"relevance": {"max": 2.0}}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"splits": {"train": train}}))


def _entry(path: Path, **more: Any) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": NO_SUM, **more}


def _queries(number: int) -> Iterator[pa.RecordBatch]:
    for first in range(0, number, ROWS):
        ids = [f"q{row:09d}" for row in range(first, min(first + ROWS, number))]
        rows = len(ids)
        words = [f"words of {name}" for name in ids]
        columns = [ids, words, ["query"] * rows, [-1] * rows, [""] * rows, [False] * rows]
        arrays = [pa.array(each, field.type) for each, field in zip(columns, ASKED, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=ASKED)


def _judgments(
    products: int, queries: int, random: np.random.Generator
) -> Iterator[pa.RecordBatch]:
    schema = judged_schema(["relevance"])
    for first in range(0, products, ROWS // JUDGED):
        samples = np.arange(first, min(first + ROWS // JUDGED, products))
        # Distinct queries in order, for each product.
        step = queries // JUDGED
        query = np.arange(JUDGED) * step + random.integers(0, step, (len(samples), JUDGED))
        grade = random.integers(0, 3, query.size)
        columns = [np.repeat(samples, JUDGED), query.ravel(), np.zeros(query.size, bool), grade]
        arrays = [
            pa.array(each).cast(field.type) for each, field in zip(columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def unshared() -> int:
    """Returns the bytes of memory that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _read(split: Split) -> None:
    """Reads what a worker may read of all products."""
    split.categories()
    for _ in split.judged:
        pass
    for number in np.random.default_rng(0).integers(0, len(split), 20_000).tolist():
        split.judgments(number)
        split.picture_numbers(number)


def _plan(split: Split) -> list[BatchSampler]:
    """Makes a plan of all that it can hold, and goes on far with it."""
    roles, batch = roles_of(split, ["query_product"]), min(4096, len(split) // 2)
    arguments = [split.sizes], [1.0], batch, 2 * FAR, 0, 0, 1, FAR
    plan = BatchSampler(
        *arguments, roles=[roles], negatives=0.25, categories=[split.categories()], run=4
    )
    for _ in islice(plan, 20):
        pass
    return [plan]


def _work(work: Callable[[Split], Any], split: Split, start: Any, found: Any) -> None:
    before = unshared()
    # Kept until its memory is measured.
    kept = work(split)
    # Both hold what they hold before either measures.
    start.wait()
    found.put(unshared() - before)
    start.wait()
    del kept


def memory_of(work: Callable[[Split], Any], split: Split, processes: int = 2) -> int:
    """Returns the bytes that a work costs each of several processes of one machine."""
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(target=_work, args=(work, split, start, found)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    costs = [found.get() for _ in started]
    for process in started:
        process.join()
    return max(costs)


def plan_times(make: Callable[[int], BatchSampler], batches: int) -> dict[str, float]:
    """Returns the seconds to the first batch far on, and those of a batch after it."""
    # As training does.
    gc.freeze()
    begun = time.process_time()
    plan = iter(make(FAR))
    next(plan)
    seek = time.process_time() - begun
    seconds = []
    for _ in range(batches):
        begun = time.process_time()
        next(plan)
        seconds.append(time.process_time() - begun)
    return {"seek": seek, "batch": float(np.mean(seconds)), "slowest": max(seconds)}


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plan", description=__doc__)
    parser.add_argument("--products", type=int, default=10**6)
    parser.add_argument("--rows", type=int, nargs="*", default=[1024, 4096], help="of a process")
    parser.add_argument("--batches", type=int, default=50)
    arguments = parser.parse_args(words)
    result: dict[str, Any] = {"memory": {}, "plans": {}}
    sizes = [arguments.products // 10, arguments.products]
    for products in sizes:
        with TemporaryDirectory() as folder:
            write_split(Path(folder), products)
            measured = measure(Split(folder, "train", ["title"]), arguments.rows, arguments.batches)
        result["plans"] = measured.pop("plans")
        result["roles"] = measured.pop("roles")
        for name, cost in measured.items():
            result["memory"].setdefault(name, []).append(cost)
    _print(result, sizes)
    return result


def measure(split: Split, rows: Sequence[int], batches: int) -> dict[str, Any]:
    """Measures time and memory with a split."""
    works = {"a worker": _read, "the process that plans": _plan}
    result: dict[str, Any] = {name: memory_of(work, split) for name, work in works.items()}
    result["plans"], begun = {}, time.process_time()
    roles = roles_of(split, ["query_product"])
    result["roles"] = time.process_time() - begun
    for number in rows:
        for name, make in _plans(split, roles, number * PROCESSES).items():
            title = f"{name}, {PROCESSES} x {number:,}"
            result["plans"][title] = plan_times(make, batches)
    return result


def _plans(split: Split, roles: Roles, batch: int) -> dict[str, Callable[[int], BatchSampler]]:
    """Returns what makes each kind of plan from a start on."""
    far = 2 * FAR
    large = [[SHARD] * max(LARGE // SHARD, 2 * batch // SHARD)]
    own = [split.sizes]
    first: dict[str, Callable[[int], BatchSampler]] = {
        f"{sum(large[0]):,} products": lambda start: BatchSampler(
            large, [1.0], batch, far, 0, 0, PROCESSES, start
        ),
        "the same and another source": lambda start: BatchSampler(
            large * 2, [3.0, 1.0], batch, far, 0, 0, PROCESSES, start
        ),
    }
    if len(split) < batch:
        return first
    name = f"{len(split):,} products"
    mined = np.random.default_rng(0).integers(0, len(split), (len(split.asked), 32), np.int32)
    hard = [hard_negatives(split, mined, 4)]
    return first | {
        f"{name}, judged negatives": lambda start: BatchSampler(
            own, [1.0], batch, far, 0, 0, PROCESSES, start, roles=[roles], negatives=0.25
        ),
        f"{name}, mined negatives": lambda start: BatchSampler(
            own, [1.0], batch, far, 0, 0, PROCESSES, start, roles=[roles], negatives=0.25, hard=hard
        ),
        f"{name}, runs of a category": lambda start: BatchSampler(
            own, [1.0], batch, far, 0, 0, PROCESSES, start, categories=[split.categories()], run=4
        ),
    }


def _print(result: dict[str, Any], sizes: list[int]) -> None:
    table = Table("plan", f"first batch at {FAR:,}, s", "a batch, ms", "slowest, ms")
    for name, times in result["plans"].items():
        table.add_row(
            name, f"{times['seek']:.3f}", *(f"{1e3 * times[n]:.2f}" for n in ("batch", "slowest"))
        )
    Console().print(table)
    table = Table("memory, MB", *(f"{size:,} products" for size in sizes), f"{LARGE:,} (computed)")
    for name, costs in result["memory"].items():
        slope = (costs[1] - costs[0]) / (sizes[1] - sizes[0])
        computed = costs[1] + slope * (LARGE - sizes[1])
        table.add_row(name, *(f"{cost / 1e6:.1f}" for cost in (*costs, computed)))
    Console().print(table)
    Console().print(f"roles of {sizes[1]:,} products read in {result['roles']:.1f} s")


if __name__ == "__main__":
    main()
