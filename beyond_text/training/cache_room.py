"""Tells how much of a disk the outputs of frozen towers will take, before they are computed.

Vectors are small. Tokens are not: a picture of 25 patches of 1,280 numbers, as the default encoder
makes of one, takes 67 kB in float16, several times its JPEG.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from beyond_text.config.settings import ConfigError
from beyond_text.models.layout import Layout
from beyond_text.terminal import say
from beyond_text.training.fill_cache import IMAGE, Kept, Task

# Of a number in float16, and of a key.
NUMBER, KEY = 2, 8


class Room(NamedTuple):
    """The outputs of one tower that are to be written: at most so many inputs."""

    name: str
    inputs: int
    layout: Layout

    @property
    def bytes(self) -> int:
        """The size on disk."""
        return self.inputs * (NUMBER * self.layout.size + KEY)

    def __str__(self) -> str:
        """Says what it is."""
        noun = "pictures" if self.name == IMAGE else "texts"
        return f"up to {self.inputs:,} {noun} of {self.layout.in_words}, {_gigabytes(self.bytes)}"


def check_room(
    folder: Path, layouts: Mapping[str, Layout], kept: Sequence[Kept], tasks: Iterable[Task]
) -> None:
    """Says what the tasks will write into a folder.

    Raises:
        ConfigError: its disk has not the room.
    """
    inputs = dict.fromkeys(layouts, 0)
    for task in tasks:
        for name in task.blocks:
            inputs[name] += _inputs(name, task, kept[task.split])
    rooms = [Room(name, number, layouts[name]) for name, number in inputs.items() if number]
    if not rooms:
        return
    needed = sum(room.bytes for room in rooms)
    said = "; ".join(map(str, rooms))
    free = shutil.disk_usage(next(_existing(folder))).free
    if needed > free:
        raise ConfigError(
            f"cache={folder}: expected {_gigabytes(needed)} of free disk for {said}; got "
            f"{_gigabytes(free)}; name a folder on another disk, or leave cache away"
        )
    say(f"cache={folder}: keeps {said}")


def _inputs(name: str, task: Task, kept: Kept) -> int:
    """Returns how many inputs a task has for a tower; of products, their share of all pictures."""
    number = len(task.numbers)
    if name != IMAGE or task.kind != "products":
        return number
    counts = kept.split.counts
    pictures = counts["pictures"] + counts.get("further_pictures", 0)
    return -(-pictures * number // max(1, len(kept.split)))


def _existing(folder: Path) -> Iterator[Path]:
    """Yields a folder and those above it, as far as they exist."""
    folder = folder.absolute()
    yield from (path for path in (folder, *folder.parents) if path.exists())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
