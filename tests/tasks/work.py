"""Functions that tests run as tasks: each writes a file of numbers, and fails or dies if told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
import numpy as np

from beyond_text.tasks.plan import Plan

FUNCTION = "tests.tasks.work:write"
# Bytes that a task of size 1 writes.
SIZE = 4096


class Work(msgspec.Struct):
    """Numbers to write, and what befalls the process that first tries to."""

    seed: int
    size: int = 1
    fault: str = ""
    # A folder in which is noted who has tried.
    notes: str = ""
    wait: float = 0.0


def write(task: Work, out: Path) -> dict[str, int]:
    """Writes two files of random numbers."""
    first = True
    if task.notes:
        notes = Path(task.notes)
        first = not list(notes.glob(f"{task.seed}-*"))
        (notes / f"{task.seed}-{time.time_ns()}-{os.getpid()}").touch()
    numbers = np.random.default_rng(task.seed).integers(0, 256, task.size * SIZE, dtype=np.uint8)
    (out / f"a-{task.seed:03}.bin").write_bytes(numbers.tobytes())
    time.sleep(task.wait)
    if task.fault == "killed" or (task.fault == "killed once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.fault == "input":
        raise ValueError(f"row {task.seed}: expected a number, got 'x'")
    if task.fault == "code":
        raise KeyError("seed")
    if task.fault == "name":
        (out / "plan.json").touch()
    if task.fault == "folder":
        (out / "further").mkdir()
    (out / f"b-{task.seed:03}.txt").write_text(str(numbers.sum()))
    return {"numbers": len(numbers), "seed": task.seed}


def no_task(task: int, out: Path) -> dict[str, int]:
    """Takes no Struct."""
    return {}


def plan_of(folder: Path, count: int = 6, **fields: object) -> Plan:
    return Plan(folder, FUNCTION, [Work(seed, **fields) for seed in range(count)])  # type: ignore[arg-type]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Reads all files of a folder; a folder within is b""."""
    return {p.name: p.read_bytes() if p.is_file() else b"" for p in sorted(folder.iterdir())}


def tries(notes: Path) -> dict[int, int]:
    """Counts how often each task was tried."""
    seeds = [int(path.name.split("-")[0]) for path in notes.iterdir()]
    return {seed: seeds.count(seed) for seed in sorted(set(seeds))}
