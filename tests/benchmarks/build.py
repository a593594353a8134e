"""Measures what a build of shards takes at several sizes: seconds, and the peak memory of it all.

    python -m tests.benchmarks.build --products 10000 100000 --plot recipes/pictures/build.svg

Shops are made up: products with words, a price and a small picture, half as many queries, and
judgments. Files of pictures are shared by products beyond the first `--pictures`. Memory is the
proportional set size of the process and all its children, so that shared pages count once.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import psutil
from simplejpeg import encode_jpeg

from tests import ROOT

KINDS = ("cushion", "vase", "rug", "lamp", "bowl", "throw", "clock", "candle")
MADE_OF = ("wool", "linen", "clay", "glass", "oak", "brass")
# Seconds between two looks at the memory.
EVERY = 0.2


class Measured(NamedTuple):
    """What a build of so many products and judgments took; sizes are in bytes."""

    products: int
    judgments: int
    workers: int
    seconds: float
    peak: int
    written: int


def write_shop(folder: Path, products: int, judgments: int, pictures: int, side: int = 24) -> None:
    """Writes tables of a made-up shop; every product has as many judgments, of distinct queries."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(min(products, pictures)):
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(coarse.repeat(side // 6, 0).repeat(side // 6, 1))
        (folder / "images" / f"{number:06}.jpg").write_bytes(encode_jpeg(pixels, quality=90))
    queries = max(1, products // 2)
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["product_id", "title", "description", "category", "image", "price"])
        for number in range(products):
            kind, stuff = KINDS[number % 8], MADE_OF[number // 8 % 6]
            text = f"A {kind} of {stuff}, made by hand for rooms with light. Number {number}."
            image = f"images/{number % pictures:06}.jpg"
            price = f"{number % 50_000 / 100 + 5:.2f}"
            title, category = f"{stuff} {kind} {number}", f"Home > {kind}"
            writer.writerow([f"p{number:08}", title, text, category, image, price])
    with (folder / "queries.csv").open("w", encoding="utf-8", newline="") as file:
        file.write("query_id,query\n")
        file.writelines(
            f"q{number:08},{KINDS[number % 8]} for room {number}\n" for number in range(queries)
        )
    with (folder / "qrels.csv").open("w", encoding="utf-8", newline="") as file:
        file.write("query_id,product_id,relevance\n")
        for query in range(queries):
            # Consecutive queries share no product, so that no two have one need.
            first = query * 2 * judgments
            file.writelines(
                f"q{query:08},p{(first + 7 * each) % products:08},{(query + each) % 4}\n"
                for each in range(min(2 * judgments, products))
            )


def measure(shop: Path, out: Path, workers: int, products: int, judgments: int) -> Measured:
    """Builds shards of a shop in a process of its own."""
    words = [str(shop), str(out), "--workers", str(workers), "--picture-size", "32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [sys.executable, "-m", "data_prep.shards", *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, sum(_memory(watched)))
            time.sleep(EVERY)
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit(process.stderr.read()[-4000:] if process.stderr else "the build failed")
    written = sum(path.stat().st_size for path in out.iterdir())
    return Measured(products, products * judgments, workers, seconds, peak, written)


def _memory(process: psutil.Process) -> Iterator[int]:
    """Yields the proportional set sizes of a process and its children that still run."""
    try:
        for each in (process, *process.children(recursive=True)):
            yield each.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return


def _measured(path: Path) -> list[Measured]:
    """Reads the last measurement of each size, the smallest size first."""
    rows = [Measured(**json.loads(line)) for line in path.read_text().splitlines()]
    found = {row.products: row for row in rows}
    return [found[products] for products in sorted(found)]


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Draws seconds and peak memory over the number of products."""
    plt.rcParams |= {"svg.hashsalt": "beyond-text", "svg.fonttype": "none"}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    values = (
        ("minutes", [row.seconds / 60 for row in rows]),
        ("peak memory of all processes, GB", [row.peak / 1e9 for row in rows]),
    )
    for axis, (name, heights) in zip(axes, values, strict=True):
        axis.semilogx([row.products for row in rows], heights, marker="o")
        for row, height in zip(rows, heights, strict=True):
            place = row.products, height
            axis.annotate(f"{height:.2g}", place, (0, 6), textcoords="offset points")
        axis.set(xlabel="products", ylabel=name)
        axis.margins(x=0.1, y=0.15)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(words: Sequence[str] | None = None) -> list[Measured]:
    """Parses the command line, measures, prints, and draws what was asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.build", description=__doc__)
    parser.add_argument("--products", type=int, nargs="+", default=[10_000])
    parser.add_argument("--judgments", type=int, default=10, help="of a product")
    parser.add_argument("--pictures", type=int, default=10_000, help="most files of pictures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, help="JSON lines to add to, and to draw from")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    arguments = parser.parse_args(words)
    rows = []
    for products in arguments.products:
        with TemporaryDirectory() as temporary:
            shop = Path(temporary) / "shop"
            write_shop(shop, products, arguments.judgments, arguments.pictures)
            row = measure(
                shop, Path(temporary) / "out", arguments.workers, products, arguments.judgments
            )
        rows.append(row)
        print(
            f"{products:,} products, {row.judgments:,} judgments, {row.workers} workers: "
            f"{row.seconds:.1f} s, {row.peak / 1e6:,.0f} MB, {row.written / 1e6:,.0f} MB written",
            flush=True,
        )
        if arguments.results:
            with arguments.results.open("a") as file:
                file.write(json.dumps(row._asdict()) + "\n")
    if arguments.plot:
        plot(_measured(arguments.results) if arguments.results else rows, arguments.plot)
    return rows


if __name__ == "__main__":
    main()
