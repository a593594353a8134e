"""Does one task: its files are written aside, then renamed, and its sidecar comes last."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from beyond_text.files import errors_name
from beyond_text.tasks.plan import Function, PlanError, load_function, read_plan
from beyond_text.tasks.sidecar import Sidecar, describe, is_name, read_sidecar, write_sidecar
from beyond_text.terminal import EXPECTED


class Order(NamedTuple):
    """What a process must know of a plan: its folder, the caller's function, and its digest."""

    folder: Path
    function: str
    digest: str


class Outcome(Struct, frozen=True):
    """What became of a task: all is empty where it is done. It travels between processes as JSON.

    Attributes:
        number: of the task.
        message: of the error.
        code: errno of an error of the system.
        file: that such an error names.
        trace: of an error that is a fault of the code.
    """

    number: int
    message: str = ""
    code: int = 0
    file: str = ""
    trace: str = ""

    def check(self) -> None:
        """Raises the error of a task that has failed.

        Raises:
            OSError: the system's, such as that of a full disk.
            PlanError: the input is at fault.
            RuntimeError: the code is at fault; holds the traceback.
        """
        if self.code:
            raise OSError(self.code, self.message, *([self.file] if self.file else []))
        if self.trace:
            raise RuntimeError(f"task {self.number}: {self.trace}")
        if self.message:
            raise PlanError(self.message)


def attempt(order: Order, number: int) -> Outcome:
    """Does a task of a plan, unless it is done; an error is returned."""
    try:
        _runner(order).run(number)
    except OSError as error:
        if error.errno is None:
            return Outcome(number, str(error) or type(error).__name__)
        file = "" if error.filename is None else str(error.filename)
        return Outcome(number, error.strerror or os.strerror(error.errno), error.errno, file)
    except EXPECTED as error:
        return Outcome(number, str(error) or type(error).__name__)
    except Exception as error:
        return Outcome(number, str(error), trace=traceback.format_exc())
    return Outcome(number)


@lru_cache(1)
def _runner(order: Order) -> _Runner:
    """Reads a plan once a process."""
    return _Runner(order)


class _Runner:
    """Does the tasks of a plan in this process."""

    def __init__(self, order: Order) -> None:
        self.folder, self.digest = order.folder, order.digest
        self.function: Function
        self.function, self.kind = load_function(order.function)
        try:
            frozen = read_plan(order.folder)
        except FileNotFoundError as error:
            here = f"{socket.gethostname()} does not see the plan's folder"
            raise PlanError(f"{order.folder}: {here}: all machines need a shared one") from error
        if frozen.digest != order.digest:
            raise PlanError(f"{order.folder}: holds another plan on {socket.gethostname()}")
        self.tasks = frozen.tasks
        sweep(self.folder)

    def run(self, number: int) -> None:
        """Does a task, unless it is done."""
        if read_sidecar(self.folder, number, self.digest):
            return
        task: Struct = msgspec.json.decode(self.tasks[number], type=self.kind)
        aside = self.folder / f".{number:06}.{socket.gethostname()}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with errors_name(self.folder):
                aside.mkdir()
                counts = self.function(task, aside)
                self._keep(number, aside, counts)
        except Exception:
            # Of a run beside this one, which has done it meanwhile and tidied up.
            if not read_sidecar(self.folder, number, self.digest):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _keep(self, number: int, aside: Path, counts: Mapping[str, int]) -> None:
        """Puts a task's files into their place, and then its sidecar."""
        paths = sorted(aside.iterdir())
        for path in paths:
            if not is_name(path.name) or not path.is_file():
                raise PlanError(f"task {number} wrote {path.name!r}: expected a plain file's name")
        files = {path.name: describe(path) for path in paths}
        for path in paths:
            os.replace(path, self.folder / path.name)
        write_sidecar(self.folder, Sidecar(number, self.digest, dict(counts), files))


def sweep(folder: Path, every: bool = False) -> None:
    """Removes what tasks that were killed on this machine have left half done; or on any."""
    for path in folder.glob(".*.*"):
        number, _, rest = path.name[1:].partition(".")
        host, _, process = rest.rpartition(".")
        if not (number.isdecimal() and process.isdecimal()):
            continue
        if not every and (host != socket.gethostname() or is_alive(int(process))):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Says whether this machine has a process of a number, whosever it is."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True
