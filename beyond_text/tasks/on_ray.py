"""Does tasks on a Ray cluster: Ray Data hands their numbers to a pool of actors.

Results are files and sidecars in the plan's folder, which all machines see; only what became of
each task travels back. Ray starts an actor anew, and gives its tasks to another, when a process or
a machine is lost.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from beyond_text.tasks.plan import PlanError
from beyond_text.tasks.runner import Order, Outcome, attempt

# Tasks of a block are given out together; Ray keeps books of every block.
MOST_BLOCKS = 10_000
# Tasks that are given to an actor: one runs, one waits.
AHEAD = 2
# Seconds that Ray Data may take to stop.
SETTLED = 60


class _Actor:
    """Does tasks in a process of the cluster, which keeps what it has loaded."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [attempt(self.order, int(number)) for number in batch["item"]]
        return {"outcome": [msgspec.json.encode(outcome) for outcome in outcomes]}


def run_on_ray(
    order: Order, numbers: Sequence[int], address: str, actors: int | None, gpus: float
) -> Generator[Outcome]:
    """Does tasks; yields what became of each as it ends.

    Args:
        order: the plan.
        numbers: of the tasks.
        address: of the cluster; "auto" for that of this machine, "local" starts one here.
        actors: most of them; None for one a core, or a GPU, of the cluster.
        gpus: that an actor takes.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no such cluster.
        PlanError: the cluster has too little for one actor.
        RuntimeError: Ray gave up.
    """
    ray, ours = _start(address)
    try:
        room, cores = _room([each["Resources"] for each in ray.nodes() if each["Alive"]], gpus)
        if not room:
            kind = f"{gpus:g} GPUs" if gpus else "a core"
            raise PlanError(f"Ray at {address}: no machine has {kind} for an actor")
        size = min(actors or room, len(numbers))
        dataset = ray.data.from_items(
            [int(number) for number in numbers],
            override_num_blocks=min(len(numbers), MOST_BLOCKS),
        ).map_batches(
            _Actor,
            fn_constructor_args=(order,),
            batch_size=1,
            # One may be all that is left after machines are lost.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=size,
                initial_size=size,
                max_tasks_in_flight_per_actor=AHEAD,
            ),
            # Ray sets OMP_NUM_THREADS to them.
            num_cpus=cores,
            num_gpus=gpus,
        )
        for row in dataset.iter_rows():
            yield msgspec.json.decode(row["outcome"], type=Outcome)
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray at {address}: {_last_line(error)}") from error
    finally:
        if ours:
            _stop(ray)


def _room(machines: Sequence[dict[str, float]], gpus: float) -> tuple[int, int]:
    """Returns how many actors a cluster has room for, and the cores that each may take."""
    if not gpus:
        return sum(int(each.get("CPU", 0)) for each in machines), 1
    counts = [(int(each.get("GPU", 0) / gpus), each.get("CPU", 0)) for each in machines]
    shares = [int(cores / count) for count, cores in counts if count]
    return sum(count for count, _ in counts), min(shares, default=0)


def _start(address: str) -> tuple[Any, bool]:
    """Connects to a cluster; returns the module, and whether it was not connected before."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--ray {address}: needs Ray ({error}): pip install '.[cluster]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return ray, False
    # All processes run the code of this one, where its folder is shared.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    try:
        _knock(address)
        ray.init(
            address=address,
            runtime_env=environment,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"--ray {address}: no cluster there ({_last_line(error)}): start one with "
            "`ray start --head`, or leave --ray out"
        ) from error
    # The bar is that of the plan.
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray, True


def _stop(ray: Any) -> None:
    """Leaves the cluster, once Ray Data's threads have ended: they may not call a Ray shut down."""
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor"):
            thread.join(SETTLED)
    ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT; Ray itself tries for more than a minute."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
