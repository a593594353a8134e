"""TODO shards.transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F


def squared(
    picture: UInt8[Tensor, "3 height width"],
    size: int,
    seed: Sequence[int] | None = None,
    smallest_crop: float = 1.0,
) -> UInt8[Tensor, "3 {size} {size}"]:
    """The picture squeezed to a square, as SigLIP's, channels last in memory.

    With a seed, a random crop of at least that share of each side, mirrored half of the time.
    """
    pixels = picture.permute(1, 2, 0)
    mirrored = False
    if seed is not None:
        # Of a text, for Python hashes no tuples; many times faster to make than NumPy's.
        random = Random(repr(tuple(seed)))
        for axis, side in enumerate(pixels.shape[:2]):
            kept = math.ceil(random.uniform(smallest_crop, 1) * side)
            pixels = pixels.narrow(axis, random.randint(0, side - kept), kept)
        mirrored = random.random() < 0.5
    # In one piece and seen as channels last, or it takes its slow way.
    whole = pixels.contiguous()[None].permute(0, 3, 1, 2)
    resized = F.interpolate(whole, (size, size), mode="bilinear", antialias=True)[0]
    return resized.flip(2) if mirrored else resized
