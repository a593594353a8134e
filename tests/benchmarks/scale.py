"""Computes what 100 million products and a billion judgments cost, on machines that we do not have.

    python -m tests.benchmarks.scale            # prints the tables
    python -m tests.benchmarks.scale --write    # writes them into recipes/scale.md

Each figure is one that was measured on two cores, times a factor that is stated. Formulas of a
step's messages and memory are those of `training/cost.py`, which a test compares with real steps.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NamedTuple

from beyond_text.training.cost import Step, held, sent
from tests import RECIPES

PAGE = RECIPES / "scale.md"
PRODUCTS, JUDGMENTS = 100_000_000, 1_000_000_000
GB, HOUR = 1e9, 3600.0


class Figure(NamedTuple):
    """A number and where it comes from: a command, or why it is assumed."""

    value: float
    unit: str
    source: str


MEASURED = {
    "image_flops": Figure(8.72e9, "FLOP a picture, forward", "ViT-B/32, PyTorch's counter"),
    "text_flops": Figure(1.81e9, "FLOP a text of 24 tokens, forward", "12 layers of 512, likewise"),
    "parameters": Figure(141.2e6, "", "both encoders of `tests.benchmarks.towers`"),
    "load": Figure(1524, "products/s a core", "`tests.benchmarks.throughput`: 3,048 on two"),
    "build": Figure(
        1111,
        "products/s a core, of small pictures",
        "`tests.benchmarks.build`: 100,000 in 45 s on two",
    ),
    "shard_bytes": Figure(13_000, "bytes a product, stored", "H&M's shards, 256 pixels"),
    "judgment_bytes": Figure(
        13, "bytes a judgment, stored", "`judged-SPLIT.arrow`: two numbers, a grade"
    ),
    "encode": Figure(
        69, "products/s a core", "`tests.benchmarks.index_update`: 100,000 in 722 s on two"
    ),
    "lists": Figure(56, "s on two cores to index a million", "`tests.benchmarks.search`, SQ8"),
    "search": Figure(
        4740, "queries/s a core among a million", "likewise, 24 of 4,000 lists: 9,481 on two"
    ),
}
ASSUMED = {
    "peak": Figure(989e12, "FLOP/s a GPU", "an H100's dense bfloat16, by its data sheet"),
    "share": Figure(0.3, "of that peak", "stage 1 has 0.29 of two cores'; on no GPU yet"),
    "nvlink": Figure(450 * GB, "bytes/s a GPU, one way, in a machine", "data sheet"),
    "network": Figure(50 * GB, "bytes/s a GPU, one way, between machines", "400 Gb/s a GPU"),
    "ethernet": Figure(1.25 * GB, "bytes/s a machine, from a store", "10 Gb/s"),
    "core": Figure(1.0, "times one of our cores", "a server's core beside ours"),
    "gpu_price": Figure(3.0, "$ a GPU and hour", "on demand, 2026"),
    "cpu_price": Figure(1.3, "$ a machine of 32 cores and hour", "on demand, 2026"),
    "picture_bytes": Figure(
        150_000, "bytes a picture as a shop has it", "a photograph of 1,000 pixels"
    ),
}
M = {name: figure.value for name, figure in {**MEASURED, **ASSUMED}.items()}


class Cluster(NamedTuple):
    """Machines of one kind, each with `gpus` and `cores`."""

    machines: int
    gpus: int
    cores: int

    @property
    def all_gpus(self) -> int:
        """The GPUs of all machines."""
        return self.machines * self.gpus

    @property
    def all_cores(self) -> float:
        """The cores of all machines, in cores of ours."""
        return self.machines * self.cores * M["core"]

    @property
    def price(self) -> float:
        """Dollars an hour."""
        return self.all_gpus * M["gpu_price"] or self.machines * M["cpu_price"]


CLUSTERS = {
    "8 x H100": Cluster(1, 8, 96),
    "64 x H100": Cluster(8, 8, 96),
    "100 machines of 32 cores": Cluster(100, 0, 32),
}


class Stage(NamedTuple):
    """A stage of training: forward passes a product, its batch and its losses' size."""

    pictures: int
    texts: int
    queries: int
    batch: int
    views: int
    loss: str = "ranked_nce"


# One pass over all products each. Queries of stage 3 have texts alone.
STAGES = {
    "stage 1": Stage(pictures=1, texts=1, queries=0, batch=32_768, views=2),
    "stage 2": Stage(pictures=0, texts=2, queries=1, batch=32_768, views=1),
    "stage 3": Stage(pictures=1, texts=5, queries=4, batch=16_384, views=3),
}


class Cost(NamedTuple):
    """Hours, bytes over the wire, bytes of memory and dollars; memory is of a GPU or a machine."""

    hours: float
    wire: float
    memory: float
    dollars: float
    limit: str


def step_of(stage: Stage, gpus: int) -> Step:
    """Returns the size of a step for `training/cost.py`; a tenth of a batch's judgments meet it."""
    products = stage.batch // gpus
    return Step(
        gpus,
        products,
        max(1, stage.queries),
        512,
        product_views=stage.views,
        judgments=products * max(1, stage.queries),
    )


def training(stage: Stage, cluster: Cluster) -> Cost:
    """Returns the cost of a pass over all products.

    The backward pass is twice the forward one. Messages are not hidden behind it, which is the
    worst case. Memory is of weights, gradients, AdamW's moments and the average, in float32, and
    of the losses; activations are what `chunk_size` leaves room for.
    """
    gpus = cluster.all_gpus
    flops = 3 * (stage.pictures * M["image_flops"] + stage.texts * M["text_flops"])
    computing = PRODUCTS * flops / (gpus * M["peak"] * M["share"])
    step = step_of(stage, gpus)
    gradients = 2 * (gpus - 1) / gpus * 4 * M["parameters"]
    bytes_a_step = sent(step) + gradients
    steps = PRODUCTS / stage.batch
    speed = M["nvlink"] if cluster.machines == 1 else M["network"]
    sending = steps * bytes_a_step / speed
    loading = PRODUCTS / (M["load"] * cluster.all_cores) if stage.pictures else 0.0
    parts = {"computing": computing, "messages": sending, "loading": loading}
    # Loading goes on beside; what is slower decides.
    seconds = max(computing + sending, loading)
    memory = 20 * M["parameters"] + held(step, stage.loss)
    wire = steps * bytes_a_step * gpus + PRODUCTS * M["shard_bytes"] * (cluster.machines > 1)
    dollars = seconds / HOUR * cluster.price
    return Cost(seconds / HOUR, wire, memory, dollars, max(parts, key=lambda name: parts[name]))


def on_cores(rate: float, wire: float, memory: float, cluster: Cluster) -> Cost:
    """Returns the cost of work at `rate` products/s a core that takes `wire` bytes from a store."""
    computing = PRODUCTS / (rate * cluster.all_cores)
    sending = wire / (M["ethernet"] * cluster.machines)
    seconds = max(computing, sending)
    limit = "computing" if computing >= sending else "the store"
    return Cost(seconds / HOUR, wire, memory, seconds / HOUR * cluster.price, limit)


def encoding(cluster: Cluster) -> Cost:
    """Returns the cost of encoding all products with ViT-B/32's size on GPUs."""
    flops = M["image_flops"] + M["text_flops"]
    computing = PRODUCTS * flops / (cluster.all_gpus * M["peak"] * M["share"])
    loading = PRODUCTS / (M["load"] * cluster.all_cores)
    seconds = max(computing, loading)
    limit = "computing" if computing >= loading else "loading"
    memory = 4 * M["parameters"]
    return Cost(seconds / HOUR, 0.0, memory, seconds / HOUR * cluster.price, limit)


def rows() -> list[tuple[str, str, Cost]]:
    """Returns the work, the cluster and the cost of every line."""
    cpu = CLUSTERS["100 machines of 32 cores"]
    stored = PRODUCTS * M["shard_bytes"] + JUDGMENTS * M["judgment_bytes"]
    pictures = PRODUCTS * M["picture_bytes"]
    name = "100 machines of 32 cores"
    found = [
        ("fetch pictures", name, on_cores(M["load"], pictures, 2 * GB, cpu)),
        ("build shards", name, on_cores(M["build"], pictures + stored, 32 * 0.15 * GB, cpu)),
    ]
    for gpus in ("8 x H100", "64 x H100"):
        found += [(work, gpus, training(stage, CLUSTERS[gpus])) for work, stage in STAGES.items()]
        found.append(("encode all products", gpus, encoding(CLUSTERS[gpus])))
    encoders = on_cores(M["encode"], PRODUCTS * M["shard_bytes"], 32 * 1.5 * GB, cpu)
    return [*found, ("encode, default encoders", name, encoders)]


def costs() -> str:
    """Returns the table of all work."""
    lines = ["| work | on | minutes | over the wire, TB | memory, GB | $ | limited by |"]
    lines.append("|---|---|--:|--:|--:|--:|---|")
    for work, cluster, cost in rows():
        figures = f"{60 * cost.hours:,.1f} | {cost.wire / 1e12:,.1f} | {cost.memory / GB:,.1f}"
        lines.append(f"| {work} | {cluster} | {figures} | {cost.dollars:,.0f} | {cost.limit} |")
    return "\n".join(lines)


def steps() -> str:
    """Returns the table of a training step's messages and memory, beside the towers."""
    lines = ["| step | on | sent by a process, GB | held beside the towers, GB |"]
    lines.append("|---|---|--:|--:|")
    for work, stage in STAGES.items():
        for name, cluster in CLUSTERS.items():
            if cluster.gpus:
                step = step_of(stage, cluster.all_gpus)
                sizes = f"{sent(step) / GB:.2f} | {held(step, stage.loss) / GB:.2f}"
                lines.append(f"| {work}, {stage.batch:,} products | {name} | {sizes} |")
    return "\n".join(lines)


def searching() -> str:
    """Returns the table of what holds and answers a catalogue, by its width and precision."""
    lines = ["| vectors | in memory, GB | to index, minutes on 32 cores | queries/s on 32 cores |"]
    lines.append("|---|--:|--:|--:|")
    millions = PRODUCTS / 1e6
    for dim in (384, 128):
        size = PRODUCTS * (2 * dim + dim + 8)
        # Centroids grow as the square root, and so does what is compared with each product.
        hours = M["lists"] * millions * millions**0.5 * dim / 384 / 16 / HOUR
        rate = M["search"] * 32 / millions**0.5 * 384 / dim
        words = f"{dim} numbers, float16 and SQ8"
        lines.append(f"| {words} | {size / GB:,.0f} | {60 * hours:,.0f} | {rate:,.0f} |")
    return "\n".join(lines)


def _figures(figures: dict[str, Figure]) -> str:
    lines = ["| figure | | from |", "|---|--:|---|"]
    for name, figure in figures.items():
        value = f"{figure.value:,.4g}" if figure.value < 1e6 else f"{figure.value:.3g}"
        lines.append(f"| {name.replace('_', ' ')} | {value} {figure.unit} | {figure.source} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Returns all tables by name."""
    return {
        "measured": _figures(MEASURED),
        "assumed": _figures(ASSUMED),
        "costs": costs(),
        "steps": steps(),
        "searching": searching(),
    }


def written(page: str) -> str:
    """Returns the page with the tables of today between its marks, `<!-- NAME -->`."""
    for name, table in tables().items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page, found = re.subn(mark, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{PAGE}: expected one mark <!-- {name} -->, got {found}")
    return page


def main(words: Sequence[str] | None = None) -> None:
    """Prints the tables, or writes them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    if parser.parse_args(words).write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(tables().values()))


if __name__ == "__main__":
    main()
