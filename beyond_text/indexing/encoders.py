"""Encodes products by a model that a process loads once: a run's by torch, an export's without."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16

from beyond_text.indexing.models import ModelFacts, model_facts
from beyond_text.retrieval.described import Described, Place, check_there, where
from beyond_text.retrieval.truncate import truncate
from beyond_text.shards.store import Folder
from beyond_text.terminal import plain


class Part(NamedTuple):
    """Unit vectors of products, and whether the model found anything to encode in each."""

    vectors: Float16[np.ndarray, "products dim"]
    present: Bool[np.ndarray, " products"]


class Job(NamedTuple):
    """What products are encoded by, where their pictures lie, and the width to narrow vectors to.

    `threads` encode, and `loaders` are processes that decode for a GPU.
    """

    model: ModelFacts
    root: Folder
    dim: int
    threads: int = 1
    loaders: int = 0


# The devices by which Linux gives access to GPUs that torch may use.
GPUS = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")
Encoder = Callable[[Sequence[Described]], Part]
# What a process was told to encode by, and the model that it has loaded: one at a time.
_TOLD: dict[tuple[str, str, int], Job] = {}
_LOADED: dict[tuple[str, str, int], Encoder] = {}


def encode_by(job: Job | None) -> None:
    """Says how this process encodes products, or that it no longer does."""
    _LOADED.clear()
    _TOLD.clear()
    if job:
        _TOLD[job.model.digest, str(job.root), job.dim] = job


def load_encoder(job: Job) -> Encoder:
    """Loads a model, which this process keeps."""
    encode_by(job)
    key = job.model.digest, str(job.root), job.dim
    _LOADED[key] = ExportEncoder(job) if job.model.is_export else RunEncoder(job)
    return _LOADED[key]


def encoder_of(model: Path, digest: str, root: Folder, dim: int) -> Encoder:
    """Returns the model that this process has loaded, or loads it.

    Raises:
        ConfigError: there is no such model.
        ValueError: it has another digest here.
    """
    key = digest, str(root), dim
    if key in _LOADED:
        return _LOADED[key]
    if key in _TOLD:
        return load_encoder(_TOLD[key])
    facts = model_facts(model)
    if facts.digest != digest:
        raise ValueError(f"{model}: not the model that the products are to be encoded by")
    # Of a process, or an actor of Ray, that is one of many.
    cores = int(os.environ.get("OMP_NUM_THREADS") or 1)
    return load_encoder(Job(facts, root, dim, cores, cores if uses_gpu(facts) else 0))


def uses_gpu(model: ModelFacts) -> bool:
    """Says whether a model is run by a GPU here."""
    if model.is_export:
        return False
    # To import torch takes as long as to encode a hundred products.
    if sys.platform == "linux" and not any(chain.from_iterable(map(Path("/dev").glob, GPUS))):
        return False
    import torch

    return torch.cuda.is_available()


class RunEncoder:
    """Encodes products by a run's model."""

    def __init__(self, job: Job) -> None:
        import torch

        from beyond_text.retrieval.run import load_run

        if parent_process() is not None:
            torch.set_num_threads(job.threads)
        self.job = job
        self.encoder = replace(load_run(job.model.path), workers=job.loaders)

    def __call__(self, products: Sequence[Described]) -> Part:
        """Returns the vectors of products, narrowed to the index's width."""
        from beyond_text.retrieval.catalogue import Catalogue, PlacedProducts
        from beyond_text.retrieval.encode import encode_products

        _, image_size, stored_size = self.job.model.reads
        samples = PlacedProducts(self.job.root, products, stored_size, image_size)
        ids = [str(number) for number in range(len(products))]
        found = encode_products(self.encoder, Catalogue(samples, ids))["product"]
        rows = np.array([int(each) for each in found.ids], dtype=np.int64)
        return part_of(products, rows, found.vectors, self.job.dim)


class ExportEncoder:
    """Encodes products by an export's graphs, without torch."""

    def __init__(self, job: Job) -> None:
        from beyond_text.encoding.model import load

        self.job = job
        self.model = load(job.model.path, threads=job.threads)

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
        vectors = np.zeros((0, self.job.model.dim), dtype=np.float32)
        if len(rows):
            vectors = self.model.encode_products(
                [texts[row] for row in rows], [images[row] or None for row in rows]
            )
        return part_of(products, rows, vectors, self.job.dim)

    def _read(self, place: Place) -> bytes:
        """Reads a picture; of tables, one that is too large is empty, one that is gone an error."""
        from beyond_text.tables.pictures import PictureError

        if not place.size:
            check_there(Path(where(self.job.root, place.file)))
        try:
            return place.read(self.job.root)
        except PictureError as error:
            if place.size:
                raise
            print(plain(f"{where(self.job.root, place.file)}: not used: {error}"))
            return b""

    def _is_usable(self, place: Place, data: bytes) -> bool:
        from beyond_text.tables.pictures import PictureError, decode_picture

        try:
            decode_picture(data)
        except PictureError as error:
            if place.size:
                detail = f"{where(self.job.root, place)}: {error.detail}"
                raise PictureError(error.reason, detail) from error
            if data:
                print(plain(f"{where(self.job.root, place.file)}: not used: {error}"))
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
