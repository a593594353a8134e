"""Draws a product's photograph: its object, posed, lit and set before a background.

The picture of a product depends on nothing but the product, the seed and the size: each product
draws from a generator of its own. Backgrounds are pale and hardly coloured, so that the colour of
a picture is the colour of its product.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from data_prep.catalogue.layer import Layer, Look, Rgb, blur
from data_prep.catalogue.materials import FOOT
from data_prep.catalogue.objects import DRAW
from data_prep.catalogue.patterns import Field
from data_prep.catalogue.products import Product
from data_prep.catalogue.vocabulary import COLOURS, KINDS, Place

_TINTS = ((0.93, 0.92, 0.90), (0.90, 0.92, 0.93), (0.94, 0.90, 0.87), (0.90, 0.92, 0.88),
          (0.92, 0.90, 0.93), (0.86, 0.86, 0.85))  # fmt: skip
_FLOORS = ((0.80, 0.70, 0.58), (0.70, 0.60, 0.50), (0.86, 0.84, 0.80), (0.74, 0.73, 0.72))
_TILT = {"stand": 0.0, "lean": 9.0, "hang": 1.5, "lie": 20.0}  # degrees, the most either way
_DIRECTIONAL = ("striped", "checked", "chevron")


def draw_product(product: Product, seed: int, size: int) -> Image.Image:
    """Draws the product's picture, `size` x `size` RGB; the same for the same arguments."""
    rng = np.random.default_rng([seed, product.number])
    pixels = 2 * size
    design = product.design
    place = KINDS[design.kind].place
    layer = Layer(pixels, _look(product, rng), rng)
    DRAW[design.kind](layer, design.shape)
    scale = rng.uniform(0.72, 0.98)
    matrix = _pose(rng, design.kind, place, scale, pixels)
    placed = (
        layer.image()
        .transform((pixels, pixels), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        .resize((size, size), Image.Resampling.BOX)
    )
    backdrop = _background(rng, place, size)
    stacked = np.asarray(placed, np.float32) / 255
    colour, alpha = stacked[..., :3], stacked[..., 3:]
    backdrop *= (1 - _shadow(placed, place, scale, size))[..., None]
    picture = backdrop * (1 - alpha) + colour * alpha
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    picture *= (1.03 - 0.06 * (0.5 * ramp[None] + 0.5 * ramp[:, None]))[..., None]
    return Image.fromarray(np.asarray(np.clip(picture, 0, 1) * 255 + 0.5, np.uint8), "RGB")


def _look(product: Product, rng: np.random.Generator) -> Look:
    """Draws the shade, accent and pattern of a product's surface."""
    shade = np.asarray(COLOURS[product.colour].rgb, float) / 255
    shade = np.clip(shade * rng.uniform(0.95, 1.04) + rng.uniform(-0.014, 0.014, 3), 0.03, 0.97)
    # The second colour is a tint or a shade of the first: it must not suggest another colour name.
    light = float(shade @ (0.3, 0.59, 0.11))
    other = (0.98, 0.96, 0.92) if light < 0.73 else (0.28, 0.25, 0.24)
    mix = 0.84 if light < 0.73 else 0.62
    accent = (1 - mix) * shade + mix * np.asarray(other)
    turn = float(rng.choice([0, np.pi / 2, np.pi / 4]))
    if product.pattern not in _DIRECTIONAL:
        turn = float(rng.uniform(0, 0.6))
    elif product.pattern == "chevron":
        turn = float(rng.choice([0, np.pi / 2]))
    return Look(
        _rgb(shade),
        _rgb(accent),
        product.pattern,
        product.design.material,
        repeat=float(rng.uniform(3.2, 4.8)),
        turn=turn,
    )


def _rgb(values: np.ndarray) -> Rgb:
    return (float(values[0]), float(values[1]), float(values[2]))


def _pose(
    rng: np.random.Generator, kind: str, place: Place, scale: float, pixels: int
) -> tuple[float, ...]:
    """Returns coefficients that map pixels of the picture to the layer (Pillow's AFFINE)."""
    angle = np.radians(rng.uniform(-_TILT[place], _TILT[place]))
    cosine, sine = np.cos(angle), np.sin(angle)
    forward = scale * np.array([[cosine, -sine], [sine, cosine]])
    if kind == "rug" and rng.random() < 0.6:
        # Seen by someone standing in the room rather than from the ceiling.
        forward = np.array([[1.0, rng.uniform(-0.3, 0.3)], [0.0, 0.65]]) @ forward
    if rng.random() < 0.5:
        forward = forward @ np.diag([-1.0, 1.0])
    slack = max(0.0, 0.96 - scale)
    shift = np.array([rng.uniform(-slack, slack), 0.0])
    if place in ("stand", "lean"):
        shift[1] = _foot_line(scale) - scale * FOOT
    elif kind != "pendant lamp":
        shift[1] = rng.uniform(-slack, slack)
    else:
        shift[1] = scale - 1  # The cable hangs from the upper edge.
    inverse = np.linalg.inv(forward)
    half = pixels / 2
    offset = inverse @ (-half * (1 + shift)) + half
    return (*inverse[0], offset[0], *inverse[1], offset[1])


def _foot_line(scale: float) -> float:
    """Returns the height where standing things touch the ground, in unit coordinates."""
    return 0.45 + 0.4 * scale


def _background(rng: np.random.Generator, place: Place, pixels: int) -> Field:
    """Paints studio white, a tint, or a corner of a room: (pixels, pixels, 3) in [0, 1]."""
    y, x = np.mgrid[0:pixels, 0:pixels].astype(np.float32) / (pixels / 2) - 1
    kind = rng.choice(["studio", "tint", "room"], p=[0.3, 0.3, 0.4])
    wall = np.full((pixels, pixels, 3), 0.965, np.float32)
    if kind != "studio":
        wall[:] = _TINTS[rng.integers(len(_TINTS))]
    wall *= (1.02 - 0.05 * np.hypot(x + 0.3, y + 0.4))[..., None]
    if kind == "studio":
        return wall
    floor = np.asarray(_FLOORS[rng.integers(len(_FLOORS))], np.float32)
    if place == "lie":
        if kind == "room":
            board = np.floor((x + 3 + 0.02 * np.sin(3 * y)) * 3.2)
            wall[:] = floor * (0.97 + 0.05 * np.sin(board * 12.9))[..., None]
            seam = np.abs((x + 3 + 0.02 * np.sin(3 * y)) * 3.2 % 1 - 0.5) > 0.5 - 6.4 / pixels
            wall *= (1 - 0.12 * seam)[..., None]
        return wall
    if kind == "tint":
        if place != "hang":
            wall *= (1 - 0.07 / (1 + np.exp(-(y - 0.38) * 14)))[..., None]
        return wall
    corner, tilt = rng.uniform(0.45, 0.85) * rng.choice([-1, 1]), rng.uniform(0.1, 0.25)
    side = (x - corner) * np.sign(corner)
    wall *= (1 - 0.07 * (side > 0))[..., None]
    line = (0.86 if place == "hang" else 0.42) + tilt * np.clip(side, 0, None)
    beam = np.abs(x + 0.6 * y - rng.uniform(-0.6, 0.3))
    wall *= (1 + 0.045 / (1 + np.exp((beam - 0.3) * 24)))[..., None]
    # Edges are soft over one pixel: the background is not drawn larger and reduced.
    ground_share = np.clip((y - line) * pixels / 2 + 0.5, 0, 1)[..., None]
    skirting = np.clip((y - line + 0.09) * pixels / 2 + 0.5, 0, 1)[..., None]
    wall += 0.35 * (0.97 - wall) * skirting
    depth = np.clip(y - line, 1e-3, None)
    boards = np.floor(2.2 * np.log(depth + 0.05) * 3)
    ground = floor * (0.96 + 0.045 * np.sin(boards * 12.9) + 0.06 * np.clip(depth, 0, 1))[..., None]
    wall += ground_share * (ground - wall)
    return wall * (1 - 0.25 * np.exp(-(((y - line) / 0.012) ** 2)))[..., None]


def _shadow(placed: Image.Image, place: Place, scale: float, pixels: int) -> Field:
    """Returns how much light the object takes from each point of the background, in [0, 1]."""
    alpha = placed.getchannel("A")
    if place in ("hang", "lie"):
        shift = pixels * (0.022 if place == "lie" else 0.03)
        moved = _moved(alpha, (1, 0, -0.7 * shift, 0, 1, -shift))
        return 0.34 * blur(moved, pixels / 40) + 0.12 * blur(moved, pixels / 14)
    foot = pixels / 2 * (1 + _foot_line(scale))
    # The object laid flat on the ground, away from the light: y' = foot - flat (foot - y).
    flat, lean = 0.2, 1.1
    cast = _moved(alpha, (1, lean, -lean * foot, 0, 1 / flat, foot - foot / flat))
    contact = _moved(alpha, (1, 0, 0, 0, 1 / 0.07, foot + 2 - (foot + 2) / 0.07))
    return np.clip(0.3 * blur(cast, pixels / 36) + 0.4 * blur(contact, pixels / 60), 0, 0.6)


def _moved(alpha: Image.Image, matrix: tuple[float, ...]) -> Field:
    """Maps the coverage of an object by a matrix (Pillow's AFFINE)."""
    moved = alpha.transform(alpha.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved, np.float32) / 255
