"""The command that measures training and loading side by side with limits and peers.

    python -m tests.benchmarks.throughput SHARDS --out runs/benchmarks/throughput.json

All contenders have the same machine, encoders, shards and batch. Those that are compared with peers
do the peers' work: the text encoder trains with its own dropout. They take turns in several rounds,
each in a process of its own. Figures are products (pairs) per second; ratios are of medians over
the rounds. Recipe files and `key=value` words after SHARDS, such as a backbone, are settings on top
of the recipe's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from beyond_text.files import write_json
from tests.benchmarks import peers, recipe
from tests.benchmarks.measure import apart, command_line, in_turn, surroundings
from tests.benchmarks.recipe import Setting, setting_of

Contender = Callable[[Setting], Iterator[float]]
BF16 = ("--precision", "amp_bf16")
# Peers train with the dropout that the text encoder comes with.
AS_PEERS = ("text_encoder.dropout=true",)
CONTENDERS: dict[str, Contender] = {
    "stage 1": partial(recipe.training, stage="stage1"),
    "stage 1, dropout": partial(recipe.training, stage="stage1", further=AS_PEERS),
    "stage 1, bare loop": partial(recipe.bare_loop, stage="stage1"),
    "stage 1, peak": partial(recipe.peak, stage="stage1"),
    "open_clip, defaults": partial(peers.open_clip_training, options=peers.AS_IT_COMES),
    "open_clip, bf16": partial(peers.open_clip_training, options=BF16),
    "open_clip, bf16, compiled": partial(
        peers.open_clip_training, options=(*BF16, "--torchcompile")
    ),
    "stage 2": partial(recipe.training, stage="stage2"),
    "stage 2, dropout": partial(recipe.training, stage="stage2", further=AS_PEERS),
    "stage 2, bare loop": partial(recipe.bare_loop, stage="stage2"),
    "stage 2, peak": partial(recipe.peak, stage="stage2"),
    "sentence-transformers, defaults": peers.sentence_transformers_training,
    "sentence-transformers, bf16": partial(peers.sentence_transformers_training, bf16=True),
    "sentence-transformers, bf16, compiled": partial(
        peers.sentence_transformers_training, bf16=True, torch_compile=True
    ),
    "stage 3": partial(recipe.training, stage="stage3"),
    "stage 3, bare loop": partial(recipe.bare_loop, stage="stage3"),
    "stage 3, peak": partial(recipe.peak, stage="stage3"),
    "loader": recipe.loader,
    "loader, bare Pillow": partial(recipe.bare_decode, decode=recipe.by_pillow),
    "loader, bare simplejpeg": partial(recipe.bare_decode, decode=recipe.by_simplejpeg),
    "open_clip's loader": peers.open_clip_loader,
}


class Ratio(NamedTuple):
    """The median of `of`, divided by the best median of `over`, and its target, if any."""

    part: str
    of: str
    over: tuple[str, ...]
    target: float | None = None


OPEN_CLIP_BEST = ("open_clip, bf16", "open_clip, bf16, compiled")
SENTENCE_TRANSFORMERS_BEST = (
    "sentence-transformers, bf16",
    "sentence-transformers, bf16, compiled",
)
RATIOS: dict[str, Ratio] = {
    "stage1_over_open_clip_default": Ratio(
        "stage1", "stage 1, dropout", ("open_clip, defaults",), 2.5
    ),
    "stage1_over_open_clip_best": Ratio("stage1", "stage 1, dropout", OPEN_CLIP_BEST, 1.4),
    "stage2_over_sentence_transformers_default": Ratio(
        "stage2", "stage 2, dropout", ("sentence-transformers, defaults",), 3.5
    ),
    "stage2_over_sentence_transformers_best": Ratio(
        "stage2", "stage 2, dropout", SENTENCE_TRANSFORMERS_BEST, 1.8
    ),
    "stage1_of_limit": Ratio("stage1", "stage 1", ("stage 1, bare loop",), 0.95),
    "stage2_of_limit": Ratio("stage2", "stage 2", ("stage 2, bare loop",), 0.95),
    "stage3_of_limit": Ratio("stage3", "stage 3", ("stage 3, bare loop",), 0.95),
    # Operations per second, as a share of those in large matrix products.
    "stage1_of_peak": Ratio("stage1", "stage 1", ("stage 1, peak",)),
    "stage2_of_peak": Ratio("stage2", "stage 2", ("stage 2, peak",)),
    "stage3_of_peak": Ratio("stage3", "stage 3", ("stage 3, peak",)),
    # The limit is decoding and resizing alone: by the peers' decoder, and by ours, which is faster.
    "loader_of_decode_limit": Ratio("loader", "loader", ("loader, bare Pillow",), 0.9),
    "loader_of_own_decode_limit": Ratio("loader", "loader", ("loader, bare simplejpeg",), 0.9),
    "loader_over_open_clip": Ratio("loader", "loader", ("open_clip's loader",), 1.5),
    # Above 1 the loader keeps up with the training.
    "loader_over_stage1": Ratio("loader", "loader", ("stage 1",), 1.0),
}
PARTS = tuple(dict.fromkeys(ratio.part for ratio in RATIOS.values()))


def ratios_of(rates: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Returns each ratio of medians; None where one of its sides was not measured."""
    medians = {name: median(values) for name, values in rates.items()}
    ratios: dict[str, float | None] = {}
    for key, ratio in RATIOS.items():
        over = [medians[name] for name in ratio.over if name in medians]
        measured = ratio.of in medians and over
        ratios[key] = medians[ratio.of] / max(over) if measured else None
    return ratios


def chosen(part: str, without: Sequence[str]) -> list[str]:
    """Returns the contenders of a part, without those whose name has one of the words."""
    wanted = {name for r in RATIOS.values() if r.part == part for name in (r.of, *r.over)}
    return [n for n in CONTENDERS if n in wanted and not any(word in n for word in without)]


def show(rates: Mapping[str, Sequence[float]], ratios: Mapping[str, float | None]) -> None:
    """Prints the contenders' products per second, then the ratios beside their targets."""
    console = Console(width=max(100, Console().width))
    table = Table("contender", "median", "lowest", "highest", title="products a second")
    for name, values in rates.items():
        figures = median(values), min(values), max(values)
        table.add_row(name, *(f"{rate:,.1f}" for rate in figures))
    console.print(table)
    table = Table("ratio of medians", "measured", "target", title="ratios")
    for key, value in ratios.items():
        target = RATIOS[key].target
        table.add_row(key, *("-" if v is None else f"{v:.2f}" for v in (value, target)))
    console.print(table)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line("throughput", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument(
        "--without", nargs="+", default=[], help="words in the names of contenders to leave out"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each round")
    parser.add_argument("--warmup", type=int, default=2, help="steps before these")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=1, help="loading processes of a training")
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count() or 1, help="processes where loaders contend"
    )
    return parser.parse_intermixed_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command; a contender that fails, other than by not being installed, exits with 1."""
    arguments = _arguments(words)
    counts = ("batch", "warmup", "steps", "workers", "cores")
    with setting_of(arguments, **{name: getattr(arguments, name) for name in counts}) as setting:
        rates: dict[str, list[float]] = {}
        stopped: dict[str, Exception] = {}
        for part in arguments.only:
            with ExitStack() as stack:
                contenders = {
                    name: stack.enter_context(apart(partial(CONTENDERS[name], setting)))
                    for name in chosen(part, arguments.without)
                }
                measured, failed = in_turn(contenders, arguments.rounds)
            rates |= measured
            stopped |= failed
    ratios = ratios_of(rates)
    compared = {
        **surroundings(),
        "setting": {key: str(value) for key, value in asdict(setting).items() if key != "scratch"},
        "products_per_second": rates,
        "medians": {name: median(values) for name, values in rates.items()},
        "ratios": {key: {"of": r.of, "over": r.over} for key, r in RATIOS.items()},
        "not_measured": {name: f"{type(e).__name__}: {e}" for name, e in stopped.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {**ratios, "compared": compared}
    write_json(arguments.out, result)
    show(rates, ratios)
    for name, reason in compared["not_measured"].items():
        print(f"not measured: {name}: {reason}")
    print(arguments.out)
    if any(not isinstance(error, ImportError) for error in stopped.values()):
        sys.exit(1)
    return result


if __name__ == "__main__":
    main()
