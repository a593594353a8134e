"""Colours of parts that are not in the product's own, and the height at which objects stand."""

from __future__ import annotations

from data_prep.catalogue.layer import Rgb

FOOT = 0.85
OAK: Rgb = (0.72, 0.55, 0.38)
IRON: Rgb = (0.17, 0.17, 0.18)
BRASS: Rgb = (0.76, 0.62, 0.34)
PAPER: Rgb = (0.97, 0.965, 0.95)
GLOW: Rgb = (1.0, 0.93, 0.74)


def dark(colour: Rgb, factor: float = 0.45) -> Rgb:
    """Returns the colour with its light reduced to `factor`."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
