"""Writes files and folders completely or not at all, and names the file in errors of writing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import IO, Any, NamedTuple
from zlib import crc32

import msgspec

# Stands for this machine's name in those of files.
HOST = f"{crc32(gethostname().encode()):08x}"
# A change within so many nanoseconds of another may have the same time.
GRAIN = 2 * 10**9
# What msgspec raises where bytes do not decode to a type.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Adds the path to an error of writing that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        # An OSError without a number is one of ours, not the system's.
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_write(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Yields a file of text or bytes to fill, which becomes `path` only if the block succeeds.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    # Each process has a partial file of its own, on every machine that shares the disk.
    partial = path.with_name(f".{path.name}.{HOST}.{os.getpid()}")
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

    It is a hidden folder beside `out`. What a killed build left there is removed, by the next build
    at the latest; an `out` that it had just renamed comes back.

    Args:
        out: replaced if it is empty or an earlier build; its parents are made. A link stays one,
            to the new folder.
        is_ours: says whether a folder, which may not exist, is such a build.

    Raises:
        FileExistsError: `out` is something else.
    """
    check_replaceable(out, is_ours)
    out = _where(out)
    fresh, old = (out.with_name(f".{out.name}.{name}") for name in ("partial", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        # Renamed first, because a half deleted folder could still pass for a complete one.
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Computes the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileState(NamedTuple):
    """What tells one state of a file from another, as it does for git; times in nanoseconds.

    Attributes:
        size: bytes.
        number: of the file on its disk.
        modified: when its content changed, as whoever wrote it may say.
        changed: when it, or what is known of it, changed.
    """

    size: int
    number: int
    modified: int
    changed: int

    def is_settled(self, at: int) -> bool:
        """Says whether a change from a time on would be another state."""
        return max(self.modified, self.changed) < at - GRAIN


def state_of(path: Path | str) -> FileState:
    """Returns the state that a file is in.

    Raises:
        OSError, ValueError: there is none.
    """
    found = os.stat(path)
    # Some disks number files by 64 bits, of which tables and JSON hold 63.
    number = found.st_ino & (2**63 - 1)
    return FileState(found.st_size, number, found.st_mtime_ns, found.st_ctime_ns)


def user_cache() -> Path:
    """Returns the folder in which this user's programs keep what they can make again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "beyond-text"


def check_replaceable(out: Path, is_ours: Callable[[Path], bool]) -> None:
    """Checks that `atomic_folder` may fill `out`; gives back one that it had just renamed.

    Raises:
        FileExistsError: `out` is neither empty nor an earlier build.
    """
    out = _where(out)
    old = out.with_name(f".{out.name}.old")
    if is_ours(old) and not out.exists():
        # An earlier build was killed between the two renames of `atomic_folder`.
        old.rename(out)
    if out.exists() and not (out.is_dir() and (is_ours(out) or not any(out.iterdir()))):
        raise FileExistsError(
            f"{out}: expected a new or empty folder or an earlier build, got neither"
        )


def _where(folder: Path) -> Path:
    """Returns the place of a folder: that which a link names, and for `.` and `..` one by name."""
    return folder.resolve() if folder.is_symlink() or folder.name in ("", "..") else folder


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of bytes completely or not at all."""
    with atomic_write(path, binary=True) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path, content: Any) -> None:
    """Writes anything that JSON can hold completely or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")
