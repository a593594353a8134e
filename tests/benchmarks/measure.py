"""Measures contenders in turn, by one clock for all, and describes the machine it ran on."""

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
    """Returns the parser that training benchmarks share: shards, settings and output file."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", type=Path, help="folder of shards with pictures and queries")
    parser.add_argument("recipe", nargs="*", help="recipe files and key=value words")
    parser.add_argument("--out", type=Path, default=Path(f"runs/benchmarks/{name}.json"))
    return parser


# The rounds of the contender that this process measures.
_rounds: Iterator[Any]


def _enter(contender: Callable[[], Iterator[Any]], start_method: str) -> None:
    global _rounds
    # This process was started by forkserver; without this, its loaders would be too.
    multiprocessing.set_start_method(start_method, force=True)
    _rounds = contender()


def _take_round() -> Any:
    result = next(_rounds)
    # So that the memory is free for the contenders whose turn is next.
    give_back_freed_memory()
    torch.cuda.empty_cache()
    return result


@contextmanager
def apart(contender: Callable[[], Iterator[T]]) -> Iterator[Iterator[T]]:
    """Gives the rounds of a contender, taken in a process of its own.

    So its memory, its peak of memory and its global settings do not affect the others' rounds.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once for all contenders, by a process that does nothing else.
    context.set_forkserver_preload(PRELOADED)
    arguments = contender, multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, context, _enter, arguments) as process:
        yield (process.submit(_take_round).result() for _ in itertools.count())


def once_apart(contender: Callable[[], Iterator[T]]) -> T:
    """Returns a contender's first round, taken in a process of its own."""
    with apart(contender) as rounds:
        return next(rounds)


def in_turn(
    contenders: Mapping[str, Iterator[float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Exception]]:
    """Returns products per second of each contender in every round, and the errors of failed ones.

    Contenders take turns, so that whatever else slows the machine down affects all of them equally.
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
                # A peer that is not installed or fails must not cost the results of the others.
                stopped[name] = error
                bar.write(f"{name}: {type(error).__name__}: {error}")
    return {name: values for name, values in rates.items() if name not in stopped}, stopped


def synchronize() -> None:
    """Waits until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def step_ends() -> Iterator[list[float]]:
    """Collects the times at which optimiser steps end within the block, in any training loop."""
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
    """Returns products per second of the steps after the first `warmup`, by their ends.

    Raises:
        ValueError: no step is left, or the number of ends is not that of the steps.
    """
    if not 1 <= warmup < len(ends) == len(products):
        raise ValueError(f"{len(ends)} steps ended of {len(products)}, {warmup} of them warm-up")
    return sum(products[warmup:]) / (ends[-1] - ends[warmup - 1])


def rate_of_batches(batches: Iterable[int], warmup: int, measured: int) -> float:
    """Returns products per second of a loader, given the number of products of each batch."""
    ends, products = [], []
    for size in itertools.islice(batches, warmup + measured):
        products.append(size)
        ends.append(time.perf_counter())
    return rate(ends, products, warmup)


def peak_bytes() -> int:
    """Returns the peak of this process's resident memory, without its children's."""
    # Linux gives kilobytes.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor() -> str:
    """Returns the processor's name, as far as the system says."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def surroundings() -> dict[str, Any]:
    """Returns the machine, and the versions of all packages involved (None: not installed)."""
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
