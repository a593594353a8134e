"""Turns a stored picture into the square that an image encoder takes, augmented in training.

torchvision crops, resizes and flips; the random parameters are ours, because they must depend on
the run's seed, the epoch and the product alone, whatever the number of loading processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import crop, horizontal_flip, resize


def to_square(
    picture: UInt8[Tensor, "3 height width"],
    size: int,
    seed: Sequence[int] | None = None,
    smallest_crop: float = 1.0,
) -> UInt8[Tensor, "3 {size} {size}"]:
    """Squeezes a picture to a square, as SigLIP's processor does; channels last in memory.

    Args:
        picture: pixels, channels last in memory.
        size: pixels a side of the result.
        seed: of the augmentation; None leaves the picture as it is.
        smallest_crop: share of each side, above 0 and up to 1, that a random crop keeps at least.
            Half of the crops are mirrored.
    """
    mirrored = False
    if seed is not None:
        # Seeded by a text, since Python hashes no tuples; many times faster to make than NumPy's.
        random = Random(repr(tuple(seed)))
        (top, height), (left, width) = (
            _random_part(side, smallest_crop, random) for side in picture.shape[1:]
        )
        picture = crop(picture, top, left, height, width)
        mirrored = random.random() < 0.5
    # A copy in one piece: torchvision resizes a cropped view by a slower path.
    picture = picture.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    resized = resize(picture, [size, size])
    return horizontal_flip(resized) if mirrored else resized


def _random_part(side: int, smallest: float, random: Random) -> tuple[int, int]:
    """Draws the start and the length of a part of a side, in pixels."""
    length = math.ceil(random.uniform(smallest, 1) * side)
    return random.randint(0, side - length), length
