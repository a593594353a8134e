"""Folders that are whole, or are not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(out: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder to fill, which becomes `out` only where the block ends well.

    It is a hidden one beside `out`. What a killed build left there is removed, at the latest by the
    next; an `out` that it had just taken away comes back.

    Args:
        out: replaced if it is empty or an earlier build; its parents are made.
        is_ours: whether a folder, if it is there at all, is such a build.

    Raises:
        FileExistsError: `out` is something else.
    """
    fresh, old = (out.with_name(f".{out.name}.{name}") for name in ("partial", "old"))
    if is_ours(old) and not out.exists():
        # Killed between the two renames below.
        old.rename(out)
    if out.exists() and not (out.is_dir() and (is_ours(out) or not any(out.iterdir()))):
        raise FileExistsError(
            f"{out}: expected a new or empty folder or an earlier build, got neither"
        )
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        # Renamed away first: a folder half deleted could still pass for whole.
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
