"""Files that are whole or as they were before, and errors of writing that say where."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an error of writing that names no file, such as that of a full disk, this name."""
    try:
        yield
    except OSError as error:
        # One without a number is no error of the system's, but of ours.
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def whole(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A file of text or of bytes to fill, which becomes `path` only where the block ends well.

    Raises:
        OSError: it cannot be written; names it.
    """
    # Each process of a run writes its own.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named(path):
            encoding, newline = (None, None) if binary else ("utf-8", "\n")
            with partial.open("wb" if binary else "w", encoding=encoding, newline=newline) as file:
                yield file
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As `whole`, of one text."""
    with whole(path) as file:
        file.write(text)


def write_json(path: Path, content: Any) -> None:
    """As `write_text`, of anything that JSON can hold."""
    write_text(path, json.dumps(content, indent=1) + "\n")
