"""Measures a search from the shell in a warm index of many products, imports included.

    python -m tests.benchmarks.warm_search RUN --products 100000

RUN's model is copied beside made-up vectors, so that nothing need be encoded. Each line is a new
process: seconds by the clock, and of the processor (user and system).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from beyond_text.config.names import MODEL
from beyond_text.indexing.build import write_state
from beyond_text.indexing.facts import VERSION, Facts, KeptModel
from beyond_text.indexing.generation import words_of_products
from beyond_text.indexing.models import model_facts
from beyond_text.indexing.of_run import index_folder
from beyond_text.indexing.source import describe_source
from beyond_text.retrieval.described import Described
from tests import ROOT


def prepare(run: Path, folder: Path, products: int) -> tuple[Path, Path]:
    """Makes a run with a warm index of so many products; returns it and its folder of products."""
    made, shop = folder / "run", folder / "shop"
    shutil.copytree(run / MODEL, made / MODEL)
    if (run / "config.yaml").is_file():
        shutil.copy(run / "config.yaml", made)
    shop.mkdir()
    titles = "".join(f"{number},product {number}\n" for number in range(products))
    (shop / "products.csv").write_text(f"product_id,title\n{titles}", encoding="utf-8")
    write_index(made, shop, products)
    return made, shop


def write_index(run: Path, shop: Path, products: int) -> None:
    """Writes a run's index of a shop of so many products, with vectors at random."""
    text = "a red rug of wool, woven by hand, for the living room "
    names = sorted(map(str, range(products)), reverse=True)
    described = [Described(n, f"product {n}. {2 * text}", {"title": f"rug {n}"}) for n in names]
    model = model_facts(run)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((products, model.dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    digests = random.integers(0, 256, (2, products, 16), dtype=np.uint8)
    home = index_folder(run, shop, None)
    facts = Facts(
        version=VERSION,
        generation=1,
        model=model.digest,
        model_dim=model.dim,
        dim=model.dim,
        kind="exact",
        recall_at_10=1.0,
        weight=1.0,
        products=products,
        columns={},
        source=describe_source(shop, home, None),
        copied=False,
        query_model=KeptModel("", {}),
        files={},
    )
    write_state(
        home,
        facts,
        described,
        vectors.astype(np.float16),
        tuple(digests),
        words_of_products(described),
    )


def seconds(words: Sequence[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds by the clock and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT)
    clock = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Traceback" in done.stderr:
        sys.exit(done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return clock, cpu


def main(words: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.warm_search")
    parser.add_argument("run", type=Path, help="finished run, whose model encodes the query")
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(words)
    measured = {}
    with TemporaryDirectory() as folder:
        run, shop = prepare(arguments.run, Path(folder), arguments.products)
        searching = ["beyond_text.search", str(run), "red rug", "--products", str(shop)]
        for name, command in {
            "a search": searching,
            "a wrong path": ["beyond_text.search", "nowhere", "red rug"],
            **{
                f"{verb} --help": [f"beyond_text.{verb}", "--help"]
                for verb in ("search", "evaluate", "train", "ablate")
            },
        }.items():
            rounds = [seconds(command) for _ in range(arguments.rounds)]
            clock, cpu = (median(column) for column in zip(*rounds, strict=True))
            measured[name] = (clock, cpu)
            print(f"{name:18} {clock:5.2f} s by the clock, {cpu:5.2f} s of the processor")
    print(json.dumps(measured))
    return measured


if __name__ == "__main__":
    main()
