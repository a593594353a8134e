"""Reads the outputs of frozen towers from blocks on disk, by keys.

A block is two arrays: the 64-bit keys of its inputs, and their outputs in float16, mapped into
memory. An output is a vector, tokens in a row, or both (`models/layout.py`). A picture's key is the
number of its product and its own; a text's is a digest of its tokens, so a text is found whatever
batch or product it is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.files import atomic_write
from beyond_text.models.towers import Tower
from beyond_text.retrieval.catalogue import ShardProducts
from beyond_text.shards.batch import Sample, product_sample
from beyond_text.shards.manifest import ShardError

# Pictures of one product are fewer.
MOST_PICTURES = 256
LARGEST = float(np.finfo(np.float16).max)


def text_keys(ids: Tensor, mask: Tensor) -> Int64[np.ndarray, " texts"]:
    """Returns a 64-bit key of each text: a digest of its tokens [texts, length], not of padding."""
    rows = [row[real] for row, real in zip(ids.cpu(), mask.cpu().bool(), strict=True)]
    digests = [hashlib.blake2b(row.contiguous().numpy(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), dtype="<i8")


def picture_keys(
    product: Int64[np.ndarray, " pictures"], picture: Int64[np.ndarray, " pictures"]
) -> Int64[np.ndarray, " pictures"]:
    """Returns the keys of pictures: the number of the product, and which of its pictures it is."""
    return product * MOST_PICTURES + picture


class Block(NamedTuple):
    """A block of outputs on disk, as the two files that it may have."""

    vectors: Path
    keys: Path

    @classmethod
    def of(cls, folder: Path, kind: str, start: int) -> Block:
        """Returns the block of a kind of inputs from the number `start` on."""
        return cls(folder / f"{kind}-{start:09d}.npy", folder / f"{kind}-{start:09d}.keys.npy")

    @property
    def is_whole(self) -> bool:
        """Whether it was written to its end; the keys come last."""
        return self.keys.is_file()

    def write(self, keys: Int64[np.ndarray, " inputs"], vectors: Float[Tensor, "inputs f"]) -> None:
        """Writes both files, each completely or not at all."""
        # What float16 cannot hold is kept as it is.
        fits = bool(vectors.abs().max() < LARGEST) if vectors.numel() else True
        self.vectors.parent.mkdir(parents=True, exist_ok=True)
        pooled = vectors.numpy().astype(np.float16 if fits else np.float32)
        for path, array in ((self.vectors, pooled), (self.keys, keys)):
            with atomic_write(path, binary=True) as file:
                np.save(file, array, allow_pickle=False)


class Outputs:
    """The outputs of one tower that blocks hold.

    Raises:
        ShardError: a file is damaged.
    """

    def __init__(self, blocks: Sequence[Block], width: int) -> None:
        self.width = width
        self.vectors: list[np.ndarray] = []
        keys = [np.zeros(0, "<i8")]
        for block in blocks:
            own, vectors = _mapped(block.keys), _mapped(block.vectors)
            if own.shape != vectors.shape[:1] or vectors.shape[1:] != (width,):
                raise ShardError(
                    f"{block.vectors}: damaged: expected {width} numbers for each of {len(own)} "
                    f"inputs, got {list(vectors.shape)}; delete it and {block.keys.name}"
                )
            keys.append(own)
            self.vectors.append(vectors)
        self.dtype = np.result_type(np.float16, *(part.dtype for part in self.vectors))
        self.keys = np.concatenate(keys)
        self.starts = np.cumsum([0, *map(len, self.vectors)])
        # Pictures lie in the order of their keys.
        self.order: np.ndarray | None = None
        if (self.keys[1:] < self.keys[:-1]).any():
            self.order = self.keys.argsort(kind="stable")
            self.keys = self.keys[self.order]

    def find(
        self, keys: Int64[np.ndarray, " inputs"]
    ) -> tuple[Float[np.ndarray, "inputs features"], Bool[np.ndarray, " inputs"]]:
        """Returns the vector of each key (zeros if there is none), and which keys have one."""
        position = np.searchsorted(self.keys, keys)
        is_there = position < len(self.keys)
        is_there[is_there] = self.keys[position[is_there]] == keys[is_there]
        record = np.where(is_there, position, -1)
        if self.order is not None:
            record[is_there] = self.order[position[is_there]]
        found = np.zeros((len(keys), self.width), dtype=self.dtype)
        block = np.searchsorted(self.starts, record, side="right") - 1
        for number in np.unique(block[is_there]):
            rows = is_there & (block == number)
            found[rows] = self.vectors[number][record[rows] - self.starts[number]]
        return found, is_there


def _mapped(path: Path) -> np.ndarray:
    """Maps an array of a file into memory."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path}: damaged: {error}; delete it") from error


class CachedTexts:
    """Gives a text tower's outputs: from blocks that hold the text, else by the tower."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def __call__(self, tower: Tower, inputs: Sequence[Tensor]) -> Float[Tensor, "texts features"]:
        """Returns the tower's float32 output for tokens and their mask."""
        vectors, is_there = self.outputs.find(text_keys(*inputs))
        outputs = torch.from_numpy(vectors).to(inputs[0].device).float()
        if not is_there.all():
            new = torch.from_numpy(~is_there).to(outputs.device)
            outputs[new] = tower.flat(*(part[new] for part in inputs)).float()
        return outputs


class CachedPictures(NamedTuple):
    """Gives the image tower's vectors of the pictures of a split, which then are not decoded."""

    products: Outputs
    queries: Outputs

    def of_product(self, sample: int, picture: int) -> Float[Tensor, " features"] | None:
        """Returns the vector of one of a product's pictures; None where it could not be read."""
        return _one(self.products, picture_keys(np.array([sample]), np.array([picture])))

    def of_query(self, number: int) -> Float[Tensor, " features"] | None:
        """Returns the vector of the number-th picture of a query."""
        return _one(self.queries, np.array([number]))


def _one(outputs: Outputs, key: Int64[np.ndarray, " 1"]) -> Tensor | None:
    vectors, is_there = outputs.find(key)
    return torch.from_numpy(vectors[0]) if is_there[0] else None


def as_given(tower: Tower, inputs: Sequence[Tensor]) -> Float[Tensor, "pictures features"]:
    """Returns vectors that stand in the places of pictures as they are; encodes pictures."""
    return inputs[0].float() if inputs[0].is_floating_point() else tower.flat(*inputs)


class CachedProducts(Dataset[Sample]):
    """Reads products of splits with vectors in the places of their pictures."""

    def __init__(self, products: ShardProducts, cached: Sequence[CachedPictures]) -> None:
        self.products = products
        self.cached = cached

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th product.

        Raises:
            ShardError: as the products themselves.
        """
        split, sample = self.products.places[number]
        shards = self.products.splits[split]
        fields, _ = shards.read(sample, None)
        vectors = [
            self.cached[split].of_product(sample, picture)
            for picture in shards.picture_numbers(sample)
        ]
        known = [vector for vector in vectors if vector is not None]
        if len(known) < len(vectors):
            # A picture that could not be read is an error, as without a cache.
            return self.products[number]
        return product_sample(fields["product_id"], shards.text_of(fields), known)
