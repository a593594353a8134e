"""What the benchmarks share: contenders measured in turn, one clock for all, and on what it ran."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

from beyond_text.models.cpu.memory import give_back_freed_memory

T = TypeVar("T")
PRELOADED = ["tests.benchmarks.recipe", "tests.benchmarks.peers"]
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "pytorch-lightning",
    "pillow",
    "simplejpeg",
    "webdataset",
    "faiss-cpu",
    "open_clip_torch",
    "sentence-transformers",
    "datasets",
    "accelerate",
)


def command_line(name: str, about: str | None) -> argparse.ArgumentParser:
    """What the commands that train have in common: shards, settings and where results go."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", type=Path, help="folder of shards with pictures and queries")
    parser.add_argument("recipe", nargs="*", help="recipe files and key=value words")
    parser.add_argument("--out", type=Path, default=Path(f"runs/benchmarks/{name}.json"))
    return parser


# The contender whose rounds this process takes.
_rounds: Iterator[Any]


def _enter(contender: Callable[[], Iterator[Any]], start_method: str) -> None:
    global _rounds
    # Another start method than the contender's own would be its loaders' too.
    multiprocessing.set_start_method(start_method, force=True)
    _rounds = contender()


def _take_round() -> Any:
    found = next(_rounds)
    # For the contenders whose turn is next.
    give_back_freed_memory()
    torch.cuda.empty_cache()
    return found


@contextmanager
def apart(contender: Callable[[], Iterator[T]]) -> Iterator[Iterator[T]]:
    """A contender's rounds, taken in a process of its own.

    What it leaves in memory, the peak that this has had, and the settings that it makes, then weigh
    on no other's rounds.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once for all contenders, by a process that does nothing else.
    context.set_forkserver_preload(PRELOADED)
    arguments = contender, multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, context, _enter, arguments) as process:
        yield (process.submit(_take_round).result() for _ in itertools.count())


def once_apart(contender: Callable[[], Iterator[T]]) -> T:
    """A contender's first round, taken in a process of its own."""
    with apart(contender) as rounds:
        return next(rounds)


def in_turn(
    contenders: Mapping[str, Iterator[float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Exception]]:
    """Each contender's products a second in every round, and what stopped those that it stopped.

    In turn, so that whatever else slows the machine down meets all of them alike.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    stopped: dict[str, Exception] = {}
    turns = list(itertools.product(range(rounds), contenders))
    with tqdm(turns, desc="rounds", unit="turn", disable=None) as bar:
        for _, name in bar:
            bar.set_postfix_str(name)
            if name in stopped:
                continue
            try:
                rates[name].append(next(contenders[name]))
            except Exception as error:
                # A peer that is not installed or fails must not cost the hours of all the others.
                stopped[name] = error
                bar.write(f"{name}: {type(error).__name__}: {error}")
    return {name: found for name, found in rates.items() if name not in stopped}, stopped


def synchronize() -> None:
    """Waits until a GPU, where there is one, has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def step_ends() -> Iterator[list[float]]:
    """The times at which optimiser steps end within, whichever training loop takes them."""
    ends: list[float] = []

    def note(*_: Any) -> None:
        synchronize()
        ends.append(time.perf_counter())

    hook = register_optimizer_step_post_hook(note)
    try:
        yield ends
    finally:
        hook.remove()


def rate(ends: Sequence[float], products: Sequence[int], warmup: int) -> float:
    """Products a second of all steps but the first `warmup`, by when each step ended.

    Raises:
        ValueError: no step is left, or not one end for every step.
    """
    if not 1 <= warmup < len(ends) == len(products):
        raise ValueError(f"{len(ends)} steps ended of {len(products)}, {warmup} of them warm-up")
    return sum(products[warmup:]) / (ends[-1] - ends[warmup - 1])


def rate_of_batches(batches: Iterable[int], warmup: int, measured: int) -> float:
    """Products a second of a loader that gives the number of products of each of its batches."""
    ends, products = [], []
    for size in itertools.islice(batches, warmup + measured):
        products.append(size)
        ends.append(time.perf_counter())
    return rate(ends, products, warmup)


def peak_bytes() -> int:
    """Peak of this process's resident memory, without its children's."""
    # In kilobytes.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def surroundings() -> dict[str, Any]:
    """The machine and the versions of all that takes part (None: not installed)."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    cuda = torch.cuda.is_available()
    machine = {
        "system": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }
    return {"machine": machine, "versions": versions}
