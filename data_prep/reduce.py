"""Reads and reduces the pictures of a build."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from beyond_text.tables.pictures import PictureError, read_picture, reduce_picture
from beyond_text.tasks.cores import cores


class Picture(NamedTuple):
    """A reduced picture, or (reason, detail) of a failure; `digest` is of the file, if it is one.

    All is None where no picture is named.
    """

    jpeg: bytes | None
    failure: tuple[str, str] | None
    digest: bytes | None = None


# Reads pictures by their paths and reduces them, in the same order.
Reader = Callable[[list[str]], Iterable[Picture]]


def short_digest(data: bytes) -> bytes:
    """Returns the first 16 bytes of a SHA-256."""
    return hashlib.sha256(data).digest()[:16]


def read_reduced(path: str, size: int, max_pixels: int) -> Picture:
    """Reads and reduces one picture; a path of "" gives none.

    Args:
        path: of the picture.
        size: longest side of the reduced picture, in pixels.
        max_pixels: most pixels the picture's header may announce.
    """
    if not path:
        return Picture(None, None)
    digest = None
    try:
        data = read_picture(Path(path))
        digest = short_digest(data)
        return Picture(reduce_picture(data, size, max_pixels), None, digest)
    except PictureError as error:
        return Picture(None, (error.reason, error.detail), digest)


@contextmanager
def picture_reader(workers: int | None, size: int, max_pixels: int) -> Iterator[Reader]:
    """Yields a reader of pictures.

    Args:
        workers: processes that share the work; None for one per core.
        size: longest side of a reduced picture, in pixels.
        max_pixels: most pixels a picture's header may announce.
    """
    reduce = partial(read_reduced, size=size, max_pixels=max_pixels)
    workers = workers if workers is not None else cores()
    if workers > 1:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            yield partial(pool.map, reduce, chunksize=16)
    else:
        yield partial(map, reduce)


def _end_with_parent() -> None:
    """Ends this process with its parent; workers of a killed build would wait for work for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
