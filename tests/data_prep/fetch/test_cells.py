"""Tests that cells are split into pictures and put together again in the same form."""

from __future__ import annotations

import pytest

from data_prep.fetch.cells import Cell, clean_url, is_url, parse_cell


@pytest.mark.parametrize(
    ("value", "form", "images"),
    [
        ("", "one", []),
        ("https://a.de/x.jpg", "one", ["https://a.de/x.jpg"]),
        ("  //cdn.a.de/x.jpg ", "one", ["https://cdn.a.de/x.jpg"]),
        ("https://a.de/x.jpg?a=1&amp;b=2", "one", ["https://a.de/x.jpg?a=1&b=2"]),
        ("images/a.jpg", "one", ["images/a.jpg"]),
        ("https://a/1.jpg|https://a/2.jpg", "bars", ["https://a/1.jpg", "https://a/2.jpg"]),
        ("https://a/1.jpg | //a/2.jpg |", "bars", ["https://a/1.jpg", "https://a/2.jpg"]),
        ("| https://a/1.jpg||HTTP://a/2", "bars", ["https://a/1.jpg", "HTTP://a/2"]),
        ("a.jpg|b.jpg", "bars", ["a.jpg", "b.jpg"]),
        ("a.jpg|https://a/2.jpg", "bars", ["a.jpg", "https://a/2.jpg"]),
        ("https://a/x?view/1|slim", "bars", ["https://a/x?view/1|slim"]),
        ('["https://a/1.jpg", " //a/2.jpg"]', "json", ["https://a/1.jpg", "https://a/2.jpg"]),
        ('["https://a/1.jpg", null, ""]', "json", ["https://a/1.jpg"]),
        ("[]", "json", []),
        ("[not json].jpg", "one", ["[not json].jpg"]),
        ("[1, 2]", "one", ["[1, 2]"]),
    ],
)
def test_a_cell_holds_a_picture_or_a_list_in_one_of_two_forms(
    value: str, form: str, images: list[str]
) -> None:
    assert parse_cell(value) == Cell(form, images)


@pytest.mark.parametrize(
    ("form", "images", "value"),
    [
        ("one", ["a.jpg"], "a.jpg"),
        ("one", [], ""),
        ("bars", ["a.jpg", "b.jpg"], "a.jpg|b.jpg"),
        ("bars", ["a.jpg"], "a.jpg"),
        ("json", ["ä.jpg"], '["ä.jpg"]'),
        ("json", [], ""),
    ],
)
def test_a_list_stays_a_list(form: str, images: list[str], value: str) -> None:
    assert Cell(form, ["x"]).with_images(images) == value


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
