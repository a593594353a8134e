"""Paints the twenty kinds of object, each by a function of a layer and a shape.

An object fills about [-0.9, 0.9]; what stands has its foot at y = FOOT. Parts without a colour
take the product's own colour, pattern and material, and make up most of what is seen. `DRAW`
names them all; a test compares it with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_prep.catalogue.layer import Layer, Rgb, bar, box, ellipse, spline, stroke, turned
from data_prep.catalogue.materials import BRASS, FOOT, GLOW, IRON, OAK, PAPER, dark
from data_prep.catalogue.vessels import basket, bowl, candle, mug, plant_pot, plate, vase


def _cushion(layer: Layer, shape: str) -> None:
    if shape == "round":
        layer.paint(ellipse(0, 0.05, 0.8), "soft")
        layer.paint(ellipse(0, 0.02, 0.07), "soft")
        return
    wide, tall = (0.8, 0.8) if shape == "square" else (0.92, 0.6)
    middle = FOOT - tall
    # Corners reach out and edges sag in: what makes a square read as a stuffed cushion.
    around = [
        (x * wide * (0.9 if 0 in (x, y) else 1), middle + y * tall * (0.9 if 0 in (x, y) else 1))
        for x, y in ((-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0))
    ]
    layer.paint(spline(around), "soft")


def _throw(layer: Layer, shape: str) -> None:
    if shape == "folded":
        for number, top in enumerate((0.3, 0.02, -0.26)):
            shift = 0.03 * (number - 1)
            layer.paint(box(-0.85 + shift, top, 0.85 + shift, top + 0.36, 0.17), "soft")
        for x in np.linspace(-0.78, 0.72, 22):
            layer.paint(bar(x, 0.62, x + 0.01, 0.76, 0.022), colour=layer.look.colour)
        return
    layer.paint(box(-0.8, -0.36, 0.86, 0.36, 0.3), "soft")
    for x in (-0.3, 0.42):
        layer.paint(box(x - 0.035, -0.37, x + 0.035, 0.37, 0.01), "soft", colour=OAK)
    layer.paint(ellipse(-0.7, 0, 0.2, 0.36), "soft", colour=layer.look.colour)
    angle = np.linspace(0.5, 6 * np.pi, 120)
    spiral = np.stack([-0.7 + 0.0098 * angle * np.cos(angle), 0.0175 * angle * np.sin(angle)], 1)
    layer.paint(stroke(spiral, 0.02), colour=dark(layer.look.colour, 0.6))


def _rug(layer: Layer, shape: str) -> None:
    if shape == "round":
        layer.paint(ellipse(0, 0, 0.9))
        layer.paint(ellipse(0, 0, 0.9), colour=layer.look.accent, holes=[ellipse(0, 0, 0.84)])
        return
    wide, tall = (0.9, 0.64) if shape == "rectangle" else (0.92, 0.4)
    for y in np.linspace(-tall + 0.03, tall - 0.03, 26):
        for side in (-1, 1):
            end = side * (wide + 0.07)
            layer.paint(bar(side * wide * 0.98, y, end, y + 0.01, 0.018), colour=layer.look.accent)
    edge = box(-wide, -tall, wide, tall, 0.02)
    layer.paint(edge)
    inner = [box(-wide + 0.06, -tall + 0.06, wide - 0.06, tall - 0.06, 0.01)]
    layer.paint(edge, colour=layer.look.accent, holes=inner, opacity=0.8)


def _curtain(layer: Layer, shape: str) -> None:
    bottom = 0.3 if shape == "short" else 0.92
    if shape != "closed":
        layer.paint(box(-0.5, -0.72, 0.5, 0.25, 0), colour=(0.9, 0.94, 0.97))
        for x in (-0.5, 0.0, 0.5):
            layer.paint(bar(x, -0.72, x, 0.25, 0.04), colour=PAPER)
        layer.paint(bar(-0.52, 0.25, 0.52, 0.25, 0.05), colour=PAPER)
    layer.paint(bar(-0.95, -0.86, 0.95, -0.86, 0.045), colour=IRON, material="metal")
    inner = 0.02 if shape == "closed" else 0.2
    for side in (-1, 1):
        panel = [(side * 0.88, -0.84), (side * inner, -0.84), (side * (inner + 0.06), 0.0)]
        panel += [(side * (inner + 0.01), bottom), (side * 0.92, bottom)]
        layer.paint(np.array(panel), "folds")


def _bed_linen(layer: Layer, shape: str) -> None:
    if shape == "headboard":
        layer.paint(box(-0.88, -0.62, 0.88, 0.4, 0.1), colour=OAK, material="wood")
    for x in (-0.75, 0.75):
        layer.paint(box(x - 0.05, 0.5, x + 0.05, FOOT, 0.02), colour=OAK, material="wood")
    layer.paint(box(-0.84, 0.1, 0.84, 0.66, 0.06), "soft", colour=PAPER)
    for x in (-0.42, 0.42):
        layer.paint(box(x - 0.36, -0.36, x + 0.36, 0.12, 0.16), "soft")
    cover = [(-0.88, 0.0), (-0.4, -0.05), (0.1, -0.02), (0.88, 0.0), (0.92, 0.4), (0.9, 0.76)]
    layer.paint(spline([*cover, (0.3, 0.72), (-0.4, 0.77), (-0.9, 0.74), (-0.93, 0.4)]), "soft")
    layer.paint(box(-0.9, -0.02, 0.9, 0.12, 0.06), "soft", colour=layer.look.accent)


def _shade(layer: Layer, x: float, top: float, bottom: float, narrow: float, wide: float) -> None:
    """Paints a lamp shade, lit from inside at its lower edge."""
    cone = np.array([(x - narrow, top), (x + narrow, top), (x + wide, bottom), (x - wide, bottom)])
    layer.paint(cone, "turned")
    layer.paint(ellipse(x, bottom, wide, 0.1 * wide), colour=dark(layer.look.colour, 0.6))
    layer.paint(ellipse(x, bottom + 0.01, 0.9 * wide, 0.07 * wide), colour=GLOW)


_LAMP_FEET = {
    "urn": ((0.0, 0.06), (0.15, 0.16), (0.4, 0.34), (0.65, 0.24), (0.78, 0.12), (FOOT, 0.34)),
    "column": ((0.0, 0.09), (0.2, 0.09), (0.7, 0.09), (0.76, 0.14), (FOOT, 0.34)),
    "mushroom": ((0.0, 0.1), (0.2, 0.12), (0.5, 0.2), (0.75, 0.34), (FOOT, 0.4)),
}


def _table_lamp(layer: Layer, shape: str) -> None:
    layer.paint(turned(*_LAMP_FEET[shape]), "turned", material="ceramic")
    if shape == "mushroom":
        dome = turned((-0.72, 0.02), (-0.68, 0.26), (-0.45, 0.62), (-0.1, 0.76), (0.02, 0.74))
        layer.paint(dome, "turned")
        layer.paint(ellipse(0, 0.03, 0.72, 0.05), colour=GLOW)
        return
    _shade(layer, 0, -0.82, 0.02, 0.42 if shape == "urn" else 0.58, 0.68)


def _floor_lamp(layer: Layer, shape: str) -> None:
    if shape == "arc":
        bow = spline([(-0.5, FOOT), (-0.55, 0), (-0.35, -0.7), (0.15, -0.88), (0.42, -0.6)], False)
        layer.paint(ellipse(-0.5, FOOT - 0.02, 0.26, 0.05), colour=IRON)
        layer.paint(stroke(bow, 0.045), colour=BRASS, material="metal")
        _shade(layer, 0.42, -0.62, -0.1, 0.22, 0.46)
        return
    if shape == "tripod":
        for x in (-0.42, 0.42, 0.05):
            layer.paint(bar(0, -0.3, x, FOOT, 0.055), colour=OAK, material="wood")
    else:
        layer.paint(bar(0, -0.3, 0, FOOT - 0.03, 0.05), colour=BRASS, material="metal")
        layer.paint(ellipse(0, FOOT - 0.03, 0.3, 0.06), colour=BRASS, material="metal")
    _shade(layer, 0, -0.92, -0.2, 0.4, 0.58)


def _pendant_lamp(layer: Layer, shape: str) -> None:
    layer.paint(bar(0, -1, 0, -0.2, 0.025), colour=IRON)
    if shape == "globe":
        layer.paint(ellipse(0, 0.2, 0.62), "turned")
        layer.paint(box(-0.12, -0.5, 0.12, -0.36, 0.03), colour=BRASS, material="metal")
    elif shape == "cone":
        _shade(layer, 0, -0.35, 0.5, 0.12, 0.76)
    else:
        dome = turned((-0.3, 0.1), (-0.2, 0.34), (0.1, 0.66), (0.4, 0.82), (0.5, 0.82))
        layer.paint(dome, "turned")
        layer.paint(ellipse(0, 0.5, 0.82, 0.1), colour=dark(layer.look.colour, 0.6))
        layer.paint(ellipse(0, 0.52, 0.7, 0.06), colour=GLOW)


def _armchair(layer: Layer, shape: str) -> None:
    for x in (-0.5, 0.5):
        layer.paint(bar(x, 0.6, 1.1 * x, FOOT, 0.07), colour=OAK, material="wood")
    top = {"club": -0.45, "wing": -0.85, "tub": -0.4}[shape]
    back = box(-0.62, top, 0.62, 0.5, 0.5 if shape == "tub" else 0.22)
    layer.paint(back, "soft")
    if shape == "wing":
        for side in (-1, 1):
            wing = [(0.5, -0.7), (0.72, -0.6), (0.74, 0.1), (0.52, 0.2)]
            layer.paint(spline([(side * x, y) for x, y in wing]), "soft")
    layer.paint(box(-0.56, 0.26, 0.56, 0.7, 0.12), "soft")
    layer.paint(box(-0.52, 0.14, 0.52, 0.38, 0.12), "soft")
    for side in (-1, 1):
        left, right = sorted((side * 0.44, side * 0.8))
        layer.paint(box(left, -0.05, right, 0.72, 0.17), "soft")


def _side_table(layer: Layer, shape: str) -> None:
    if shape == "drum":
        layer.paint(turned((-0.2, 0.62), (-0.1, 0.62), (0.7, 0.62), (FOOT, 0.6)), "turned")
        layer.paint(ellipse(0, -0.2, 0.66, 0.16), colour=dark(layer.look.colour, 0.8))
        layer.paint(ellipse(0, -0.22, 0.66, 0.16), repeat=0.8)
        return
    reach = 0.55 if shape == "tripod" else 0.66
    for x in (-1, 0.1, 1) if shape == "tripod" else (-1, -0.6, 0.6, 1):
        foot = reach * x if shape == "square" else 0.85 * x * reach
        start = foot if shape == "square" else 0.3 * foot
        layer.paint(bar(start, -0.1, foot, FOOT, 0.075), colour=dark(layer.look.colour, 0.85))
    if shape == "square":
        layer.paint(np.array([(-0.6, -0.4), (0.6, -0.4), (0.86, 0.0), (-0.86, 0.0)]))
        layer.paint(box(-0.86, 0.0, 0.86, 0.16, 0.01), "flat", repeat=0.7)
        return
    layer.paint(ellipse(0, -0.08, 0.82, 0.26), colour=dark(layer.look.colour, 0.75))
    layer.paint(ellipse(0, -0.16, 0.82, 0.26), repeat=0.9)


def _clock(layer: Layer, shape: str) -> None:
    if shape == "square":
        layer.paint(box(-0.78, -0.78, 0.78, 0.78, 0.12), "soft")
    elif shape == "octagon":
        corners = np.pi / 8 + np.arange(8) * np.pi / 4
        layer.paint(0.86 * np.stack([np.cos(corners), np.sin(corners)], 1), "soft")
    else:
        layer.paint(ellipse(0, 0, 0.84), "soft")
    bright = sum(layer.look.colour) > 1.4
    ink: Rgb = IRON if bright else PAPER
    for hour in range(12):
        angle = hour * np.pi / 6
        x, y = np.sin(angle), -np.cos(angle)
        inner, width = (0.54, 0.06) if hour % 3 == 0 else (0.6, 0.035)
        layer.paint(bar(inner * x, inner * y, 0.7 * x, 0.7 * y, width), colour=ink)
    layer.paint(bar(0.06, 0.05, -0.3, -0.24, 0.065), colour=ink)
    layer.paint(bar(-0.05, 0.08, 0.3, -0.48, 0.045), colour=ink)
    layer.paint(ellipse(0, 0, 0.06), colour=BRASS)


def _mirror(layer: Layer, shape: str) -> None:
    def outline(inset: float) -> np.ndarray:
        if shape == "round":
            return ellipse(0, 0, 0.86 - inset)
        if shape == "rectangle":
            return box(-0.62 + inset, -0.9 + inset, 0.62 - inset, 0.9 - inset, 0.05)
        side = 0.6 - inset
        arc = np.linspace(np.pi, 2 * np.pi, 40)
        top = np.stack([side * np.cos(arc), -0.3 + side * np.sin(arc)], 1)
        return np.concatenate([top, [(side, 0.9 - inset), (-side, 0.9 - inset)]])

    layer.paint(outline(0), "soft", repeat=0.7)
    glass = outline(0.24 if shape == "round" else 0.2)
    layer.paint(glass, colour=(0.84, 0.88, 0.9), material="glass")


def _poster(layer: Layer, shape: str) -> None:
    frames = {
        "portrait": ((-0.64, -0.88, 0.64, 0.88),),
        "square": ((-0.82, -0.82, 0.82, 0.82),),
        "pair": ((-0.92, -0.6, -0.05, 0.6), (0.05, -0.6, 0.92, 0.6)),
    }
    wood = OAK if layer.look.turn < 0.3 else IRON
    for left, top, right, bottom in frames[shape]:
        layer.paint(box(left, top, right, bottom, 0.01), "soft", colour=wood)
        layer.paint(box(left + 0.05, top + 0.05, right - 0.05, bottom - 0.05, 0), colour=PAPER)
        layer.paint(box(left + 0.12, top + 0.12, right - 0.12, bottom - 0.12, 0), repeat=1.3)


DRAW: dict[str, Callable[[Layer, str], None]] = {
    "cushion": _cushion,
    "throw": _throw,
    "rug": _rug,
    "curtain": _curtain,
    "bed linen": _bed_linen,
    "vase": vase,
    "plant pot": plant_pot,
    "bowl": bowl,
    "plate": plate,
    "mug": mug,
    "candle": candle,
    "basket": basket,
    "table lamp": _table_lamp,
    "floor lamp": _floor_lamp,
    "pendant lamp": _pendant_lamp,
    "armchair": _armchair,
    "side table": _side_table,
    "clock": _clock,
    "mirror": _mirror,
    "poster": _poster,
}
