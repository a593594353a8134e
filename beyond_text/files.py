"""Files and folders that are written completely or not at all, and errors that name the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

# What msgspec raises for bytes that are not of a type.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Gives an error of writing that names no file, such as that of a full disk, this name."""
    try:
        yield
    except OSError as error:
        # One without a number is no error of the system's, but of ours.
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_write(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Yields a file of text or bytes to fill, which becomes `path` only if the block succeeds.

    Raises:
        OSError: it cannot be written; names it.
    """
    # Each process of a run writes its own.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with errors_name(path):
            encoding, newline = (None, None) if binary else ("utf-8", "\n")
            with partial.open("wb" if binary else "w", encoding=encoding, newline=newline) as file:
                yield file
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `out` only if the block succeeds.

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


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path, content: Any) -> None:
    """Writes anything that JSON can hold completely or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")
