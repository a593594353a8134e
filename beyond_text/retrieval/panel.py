"""Draws a ranking as a picture: one row per query, with its best products from left to right.

Frames show the grades: thick and green for grade 2 or higher, amber for grade 1, a thin grey line
for anything else. A product without a picture is a card with its caption, so no product of the
ranking is left out. Notable: frames differ in width as well as in colour, for eyes that do not tell
green from amber, and the font is matplotlib's DejaVu Sans, which has more than Latin letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from beyond_text.metrics.ranking import Ranking
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.shards.batch import Sample

GREEN, AMBER, GREY = (22, 150, 60), (240, 160, 0), (205, 205, 205)
INK, CARD, PAPER = (35, 35, 35), (244, 241, 234), (255, 255, 255)
GAP = 6


class PanelRow(NamedTuple):
    """A query and its ranked products: for each a picture or None, its grade and its caption."""

    query: str
    pictures: list[Tensor | None]
    grades: list[float]
    captions: list[str]

    @classmethod
    def of(cls, query: str, samples: Sequence[Sample], grades: list[float]) -> PanelRow:
        """Returns the row of a query, "" for one that is only a picture, and its products."""
        pictures, captions = [s.image for s in samples], [s.text for s in samples]
        return cls(query or "(a picture)", pictures, grades, captions)


def draw_panel(rows: Sequence[PanelRow], thumbnail: int = 112) -> Image.Image:
    """Draws the rows as an RGB picture, each product in a square of `thumbnail` pixels.

    Rows may differ in length. Pictures keep their shape and are centred in their squares.

    Raises:
        ValueError: no row, or a row whose pictures, grades and captions differ in number.
    """
    if not rows:
        raise ValueError("a panel needs at least one row")
    for row in rows:
        if not len(row.pictures) == len(row.grades) == len(row.captions):
            raise ValueError(
                f"panel row {row.query!r}: {len(row.pictures)} pictures, {len(row.grades)} grades, "
                f"{len(row.captions)} captions"
            )
    step, text_width = thumbnail + GAP, 2 * thumbnail
    columns = max(len(row.pictures) for row in rows)
    size = (GAP + text_width + GAP + columns * step, GAP + len(rows) * step)
    panel = Image.new("RGB", size, PAPER)
    for number, row in enumerate(rows):
        top = GAP + number * step
        query = _card(row.query, (text_width, thumbnail), PAPER, max(10, thumbnail // 8))
        panel.paste(query, (GAP, top))
        products = zip(row.pictures, row.grades, row.captions, strict=True)
        for position, (picture, grade, caption) in enumerate(products):
            tile = _tile(picture, grade, caption, thumbnail)
            panel.paste(tile, (2 * GAP + text_width + position * step, top))
    return panel


def panel_of(
    catalogue: Catalogue, query_set: QuerySet, ranking: Ranking, queries: int = 8, top: int = 6
) -> np.ndarray:
    """Draws a few queries, spread over the split, with their `top` best products.

    Returns:
        uint8 [height, width, 3].
    """
    judged = query_set.qrels.set_index(["query_id", "product_id"]).iloc[:, 0]
    grade_of = {pair: float(grade) for pair, grade in judged.items()}
    position = catalogue.positions
    texts = query_set.queries.set_index("query_id")["query"]
    rows = []
    for number in np.linspace(0, len(ranking.query_ids) - 1, queries).astype(int):
        query_id = ranking.query_ids[number]
        product_ids = ranking.product_ids[number][:top]
        samples = [catalogue.products[position[product_id]] for product_id in product_ids]
        grades = [grade_of.get((query_id, product_id), 0.0) for product_id in product_ids]
        rows.append(PanelRow.of(texts[query_id], samples, grades))
    return np.asarray(draw_panel(rows))


def _tile(picture: Tensor | None, grade: float, caption: str, size: int) -> Image.Image:
    """Draws the square of a product, with its frame."""
    colour, width = (GREEN, 5) if grade >= 2 else (AMBER, 4) if grade >= 1 else (GREY, 1)
    if picture is None:
        tile = _card(caption, (size, size), CARD, max(9, size // 11))
    else:
        # Every picture leaves room for the widest frame, so no frame hides a picture's border.
        inner = ImageOps.contain(to_pil_image(picture), (size - 10, size - 10))
        tile = Image.new("RGB", (size, size), PAPER)
        tile.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    ImageDraw.Draw(tile).rectangle((0, 0, size - 1, size - 1), outline=colour, width=width)
    return tile


def _card(
    text: str, size: tuple[int, int], paper: tuple[int, int, int], letters: int
) -> Image.Image:
    """Draws a text, centred, in lines; it ends in an ellipsis where it does not fit."""
    card = Image.new("RGB", size, paper)
    font, margin = _font(letters), 8
    height = letters + 3
    lines = _lines(text, font, size[0] - 2 * margin)
    room = max(1, (size[1] - 2 * margin) // height)
    if len(lines) > room:
        last = lines[room - 1]
        while last and font.getlength(f"{last}…") > size[0] - 2 * margin:
            last = last[:-1]
        lines = [*lines[: room - 1], f"{last}…"]
    draw = ImageDraw.Draw(card)
    top = (size[1] - len(lines) * height) // 2
    for number, line in enumerate(lines):
        draw.text((margin, top + number * height), line, fill=INK, font=font)
    return card


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks the text at spaces, and inside words that are wider than a line."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


@cache
def _font(letters: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), letters)
