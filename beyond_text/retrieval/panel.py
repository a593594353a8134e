"""A picture of a ranking: one row a query, its best products from left to right, judged by frame.

Grade 2 (or higher) has a thick green frame, grade 1 an amber one, anything else a thin grey line.
A product without a picture is a card with its caption, so that no product of the ranking is left
out. Notable: the frame's width differs as well as its colour, for eyes that do not part green from
amber, and the font is matplotlib's DejaVu Sans, which writes more than Latin letters.
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

GREEN, AMBER, GREY = (22, 150, 60), (240, 160, 0), (205, 205, 205)
INK, CARD, PAPER = (35, 35, 35), (244, 241, 234), (255, 255, 255)
GAP = 6


class PanelRow(NamedTuple):
    """A query and its ranked products: for each a picture or None, its grade and its caption."""

    query: str
    pictures: list[Tensor | None]
    grades: list[float]
    captions: list[str]


def draw_panel(rows: Sequence[PanelRow], thumbnail: int = 112) -> Image.Image:
    """Draws the rows as an RGB picture; a product takes a square of `thumbnail` pixels.

    Rows may differ in length. Pictures keep their shape and are centred in their square.

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


def _tile(picture: Tensor | None, grade: float, caption: str, size: int) -> Image.Image:
    """Gives the product's square, frame included."""
    colour, width = (GREEN, 5) if grade >= 2 else (AMBER, 4) if grade >= 1 else (GREY, 1)
    if picture is None:
        tile = _card(caption, (size, size), CARD, max(9, size // 11))
    else:
        # The largest frame is left free around every picture, so none is hidden by being right.
        inner = ImageOps.contain(to_pil_image(picture), (size - 10, size - 10))
        tile = Image.new("RGB", (size, size), PAPER)
        tile.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    ImageDraw.Draw(tile).rectangle((0, 0, size - 1, size - 1), outline=colour, width=width)
    return tile


def _card(
    text: str, size: tuple[int, int], paper: tuple[int, int, int], letters: int
) -> Image.Image:
    """Gives the text, broken into lines and cut with an ellipsis where it overflows, centred."""
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
    """Breaks the text at spaces, and inside a word that is wider than a line by itself."""
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


def panel_of(
    catalogue: Catalogue, query_set: QuerySet, ranking: Ranking, queries: int = 8, top: int = 6
) -> np.ndarray:
    """Draws a few queries, spread over the split, with their top products: [height, width, 3]."""
    judged = query_set.qrels.set_index(["query_id", "product_id"]).iloc[:, 0]
    grades = {pair: float(grade) for pair, grade in judged.items()}
    place = {product_id: number for number, product_id in enumerate(catalogue.product_ids)}
    texts = query_set.queries.set_index("query_id")["query"]
    rows = []
    for number in np.linspace(0, len(ranking.query_ids) - 1, queries).astype(int):
        query_id = ranking.query_ids[number]
        found = ranking.product_ids[number][:top]
        samples = [catalogue.products[place[product_id]] for product_id in found]
        rows.append(
            PanelRow(
                query=texts[query_id] or "(a picture)",
                pictures=[sample.image for sample in samples],
                grades=[grades.get((query_id, product_id), 0.0) for product_id in found],
                captions=[sample.text for sample in samples],
            )
        )
    return np.asarray(draw_panel(rows))
