"""Functions that tests run as tasks: each writes a file of numbers, and fails or dies if told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from tqdm import tqdm

from beyond_text.tasks.plan import Plan, read_plan
from beyond_text.tasks.run import results, run_plan
from beyond_text.tasks.runner import Order, Outcome, attempt
from tests import ROOT

FUNCTION = "tests.tasks.work:write"
# Bytes that a task of size 1 writes.
SIZE = 4096


class Work(msgspec.Struct):
    """Numbers to write, and what befalls the process that first tries to."""

    seed: int
    size: int = 1
    fault: str = ""
    # A folder in which is noted who has tried; NOTES.wait holds the seconds that a task takes.
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
    pause = Path(f"{task.notes}.wait")
    time.sleep(float(pause.read_text()) if task.notes and pause.is_file() else task.wait)
    if task.fault == "killed" or (task.fault == "killed once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.fault == "overtaken" and os.environ.pop("OVERTAKEN", "1"):
        # Another run does this task, and removes what it takes for leftovers.
        os.environ["OVERTAKEN"] = ""
        frozen = read_plan(out.parent)
        other = Order(frozen.folder, frozen.function, frozen.digest)
        assert attempt(other, 0) == Outcome(0)
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


def see(task: Work, out: Path) -> dict[str, int]:
    """Writes what a process is told of its GPUs and cores."""
    time.sleep(task.wait)
    seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    (out / f"{task.seed}.json").write_text(json.dumps(seen))
    return {}


def fail() -> None:
    """Is how a process that cannot load its model starts."""
    raise RuntimeError("no such model")


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


def living(notes: Path) -> set[int]:
    """Returns the processes that have tried a task and still are."""
    processes = {int(path.name.split("-")[2]) for path in notes.iterdir()}
    return {each for each in processes if os.path.exists(f"/proc/{each}")}


def undisturbed(folder: Path, **fields: object) -> dict[str, bytes]:
    """Runs a plan in this process, with no pause; returns its bytes."""
    if fields.get("notes"):
        Path(f"{fields['notes']}.wait").unlink(missing_ok=True)
    plan = plan_of(folder, **fields)  # type: ignore[arg-type]
    run_plan(plan, workers=1)
    results(plan)
    return bytes_of(folder)


def slow(notes: Path, seconds: float) -> None:
    """Lets each task take so long."""
    Path(f"{notes}.wait").write_text(str(seconds))


def driver(folder: Path, how: dict[str, object], **fields: object) -> subprocess.Popen[str]:
    """Runs a plan in a process of its own."""
    given = json.dumps({**fields, "how": how})
    words = [sys.executable, "-m", "tests.tasks.driver", str(folder), given]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def seen(folder: Path) -> list[dict[str, str]]:
    """Reads what the tasks of `see` wrote."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]


def show_a_bar() -> None:
    """Uses a progress bar, as encoders do."""
    for _ in tqdm(range(2), disable=True):
        pass
