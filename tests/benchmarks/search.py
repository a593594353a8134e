"""The command that measures what a catalogue's growth costs: indexing, searching, encoding.

    python -m tests.benchmarks.search [RUN] --out runs/benchmarks

Vectors are grown from those of a finished run's products and queries, or from seeded random ones.
Each kind of index is built over 10^4, 10^5 and 10^6 of them and searched on all cores and on one.
Writes search.json and search.png. The target is what Beyond Text serves from a CPU: 2,000 queries a
second at 10^6 products, with a recall@10 of 0.95 against the exact index.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import faiss
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from beyond_text.config.load import load_config
from beyond_text.files import write_json
from beyond_text.metrics.ranking import Ranking
from beyond_text.models.checkpoint import load_model
from beyond_text.models.precision import uses_bf16
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries
from beyond_text.retrieval.index import ProductIndex
from beyond_text.retrieval.nearest import KINDS
from beyond_text.retrieval.read_split import read_split
from tests.benchmarks.measure import surroundings

K = 10
SIZES = (10_000, 100_000, 1_000_000)
TARGET = {"products": 1_000_000, "queries_per_second": 2_000, "recall_at_10": 0.95}
# The distance of a grown vector from its seed, as a share of the difference of two others.
PRODUCT_SPREAD = 0.5
QUERY_SPREAD = 0.3

Rows = Float[np.ndarray, "rows dim"]


class Cost(NamedTuple):
    """The cost of one kind of index at one size."""

    kind: str
    products: int
    build_seconds: float
    products_per_second: float
    megabytes: float
    recall_at_10: float
    queries_per_second: float
    queries_per_second_one_thread: float


def _unit(vectors: Rows) -> Rows:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cloud(dim: int, random: np.random.Generator, rows: int = 1000) -> Rows:
    """Returns unit vectors whose variance falls by direction, as that of learned vectors does."""
    spectrum = np.arange(1, dim + 1) ** -0.5
    return _unit(random.standard_normal((rows, dim), dtype=np.float32) * spectrum)


def grown(seeds: Rows, rows: int, spread: float, random: np.random.Generator) -> Rows:
    """Returns unit vectors, each a seed plus `spread` times the difference of two other seeds.

    So the noise has the directions in which the seeds themselves differ.
    """
    vectors = np.empty((rows, seeds.shape[1]), dtype=np.float32)
    for part in np.array_split(vectors, 1 + rows // 100_000):
        one, other, third = random.integers(len(seeds), size=(3, len(part)))
        part[:] = _unit(seeds[one] + spread * (seeds[other] - seeds[third]))
    return vectors


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Limits FAISS to so many threads within the block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _per_second(work: Callable[[], object], amount: int, rounds: int) -> float:
    """Returns the median amount of work done per second."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return amount / median(seconds)


def recall(ranking: Ranking, exact: Ranking) -> float:
    """Returns the share of the exact ranking's products that are in a ranking."""
    pairs = zip(ranking.product_ids, exact.product_ids, strict=True)
    return float(np.mean([len(set(row) & set(best)) / len(best) for row, best in pairs]))


def costs(products: Rows, queries: Rows, rounds: int) -> Iterator[Cost]:
    """Measures each kind of index over the products; the first kind is the exact one."""
    product_ids = [f"{number:07}" for number in range(len(products))]
    query_ids = [f"{number}" for number in range(len(queries))]
    exact: Ranking | None = None
    for kind in KINDS:
        began = time.perf_counter()
        index = ProductIndex.build(product_ids, products, kind)
        seconds = time.perf_counter() - began
        ranking = index.search(queries, query_ids, K)
        exact = exact or ranking
        search = partial(index.search, queries, query_ids, K)
        rates = []
        for threads in (faiss.omp_get_max_threads(), 1):
            with _threads(threads):
                rates.append(_per_second(search, len(queries), rounds))
        yield Cost(
            kind,
            len(products),
            seconds,
            len(products) / seconds,
            index.nearest.nbytes / 1e6,
            recall(ranking, exact),
            *rates,
        )


def encoded(run: Path, shards: Path | None) -> tuple[Rows, Rows, dict[str, float]]:
    """Encodes the dev split's products and queries with a finished run, and measures the speed."""
    config = load_config([run / "config.yaml"])
    model, tokenizer = load_model(run)
    settings = model.settings
    catalogue, query_set = read_split(
        shards or Path(config.data.dev),
        config.data.dev_split,
        settings.text_fields,
        settings.image_size,
    )
    bf16 = uses_bf16(config.precision)
    encoder = Encoder(model, tokenizer, bf16, workers=1)
    began = time.perf_counter()
    products = encode_products(encoder, catalogue)["product"].vectors
    between = time.perf_counter()
    queries = encode_queries(encoder, query_set).vectors
    ended = time.perf_counter()
    speed = {
        "products_per_second": len(products) / (between - began),
        "queries_per_second": len(queries) / (ended - between),
    }
    return products, queries, speed


# The figures of a cost that are drawn, and their labels.
PANELS = {
    "queries_per_second": "queries a second, all threads",
    "queries_per_second_one_thread": "queries a second, one thread",
    "build_seconds": "seconds to build",
    "megabytes": "megabytes",
}


def chart(measured: Sequence[Cost]) -> Figure:
    """Draws a panel for each figure that changes with the catalogue, with a line per kind."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for panel, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for kind in KINDS:
            of_kind = [cost for cost in measured if cost.kind == kind]
            values = [getattr(cost, name) for cost in of_kind]
            panel.loglog([cost.products for cost in of_kind], values, marker="o", label=kind)
        panel.set_xlabel("products")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panel.legend()
    return figure


def show(measured: Sequence[Cost], encoding: Mapping[str, float] | None) -> None:
    """Prints a row for each index and size, then the encoder's speed."""
    table = Table(*(name.replace("_", " ") for name in Cost._fields))
    for kind, products, *values, all_threads, one_thread in measured:
        build, added, megabytes, share = values
        table.add_row(
            kind,
            f"{products:,}",
            f"{build:.1f}",
            f"{added:,.0f}",
            f"{megabytes:,.0f}",
            f"{share:.3f}",
            f"{all_threads:,.0f}",
            f"{one_thread:,.0f}",
        )
    Console(width=max(120, Console().width)).print(table)
    for name, value in (encoding or {}).items():
        print(f"encoding: {value:,.1f} {name.replace('_', ' ')}")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="?", type=Path, help="finished run to grow vectors from")
    parser.add_argument("--shards", type=Path, help="shards to encode instead of the run's own")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=384, help="without a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints, draws and writes."""
    arguments = _arguments(words)
    random = np.random.default_rng(0)
    if arguments.run is None:
        seeds, encoding = cloud(arguments.dim, random), None
        query_seeds = grown(seeds, len(seeds), PRODUCT_SPREAD, random)
    else:
        seeds, query_seeds, encoding = encoded(arguments.run, arguments.shards)
    queries = grown(query_seeds, arguments.queries, QUERY_SPREAD, random)
    measured: list[Cost] = []
    for size in tqdm(arguments.sizes, desc="sizes", disable=None):
        products = grown(seeds, size, PRODUCT_SPREAD, random)
        measured += costs(products, queries, arguments.rounds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {
        "costs": [cost._asdict() for cost in measured],
        "encoding": encoding,
        "target": TARGET,
        "compared": {**surroundings(), "threads": faiss.omp_get_max_threads()},
    }
    write_json(arguments.out / "search.json", result)
    chart(measured).savefig(arguments.out / "search.png", dpi=120)
    show(measured, encoding)
    print(arguments.out / "search.json")
    return result


if __name__ == "__main__":
    main()
