"""Computes patterns from surface coordinates: how much of the second colour is where.

Every pattern maps coordinates (u, v), in units of the pattern's repeat, to a weight in [0, 1] of
the same shape: 0 is the product's own colour and always covers the larger part, so that a striped
navy cushion is navy rather than cream. One dict names them all; a test compares it with the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]

_SOFT = 0.03


def _below(value: Field, threshold: float | Field, soft: float = _SOFT) -> Field:
    """Returns 1 where value < threshold, with a soft edge so that edges do not alias."""
    return np.clip((threshold - value) / soft + 0.5, 0, 1)


def _cells(u: Field, v: Field) -> tuple[Field, Field, Field]:
    """Returns offsets from the centre of a staggered grid's cell, turned by its angle, and that."""
    row = np.floor(v)
    shifted = u + 0.5 * (row % 2)
    column = np.floor(shifted)
    # A hash of the cell: neighbouring motifs must not all point one way.
    angle = 6.283 * ((column * 0.618 + row * 0.3819 + 0.17 * column * row) % 1)
    x, y = shifted - column - 0.5, v - row - 0.5
    sine, cosine = np.sin(angle), np.cos(angle)
    return cosine * x + sine * y, cosine * y - sine * x, angle


def _plain(u: Field, v: Field) -> Field:
    return np.zeros_like(u)


def _striped(u: Field, v: Field) -> Field:
    return _below(np.abs(u % 1 - 0.5), 0.2)


def _dotted(u: Field, v: Field) -> Field:
    x, y, _ = _cells(1.25 * u, 1.25 * v)
    return _below(np.hypot(x, y), 0.29)


def _checked(u: Field, v: Field) -> Field:
    return 0.5 * (_below(np.abs(u % 1 - 0.5), 0.23) + _below(np.abs(v % 1 - 0.5), 0.23))


def _floral(u: Field, v: Field) -> Field:
    x, y, _ = _cells(u, v)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = _below(radius, 0.33 + 0.12 * np.cos(5 * angle))
    return petals * (1 - _below(radius, 0.1))


def _chevron(u: Field, v: Field) -> Field:
    return _below(np.abs((v + np.abs(u % 1 - 0.5)) * 1.2 % 1 - 0.5), 0.2)


def _leaf(u: Field, v: Field) -> Field:
    x, y, _ = _cells(u, v)
    blade = _below(np.abs(y), 0.2 * np.clip(1 - (x / 0.48) ** 2, 0, 1))
    midrib = _below(np.abs(y), 0.018)
    veins = _below(np.abs((x * 1.0 - np.abs(y)) * 8 % 1 - 0.5), 0.1, 0.12)
    return blade * (1 - np.maximum(midrib, 0.8 * veins))


def _marbled(u: Field, v: Field) -> Field:
    # Two octaves of domain warping by sines: cheap, and reads as stone.
    x = u + 0.5 * np.sin(1.7 * v + 1.3) + 0.12 * np.sin(3.9 * u - 2.7 * v)
    y = v + 0.5 * np.sin(1.9 * u - 0.7) + 0.12 * np.sin(4.3 * v + 2.1 * u)
    bold = np.abs(np.sin(1.3 * x + 1.9 * y))
    fine = np.abs(np.sin(2.9 * x - 1.2 * y + 1.5 * np.sin(y)))
    return np.maximum(0.9 * _below(bold, 0.14, 0.34), 0.5 * _below(fine, 0.1, 0.3))


def _geometric(u: Field, v: Field) -> Field:
    ring = np.abs(u % 1 - 0.5) + np.abs(v % 1 - 0.5)
    return np.maximum(_below(ring, 0.17), _below(np.abs(ring - 0.38), 0.055))


WEIGHTS: dict[str, Callable[[Field, Field], Field]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "floral": _floral,
    "chevron": _chevron,
    "leaf": _leaf,
    "marbled": _marbled,
    "geometric": _geometric,
}
