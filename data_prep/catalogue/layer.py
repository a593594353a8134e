"""Paints an object part by part on a transparent square: outline, surface, light.

Outlines are polygons in unit coordinates, x to the right and y down, both in [-1, 1]. Light comes
from the upper left. All arithmetic is float32 on whole arrays, cropped to the part's bounding
box; the caller draws at twice the wanted size and reduces, which is all the anti-aliasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from data_prep.catalogue.patterns import WEIGHTS, Field

Outline = npt.NDArray[np.float64]
Rgb = tuple[float, float, float]
Form = Literal["flat", "turned", "soft", "folds", "dished"]


class Look(NamedTuple):
    """How a product's own surface looks: sRGB in [0, 1], pattern with its repeat and turn."""

    colour: Rgb
    accent: Rgb
    pattern: str
    material: str
    repeat: float
    turn: float


def ellipse(x: float, y: float, across: float, down: float | None = None) -> Outline:
    """Makes an ellipse around (x, y) with the given radii; a circle if only one is given."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    tall = across if down is None else down
    return np.stack([x + across * np.cos(angle), y + tall * np.sin(angle)], axis=1)


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.03) -> Outline:
    """Makes a rectangle with rounded corners."""
    radius = min(radius, (right - left) / 2, (bottom - top) / 2)
    angle = np.linspace(0, np.pi / 2, 10)
    corners = (
        (right - radius, bottom - radius, 0.0), (left + radius, bottom - radius, 0.5),
        (left + radius, top + radius, 1.0), (right - radius, top + radius, 1.5),
    )  # fmt: skip
    return np.concatenate(
        [
            np.stack(
                [x + radius * np.cos(angle + np.pi * a), y + radius * np.sin(angle + np.pi * a)], 1
            )
            for x, y, a in corners
        ]
    )


def spline(points: Sequence[tuple[float, float]], closed: bool = True) -> Outline:
    """Makes a smooth (Catmull-Rom) curve through the points."""
    knots = np.asarray(points, float)
    ends = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    padded = np.concatenate([ends[0], knots, ends[1]])
    t = np.linspace(0, 1, 14, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        cubic = 3 * (b - c) + d - a
        pieces.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * cubic)))
    return np.concatenate([*pieces, padded[-2:-1]])


def turned(*profile: tuple[float, float]) -> Outline:
    """Makes a turned shape of (height, half width) pairs from top to bottom, mirrored at x = 0.

    The lower edge is bent a little, as one sees it from slightly above.
    """
    right = spline([(width, height) for height, width in profile], closed=False)
    foot, width = profile[-1]
    angle = np.linspace(0, np.pi, 24)
    base = np.stack([width * np.cos(angle), foot + 0.1 * width * np.sin(angle)], axis=1)
    return np.concatenate([right, base, right[::-1] * (-1, 1)])


def stroke(points: Outline, width: float) -> Outline:
    """Makes a line of the given width along the points."""
    step = np.gradient(points, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], 1)
    normal *= width / 2 / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.concatenate([points + normal, (points - normal)[::-1]])


def bar(x0: float, y0: float, x1: float, y1: float, width: float = 0.04) -> Outline:
    """Makes a straight line of the given width."""
    return stroke(np.array([[x0, y0], [x1, y1]]), width)


def blur(field: Field, radius: float) -> Field:
    """Blurs by `radius` pixels, at quarter resolution and so cheap; keeps the shape."""
    height, width = field.shape
    small = Image.fromarray(np.asarray(field * 255, np.uint8)).resize(
        (max(1, width // 4), max(1, height // 4)), Image.Resampling.BOX
    )
    small = small.filter(ImageFilter.GaussianBlur(radius / 4))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255


class Layer:
    """Colour and coverage of an object in the making; `rgb` is not premultiplied."""

    def __init__(self, pixels: int, look: Look, rng: np.random.Generator) -> None:
        """Makes an empty layer of `pixels` x `pixels` for a product that looks like `look`."""
        self.pixels, self.look = pixels, look
        self.rgb = np.zeros((pixels, pixels, 3), np.float32)
        self.alpha = np.zeros((pixels, pixels), np.float32)
        self._grain = rng.standard_normal((pixels, pixels), np.float32)
        self._phase = rng.random(2) * 3
        self._parts = 0

    def paint(
        self,
        outline: Outline,
        form: Form = "flat",
        colour: Rgb | None = None,
        material: str | None = None,
        holes: Sequence[Outline] = (),
        opacity: float = 1.0,
        repeat: float = 1.0,
    ) -> None:
        """Adds one part on top: in the product's own colour and pattern unless `colour` is given.

        `form` gives light and, for turned parts and folds, bends the pattern around them;
        `repeat` stretches the pattern.
        """
        mask, window = self._mask(outline, holes)
        if not mask.size:
            return
        height, width = mask.shape
        top, left = window[0].start, window[1].start
        half = self.pixels / 2
        y, x = np.mgrid[top : top + height, left : left + width].astype(np.float32) / half - 1
        across = _across(mask)
        u, v = x, y
        if form == "turned":
            u = np.arcsin(0.97 * across) * (width / self.pixels)
        elif form == "folds":
            u = x + 0.014 * np.sin(x * 30)
        material = material or ("none" if colour else self.look.material)
        surface = np.empty((height, width, 3), np.float32)
        surface[:] = colour or self.look.colour
        if colour is None:
            self._parts += 1
            weight = self._weight(u, v, repeat)[..., None]
            surface += weight * (np.asarray(self.look.accent, np.float32) - surface)
        light = _light(form, mask, across, x, self.pixels)
        bump, gloss = _finish(material, form, across, x, y, self._grain[window])
        surface *= (light * bump)[..., None].astype(np.float32)
        surface += gloss[..., None] * (1 - np.clip(surface, 0, 1))
        if material == "glass" and form != "flat":
            opacity = 0.78
        self._shade_below(mask, window)
        cover = (mask * opacity)[..., None]
        self.rgb[window] = np.where(
            self.alpha[window][..., None] > 0,
            self.rgb[window] * (1 - cover) + surface * cover,
            surface,
        )
        self.alpha[window] = self.alpha[window] * (1 - cover[..., 0]) + cover[..., 0]

    def image(self) -> Image.Image:
        """Returns the layer as an RGBA picture."""
        stacked = np.concatenate([self.rgb, self.alpha[..., None]], axis=2)
        return Image.fromarray(np.asarray(np.clip(stacked, 0, 1) * 255 + 0.5, np.uint8), "RGBA")

    def _mask(
        self, outline: Outline, holes: Sequence[Outline]
    ) -> tuple[Field, tuple[slice, slice]]:
        """Draws an outline without its holes, cropped to its bounding box, which it returns too."""

        def corners(polygon: Outline) -> Outline:
            return (polygon + 1) * (self.pixels / 2)

        low = np.clip(np.floor(corners(outline).min(axis=0)).astype(int), 0, self.pixels)
        high = np.clip(np.ceil(corners(outline).max(axis=0)).astype(int) + 1, 0, self.pixels)
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        canvas = Image.new("L", (max(0, high[0] - low[0]), max(0, high[1] - low[1])))
        if min(canvas.size) == 0:
            return np.zeros((0, 0), np.float32), window
        pen = ImageDraw.Draw(canvas)
        for polygon, ink in [(outline, 255), *((hole, 0) for hole in holes)]:
            pen.polygon([tuple(p) for p in (corners(polygon) - low).tolist()], fill=ink)
        # Polygons are drawn without anti-aliasing; reducing alone would leave stairs.
        canvas = canvas.filter(ImageFilter.BoxBlur(0.6))
        return np.asarray(canvas, np.float32) / 255, window

    def _weight(self, u: Field, v: Field, repeat: float) -> Field:
        """Returns how much of the accent the pattern puts at each point."""
        look = self.look
        scale = look.repeat / repeat
        sine, cosine = np.sin(look.turn), np.cos(look.turn)
        # Parts take different places of the pattern, so that their seams show.
        a = scale * (cosine * u + sine * v) + self._phase[0] + 0.37 * self._parts
        b = scale * (cosine * v - sine * u) + self._phase[1] + 0.23 * self._parts
        return WEIGHTS[look.pattern](a.astype(np.float32), b.astype(np.float32))

    def _shade_below(self, mask: Field, window: tuple[slice, slice]) -> None:
        """Paints a soft contact shadow of the new part on what is already there."""
        reach = self.pixels // 24
        rows = slice(max(0, window[0].start - reach), min(self.pixels, window[0].stop + reach))
        columns = slice(max(0, window[1].start - reach), min(self.pixels, window[1].stop + reach))
        if not self.alpha[rows, columns].any():
            return
        wide = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
        y, x = window[0].start - rows.start, window[1].start - columns.start
        wide[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        self.rgb[rows, columns] *= (1 - 0.45 * blur(wide, reach / 2.5))[..., None]


def _across(mask: Field) -> Field:
    """Returns where a pixel lies between its row's left (-1) and right (1) edge."""
    inside = mask > 0.5
    width = mask.shape[1]
    left = inside.argmax(axis=1)[:, None]
    right = (width - inside[:, ::-1].argmax(axis=1))[:, None]
    column = np.arange(width, dtype=np.float32)[None] + 0.5
    return np.clip((2 * column - left - right) / np.maximum(right - left, 1), -1, 1).astype(
        np.float32
    )


def _light(form: Form, mask: Field, across: Field, x: Field, pixels: int) -> Field:
    """Returns the brightness factor of a form: 1 faces the light."""
    if form == "turned":
        facing = -0.42 * across + 0.91 * np.sqrt(1 - across**2)
        return np.asarray(0.58 + 0.46 * np.clip(facing, 0, 1))
    if form == "folds":
        return 0.9 + 0.13 * np.sin(x * 30) + 0.05 * np.sin(x * 71 + 1)
    if form in ("soft", "dished"):
        sign = 1.0 if form == "soft" else -0.7
        padding = pixels // 16
        height = blur(np.pad(mask, padding), pixels / 18)
        height = 0.6 * height + 0.4 * blur(np.pad(mask, padding), pixels / 48)
        down, right = np.gradient(height[padding:-padding, padding:-padding])
        slope = (down * 0.9 + right * 0.6) * (pixels / 18)
        return np.asarray(np.clip(0.97 + sign * 0.42 * slope, 0.5, 1.2))
    return np.ones_like(mask)


def _finish(
    material: str, form: Form, across: Field, x: Field, y: Field, grain: Field
) -> tuple[Field, Field]:
    """Returns the brightness factor and white gloss that make a material recognisable."""
    none = np.zeros_like(x)
    round_ = form == "turned"
    if material == "ceramic":
        at = across + 0.42 if round_ else (x + y + 0.75) * 0.8
        return none + 1, 0.5 * np.exp(-((at / 0.13) ** 2)) * (1 if round_ else 0.35)
    if material == "glass":
        at = across if round_ else x + y
        streak = np.exp(-(((at + 0.55) / 0.07) ** 2)) + 0.5 * np.exp(-(((at - 0.62) / 0.05) ** 2))
        return 1.08 - 0.3 * np.abs(at).clip(0, 1) ** 4, 0.8 * streak + 0.06
    if material == "metal":
        at = across * 2.2 if round_ else (x * 1.4 + y * 0.9)
        bands = np.cos(3.1 * at + 1.4)
        return 0.9 + 0.16 * bands, 0.42 * np.clip(bands, 0, 1) ** 6
    if material == "wood":
        rings = np.sin(46 * y + 3 * np.sin(3.1 * x + 1) + 1.5 * np.sin(7 * x))
        return 0.93 + 0.08 * rings + 0.025 * grain, none
    if material == "linen":
        return 1 + 0.045 * np.sin(170 * x) + 0.045 * np.sin(170 * y) + 0.035 * grain, none
    if material == "cotton":
        return 1 + 0.018 * grain, none
    if material == "velvet":
        nap = np.sin(4 * x + 2 * y + np.sin(5 * y)) * np.sin(3 * y - 2 * x + 1)
        return 0.94 + 0.13 * nap, 0.10 * np.clip(nap, 0, 1)
    if material == "wool":
        knit = np.abs(np.sin(42 * x)) * np.abs(np.sin(34 * y + 1.2 * np.sin(42 * x)))
        return 0.84 + 0.22 * knit + 0.05 * grain, none
    if material == "rattan":
        over = np.sin(38 * x) * np.sin(38 * y)
        strands = np.abs(np.sin(np.where(over > 0, 76 * y, 76 * x)))
        return 0.74 + 0.32 * strands, none
    if material == "paper":
        return 1 + 0.035 * np.sin(90 * y), none
    if material == "wax":
        return 0.97 - 0.08 * y, 0.10 * np.clip(-y, 0, 1)
    return none + 1, none
