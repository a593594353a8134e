"""Tests that a panel shows every product in its place, with the frame of its grade."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from beyond_text.retrieval.panel import AMBER, GAP, GREEN, GREY, PAPER, PanelRow, draw_panel

SIZE = 60
BLUE = (0, 0, 255)


def picture(width: int = 50, height: int = 50, colour: tuple[int, ...] = BLUE) -> Tensor:
    return pil_to_tensor(Image.new("RGB", (width, height), colour))


def tile(panel: Image.Image, row: int, column: int) -> Image.Image:
    left, top = 2 * GAP + 2 * SIZE + column * (SIZE + GAP), GAP + row * (SIZE + GAP)
    return panel.crop((left, top, left + SIZE, top + SIZE))


def frame(picture: Image.Image) -> tuple[object, int]:
    """Returns the frame's colour, and its width in pixels at the middle of the left side."""
    colour = picture.getpixel((0, 0))
    widths = [picture.getpixel((x, SIZE // 2)) == colour for x in range(SIZE)]
    return colour, widths.index(False)


def ink(picture: Image.Image) -> int:
    """Counts the dark pixels."""
    return int((np.asarray(picture.convert("L")) < 100).sum())


def test_frames_tell_the_grades_apart_by_colour_and_width() -> None:
    row = PanelRow("red cushion", [picture()] * 5, [2, 1, 0, 3, 0.5], [""] * 5)
    panel = draw_panel([row], SIZE)
    frames = [frame(tile(panel, 0, column)) for column in range(5)]
    assert frames == [(GREEN, 5), (AMBER, 4), (GREY, 1), (GREEN, 5), (GREY, 1)]


def test_pictures_keep_their_shape_centred_in_their_square() -> None:
    row = PanelRow("q", [picture(100, 50), picture(5, 10)], [0, 0], ["", ""])
    panel = draw_panel([row], SIZE)
    for column, extent in enumerate([(50, 25), (25, 50)]):
        blue = (np.asarray(tile(panel, 0, column)) == BLUE).all(axis=2)
        assert (blue.any(axis=0).sum(), blue.any(axis=1).sum()) == extent
        centre = np.argwhere(blue).mean(axis=0)
        np.testing.assert_allclose(centre, (SIZE - 1) / 2, atol=0.5)


def test_a_product_without_picture_shows_its_caption() -> None:
    row = PanelRow("q", [None, None], [2, 0], ["Velvet cushion", ""])
    panel = draw_panel([row], SIZE)
    assert ink(tile(panel, 0, 0)) > 20
    assert ink(tile(panel, 0, 1)) == 0
    assert frame(tile(panel, 0, 0))[0] == GREEN


def test_long_and_foreign_text_stays_in_its_box() -> None:
    words = "sänglampa подушка " * 40
    row = PanelRow(words, [None, picture()], [0, 0], ["x" * 500, ""])
    panel = draw_panel([row], SIZE)
    query = panel.crop((0, 0, GAP + 2 * SIZE, panel.height))
    assert ink(query) > 100
    assert ink(query.crop((0, 0, GAP + 4, panel.height))) == 0
    assert ink(query.crop((query.width - 4, 0, query.width, panel.height))) == 0
    assert ink(query.crop((0, 0, query.width, GAP + 4))) == 0
    assert ink(tile(panel, 0, 0).crop((0, 0, 6, SIZE))) == 0


def test_rows_of_different_length_are_drawn() -> None:
    panel = draw_panel(
        [PanelRow("a", [picture()] * 4, [0] * 4, [""] * 4), PanelRow("b", [picture()], [1], [""])],
        SIZE,
    )
    assert panel.size == (2 * GAP + 2 * SIZE + 4 * (SIZE + GAP), GAP + 2 * (SIZE + GAP))
    assert tile(panel, 1, 0).getpixel((30, 30)) == BLUE
    assert tile(panel, 1, 1).getcolors() == [(SIZE * SIZE, PAPER)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row"),
        ([PanelRow("red rug", [None], [1, 2], [""])], "'red rug': 1 pictures, 2 grades, 1 capt"),
    ],
)
def test_rows_that_cannot_be_drawn_are_named(rows: list[PanelRow], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_panel(rows)
