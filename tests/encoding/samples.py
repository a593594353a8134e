"""Texts and pictures of queries and products, and models that are off their start."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image

from beyond_text.models.two_tower import TwoTower
from tests.conftest import COLOURS, KINDS

WORDS = (*COLOURS, *KINDS, "a", "the", "home", "decor")


def moved(model: TwoTower) -> TwoTower:
    """Moves every weight off its start, so that no term of a fusion is zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return model.eval()


def some_pictures(count: int) -> list[bytes]:
    """Returns JPEGs and PNGs of many sizes."""
    random = np.random.default_rng(count)
    pictures = []
    for number in range(count):
        height, width = random.integers(20, 60, 2)
        colour = random.integers(0, 256, 3)
        pixels = np.clip(colour + random.integers(-60, 60, (height, width, 3)), 0, 255)
        encoded = BytesIO()
        kind = ("JPEG", "PNG")[number % 2]
        Image.fromarray(pixels.astype(np.uint8)).save(encoded, kind)
        pictures.append(encoded.getvalue())
    return pictures


def some_texts(count: int) -> list[str]:
    """Returns texts of 2 to 20 words, the longer of which a tiny model cuts."""
    random = np.random.default_rng(count)
    return [" ".join(random.choice(WORDS, 2 + number % 19)) for number in range(count)]


def some_products(count: int) -> tuple[list[str], list[bytes]]:
    """Returns texts and pictures of products."""
    return some_texts(count), some_pictures(count)
