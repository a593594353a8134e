"""Work that real processes share: gathered in order, decided by the first, ended together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import distributed

from beyond_text.retrieval.shares import ALONE, ProcessError, Share

pytestmark = pytest.mark.slow

WORLD = 3


class Told(NamedTuple):
    step: int
    path: str


def gathered(share: Share) -> Any:
    rows = torch.arange(share.rank * 2, dtype=torch.float16).view(-1, 2) + 10 * share.rank
    parts = share.gather(rows)
    flags = share.gather(
        torch.tensor([True, False][: share.rank], dtype=torch.bool), everywhere=True
    )
    shared = torch.full((2,), share.rank + 1.0)
    share.copy_from_first([shared, torch.tensor(share.rank)])
    return [part.tolist() for part in parts], [flag.tolist() for flag in flags], shared.tolist()


def told(share: Share) -> Any:
    assert share.first(lambda: None, type(None)) is None
    return share.first(lambda: Told(share.rank, "é"), Told)


def second_fails(share: Share) -> Any:
    def work() -> int:
        if share.rank == 1:
            raise ValueError("shards: no\nsuch folder")
        return share.rank

    assert share.together(lambda: share.rank * 2) == share.rank * 2
    return share.together(work)


def all_fail(share: Share) -> Any:
    def work() -> int:
        raise KeyError(share.rank)

    return share.together(work)


def first_fails(share: Share) -> Any:
    def work() -> int:
        raise FileNotFoundError("no checkpoint")

    return share.first(work, int)


def named(share: Share) -> Any:
    with share.named():
        raise ValueError(f"of {share.rank}")


def run(rank: int, place: str, work: Callable[[Share], Any], results: Any) -> None:
    distributed.init_process_group("gloo", f"file://{place}", rank=rank, world_size=WORLD)
    try:
        found: Any = work(Share(rank, WORLD, distributed.group.WORLD))
    except (Exception, SystemExit) as error:
        found = f"{type(error).__name__}: {error}"
    results.put((rank, found))
    distributed.barrier()


def everywhere(works: list[Callable[[Share], Any]], folder: Path) -> list[list[Any]]:
    """Returns what each process found or raised, for each piece of work."""
    context = multiprocessing.get_context("fork")
    found = []
    for number, work in enumerate(works):
        results = context.Queue()
        place = str(folder / str(number))
        started = [
            context.Process(target=run, args=(rank, place, work, results)) for rank in range(WORLD)
        ]
        for process in started:
            process.start()
        found.append([value for _, value in sorted(results.get(timeout=60) for _ in started)])
        for process in started:
            process.join(timeout=60)
    return found


def test_processes_gather_decide_and_stop_together(tmp_path: Path) -> None:
    works = [gathered, told, second_fails, all_fail, first_fails, named]
    rows, decided, second, every, first, own = everywhere(works, tmp_path)
    flags = [[], [True], [True, False]]
    assert rows[0] == ([[], [[10, 11]], [[20, 21], [22, 23]]], flags, [1, 1])
    assert rows[1:] == [([], flags, [1, 1])] * 2
    assert decided == [Told(0, "é")] * 3
    host = second[0].split(" on ")[1].split(":")[0]
    assert second[0] == f"ProcessError: process 1 of 3, on {host}: shards: no such folder"
    assert second[1:] == ["SystemExit: 0"] * 2
    assert every == ["KeyError: 0", "SystemExit: 0", "SystemExit: 0"]
    assert first == ["FileNotFoundError: no checkpoint", "SystemExit: 0", "SystemExit: 0"]
    assert own[0] == "ValueError: of 0"
    assert own[2] == f"ProcessError: process 2 of 3, on {host}: of 2"


def test_a_process_alone_does_all_and_says_its_own_errors() -> None:
    assert ALONE.of([1, 2, 3]) == [1, 2, 3]
    assert ALONE.together(lambda: 3) == ALONE.first(lambda: 3, int) == 3
    rows = torch.ones(2, 3)
    assert ALONE.gather(rows) == [rows]
    with pytest.raises(KeyError, match="0"):
        all_fail(ALONE)
    with pytest.raises(ProcessError), ALONE.named():
        raise ProcessError("another's")
