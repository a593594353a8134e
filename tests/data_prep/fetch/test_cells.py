"""Tests which URLs and paths a cell names."""

from __future__ import annotations

from pathlib import Path

import pytest

from beyond_text.tables.cells import is_url
from data_prep.fetch.cells import clean_names, clean_url


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("", []),
        ("https://a.de/x.jpg", ["https://a.de/x.jpg"]),
        ("  //cdn.a.de/x.jpg ", ["https://cdn.a.de/x.jpg"]),
        ("https://a.de/x.jpg?a=1&amp;b=2", ["https://a.de/x.jpg?a=1&b=2"]),
        ("images/a.jpg", ["images/a.jpg"]),
        ("https://a/1.jpg|https://a/2.jpg", ["https://a/1.jpg", "https://a/2.jpg"]),
        ("https://a/1.jpg | //a/2.jpg |", ["https://a/1.jpg", "https://a/2.jpg"]),
        ("| https://a/1.jpg||HTTP://a/2", ["https://a/1.jpg", "HTTP://a/2"]),
        ("a.jpg|b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg|https://a/2.jpg", ["a.jpg", "https://a/2.jpg"]),
        ("https://a/x?view/1|slim", ["https://a/x?view/1|slim"]),
        ("https://a/1.JPG|b/2.png", ["https://a/1.JPG", "b/2.png"]),
        ("https://a/1.jpeg | b.webp|//a/3", ["https://a/1.jpeg", "b.webp", "https://a/3"]),
        ("https://a/x?w=1|b.png", ["https://a/x?w=1|b.png"]),
        ("https://a/1.png|slim", ["https://a/1.png|slim"]),
        ('["https://a/1.jpg", " //a/2.jpg"]', ["https://a/1.jpg", "https://a/2.jpg"]),
        ('["https://a/1.jpg", null, ""]', ["https://a/1.jpg"]),
        ("[]", []),
        ("[not json].jpg", ["[not json].jpg"]),
        ("[1, 2]", ["[1, 2]"]),
    ],
)
def test_a_cell_holds_a_picture_or_a_list_in_one_of_two_forms(
    value: str, images: list[str], tmp_path: Path
) -> None:
    assert clean_names(value, tmp_path) == images


def test_a_file_whose_name_has_a_bar_is_one_picture(tmp_path: Path) -> None:
    assert clean_names("a|b.png", tmp_path) == ["a", "b.png"]
    (tmp_path / "a|b.png").touch()
    assert clean_names("a|b.png", tmp_path) == ["a|b.png"]


@pytest.mark.parametrize(
    "image",
    ["https://a/b", "HTTP://a", "//a/b", "ftp://a/b", "s3://b/k", "file:///a", "data:image/png,x"],
)
def test_every_scheme_is_a_url(image: str) -> None:
    assert is_url(image)


@pytest.mark.parametrize(
    "image", ["a/b.jpg", "C:\\a.jpg", "/a/b.jpg", "a:b.jpg", "www.a.de/b.jpg", ""]
)
def test_a_path_is_no_url(image: str) -> None:
    assert not is_url(image)


def test_line_breaks_inside_a_url_are_dropped_as_browsers_do() -> None:
    assert clean_url(" https://a/\n b.jpg\t") == "https://a/ b.jpg"
