"""Defines a plan of tasks, and freezes it in its folder: another plan is refused there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec
from msgspec import Raw, Struct

from beyond_text.files import MALFORMED, write_bytes

PLAN = "plan.json"
VERSION = 1
# A task, and an empty folder that it writes its files into. Returns what it counted.
Function = Callable[[Any, Path], Mapping[str, int]]


class PlanError(ValueError):
    """A plan cannot be run as asked, or a task of it has failed; the message is one line."""


class Plan(NamedTuple):
    """Numbered tasks whose results lie in one folder.

    Attributes:
        folder: receives the plan, every task's files and its sidecar; all machines see it.
        function: "package.module:name" of the function that does a task, which gets the task and
            an empty folder to write its files into, and returns counts. Its first parameter is
            annotated with the tasks' type. Equal tasks write equal bytes.
        tasks: what each call of the function is given.
    """

    folder: Path
    function: str
    tasks: Sequence[Struct]


class _File(Struct, forbid_unknown_fields=True):
    """What plan.json holds; `digest` is that of all else."""

    version: int
    digest: str
    function: str
    tasks: list[Raw]


class Frozen(NamedTuple):
    """A plan as it lies in its folder: its function, its tasks as JSON, and their digest."""

    folder: Path
    function: str
    tasks: Sequence[bytes]
    digest: str


def encode(plan: Plan) -> Frozen:
    """Encodes the tasks of a plan; equal plans have equal digests, on any machine."""
    tasks = [msgspec.json.encode(task, order="deterministic") for task in plan.tasks]
    return Frozen(plan.folder, plan.function, tasks, _digest(plan.function, tasks))


def _digest(function: str, tasks: Sequence[bytes]) -> str:
    state = hashlib.sha256(f"{VERSION}\n{function}\n".encode())
    for task in tasks:
        # JSON of msgspec has no line breaks.
        state.update(bytes(task) + b"\n")
    return state.hexdigest()


def freeze(plan: Plan) -> Frozen:
    """Writes a plan into its folder, unless it is there.

    Raises:
        PlanError: another plan is there.
        OSError: it cannot be written.
    """
    frozen = encode(plan)
    path = plan.folder / PLAN
    if not path.exists():
        plan.folder.mkdir(parents=True, exist_ok=True)
        content = _File(VERSION, frozen.digest, plan.function, [Raw(t) for t in frozen.tasks])
        write_bytes(path, msgspec.json.encode(content))
    # Of two processes that write at the same time, the last is right.
    found = read_plan(plan.folder)
    if found.digest != frozen.digest:
        raise PlanError(
            f"{path}: holds another plan ({_difference(found, frozen)}): give another folder, or "
            "remove this one to begin anew"
        )
    return frozen


def _difference(found: Frozen, wanted: Frozen) -> str:
    """Says in which way two plans differ."""
    if found.function != wanted.function:
        return f"of {found.function[:100]}, expected {wanted.function}"
    if len(found.tasks) != len(wanted.tasks):
        return f"{len(found.tasks)} tasks, expected {len(wanted.tasks)}"
    pairs = zip(found.tasks, wanted.tasks, strict=True)
    number, pair = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    there, own = (msgspec.json.decode(task) for task in pair)
    if isinstance(there, dict) and isinstance(own, dict):
        for name, value in own.items():
            if there.get(name) != value:
                got = str(there.get(name))[:60]
                return f"task {number} has {name} {got!r}, expected {str(value)[:60]!r}"
    return f"task {number} is another"


def read_plan(folder: Path) -> Frozen:
    """Reads the plan of a folder. Nothing in it is run: `load_function` takes the caller's name.

    Raises:
        PlanError: it is no plan, or damaged.
        OSError: it cannot be read.
    """
    path = folder / PLAN
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_File)
    except MALFORMED as error:
        raise PlanError(f"{path}: not a plan of tasks: {error}") from error
    if content.version != VERSION:
        raise PlanError(f"{path}: a plan of version {content.version}, expected {VERSION}")
    tasks = [bytes(task) for task in content.tasks]
    if _digest(content.function, tasks) != content.digest:
        raise PlanError(f"{path}: damaged: its digest is another")
    return Frozen(folder, content.function, tasks, content.digest)


def load_function(name: str) -> tuple[Function, type]:
    """Imports the function of a plan; returns it with the type of its tasks.

    Args:
        name: "package.module:name", as it stands in the code of the caller, never in a file.

    Raises:
        PlanError: it is no function of a module that takes a task and a folder.
    """
    module, _, attribute = name.partition(":")
    function = getattr(import_module(module), attribute, None)
    if not callable(function) or len(signature(function).parameters) != 2:
        raise PlanError(f"{name}: expected a function of a task and a folder")
    first = next(iter(signature(function).parameters))
    kind = get_type_hints(function).get(first)
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        raise PlanError(f"{name}: expected its first parameter to be annotated with a Struct")
    return function, kind
