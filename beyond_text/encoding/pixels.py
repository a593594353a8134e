"""Turns a picture's file into the pixels that a graph takes, without torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from beyond_text.encoding.preprocessing import Pictures
from beyond_text.tables.pictures import decode_array, is_reduced, reduce_picture

# The weights of PyTorch's resizing are of 16 bits, with as many behind the point as fit.
LARGEST_WEIGHT, MOST_BITS = 2**15, 22


def square_of(data: bytes, settings: Pictures) -> UInt8[np.ndarray, "3 size size"]:
    """Returns the pixels of a picture, reduced as into shards and squeezed to a square.

    Raises:
        PictureError: the bytes are no picture that can be used.
    """
    if not is_reduced(data, settings.stored_size):
        data = reduce_picture(data, settings.stored_size)
    pixels = decode_array(data, reduce_to=settings.image_size)
    return squeezed(pixels, settings.image_size).transpose(2, 0, 1)


def squeezed(
    pixels: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Squeezes pixels to a square by the antialiased bilinear filter, bit by bit as torchvision.

    Columns first, then rows, each rounded to 8 bits.
    """
    height, width, _ = pixels.shape
    rows = _weighted(pixels.transpose(1, 0, 2).reshape(width, -1), width, size)
    rows = rows.reshape(size, height, 3).transpose(1, 0, 2).reshape(height, -1)
    return _weighted(rows, height, size).reshape(size, size, 3)


def _weighted(lines: np.ndarray, side: int, size: int) -> np.ndarray:
    """Mixes the `side` lines of pixels to `size` lines."""
    if side == size:
        return lines
    first, weights, bits = _weights(side, size)
    mixed = np.full((size, lines.shape[1]), 1 << (bits - 1), dtype=np.int32)
    for number, weight in enumerate(weights):
        mixed += weight[:, None] * lines[np.minimum(first + number, side - 1)]
    return (mixed >> bits).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=1024)
def _weights(
    side: int, size: int
) -> tuple[Int64[np.ndarray, " size"], Int32[np.ndarray, "taps size"], int]:
    """Returns the first of `side` pixels that each of `size` is mixed of, and their weights.

    The weights are whole numbers with `bits` bits behind the point.
    """
    scale = side / size
    support = max(scale, 1.0)
    centres = scale * (np.arange(size) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), side)
    places = first + np.arange((last - first).max())[:, None]
    weights = np.maximum(1 - np.abs((places - centres + 0.5) / support), 0.0) * (places < last)
    weights /= weights.sum(axis=0)
    bits = 0
    while bits < MOST_BITS and int(0.5 + weights.max() * 2 ** (bits + 1)) < LARGEST_WEIGHT:
        bits += 1
    return first, np.floor(weights * 2**bits + 0.5).astype(np.int32), bits
