"""Measures what an update of an index costs beside a build, imports included.

    python -m tests.benchmarks.index_update RUN --products 100000

Products are made up: each has a title, a price and a picture of its own. Then one in a hundred gets
other words or another picture, and at last every price is another. Each line is a new process:
seconds by the clock.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from simplejpeg import encode_jpeg

from data_prep.shards import build_shards
from tests import ROOT

KINDS = ("cushion", "vase", "rug", "lamp", "bowl", "throw", "clock", "candle")
MADE_OF = ("wool", "linen", "clay", "glass", "oak", "brass")


class Shop:
    """A catalogue of so many products, with square pictures of `side` pixels."""

    def __init__(self, folder: Path, products: int, side: int) -> None:
        self.folder = folder
        self.side = side
        self.random = np.random.default_rng(0)
        (folder / "images").mkdir(parents=True)
        self.rows = [self._row(number) for number in range(products)]
        for row in self.rows:
            self._draw(row)
        self.write()

    def _row(self, number: int) -> dict[str, str]:
        kind, stuff = KINDS[number % len(KINDS)], MADE_OF[number // 8 % len(MADE_OF)]
        text = f"A {kind} of {stuff}, made by hand for rooms with light. Number {number} of many."
        return {
            "product_id": f"p{number:08}",
            "title": f"{stuff} {kind} {number}",
            "description": text,
            "category": kind,
            "image": f"images/{number // 1000:05}-{number:08}.jpg",
            "price": f"{self.random.integers(500, 50_000) / 100:.2f}",
        }

    def _draw(self, row: dict[str, str]) -> None:
        coarse = self.random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels = np.repeat(np.repeat(coarse, self.side // 8, axis=0), self.side // 8, axis=1)
        (self.folder / row["image"]).write_bytes(
            encode_jpeg(np.ascontiguousarray(pixels), quality=90)
        )

    def write(self) -> None:
        """Writes the table."""
        path = self.folder / "products.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)

    def change(self, share: float) -> int:
        """Changes words or picture of a share of the products; returns how many."""
        count = max(1, round(share * len(self.rows)))
        chosen = self.random.choice(len(self.rows), count, replace=False)
        for place, number in enumerate(chosen):
            row = self.rows[number]
            if place % 2:
                self._draw(row)
            else:
                row["title"] += ", new this week"
        self.write()
        return count

    def change_prices(self) -> None:
        """Gives every product another price."""
        for row in self.rows:
            row["price"] = f"{float(row['price']) + 1:.2f}"
        self.write()


def seconds(source: Path, index: Path, run: Path) -> tuple[float, str]:
    """Runs the command; returns its seconds, and what it says."""
    words = ["beyond_text.index", str(source), str(index), "--model", str(run)]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT)
    clock = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return clock, done.stdout.strip().rpartition("products: ")[2]


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.index_update")
    parser.add_argument("run", type=Path, help="finished run or export, whose model encodes")
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--share", type=float, default=0.01, help="of the products that change")
    parser.add_argument("--shards", action="store_true", help="of shards, and not of tables")
    arguments = parser.parse_args(words)
    measured: dict[str, float] = {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shop = Shop(folder / "shop", arguments.products, arguments.side)

        def measure(name: str) -> None:
            source = shop.folder
            if arguments.shards:
                source = folder / "shards"
                build_shards(shop.folder, source, picture_size=arguments.side)
            measured[name], said = seconds(source, folder / "index", arguments.run)
            print(f"{name:24} {measured[name]:8.1f} s  {said}", flush=True)

        measure("build")
        measure("nothing changed")
        shop.change(arguments.share)
        measure(f"{arguments.share:.0%} changed")
        shop.change_prices()
        measure("prices alone")
    share = measured[f"{arguments.share:.0%} changed"] / measured["build"]
    print(f"an update costs {share:.2%} of the build")
    print(json.dumps(measured))
    return measured


if __name__ == "__main__":
    main()
