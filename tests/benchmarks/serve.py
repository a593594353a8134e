"""Measures the service over HTTP by wrk, in a process of its own, with queries that vary.

    python -m tests.benchmarks.serve INDEX
    python -m tests.benchmarks.serve INDEX --products 100000 --kind ivf_sq8
    python -m tests.benchmarks.serve INDEX --precision int8 --connections 1 16 64

With --products, the index is grown to so many: its products again and again, with noise added to
their vectors. Each row is a number of connections: requests a second, milliseconds (median and
99th percentile), queries in a batch, and the share of encoding in the time that batches took. wrk
runs on the same machine and takes its part of the cores. clip-retrieval's README says 20 requests a
second of its service (github.com/rom1504/clip-retrieval, section on the back end), of CLIP and a
larger index on other hardware: what it says, not what was measured here.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from beyond_text.config.names import INDEX_KINDS, IndexKind
from beyond_text.indexing.build import write_state
from beyond_text.indexing.generation import Generation, words_of_products
from beyond_text.indexing.index import Index
from beyond_text.indexing.models import MODELS
from beyond_text.retrieval.described import Described
from tests import ROOT

COLOURS = ("red", "blue", "dark green", "mustard", "white", "pink", "charcoal", "teal")
PATTERNS = ("striped", "floral", "plain", "dotted", "checked", "marbled", "zigzag")
KINDS = ("cushion", "vase", "rug", "table lamp", "armchair", "poster", "mug", "wall clock", "throw")
PLACES = ("", "for the living room", "made of wood", "as a gift", "for a small hallway")
QUERIES = 2000
PUBLISHED = 20
# wrk counts in microseconds; its table of latencies is by threads alike.
SCRIPT = """
local bodies, at = {bodies}, {start}
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "/search", {{["Content-Type"] = "application/json"}}, bodies[at])
end
done = function(summary, latency)
  local bad = summary.errors.status + summary.errors.read + summary.errors.timeout
  io.write(string.format("RESULT %f %f %f %d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, bad))
end
"""


class Measured(NamedTuple):
    """What one run of wrk gave; latencies are in milliseconds."""

    connections: int
    requests_per_second: float
    median: float
    p99: float
    failed: int
    queries_per_batch: float
    encoding_share: float


def grown(index: Path, out: Path, products: int, kind: IndexKind | None) -> Path:
    """Writes an index of more products, which are those of another with noise in their vectors.

    What `kind` learns is learned here, so that the service finds it.
    """
    generation = Generation.open(index)
    draw = np.random.default_rng(0)
    rows = draw.integers(0, len(generation), products)
    vectors = generation.vectors[rows].astype(np.float32)
    vectors += draw.standard_normal(vectors.shape, dtype=np.float32) * (
        0.5 / vectors.shape[1] ** 0.5
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = generation.products["text"].take(pa.array(rows)).to_pylist()
    columns = generation.columns.take(pa.array(rows)).to_pylist()
    described = [
        Described(f"{number:09}", text, {name: str(v) for name, v in row.items() if v is not None})
        for number, text, row in zip(range(products - 1, -1, -1), texts, columns, strict=True)
    ]
    digests = draw.integers(0, 256, (2, products, 16), dtype=np.uint8)
    shutil.copytree(index / MODELS, out / MODELS)
    facts = replace(generation.facts, generation=1, products=products, kind="exact")
    write_state(
        out,
        facts,
        described,
        vectors.astype(np.float16),
        tuple(digests),
        words_of_products(described),
    )
    Index.open(out, kind)
    return out


def bodies(top: int) -> list[str]:
    """Returns bodies of searches, each for other words."""
    draw = random.Random(0)
    texts = {
        " ".join(filter(None, map(draw.choice, (COLOURS, PATTERNS, KINDS, PLACES))))
        for _ in range(QUERIES)
    }
    return [json.dumps({"text": text, "top": top}) for text in sorted(texts)]


def lua(words: Sequence[str]) -> str:
    """Returns a script for wrk that sends the bodies in a drawn order."""
    order = list(words)
    random.Random(1).shuffle(order)
    return SCRIPT.format(bodies="{" + ",".join(json.dumps(each) for each in order) + "}", start=0)


@contextmanager
def started(index: Path, options: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Runs the service; yields its address and the seconds until it was ready."""
    command = [sys.executable, "-m", "beyond_text.serve", str(index), "--port", "0", *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        ready = next((line for line in lines if line.startswith("ready at ")), None)
        if ready is None:
            sys.exit("the service did not start")
        yield ready.removeprefix("ready at ").strip(), time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def sums(address: str) -> dict[str, float]:
    """Returns the sums and counts of the service's metrics."""
    text = httpx.get(f"{address}metrics").text
    pairs = re.findall(r"^(\w+_(?:sum|count)) ([\d.e+-]+)$", text, flags=re.MULTILINE)
    return {name: float(value) for name, value in pairs}


def measure(address: str, script: Path, connections: int, seconds: int) -> Measured:
    """Runs wrk once."""
    before = sums(address)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), address]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = sums(address)
    spent = {name: value - before.get(name, 0.0) for name, value in after.items()}
    rate, median, p99, failed = map(float, re.search(r"RESULT (.*)", printed)[1].split())  # type: ignore[index]
    encoding, searching = spent["encoding_seconds_sum"], spent["searching_seconds_sum"]
    return Measured(
        connections,
        rate,
        median,
        p99,
        int(failed),
        spent["batch_queries_sum"] / spent["batch_queries_count"],
        encoding / (encoding + searching),
    )


def main(words: Sequence[str] | None = None) -> list[Measured]:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serve")
    parser.add_argument("index", type=Path, help="index folder, such as one of 100,000 products")
    parser.add_argument("--products", type=int, help="grows the index to so many")
    parser.add_argument(
        "--kind", choices=INDEX_KINDS, help="default: the index's own, or exact where it is grown"
    )
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=int, default=20, help="of each row")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args(words)
    if shutil.which("wrk") is None:
        sys.exit("error: no wrk here: apt install wrk")
    options = ["--precision", arguments.precision]
    if arguments.threads:
        options += ["--threads", str(arguments.threads)]
    if arguments.kind:
        options += ["--index", arguments.kind]
    measured = []
    with TemporaryDirectory() as folder:
        index = arguments.index
        if arguments.products:
            index = grown(index, Path(folder) / "index", arguments.products, arguments.kind)
        script = Path(folder) / "searches.lua"
        script.write_text(lua(bodies(arguments.top)), encoding="utf-8")
        with started(index, options) as (address, ready):
            print(f"ready after {ready:.1f} s; {len(Generation.open(index)):,} products")
            measure(address, script, max(arguments.connections), 3)
            for connections in arguments.connections:
                measured.append(measure(address, script, connections, arguments.seconds))
                print(line(measured[-1]), flush=True)
    return measured


def line(row: Measured) -> str:
    """Returns what was measured, in words."""
    return (
        f"{row.connections:3} connections: {row.requests_per_second:6.0f} requests/s "
        f"(published by clip-retrieval: {PUBLISHED}), median {row.median:.1f} ms, "
        f"p99 {row.p99:.1f} ms, {row.failed} failed, {row.queries_per_batch:.1f} queries "
        f"a batch, encoding {row.encoding_share:.0%}"
    )


if __name__ == "__main__":
    main()
