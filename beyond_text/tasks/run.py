"""Runs a plan by processes, by a Ray cluster, or by one of many jobs; what is done is skipped."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing

from tqdm import tqdm

from beyond_text.tasks.cores import cores
from beyond_text.tasks.plan import (
    PLAN,
    Frozen,
    Plan,
    PlanError,
    encode,
    freeze,
    load_function,
    read_plan,
)
from beyond_text.tasks.processes import Processes
from beyond_text.tasks.runner import Order, Outcome, attempt, sweep
from beyond_text.tasks.sidecar import Sidecar, checked, read_sidecars


def run_plan(
    plan: Plan,
    *,
    workers: int | None = None,
    ray: str | None = None,
    array: tuple[int, int] | None = None,
    gpus: float = 0,
    label: str = "tasks",
    processes: Processes | None = None,
) -> None:
    """Does the tasks of a plan that are not done yet; the first error ends it.

    Args:
        plan: is frozen to its folder.
        workers: processes, or actors of Ray; None for one a core (a GPU, where `gpus`). With one,
            or for one task, it is this process.
        ray: address of a Ray cluster, "auto" for the one of this machine; None for processes.
        array: (I, N) does every N-th task, from the I-th; None does all.
        gpus: that a process or an actor takes.
        label: of the progress bar.
        processes: that were started before; the caller ends them.

    Raises:
        PlanError: another plan is in the folder, a setting is out of range, or a task fails.
        OSError: a file cannot be written.
        RuntimeError: a process was killed, or the code of a task is at fault.
        ModuleNotFoundError: Ray is asked for and not installed.
    """
    _check(workers, array, gpus)
    load_function(plan.function)
    frozen = freeze(plan)
    sweep(plan.folder)
    first, step = array or (0, 1)
    own = range(first, len(frozen.tasks), step)
    done = read_sidecars(frozen, own)
    numbers = [number for number in own if number not in done]
    order = Order(plan.folder.absolute(), plan.function, frozen.digest)
    outcomes = _outcomes(order, numbers, workers, ray, gpus, processes)
    try:
        with (
            closing(outcomes),
            tqdm(total=len(own), initial=len(done), desc=label, unit=" tasks", disable=None) as bar,
        ):
            for outcome in outcomes:
                outcome.check()
                bar.update()
    finally:
        # What was stopped leaves nothing half done.
        sweep(plan.folder)


def _check(workers: int | None, array: tuple[int, int] | None, gpus: float) -> None:
    """Raises PlanError where a setting is out of range."""
    if workers is not None and workers < 1:
        raise PlanError(f"workers: expected at least 1, got {workers}")
    if not 0 <= gpus < float("inf"):
        raise PlanError(f"gpus: expected at least 0, got {gpus}")
    if array and not 0 <= array[0] < array[1]:
        raise PlanError(f"array: expected I/N with I from 0 to N - 1, got {array[0]}/{array[1]}")


def _outcomes(
    order: Order,
    numbers: Sequence[int],
    workers: int | None,
    ray: str | None,
    gpus: float,
    processes: Processes | None,
) -> Generator[Outcome]:
    """Does tasks; yields what became of each."""
    if not numbers:
        return
    if ray is not None:
        from beyond_text.tasks.on_ray import run_on_ray

        yield from run_on_ray(order, numbers, ray, workers, gpus)
        return
    if processes:
        yield from processes.run(order, numbers)
        return
    devices = visible_gpus(gpus)
    count = min(workers or len(devices) or cores(), len(numbers))
    if count == 1:
        for number in numbers:
            yield attempt(order, number)
        return
    with Processes(count, devices=devices) as started:
        yield from started.run(order, numbers)


def visible_gpus(gpus: float) -> list[str]:
    """Names a GPU for each process that takes `gpus` of one; none where that is 0.

    Raises:
        PlanError: there is none, or a process wants more than one.
    """
    if not gpus:
        return []
    if gpus > 1:
        raise PlanError(f"gpus: a process of one machine takes at most 1, got {gpus}; try Ray")
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = listed.split(",") if listed else map(str, range(torch.cuda.device_count()))
    found = [name for name in names if torch.cuda.is_available()]
    if not found:
        raise PlanError(f"gpus: {gpus} asked for, and this machine has none")
    return found * int(1 / gpus)


def is_done(plan: Plan) -> bool:
    """Says whether every task of a plan has its sidecar and its files."""
    if not (plan.folder / PLAN).exists():
        return False
    frozen = _frozen(plan)
    numbers = range(len(frozen.tasks))
    return len(read_sidecars(frozen, numbers)) == len(numbers)


def results(plan: Plan) -> list[Sidecar]:
    """Returns the sidecars of a plan's tasks, in their order, after reading all of their files.

    Raises:
        PlanError: tasks are not done or their files are damaged: names them.
        OSError: a file cannot be read.
    """
    found = checked(_frozen(plan))
    sweep(plan.folder, every=True)
    return found


def _frozen(plan: Plan) -> Frozen:
    """Encodes a plan, which must be that of its folder."""
    frozen = encode(plan)
    try:
        found = read_plan(plan.folder)
    except FileNotFoundError as error:
        raise PlanError(f"{plan.folder}: no task of the plan has been started") from error
    if found.digest != frozen.digest:
        raise PlanError(f"{plan.folder}: holds another plan")
    return frozen
