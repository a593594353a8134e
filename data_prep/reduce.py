"""Reads and reduces the pictures of a build, in several processes."""

from __future__ import annotations

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


class Picture(NamedTuple):
    """A reduced picture, or (reason, detail) of a failure; neither where no picture is named."""

    jpeg: bytes | None
    failure: tuple[str, str] | None


@contextmanager
def picture_reader(
    workers: int | None, size: int, max_pixels: int
) -> Iterator[Callable[[list[str]], Iterable[Picture]]]:
    """Yields a function that reads pictures by their paths and reduces them, in the same order.

    Args:
        workers: processes that share the work; None for one per core.
        size: longest side of a reduced picture, in pixels.
        max_pixels: most pixels a picture's header may announce.
    """
    reduce = partial(_read_picture, size=size, max_pixels=max_pixels)
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers > 1:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            yield partial(pool.map, reduce, chunksize=16)
    else:
        yield partial(map, reduce)


def _read_picture(path: str, size: int, max_pixels: int) -> Picture:
    """Reads and reduces one picture; a path of "" gives none."""
    if not path:
        return Picture(None, None)
    try:
        return Picture(reduce_picture(read_picture(Path(path)), size, max_pixels), None)
    except PictureError as error:
        return Picture(None, (error.reason, error.detail))


def _end_with_parent() -> None:
    """Ends this process with its parent; workers of a killed build would wait for work for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
