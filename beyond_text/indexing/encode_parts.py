"""Encodes products in parts, by as many processes as there are cores, and keeps what is done.

A part is a file of vectors with the digests of the products that they belong to. So a build that
was killed takes up every part that it had finished, whatever has changed in between.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from beyond_text.files import atomic_write
from beyond_text.indexing.models import ModelFacts
from beyond_text.indexing.source import WIDTH, Digests
from beyond_text.retrieval.described import Described, Place
from beyond_text.retrieval.truncate import truncate
from beyond_text.terminal import plain

# Products of a part: what a kill can cost each process.
PART = 512


class Part(NamedTuple):
    """Unit vectors of products, and whether the model found anything to encode in each."""

    vectors: Float16[np.ndarray, "products dim"]
    present: Bool[np.ndarray, " products"]


class Task(NamedTuple):
    """What a process needs to encode a part; `loaders` are processes that decode for it."""

    model: ModelFacts
    root: Path
    dim: int
    threads: int = 1
    loaders: int = 0


def read_parts(folder: Path, made_by: Mapping[str, str]) -> Iterator[tuple[Digests, Part]]:
    """Yields the parts of a folder; one of another model, or damaged, is deleted."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                if file.metadata() != dict(made_by):
                    raise ValueError("of another model")
                digests, *part = (file.get_tensor(n) for n in ("digests", *Part._fields))
            vectors, present = part
            fits = (
                digests.dtype == np.uint8
                and digests.shape == (len(vectors), WIDTH)
                and vectors.dtype == np.float16
                and vectors.shape == (len(vectors), int(made_by["dim"]))
                and present.dtype == bool
                and present.shape == (len(vectors),)
            )
            if not fits:
                raise ValueError("of other shapes")
        except (SafetensorError, OSError, ValueError):
            path.unlink()
            continue
        yield digests, Part(vectors, present)


def start_pool(task: Task, workers: int) -> ProcessPoolExecutor | None:
    """Starts processes that load the model, so that they have it when there is work for them.

    Returns None where one process encodes best: for one core or one GPU.
    """
    if workers == 1 or (not task.model.is_export and _has_gpu()):
        return None
    # Not forked: threads of torch and FAISS do not survive that.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start, initargs=(task._replace(threads=1),)
    )
    # The first task starts all processes.
    pool.submit(int)
    return pool


def encode_parts(
    task: Task,
    products: Sequence[Described],
    digests: Digests,
    folder: Path,
    made_by: Mapping[str, str],
    workers: int,
    pool: ProcessPoolExecutor | None = None,
) -> Iterator[tuple[Digests, Part]]:
    """Encodes products; writes each part into a folder, and yields it, as it is done.

    `pool` is one that was started before. Without it, few products are encoded in this process.

    Raises:
        OSError: a part cannot be written.
        ValueError: a product cannot be read, or its vector is not finite.
        RuntimeError: a process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # So few products are encoded before other processes have started.
    if pool is None and len(products) > PART:
        pool = start_pool(task, workers)
    size = max(1, min(PART, -(-len(products) // workers))) if pool else PART
    parts = [products[first : first + size] for first in range(0, len(products), size)]
    encoded = _in_pool(pool, parts) if pool else _in_this_process(task, parts, workers)
    first = 1 + max((int(path.stem) for path in folder.glob("*.safetensors")), default=-1)
    with tqdm(total=len(products), desc="encoding products", disable=None, unit=" products") as bar:
        for number, part in encoded:
            here = digests[number * size : number * size + size]
            arrays = {"digests": np.ascontiguousarray(here), **part._asdict()}
            path = folder / f"{first + number:08}.safetensors"
            with atomic_write(path, binary=True) as file:
                file.write(save(arrays, dict(made_by)))
            bar.update(len(here))
            yield here, part


def _in_this_process(
    task: Task, parts: Sequence[Sequence[Described]], workers: int
) -> Iterator[tuple[int, Part]]:
    """Yields the number of each part, and the part."""
    if parts:
        # A GPU's process is fed by others.
        on_gpu = not task.model.is_export and _has_gpu()
        _start(task._replace(loaders=workers if on_gpu else 0, threads=workers))
    for number, part in enumerate(parts):
        yield number, _encode(part)


def _in_pool(
    pool: ProcessPoolExecutor, parts: Sequence[Sequence[Described]]
) -> Iterator[tuple[int, Part]]:
    """Yields the number of each part, and the part, as they are done; then ends the pool."""
    with pool:
        running: dict[Future[Part], int] = {}
        try:
            running = {pool.submit(_encode, part): n for n, part in enumerate(parts)}
            for done in as_completed(running):
                yield running[done], done.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process that encodes was killed, perhaps for want of memory: try fewer --workers"
            ) from error
        finally:
            for future in running:
                future.cancel()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# A process encodes by one model, which is loaded when it starts.
_ENCODER: Any = None


def _start(task: Task) -> None:
    """Loads the model; lets a process end when the one that started it was killed."""
    global _ENCODER
    if parent_process() is not None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    _ENCODER = ExportEncoder(task) if task.model.is_export else RunEncoder(task)


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _encode(products: Sequence[Described]) -> Part:
    return _ENCODER(products)


class RunEncoder:
    """Encodes products by a run's model."""

    def __init__(self, task: Task) -> None:
        import torch

        from beyond_text.retrieval.run import load_run

        if parent_process() is not None:
            torch.set_num_threads(task.threads)
        self.task = task
        self.encoder = replace(load_run(task.model.path), workers=task.loaders)

    def __call__(self, products: Sequence[Described]) -> Part:
        """Returns the vectors of products, narrowed to the index's width."""
        from beyond_text.retrieval.catalogue import Catalogue, PlacedProducts
        from beyond_text.retrieval.encode import encode_products

        _, image_size, stored_size = self.task.model.reads
        samples = PlacedProducts(self.task.root, products, stored_size, image_size)
        ids = [str(number) for number in range(len(products))]
        found = encode_products(self.encoder, Catalogue(samples, ids))["product"]
        rows = np.array([int(each) for each in found.ids], dtype=np.int64)
        return part_of(products, rows, found.vectors, self.task.dim)


class ExportEncoder:
    """Encodes products by an export's graphs, without torch."""

    def __init__(self, task: Task) -> None:
        from beyond_text.encoding.model import load

        self.task = task
        self.model = load(task.model.path, threads=task.threads)

    def __call__(self, products: Sequence[Described]) -> Part:
        """Returns the vectors of products, narrowed to the index's width."""
        from beyond_text.tables.pictures import PictureError

        pictures = [[(place, self._read(place)) for place in each.pictures] for each in products]
        try:
            return self._encode(products, pictures)
        except PictureError:
            # As with a run: of tables such a picture is not used, of shards it is an error.
            usable = [[pair for pair in row if self._is_usable(*pair)] for row in pictures]
            return self._encode(products, usable)

    def _encode(
        self, products: Sequence[Described], pictures: Sequence[Sequence[tuple[Place, bytes]]]
    ) -> Part:
        texts = [each.text if each.text.strip() else "" for each in products]
        images = [[data for _, data in row if data] for row in pictures]
        rows = np.array([n for n, each in enumerate(texts) if each or images[n]], dtype=np.int64)
        vectors = np.zeros((0, self.task.model.dim), dtype=np.float32)
        if len(rows):
            vectors = self.model.encode_products(
                [texts[row] for row in rows], [images[row] or None for row in rows]
            )
        return part_of(products, rows, vectors, self.task.dim)

    def _read(self, place: Place) -> bytes:
        """Reads a picture; of tables, one that is gone is empty."""
        from beyond_text.tables.pictures import PictureError

        try:
            return place.read(self.task.root)
        except PictureError as error:
            if place.size:
                raise
            print(plain(f"{self.task.root / place.file}: not used: {error}"))
            return b""

    def _is_usable(self, place: Place, data: bytes) -> bool:
        from beyond_text.tables.pictures import PictureError, decode_picture

        try:
            decode_picture(data)
        except PictureError as error:
            if place.size:
                detail = f"{self.task.root / str(place)}: {error.detail}"
                raise PictureError(error.reason, detail) from error
            if data:
                print(plain(f"{self.task.root / place.file}: not used: {error}"))
            return False
        return True


def part_of(products: Sequence[Described], rows: np.ndarray, vectors: np.ndarray, dim: int) -> Part:
    """Makes a part of the vectors of those products that have one, by their rows.

    Raises:
        ValueError: a vector is not finite; names the product.
    """
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        name = products[int(rows[wrong.argmax()])].product_id
        raise ValueError(f"vector of product {name!r} is not finite")
    part = Part(
        np.zeros((len(products), dim), dtype=np.float16), np.zeros(len(products), dtype=bool)
    )
    part.vectors[rows] = truncate(vectors, dim)
    part.present[rows] = True
    return part
