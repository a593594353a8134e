"""Queries say what they ask, in the words and the ways of the rules."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from beyond_text.tables.read import read_tables
from data_prep.asking.compose import mistyped, plural
from data_prep.asking.keys import key_of
from tests.data_prep.asking.shops import (
    WAYS,
    grades_of,
    made,
    queries_of,
    shop_rows,
    write_rules,
)


def test_every_query_has_an_exact_product_and_asks_what_it_says(tmp_path: Path) -> None:
    out = made(tmp_path, shop_rows())
    grades = grades_of(out)
    assert len(grades) == len(queries_of(out)) > 100
    assert all(2.0 in each.values() for each in grades.values())
    kinds = {(each["kind"], tuple(each["asked"].split())) for each in queries_of(out)}
    assert ("attribute", ("colour", "pattern", "product_type")) in kinds
    assert ("attribute", ("audience", "colour", "product_type")) in kinds
    assert all("product_type" in asked for _, asked in kinds)


def test_fine_kinds_name_the_fields(tmp_path: Path) -> None:
    out = made(tmp_path, shop_rows(), "--fine-kinds")
    for each in queries_of(out):
        assert each["kind"] == "-".join(["attribute", *each["asked"].split()])


def test_words_are_those_of_the_table_and_agree_with_each_value_so_called(tmp_path: Path) -> None:
    rows = [
        ("p1", "a", "", "", "", "train", "Grey", "Solid", "Sweater", "Ladieswear"),
        ("p2", "b", "", "", "", "train", "grey", "Solid", "JUMPERS", "Women"),
        ("p3", "c", "", "", "", "train", "Dark Blue", "Solid", "Leggings/Tights", "Menswear"),
    ]
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    out = made(tmp_path, rows, "--rules", str(rules), "--per-product", "200")
    grades = grades_of(out)
    words = {text for _, text in grades}
    assert {"grey sweater", "gray jumper", "grey pullover", "womens grey jumper"} <= words
    assert {"navy blue tights", "leggings in navy", "mens navy leggings"} <= words
    assert grades["train", "gray pullover"] == {"p1": 2, "p2": 2}
    assert grades["train", "women grey sweater"] == {"p1": 2, "p2": 2}
    assert not any(re.search("solid|ladieswear|unknown", text) for text in words)


def test_ways_of_writing_change_the_words_and_not_the_grades(tmp_path: Path) -> None:
    rows = [("p1", "a", "", "", "", "train", "Off White", "Dot", "T-shirt", "Men"),
            ("p2", "b", "", "", "", "train", "Off White", "Dot", "Dress", "Men")]  # fmt: skip
    seen = {}
    for way in WAYS:
        rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS | {way: 1.0}})
        out = made(tmp_path / way, rows, "--rules", str(rules), "--per-product", "240")
        seen[way] = {text for _, text in grades_of(out)}
        assert all(2.0 in each.values() for each in grades_of(out).values())
    assert {"off-white t-shirts", "off-white dresses"} <= seen["plural"]
    assert {"off white tshirt", "off white t shirt"} & seen["no_hyphen"]
    assert not any("-" in text for text in seen["no_hyphen"])
    assert "Off-white T-shirt" in seen["capitals"]
    assert all(text != text.lower() for text in seen["capitals"])
    assert len(seen["typo"] - seen["plural"]) > 20


@pytest.mark.parametrize(
    ("word", "expected"),
    [("dress", "dresses"), ("watch", "watches"), ("body", "bodies"), ("toy", "toys"),
     ("shorts", "shorts"), ("\u6c99\u53d1", "\u6c99\u53d1"),
     ("shoes 42", "shoes 42"), ("tableware", "tableware"),
     ("armchair", "armchairs"), ("olive oil", "olive oil"),
     ("hoodie", "hoodies"), ("party", "parties"), ("bookshelf", "bookshelves"),
     ("pocket knife", "pocket knives"), ("scarf", "scarves"), ("series", "series"),
     ("coat", "coats"), ("bed frame", "bed frames")],
)  # fmt: skip
def test_plurals(word: str, expected: str) -> None:
    assert plural(word) == expected
    assert key_of(expected) == key_of(word)


def test_a_typing_error_is_of_one_place(tmp_path: Path) -> None:
    for seed in range(50):
        text = mistyped(random.Random(seed), "sweater")
        assert text[0] == "s"
        assert len(text) in (6, 7)
        assert sum((Counter("sweater") - Counter(text)).values()) <= 1
    assert mistyped(random.Random(0), "hat") == "hat"


def test_no_query_says_a_word_twice(tmp_path: Path) -> None:
    header = ("product_id", "title", "split", "colour", "usage", "product_type")
    rows = [("p1", "a", "train", "Blue", "Sports", "Sports Shoes"),
            ("p2", "a", "train", "Blue", "Casual", "Shirts")]  # fmt: skip
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--attributes", "colour,usage,product_type", "--rules", str(rules),
               "--per-product", "60")  # fmt: skip
    texts = [text for _, text in grades_of(made(tmp_path, rows, *options, header=header))]
    assert {"blue sports shoes", "casual blue shirt"} <= set(texts)
    assert not any(text.count("sports") > 1 for text in texts)


HOSTILE = [
    "<script>alert(1)</script>", "<b>Bordeaux</b>", "Black, White", "Gr\u00fcn/Wei\u00df",
    "{product_type}s", "{0.__class__}", "${oc.env:HOME}", "=1+1", "a\nb", '"quoted"',
    "\u202egnp.exe", "\u8d64", "\U0001f9e5", "x" * 500, "'; DROP TABLE products; --",
    "/", ",", "%s%n", "\\1", "-", "No", "off",
]  # fmt: skip


def test_hostile_values_are_text_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        (f"p{at}", "t", "", "", "", "train", value, "Dot", "Coat", "Men")
        for at, value in enumerate(HOSTILE)
    ]
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--rules", str(rules), "--per-product", "60")
    grades = grades_of(made(tmp_path, rows, *options))
    texts = [text for _, text in grades]
    assert not any("<" in text or "x" * 61 in text or "\n" in text for text in texts)
    assert not any("\u202e" in text for text in texts)
    assert grades["train", "bordeaux coat"] == {"p1": 2}
    assert grades["train", "black coat"] == grades["train", "white coat"] == {"p2": 2}
    assert grades["train", "wei\u00df coat"] == {"p3": 2}
    assert grades["train", "{product_type}s coat"] == {"p4": 2}
    assert grades["train", "\u8d64 coat"] == {"p11": 2}
    assert grades["train", "no coat"] == {"p20": 2}
    with_dots = grades["train", "polka dot coat"]
    assert len(with_dots) == len(HOSTILE)
    # They survive the way through the tables.
    again = read_tables(tmp_path / "out")
    assert not again.rejects
    assert sorted(again.queries["query"]) == sorted(texts)
