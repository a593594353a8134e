"""The command for a GPU that is lent for minutes: how fast it trains, and what it waits for.

    python -m tests.benchmarks.gpu SHARDS --tokenizer data/encoders/minilm-l6

The encoders are random ones of CLIP ViT-B/32's size (`towers.py`). Each line of the table is a
process of its own, which is stopped at its limit, and is printed as soon as it is measured; all
limits together are 4 minutes. So a compiler that takes long costs its own line alone.

    products/s     of a step, loading included
    of peak        its operations a second, as a share of those of large bfloat16 products
    loader         how many times as fast the loader alone is; above 1 it keeps up
    waiting        share of the time in which the step waited for its batch
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from beyond_text.files import write_json
from beyond_text.shards.batch import Batch
from beyond_text.training.callbacks import Throughput
from tests import ROOT
from tests.benchmarks import recipe
from tests.benchmarks.measure import surroundings
from tests.benchmarks.recipe import Setting
from tests.benchmarks.towers import LAYERS, write_towers


class Case(NamedTuple):
    """A line of the table: a stage with a batch and settings, and its limit in seconds."""

    stage: str
    batch: int
    words: tuple[str, ...]
    limit: int


CASES = {
    "stage 1, 1,024": Case("stage1", 1024, (), 40),
    "stage 1, 1,024, compiled": Case("stage1", 1024, ("compile=true",), 80),
    "stage 1, 4,096": Case("stage1", 4096, (), 60),
    "stage 3, 1,024, four queries each": Case("stage3", 1024, ("data.queries_per_product=4",), 60),
}
HEADS = ("products/s", "of peak", "loader", "waiting", "GB")


class _Waiting(Throughput):
    """Adds up the seconds that steps took, and that they waited, after the first `warmup`."""

    def __init__(self, warmup: int) -> None:
        super().__init__()
        self.warmup = warmup
        self.seconds = 0.0
        self.waits = 0.0

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Adds the step."""
        began = self.end
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        if batch_idx >= self.warmup:
            self.seconds += self.end - began
            self.waits += self.waited


def measure(setting: Setting, stage: str) -> dict[str, float]:
    """Returns the figures of a line."""
    waiting = _Waiting(setting.warmup)
    rate = next(recipe.training(setting, stage, callbacks=[waiting]))
    on_gpu = torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    peak = next(recipe.peak(replace(setting, steps=1), stage))
    loader = next(recipe.loader(setting, stage))
    figures = rate, rate / peak, loader / rate, waiting.waits / waiting.seconds, memory
    return dict(zip(HEADS, figures, strict=True))


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("data/encoders/minilm-l6"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/gpu.json"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, help="instead of a line's own")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before these")
    parser.add_argument("--workers", type=int, default=4, help="loading processes")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of either encoder")
    parser.add_argument("--towers", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _one(arguments: argparse.Namespace) -> None:
    """Measures one line in this process, and prints it as JSON."""
    case, towers = CASES[arguments.cases[0]], arguments.towers
    encoders = [f"{kind}_encoder.path={towers / kind}" for kind in ("text", "image")]
    with TemporaryDirectory() as scratch:
        setting = Setting(
            arguments.shards,
            Path(scratch),
            [*encoders, "image_encoder.image_size=224", *case.words],
            arguments.batch or case.batch,
            arguments.warmup,
            arguments.steps,
            arguments.workers,
            arguments.workers,
        )
        print(json.dumps(measure(setting, case.stage)))


def _apart(name: str, arguments: argparse.Namespace, towers: Path) -> dict[str, float] | str:
    """Returns the figures of a line, measured in a process of its own, or why there are none."""
    kept = ("batch", "steps", "warmup", "workers")
    options = [f"--{k}={v}" for k in kept if (v := getattr(arguments, k)) is not None]
    words = [str(arguments.shards), "--towers", str(towers), "--cases", name, *options]
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *words]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=CASES[name].limit
        )
    except subprocess.TimeoutExpired:
        return f"stopped at its limit of {CASES[name].limit} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1])


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures each line in turn, prints and writes them."""
    arguments = _arguments(words)
    if arguments.towers:
        _one(arguments)
        return {}
    arguments.shards = arguments.shards.resolve()
    found: dict[str, Any] = {}
    with TemporaryDirectory() as towers:
        write_towers(Path(towers), arguments.tokenizer, arguments.layers)
        print(f"{'':36}" + "".join(f"{head:>12}" for head in HEADS), flush=True)
        for name in arguments.cases:
            found[name] = figures = _apart(name, arguments, Path(towers))
            cells = figures if isinstance(figures, str) else _row(figures)
            print(f"{name:36}{cells}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, {"cases": found, "compared": surroundings()})
    return found


def _row(figures: dict[str, float]) -> str:
    return "".join(f"{figures[head]:12,.2f}" for head in HEADS)


if __name__ == "__main__":
    main()
