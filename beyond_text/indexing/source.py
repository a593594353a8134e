"""Reads the products of shards or tables for an index, with a digest of what a model sees of each.

What an earlier index knows is not read again: pictures of shards whose checksum is the same, and
whether a picture of tables can be decoded. Pictures are otherwise read as bytes, never decoded.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from tqdm import tqdm

from beyond_text.files import sha256_of
from beyond_text.indexing.facts import Source
from beyond_text.indexing.seen import Seen
from beyond_text.retrieval.described import Described, Place, place_of_file
from beyond_text.retrieval.threads import map_in_threads
from beyond_text.shards.manifest import ShardError, read_manifest
from beyond_text.shards.store import Folder, Store, holds_shards
from beyond_text.tables.layouts import DEFAULT_LAYOUT, TableError, find_table, find_tables

# Bytes of a digest.
WIDTH = 16
NO_PICTURE = bytes(WIDTH)
Digests = UInt8[np.ndarray, "products 16"]


class Reads(NamedTuple):
    """What a model reads of a product: the names of texts, and sides of pictures in pixels."""

    text_fields: list[str]
    image_size: int
    stored_size: int


class Content(NamedTuple):
    """Products in descending order of their product_ids, and their digests.

    Attributes:
        root: the folder that the pictures' places are in.
        products: each product once.
        digests: of text and all pictures of each.
        pictures: of the main picture of each; zeros where there is none.
    """

    root: Folder
    products: list[Described]
    digests: Digests
    pictures: Digests


class Known:
    """What an earlier index of the same folder knows; an empty one knows nothing.

    Args:
        shards: the checksum of each shard.
        products: the table of the index's products.
    """

    def __init__(
        self, shards: Mapping[str, str] | None = None, products: pa.Table | None = None
    ) -> None:
        self.shards = shards or {}
        self._products = products

    @cached_property
    def usable(self) -> set[bytes]:
        """The digests of the main pictures."""
        return set(self._products["picture"].to_pylist()) if self._products is not None else set()

    @cached_property
    def _rows(self) -> dict[str, tuple[str, Place, bytes, bytes]]:
        """Text, place of the main picture and the two digests of each product."""
        if self._products is None:
            return {}
        columns = {name: self._products[name].to_pylist() for name in self._products.column_names}
        places = map(Place, *(columns[name] for name in Place._fields))
        known = zip(columns["text"], places, columns["digest"], columns["picture"], strict=True)
        return dict(zip(columns["product_id"], known, strict=True))

    def digests(self, product: Described, shards: Mapping[str, str]) -> tuple[bytes, bytes] | None:
        """Returns the digests of a product whose shard has not changed; None of any other."""
        place = product.pictures[0] if product.pictures else Place("")
        # Of tables there are no shards.
        if place.file not in shards or shards[place.file] != self.shards.get(place.file):
            return None
        text, before, digest, picture = self._rows.get(product.product_id, ("", None, b"", b""))
        return (digest, picture) if before == place and text == product.text else None


def describe_source(folder: Folder, index: Path, split: str | None) -> Source:
    """Says where products come from; reads no more of shards than their manifest.

    Raises:
        ShardError, TableError: no such folder or split.
    """
    place, beside = (folder.name, "") if isinstance(folder, Store) else _places(folder, index)
    if isinstance(folder, Store) or holds_shards(folder):
        splits = read_manifest(folder)["splits"]
        if split is not None and split not in splits:
            raise ShardError(f"{folder}: no split {split!r}; it has {', '.join(splits)}")
        files = chain.from_iterable(entry["shards"] for entry in splits.values())
        shards = {file["file"]: file["sha256"] for file in files}
        digest = hashlib.sha256(Store.of(folder).read_manifest_bytes()).hexdigest()
        return Source(place, beside, split or "", digest, shards)
    if not folder.exists():
        raise TableError(f"{folder}: no such file or folder")
    digests = [sha256_of(path) for path in _tables(folder)]
    digest = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return Source(place, beside, split or "", digest)


def _places(folder: Path, index: Path) -> tuple[str, str]:
    """Returns the absolute path of a folder, or of a file's, and its path from an index."""
    root = (folder if folder.is_dir() else folder.parent).resolve()
    return str(root), os.path.relpath(root, index.resolve())


def root_of(folder: Folder, source: Source) -> Folder:
    """Returns where the pictures' places of a source are."""
    return folder if isinstance(folder, Store) else Path(source.folder)


def _tables(folder: Path) -> list[Path]:
    """Lists the tables that decide which products there are."""
    if not folder.is_dir():
        return [folder]
    layout = DEFAULT_LAYOUT
    sources = (layout.products, layout.queries, layout.qrels, layout.log)
    single = [find_table(folder, source) for source in sources]
    pairs = folder / layout.pairs
    further = [*find_tables(folder, layout.images), *([pairs] if pairs.is_file() else [])]
    return [*filter(None, single), *further]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps the garbage collector from visiting new products, which are in no cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


@_uncollected()
def read_content(
    folder: Folder,
    split: str | None,
    reads: Reads,
    source: Source,
    known: Known,
    files: Seen,
    workers: int,
) -> Content:
    """Reads the products of a folder of shards or tables; `files` says which need not be read.

    Raises:
        TableError, ShardError: no such products.
        RejectError: too many rows or pictures cannot be used.
    """
    root = root_of(folder, source)
    seen = Pictures(root, files)
    if isinstance(folder, Store) or holds_shards(folder):
        described = _of_shards(folder, split, reads)
    else:
        from beyond_text.retrieval.described_tables import describe_tables

        described = describe_tables(
            folder, split, reads.text_fields, lambda path: seen.of_file(path) in known.usable
        )
    # The order of an index.
    described.sort(key=lambda product: product.product_id, reverse=True)

    def digests(product: Described) -> tuple[bytes, bytes]:
        return known.digests(product, source.shards) or seen.digests(product)

    found = map_in_threads(digests, described, workers)
    total = len(described)
    both = list(tqdm(found, desc="reading pictures", total=total, leave=False, disable=None))
    whole, main = (_array([pair[side] for pair in both]) for side in (0, 1))
    return Content(root, described, whole, main)


def _of_shards(folder: Folder, split: str | None, reads: Reads) -> list[Described]:
    """Describes the products of shards."""
    from beyond_text.retrieval.read_split import read_products

    catalogue = read_products(folder, split, *reads)
    products: Any = catalogue.products
    numbers = range(len(catalogue.product_ids))
    shown = tqdm(numbers, desc="reading products", leave=False, disable=None)
    return [products.describe(number) for number in shown]


def _array(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, WIDTH)


class Pictures:
    """Computes digests of products by the bytes of their pictures; each file is read once."""

    def __init__(self, root: Folder, seen: Seen) -> None:
        self.root = root
        self.seen = seen
        self._files: dict[str, bytes] = {}

    def of_file(self, path: str) -> bytes:
        """Returns the digest of a picture's file."""
        assert isinstance(self.root, Path)
        return self._of(place_of_file(path, self.root))

    def digests(self, product: Described) -> tuple[bytes, bytes]:
        """Returns the digests of a product and of its main picture."""
        pictures = [self._of(place) for place in product.pictures]
        text = product.text.encode("utf-8", "surrogatepass")
        return _digest(text, *pictures), pictures[0] if pictures else NO_PICTURE

    def _of(self, place: Place) -> bytes:
        # Without a size it is a file, of tables, which are on a disk.
        if place.size or not isinstance(self.root, Path):
            return self._read(place)
        if place.file not in self._files:
            # Not by Path: most of these files need not be read.
            path = f"{self.root}{os.sep}{place.file}"
            known = self.seen.digest(place.file, path)
            read = partial(self._read, place)
            self._files[place.file] = known or self.seen.note(place.file, path, read)
        return self._files[place.file]

    def _read(self, place: Place) -> bytes:
        try:
            return _digest(place.read(self.root))
        except ValueError as error:
            # Whoever encodes it says so; until it changes it is encoded without.
            return _digest(b"", str(error).encode())


def _digest(*parts: bytes) -> bytes:
    """Returns a digest of bytes, which tells where each part ends."""
    state = hashlib.blake2b(digest_size=WIDTH)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
