"""The command that measures what a large batch costs in memory and time.

    python -m tests.benchmarks.large_batch SHARDS

Trains stage 3 for a few steps: with a small batch, with the same batch in chunks, and with a large
batch in chunks. Each runs in a process of its own, whose peak of resident memory is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from beyond_text.files import write_json
from tests.benchmarks.measure import command_line, once_apart, peak_bytes, surroundings
from tests.benchmarks.recipe import Setting, setting_of, training

# Two cases, the figure of the first that is divided by that of the second, and the highest target.
RATIOS = {
    "memory_large_over_small": ("large in chunks", "small", "bytes", 1.5),
    "step_in_chunks_over_plain": ("small in chunks", "small", "seconds_per_product", 1.4),
}


def cost(setting: Setting) -> Iterator[dict[str, float]]:
    """Yields seconds per product, and this process's peak of resident bytes, loading included."""
    for rate in training(setting, "stage3"):
        yield {"seconds_per_product": 1 / rate, "bytes": peak_bytes()}


def _measured_apart(arguments: argparse.Namespace, batch: int, chunk: int) -> dict[str, float]:
    """Returns the cost of one case, measured in a process of its own."""
    counts = {"warmup": arguments.warmup, "steps": arguments.steps, "workers": 0}
    with setting_of(arguments, [f"chunk_size={chunk}"], batch=batch, **counts) as setting:
        return once_apart(partial(cost, setting))


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line("large_batch", __doc__)
    parser.add_argument("--small", type=int, default=256, help="the batch that sets the measure")
    parser.add_argument("--batch", type=int, default=4096, help="the large batch")
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="measured steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before these")
    return parser.parse_intermixed_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and writes."""
    arguments = _arguments(words)
    cases = {
        "small": (arguments.small, 0),
        "small in chunks": (arguments.small, arguments.chunk),
        "large in chunks": (arguments.batch, arguments.chunk),
    }
    costs = {name: _measured_apart(arguments, *case) for name, case in cases.items()}
    table = Table("batch", "rows", "chunk", "peak of memory, GB", "products a second")
    for name, figures_of in costs.items():
        figures = f"{figures_of['bytes'] / 1e9:.2f}", f"{1 / figures_of['seconds_per_product']:.1f}"
        table.add_row(name, *map(str, cases[name]), *figures)
    ratios = {
        key: costs[of][figure] / costs[over][figure]
        for key, (of, over, figure, _) in RATIOS.items()
    }
    console = Console(width=max(100, Console().width))
    console.print(table)
    for key, value in ratios.items():
        console.print(f"{key}: {value:.2f} (aimed at: at most {RATIOS[key][-1]})")
    result = {**ratios, "compared": {**surroundings(), "cases": cases, "costs": costs}}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)
    return result


if __name__ == "__main__":
    main()
