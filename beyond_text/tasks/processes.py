"""Does tasks in processes of this machine, which end with the one that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from tqdm import tqdm

from beyond_text.tasks.cores import cores
from beyond_text.tasks.runner import Order, Outcome, attempt

# Tasks that are given out for each process: one runs, one waits.
AHEAD = 2


class Processes:
    """Processes that do tasks; leaving the context ends them at once.

    Args:
        count: of processes.
        warm: is called in each when it starts, such as to load a model.
        arguments: of `warm`.
        devices: names of GPUs, of which each process sees one; empty for all of them.
        imports: modules that are imported once for all processes, where the system can; none of
            them may start a thread.
    """

    def __init__(
        self,
        count: int,
        warm: Callable[..., object] | None = None,
        arguments: Sequence[Any] = (),
        devices: Sequence[str] = (),
        imports: Sequence[str] = (),
    ) -> None:
        self.count = count
        context = _context(imports)
        held, self._line = context.Pipe(duplex=False)
        turn = context.Value("i", 0)
        self._pool = ProcessPoolExecutor(
            count, context, _start, (held, turn, tuple(devices), warm, tuple(arguments))
        )
        # A server that imports modules answers when it is done: nobody waits for that here.
        threading.Thread(target=self._begin, daemon=True).start()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        # What is not done by now is not wanted, such as a model that is still being loaded.
        self._line.close()
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        """Starts the processes."""
        # What fails here fails again when a task is given out, which says so.
        with suppress(Exception):
            for _ in range(self.count):
                # Each starts a process.
                self._pool.submit(int)

    def run(self, order: Order, numbers: Sequence[int]) -> Iterator[Outcome]:
        """Does tasks; yields what became of each as it ends.

        Raises:
            RuntimeError: a process was killed.
        """
        waiting = iter(numbers)
        running: set[Future[Outcome]] = set()
        try:
            while True:
                for number in waiting:
                    running.add(self._pool.submit(attempt, order, number))
                    if len(running) >= AHEAD * self.count:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process was killed, perhaps for want of memory: try fewer --workers; the same "
                "command goes on with what is done"
            ) from error


def _context(imports: Sequence[str]) -> BaseContext:
    """Returns how processes are started.

    They are not forked from this one: threads of torch and FAISS do not survive that. A server that
    has imported modules, and done no more, can be forked.
    """
    if not imports or "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([*imports])
    return context


def _start(
    held: Connection,
    turn: Any,
    devices: Sequence[str],
    warm: Callable[..., object] | None,
    arguments: Sequence[Any],
) -> None:
    """Prepares a process."""
    # Ctrl-C reaches all processes of a terminal: the first one says what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(held,), daemon=True).start()
    # Bars' own lock is one between processes, which a process that is ended leaves behind.
    tqdm.set_lock(threading.RLock())
    if devices:
        with turn.get_lock():
            own = devices[turn.value % len(devices)]
            turn.value += 1
        os.environ["CUDA_VISIBLE_DEVICES"] = own
        share = cores() // len(devices)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    if warm:
        # What fails here fails again in the first task, which says so.
        with suppress(Exception):
            warm(*arguments)


def _end_with(held: Connection) -> None:
    """Ends this process when the other end of the line is closed, by hand or by a kill."""
    try:
        held.recv()
    except (EOFError, OSError):
        os._exit(1)
