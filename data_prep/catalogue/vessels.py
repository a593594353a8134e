"""Paints turned objects and the like: vases, pots, bowls, plates, mugs, candles, baskets."""

from __future__ import annotations

import numpy as np

from data_prep.catalogue.layer import Layer, bar, box, ellipse, spline, stroke, turned
from data_prep.catalogue.materials import FOOT, GLOW, IRON, OAK, PAPER, dark

_VASES = {
    "bottle": ((-0.8, 0.16), (-0.74, 0.13), (-0.3, 0.14), (0.0, 0.34), (0.4, 0.48), (FOOT, 0.3)),
    "urn": ((-0.6, 0.34), (-0.52, 0.26), (-0.3, 0.36), (0.0, 0.58), (0.4, 0.46), (FOOT, 0.24)),
    "cylinder": ((-0.75, 0.37), (-0.7, 0.35), (0.0, 0.35), (0.6, 0.35), (FOOT, 0.34)),
    "bulb": ((-0.6, 0.2), (-0.5, 0.16), (-0.2, 0.2), (0.1, 0.56), (0.5, 0.62), (FOOT, 0.36)),
}


def _vessel(layer: Layer, *profile: tuple[float, float]) -> None:
    """Paints a turned body with the dark ellipse of its mouth on top."""
    layer.paint(turned(*profile), "turned")
    top, width = profile[0]
    layer.paint(ellipse(0, top, width, 0.16 * width), colour=layer.look.colour)
    layer.paint(
        ellipse(0, top, 0.86 * width, 0.115 * width), colour=dark(layer.look.colour), opacity=0.9
    )


def vase(layer: Layer, shape: str) -> None:
    """Paints a vase of a shape."""
    _vessel(layer, *_VASES[shape])


_POTS = {
    "tapered": ((0.0, 0.5), (0.1, 0.48), (0.5, 0.41), (FOOT, 0.33)),
    "round": ((0.0, 0.4), (0.08, 0.46), (0.42, 0.58), (0.7, 0.46), (FOOT, 0.3)),
    "footed": ((-0.05, 0.5), (0.2, 0.5), (0.5, 0.46), (0.62, 0.3), (0.72, 0.26), (FOOT, 0.34)),
}


def plant_pot(layer: Layer, shape: str) -> None:
    """Paints a pot with a plant of a shape."""
    for angle, length in zip((-64, -38, -14, 12, 36, 62), (0.6, 0.78, 0.9, 0.86, 0.74, 0.58),
                             strict=True):  # fmt: skip
        turn = np.radians(angle)
        blade = spline([(0, 0), (-0.1, -0.5 * length), (0, -length), (0.1, -0.5 * length)])
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        green = 0.46 + 0.08 * np.cos(5 * turn)
        layer.paint(blade @ spin + (0, 0.05), "soft", colour=(0.34, green, 0.27))
    _vessel(layer, *_POTS[shape])


_BOWLS = {
    "deep": ((-0.1, 0.72), (0.1, 0.72), (0.5, 0.62), (0.74, 0.4), (0.78, 0.27), (FOOT, 0.27)),
    "wide": ((0.15, 0.88), (0.3, 0.84), (0.6, 0.58), (0.76, 0.34), (FOOT, 0.32)),
    "footed": ((-0.1, 0.76), (0.1, 0.7), (0.4, 0.42), (0.52, 0.16), (0.7, 0.14), (FOOT, 0.36)),
}


def bowl(layer: Layer, shape: str) -> None:
    """Paints a bowl of a shape."""
    profile = _BOWLS[shape]
    layer.paint(turned(*profile), "turned")
    top, width = profile[0]
    layer.paint(ellipse(0, top, width, 0.24 * width), colour=layer.look.colour)
    layer.paint(ellipse(0, top, 0.94 * width, 0.2 * width), "dished", repeat=0.8)


def plate(layer: Layer, shape: str) -> None:
    """Paints a plate of a shape."""
    if shape == "square":
        layer.paint(box(-0.8, -0.8, 0.8, 0.8, 0.22), "soft")
        layer.paint(box(-0.56, -0.56, 0.56, 0.56, 0.16), "dished")
        return
    layer.paint(ellipse(0, 0, 0.88), "soft")
    layer.paint(ellipse(0, 0, 0.88), colour=layer.look.accent, holes=[ellipse(0, 0, 0.85)])
    layer.paint(ellipse(0, 0, 0.56 if shape == "rimmed" else 0.74), "dished")


_MUGS = {
    "straight": ((-0.5, 0.52), (-0.4, 0.51), (0.5, 0.51), (0.76, 0.5), (FOOT, 0.44)),
    "round": ((-0.4, 0.48), (-0.2, 0.54), (0.3, 0.62), (0.7, 0.5), (FOOT, 0.34)),
    "flared": ((-0.5, 0.6), (-0.2, 0.55), (0.4, 0.46), (0.76, 0.4), (FOOT, 0.36)),
}


def mug(layer: Layer, shape: str) -> None:
    """Paints a mug of a shape."""
    handle = spline([(0.4, -0.22), (0.74, -0.2), (0.86, 0.1), (0.74, 0.42), (0.38, 0.48)], False)
    layer.paint(stroke(handle, 0.12), "soft", material="none")
    _vessel(layer, *_MUGS[shape])
    top, width = _MUGS[shape][0]
    coffee = ellipse(0, top + 0.015, 0.8 * width, 0.09 * width)
    layer.paint(coffee, colour=(0.3, 0.18, 0.11))


def _flame(layer: Layer, x: float, y: float) -> None:
    """Paints a burning wick with its foot at (x, y)."""
    layer.paint(bar(x, y, x, y - 0.08, 0.02), colour=IRON)
    layer.paint(spline([(x, y - 0.3), (x + 0.06, y - 0.12), (x, y - 0.05), (x - 0.06, y - 0.12)]),
                colour=(1.0, 0.76, 0.3))  # fmt: skip
    layer.paint(ellipse(x, y - 0.11, 0.025, 0.05), colour=GLOW)


def candle(layer: Layer, shape: str) -> None:
    """Paints candles of a shape."""
    pillars = {
        "pillar": ((0.0, -0.4, 0.36),),
        "jar": ((0.0, -0.1, 0.5),),
        "group": ((-0.4, -0.05, 0.24), (0.42, 0.2, 0.26), (0.02, -0.45, 0.25)),
    }
    for x, top, width in pillars[shape]:
        body = turned((top, width), (top + 0.1, width), (FOOT - 0.1, width), (FOOT, width - 0.02))
        layer.paint(np.add(body, (x, 0)), "turned")
        wax = PAPER if shape == "jar" else layer.look.colour
        layer.paint(ellipse(x, top, width, 0.14 * width), colour=layer.look.accent)
        layer.paint(ellipse(x, top, 0.92 * width, 0.12 * width), colour=wax)
        _flame(layer, x, top + 0.02)


_BASKETS = {
    "tall": ((-0.55, 0.52), (-0.4, 0.53), (0.3, 0.5), (FOOT, 0.42)),
    "wide": ((0.0, 0.84), (0.1, 0.83), (0.5, 0.76), (FOOT, 0.64)),
    "handled": ((-0.15, 0.66), (0.0, 0.67), (0.5, 0.62), (FOOT, 0.52)),
}


def basket(layer: Layer, shape: str) -> None:
    """Paints a basket of a shape."""
    top, width = _BASKETS[shape][0]
    if shape == "handled":
        loop = spline([(-0.6, top), (-0.45, -0.75), (0, -0.9), (0.45, -0.75), (0.6, top)], False)
        layer.paint(stroke(loop, 0.07), "soft", colour=OAK)
    _vessel(layer, *_BASKETS[shape])
    rim = [ellipse(0, top, width * 0.88, 0.12 * width)]
    layer.paint(ellipse(0, top, width, 0.16 * width), colour=layer.look.accent, holes=rim)
