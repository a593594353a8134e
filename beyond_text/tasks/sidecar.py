"""Defines what a done task leaves beside its files: counts, and each file's size and digest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from beyond_text.files import MALFORMED, sha256_of, write_bytes
from beyond_text.tasks.cores import cores
from beyond_text.tasks.plan import PLAN, Frozen, PlanError

ENDING = ".done.json"
Size = Annotated[int, Meta(ge=0)]
# Tasks that a message names.
NAMED = 10


class Written(Struct, frozen=True, forbid_unknown_fields=True):
    """A file's bytes, and their SHA-256 in hexadecimal."""

    bytes: Size
    sha256: str


class Sidecar(Struct, frozen=True, forbid_unknown_fields=True):
    """What a task has done, of the plan with that digest; `files` are by name, in its folder."""

    task: Size
    plan: str
    counts: dict[str, int]
    files: dict[str, Written]


def path_of(folder: Path, number: int) -> Path:
    """Returns where the sidecar of a task lies."""
    return folder / f"{number:06}{ENDING}"


def is_name(name: str) -> bool:
    """Says whether a task may write a file of that name."""
    odd = name in ("", PLAN) or name.startswith(".") or name.endswith(ENDING)
    return not odd and not set("/\\\0") & set(name)


def describe(path: Path) -> Written:
    """Reads the size and digest of a file."""
    return Written(path.stat().st_size, sha256_of(path))


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Writes a sidecar: from now on the task is done."""
    write_bytes(path_of(folder, sidecar.task), msgspec.json.encode(sidecar, order="deterministic"))


def read_sidecar(folder: Path, number: int, digest: str) -> Sidecar | None:
    """Reads a task's sidecar; None unless it is of that plan and its files have their sizes."""
    try:
        sidecar = msgspec.json.decode(path_of(folder, number).read_bytes(), type=Sidecar)
        if (sidecar.task, sidecar.plan) != (number, digest):
            return None
        for name, written in sidecar.files.items():
            if not is_name(name) or (folder / name).stat().st_size != written.bytes:
                return None
    except (*MALFORMED, FileNotFoundError):
        return None
    return sidecar


def read_sidecars(frozen: Frozen, numbers: Sequence[int]) -> Mapping[int, Sidecar]:
    """Reads the sidecars of those tasks that are done."""
    # A folder is listed once, for most tasks may be open.
    with os.scandir(frozen.folder) as entries:
        there = {entry.name for entry in entries if entry.name.endswith(ENDING)}
    named = [n for n in numbers if path_of(frozen.folder, n).name in there]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda n: read_sidecar(frozen.folder, n, frozen.digest), named)
        pairs = list(zip(named, found, strict=True))
    return {number: sidecar for number, sidecar in pairs if sidecar}


def checked(frozen: Frozen) -> list[Sidecar]:
    """Returns the sidecars of all tasks, after reading every file that they name.

    Raises:
        PlanError: tasks are not done, or files are not what was written. These will be done again.
        OSError: a file cannot be read.
    """
    numbers = range(len(frozen.tasks))
    found = read_sidecars(frozen, numbers)
    if missing := [number for number in numbers if number not in found]:
        raise PlanError(f"{frozen.folder}: {_tasks(missing, len(numbers))} not done")
    owners: dict[str, int] = {}
    for number, sidecar in found.items():
        for name in sidecar.files:
            if owners.setdefault(name, number) != number:
                both = f"tasks {owners[name]} and {number}"
                raise PlanError(f"{frozen.folder / name}: written by {both}")
    with ThreadPoolExecutor(cores()) as threads:
        digests = threads.map(lambda name: sha256_of(frozen.folder / name), owners)
        pairs = list(zip(owners.items(), digests, strict=True))
    damaged = [(name, n) for (name, n), is_ in pairs if found[n].files[name].sha256 != is_]
    for _, number in damaged:
        path_of(frozen.folder, number).unlink(missing_ok=True)
    if damaged:
        name, number = damaged[0]
        many = _tasks(sorted({n for _, n in damaged}), len(numbers))
        raise PlanError(
            f"{frozen.folder / name}: not the bytes that task {number} wrote; {many} damaged, "
            "which the same command does again"
        )
    return [found[number] for number in numbers]


def _tasks(numbers: Sequence[int], total: int) -> str:
    """Names tasks, the first of many."""
    names = ", ".join(map(str, numbers[:NAMED])) + (" ..." if len(numbers) > NAMED else "")
    verb = "is" if len(numbers) == 1 else "are"
    return f"{len(numbers)} of {total} tasks ({names}) {verb}"
