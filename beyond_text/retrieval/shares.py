"""Shares work between the processes of a run: each does its part, and what they found is gathered.

A part that fails in one process stops all of them, and the first one says which and why. What is
sent are tensors and UTF-8, never pickles.
"""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import torch
from torch import Tensor, distributed

from beyond_text.terminal import EXPECTED, one_line

T = TypeVar("T")


class ProcessError(RuntimeError):
    """One of several processes of a run failed; says which, on which machine, and why."""


class Report(NamedTuple):
    """What a process says after its part of the work: its machine, and why it failed if it did."""

    machine: str
    failed: str


class Share(NamedTuple):
    """The part of one process in work that `world` processes share; without a group, all of it.

    `group` is a process group of torch.distributed whose tensors lie in main memory.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that decides, measures and writes."""
        return self.rank == 0

    def of(self, parts: Sequence[T]) -> Sequence[T]:
        """Returns every `world`-th of the parts, which are this process's."""
        return parts[self.rank :: self.world]

    def together(self, work: Callable[[], T]) -> T:
        """Does this process's part of a work; all stop where it fails in one of them.

        Raises:
            ProcessError: in the first process, where another one failed.
            SystemExit: in the others: the first says what there is to say.
        """
        if self.world == 1:
            return work()
        result: list[T] = []
        error: Exception | None = None
        try:
            result.append(work())
        except Exception as caught:
            error = caught
        reports = enumerate(self._reports(error))
        failed = [(rank, report) for rank, report in reports if report.failed]
        if not failed:
            return result[0]
        if not self.is_first:
            self._stop()
        if error is not None:
            raise error
        rank, report = failed[0]
        raise ProcessError(self._line(rank, *report))

    def first(self, work: Callable[[], T], kind: type[T]) -> T:
        """Does a work in the first process alone, and returns what it returned in all of them.

        `kind` is its type, which JSON can hold. Where the work fails, the others end quietly.
        """
        if self.world == 1:
            return work()
        if not self.is_first:
            told = self._broadcast(b"")
            return msgspec.json.decode(told, type=kind) if told else self._stop()
        try:
            result = work()
        except Exception:
            self._broadcast(b"")
            raise
        self._broadcast(msgspec.json.encode(result))
        return result

    @contextmanager
    def named(self) -> Iterator[None]:
        """Says in errors of other processes than the first whose they are.

        Raises:
            ProcessError: instead of an error of the input, the machine or the training.
        """
        try:
            yield
        except EXPECTED + (RuntimeError,) as error:  # noqa: RUF005
            if self.is_first or isinstance(error, ProcessError):
                raise
            raise ProcessError(self._line(self.rank, socket.gethostname(), error)) from error

    def gather(self, rows: Tensor, everywhere: bool = False) -> list[Tensor]:
        """Returns each process's rows [rows, ...] in the order of the processes.

        They may differ in number. Only the first process gets them, and the others an empty list,
        unless they are wanted `everywhere`.
        """
        if self.world == 1:
            return [rows]
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.world)]
        distributed.all_gather(sizes, torch.tensor([len(rows)]), group=self.group)
        longest = max(int(size) for size in sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        wanted = everywhere or self.is_first
        found = [torch.empty_like(padded) for _ in range(self.world if wanted else 0)]
        if everywhere:
            distributed.all_gather(found, padded, group=self.group)
        else:
            distributed.gather(padded, found or None, dst=0, group=self.group)
        return [part[: int(size)] for part, size in zip(found, sizes, strict=False)]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Gives tensors of all processes the content of the first one's."""
        for tensor in tensors if self.world > 1 else ():
            own = tensor.detach().to("cpu", copy=True)
            distributed.broadcast(own, src=0, group=self.group)
            tensor.copy_(own)

    def _reports(self, error: Exception | None) -> list[Report]:
        """Exchanges whether the processes' parts succeeded."""
        if error is not None and not isinstance(error, EXPECTED) and not self.is_first:
            # A fault of the program: where it happened helps whoever mends it.
            traceback.print_exception(error, file=sys.stderr)
        line = "" if error is None else one_line(error)
        own = msgspec.json.encode(Report(socket.gethostname(), line))
        gathered = self.gather(torch.frombuffer(bytearray(own), dtype=torch.uint8), everywhere=True)
        return [msgspec.json.decode(part.numpy().tobytes(), type=Report) for part in gathered]

    def _line(self, rank: int, machine: str, failed: object) -> str:
        return f"process {rank} of {self.world}, on {machine}: {failed}"

    def _broadcast(self, content: bytes) -> bytes:
        """Returns the first process's bytes."""
        size = torch.tensor([len(content)])
        distributed.broadcast(size, src=0, group=self.group)
        data = torch.zeros(int(size), dtype=torch.uint8)
        if self.is_first:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else data
        if len(data):
            distributed.broadcast(data, src=0, group=self.group)
        return data.numpy().tobytes()

    def _stop(self) -> NoReturn:
        """Ends this process, which has nothing to say.

        Not by an exit status of its own: whoever started the processes would kill the first one
        for it, perhaps before it has said why.
        """
        raise SystemExit(0)


ALONE = Share()
