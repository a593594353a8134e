"""The command that measures what a catalogue's growth costs: by width and precision of vectors.

    python -m tests.benchmarks.search [RUN] --out runs/benchmarks --widths 64 128 384

Vectors are grown from those of a finished run's products and queries, or from seeded random ones,
into a float16 file. Each precision is built over each number of them, at each width, and searched
on all cores. With a run, nDCG@10 of its dev split is measured at each width. Writes search.json
after each cell and goes on from it; and search.png. The target is a recall@10 of 0.95 against the
exact index of the same width at 8,000 queries a second among 10^6 products, 2,000 among 10^7.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import faiss
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from beyond_text.config.load import load_config
from beyond_text.config.names import IndexKind
from beyond_text.files import write_json
from beyond_text.metrics.ranking import retrieval_metrics
from beyond_text.models.checkpoint import load_model
from beyond_text.models.precision import uses_bf16
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_queries
from beyond_text.retrieval.nearest import CODES, Code, Nearest
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import search
from beyond_text.retrieval.read_split import read_split
from beyond_text.retrieval.scan import Scan
from beyond_text.retrieval.truncate import truncate
from tests.benchmarks.measure import surroundings

# Vectors grown at a time.
PART = 100_000
K = 10
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
TARGET = {"recall_at_10": 0.95, "queries_per_second": {"1000000": 8_000, "10000000": 2_000}}
# More bytes of vectors are not tried.
MOST_BYTES = 8e9


class Precision(NamedTuple):
    """A kind of index over vectors of a type; `code` replaces the kind's own."""

    kind: IndexKind
    dtype: type
    code: Code | None = None


PRECISIONS = {
    "float32": Precision("exact", np.float32),
    "float16": Precision("exact", np.float16),
    "SQ8": Precision("ivf_sq8", np.float16),
    "RaBitQ 4 bits": Precision("rabitq", np.float16),
    "RaBitQ 1 bit": Precision("rabitq", np.float16, Code("RaBitQ", 32)),
}
# The distance of a grown vector from its seed, as a share of the difference of two others.
PRODUCT_SPREAD = 0.5
QUERY_SPREAD = 0.3

Rows = Float[np.ndarray, "rows dim"]


class Cost(NamedTuple):
    """The cost of one precision at one size and width; megabytes are of a million products."""

    precision: str
    products: int
    dim: int
    build_seconds: float
    megabytes: float
    recall_at_10: float
    queries_per_second: float
    ndcg_at_10: float | None


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


def _per_second(work: Callable[[], object], amount: int, rounds: int) -> float:
    """Returns the median amount of work done per second."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return amount / median(seconds)


def grown_file(file: Path, seeds: Rows, rows: int, dim: int) -> Rows:
    """Grows vectors into a float16 file, shortened to `dim`, and maps it; kept for the next run."""
    if not file.is_file():
        random = np.random.default_rng(1)
        unfinished = file.with_suffix(".partial")
        vectors = np.lib.format.open_memmap(unfinished, "w+", np.float16, (rows, dim))
        for first in range(0, rows, PART):
            part = vectors[first : first + PART]
            part[:] = truncate(grown(seeds, len(part), PRODUCT_SPREAD, random), dim)
        vectors.flush()
        unfinished.rename(file)
    return np.load(file, mmap_mode="r")


def cost(
    name: str,
    products: Rows,
    queries: tuple[Rows, Rows],
    best: Rows,
    rounds: int,
    ndcg: float | None,
) -> Cost | None:
    """Measures one precision; None where its vectors are too large.

    Of the `queries`, by the first it is decided how many lists are read, and the others are
    searched; `best` are theirs.
    """
    kind, dtype, code = PRECISIONS[name]
    if products.size * np.dtype(dtype).itemsize > MOST_BYTES:
        return None
    vectors = products if dtype == products.dtype else products.astype(dtype)
    with patch.dict(CODES, {kind: code} if code else {}):
        began = time.perf_counter()
        nearest = Nearest.build(kind, vectors, queries=queries[0])
        seconds = time.perf_counter() - began
        _, found = nearest.search(queries[1], K)
        rate = _per_second(partial(nearest.search, queries[1], K), len(queries[1]), rounds)
    share = np.mean([np.isin(row, own).mean() for row, own in zip(best, found, strict=True)])
    size = nearest.nbytes / len(vectors)
    return Cost(name, *vectors.shape, seconds, size, float(share), rate, ndcg)


def encoded(run: Path, shards: Path | None) -> tuple[Vectors, Vectors, QuerySet, dict[str, float]]:
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
    products = encode_products(encoder, catalogue)["product"]
    between = time.perf_counter()
    queries = encode_queries(encoder, query_set)
    ended = time.perf_counter()
    speed = {
        "products_per_second": len(products.ids) / (between - began),
        "queries_per_second": len(queries.ids) / (ended - between),
    }
    return products, queries, query_set, speed


def ndcg(products: Vectors, queries: Vectors, query_set: QuerySet, dim: int) -> float:
    """Returns nDCG@10 of the dev split by vectors that are shortened and held in float16."""
    held = truncate(products.vectors, dim).astype(np.float16).astype(np.float32)
    asked = Vectors(queries.ids, truncate(queries.vectors, dim))
    ranking = search(asked, Vectors(products.ids, held), {})
    return float(retrieval_metrics(ranking, query_set.queries, query_set.qrels)["all"]["ndcg@10"])


# The figures of a cost that are drawn, and their labels.
PANELS = {
    "queries_per_second": "queries a second",
    "recall_at_10": "recall@10",
    "build_seconds": "seconds to build",
    "megabytes": "megabytes a million",
}


def chart(measured: Sequence[Cost]) -> Figure:
    """Draws a panel for each figure that changes with the catalogue, with a line per kind."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for panel, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for line in dict.fromkeys((cost.precision, cost.dim) for cost in measured):
            of_kind = [cost for cost in measured if (cost.precision, cost.dim) == line]
            values = [getattr(cost, name) for cost in of_kind]
            sizes = [cost.products for cost in of_kind]
            panel.loglog(sizes, values, marker="o", label=f"{line[0]}, {line[1]}")
        panel.set_xlabel("products")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panel.legend()
    return figure


def show(measured: Sequence[Cost], encoding: Mapping[str, float] | None) -> None:
    """Prints a row for each index and size, then the encoder's speed."""
    table = Table(*(name.replace("_", " ") for name in Cost._fields))
    for each in measured:
        table.add_row(
            each.precision,
            f"{each.products:,}",
            str(each.dim),
            f"{each.build_seconds:.1f}",
            f"{each.megabytes:,.0f}",
            f"{each.recall_at_10:.3f}",
            f"{each.queries_per_second:,.0f}",
            "" if each.ndcg_at_10 is None else f"{each.ndcg_at_10:.3f}",
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
    parser.add_argument("--widths", nargs="+", type=int, help="default: that of the vectors")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--dim", type=int, default=384, help="without a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints, draws and writes."""
    arguments = _arguments(words)
    random = np.random.default_rng(0)
    split: tuple[Any, ...] | None = None
    encoding: dict[str, float] | None = None
    if arguments.run is None:
        seeds = cloud(arguments.dim, random)
        query_seeds = grown(seeds, len(seeds), PRODUCT_SPREAD, random)
    else:
        *split, encoding = encoded(arguments.run, arguments.shards)
        seeds, query_seeds = split[0].vectors, split[1].vectors
    counts = arguments.queries, 500
    queries, learned = (grown(query_seeds, count, QUERY_SPREAD, random) for count in counts)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "grown_from": str(arguments.run or f"seeded vectors of {arguments.dim}"),
        "encoding": encoding,
        "target": TARGET,
        "compared": {**surroundings(), "threads": faiss.omp_get_max_threads()},
    }
    file = out / "search.json"
    written = json.loads(file.read_text()) if file.is_file() else {"costs": [], **facts}
    if written["grown_from"] != facts["grown_from"]:
        raise SystemExit(f"{file}: grown from {written['grown_from']}; choose another --out")
    measured = [Cost(**each) for each in written["costs"]]
    cells = list(product(arguments.sizes, arguments.widths or [seeds.shape[1]]))
    for size, dim in tqdm(cells, desc="sizes and widths", disable=None):
        there = {each.precision for each in measured if each[1:3] == (size, dim)}
        wanted = [name for name in arguments.precisions if name not in there]
        if not wanted:
            continue
        vectors = grown_file(out / f"vectors-{size}-{dim}.npy", seeds, size, dim)
        asked = truncate(learned, dim), truncate(queries, dim)
        _, best = Scan(vectors).search(asked[1], K)
        quality = None if split is None else ndcg(*split, dim)
        for name in wanted:
            if found := cost(name, vectors, asked, best, arguments.rounds, quality):
                measured.append(found)
                write_json(file, {"costs": [each._asdict() for each in measured], **facts})
    chart(measured).savefig(out / "search.png", dpi=120)
    show(measured, encoding)
    print(file)
    return {"costs": [each._asdict() for each in measured], **facts}


if __name__ == "__main__":
    main()
