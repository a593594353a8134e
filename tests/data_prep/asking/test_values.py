"""A cell is parted into the values that the shop means, and says nothing where it has none."""

from __future__ import annotations

import pytest

from data_prep.asking.parts import cell_text, parts_of
from data_prep.asking.rules import read_rules
from data_prep.asking.schema import FieldRules
from data_prep.asking.values import EXACT, NEAR, UNKNOWN, Field

RULES = read_rules()


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("red|blue", ["red", "blue"]),
        ("Red / White, Red", ["Red", "White"]),
        ('["red", "blue"]', ["red", "blue"]),
        ("['red', \"navy blue\"]", ["red", "navy blue"]),
        ("[red]", ["red"]),
        ("[Pro, Heavy Duty]", ["Pro", "Heavy Duty"]),
        ("[38, 39.0, null]", ["38", "39"]),
        ("['a', 5, None]", ["a", "5"]),
        ("('Pro', 'DIY')", ["Pro", "DIY"]),
        ('{Pro,"Heavy Duty, XL"}', ["Pro", "Heavy Duty", "XL"]),
        ('{"a": "b"}', ['{"a": "b"}']),
        ("(washable)", ["(washable)"]),
        ("Audi A3<br>VW Golf", ["Audi A3", "VW Golf"]),
        ("<ul><li>Audi A3</li><li>VW Golf</li></ul>", ["Audi A3", "VW Golf"]),
        ("38,39,40", ["38", "39", "40"]),
        ("1,000,000", ["1,000,000"]),
        ("25 km/h", ["25 km/h"]),
        ("80 g/m\u00b2 / 12V/24V", ["80 g/m\u00b2", "12V", "24V"]),
        ("w/o lid", ["w/o lid"]),
        ("red\nblue\r\n", ["red", "blue"]),
        ("Home > Furniture > Sofas & beds", ["Sofas & beds"]),
        ("A > Hats, B > Caps", ["Hats", "Caps"]),
        ("Arts, Crafts & Sewing > Threads", ["Threads"]),
        ("A > Hats > | Caps", ["Hats", "Caps"]),
        ("Home \u203a Beds", ["Beds"]),
        ("2,5 mm jack", ["2,5 mm jack"]),
        ("40/42", ["40/42"]),
        ("3.0", ["3"]),
        ("2.50", ["2.50"]),
        ("Red, n/a", ["Red"]),
        ("N/A, none", []),
        ("\u2014 / ?", []),
        ("", []),
    ],
)
def test_a_cell_is_parted_as_the_shop_means_it(cell: str, values: list[str]) -> None:
    missing = {"n/a", "none"}
    assert parts_of(cell_text(cell), missing) == values


@pytest.mark.parametrize(
    ("name", "cell", "words"),
    [
        ("material", "60% Cotton, 40 % linen", ["cotton", "linen"]),
        ("material", "Cotton (60%) & steel", ["cotton", "steel"]),
        ("colour", "Black & White", ["black", "white"]),
        ("colour", "Black and White + Red", ["black", "white", "red"]),
        ("product_type", "Salt & pepper mill", ["salt & pepper mill"]),
        ("colour", "Dk. Grey", ["dark grey", "charcoal"]),
        ("colour", "lt blue/Wht", ["light blue", "sky blue", "white"]),
        ("audience", "F", ["women", "ladies", "female"]),
        ("audience", "u", []),
        # Codes and the shop's rest are no words of shoppers.
        ("colour", "12", []),
        ("colour", "3.0", []),
        ("colour", "#ff0000", []),
        ("colour", "#ff0000, Red", ["red"]),
        ("colour", "Red, Multi", ["red"]),
        ("colour", '{"value": "red"}', []),
        ("colour", "a " * 31, []),
        ("colour", ", ".join(["red", "blue", "green"] * 6), ["red", "blue", "green"]),
        ("colour", "It is red, it is blue, and it is made of the very best of all our wool", []),
    ],
)
def test_words_are_those_of_shoppers(name: str, cell: str, words: list[str]) -> None:
    field = Field(name, RULES.fields[name], [cell], RULES.missing)
    assert field.words_of(0) == words


def test_numbers_are_asked_with_the_name_of_their_field_where_the_rules_say_so() -> None:
    field = Field("shoe_size", FieldRules(numbers=True), ["42", "42.0", "XL", "9/10"])
    assert [field.words_of(code) for code in range(len(field.values))] == [
        ["shoe size 42"], ["shoe size 42"], ["shoe size 9/10"], ["xl"],
    ]  # fmt: skip
    agrees = field.state("shoe size 42") == EXACT
    assert [value for value, each in zip(field.values, agrees, strict=False) if each] == [
        "42", "42.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cells", "words"),
    [
        ("is_organic", ["yes", "No", "YES"], {"No": [], "YES": ["organic"]}),
        ("vegan", ["1", "0", "n/a"], {"1": ["vegan"], "0": []}),
        ("gluten_free", ["true"], {"true": ["gluten free"]}),
        # Numbers, and letters beside others.
        ("rooms", ["1", "1"], {"1": ["rooms 1"]}),
        ("rooms", ["0", "1", "2"], {"0": ["rooms 0"], "1": ["rooms 1"], "2": ["rooms 2"]}),
        ("grade", ["n", "m"], {"m": ["grade m"], "n": ["grade n"]}),
        # As numbers, and beside a few others.
        ("grain_free", ["1.0", "0.0", ""], {"1.0": ["grain free"], "0.0": []}),
        (
            "cordless",
            ["Yes", "No", "Optional"],
            {"Yes": ["cordless"], "No": [], "Optional": ["optional"]},
        ),
        (
            "language",
            ["no", "ja", "en", "de", "fr"],
            {each: [each] for each in ("de", "en", "fr", "ja", "no")},
        ),
    ],
)
def test_truths_are_asked_for_by_the_name_of_their_field(
    name: str, cells: list[str], words: dict[str, list[str]]
) -> None:
    field = Field(name, RULES.others.field, cells, RULES.missing)
    found = {value: field.words_of(code) for code, value in enumerate(field.values)}
    assert found == words


def test_a_blank_before_a_unit_says_nothing() -> None:
    field = Field("weight", RULES.others.field, ["250 g", "250g", "250 kg"], RULES.missing)
    agrees = field.state("250g") == EXACT
    assert [value for value, each in zip(field.values, agrees, strict=False) if each] == [
        "250 g", "250g",
    ]  # fmt: skip


def test_a_comma_is_a_part_of_the_name_of_a_person() -> None:
    cells = ["Tolkien, J. R. R.", "Gaiman, Neil; Pratchett, Terry", "Homer"]
    field = Field("author", RULES.fields["author"], cells, RULES.missing)
    assert {value: field.words_of(code) for code, value in enumerate(field.values)} == {
        "Tolkien, J. R. R.": ["j. r. r. tolkien", "tolkien"],
        "Gaiman, Neil; Pratchett, Terry": [
            "neil gaiman", "gaiman", "terry pratchett", "pratchett",
        ],
        "Homer": ["homer"],
    }  # fmt: skip


def test_thousands_are_no_decimals() -> None:
    field = Field("capacity", FieldRules(numbers=True), ["5,000", "5", "10.00", "10.000"])
    asked = {field.values[code]: field.words_of(code) for code in range(len(field.values))}
    assert asked == {
        "5,000": ["capacity 5,000"], "5": ["capacity 5"],
        "10.00": ["capacity 10"], "10.000": ["capacity 10.000"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("product_type", "Hat", "beanie"),
        ("product_type", "Tights", "leggings"),
        ("pattern", "Patterned", "floral"),
        ("audience", "Kids", "baby"),
        ("colour", "Bronze", "copper"),
    ],
)
def test_the_parts_of_a_compound_value_are_values_of_their_own(
    name: str, one: str, other: str
) -> None:
    field = Field(name, RULES.fields[name], [one, other], RULES.missing)
    for word, value in ((one.lower(), one), (other, other)):
        state = field.state(word)
        assert [v for v, each in zip(field.values, state, strict=False) if each == EXACT] == [value]


def test_neighbours_are_found_by_the_name_that_the_rules_list() -> None:
    field = Field("colour", RULES.fields["colour"], ["Cream", "Beige", "Charcoal", "Black"])
    for word, near in (("beige", "Cream"), ("black", "Charcoal")):
        state = dict(zip(field.values, field.state(word).tolist(), strict=False))
        assert state[near] == NEAR


def test_marks_of_chinese_and_japanese_lists_part_values() -> None:
    field = Field("colour", RULES.fields["colour"], ["\u9ed1\u8272\u3001\u767d\u8272"])
    assert field.words_of(0) == ["\u9ed1\u8272", "\u767d\u8272"]


def test_what_is_unisex_agrees_with_either_name_of_an_audience() -> None:
    field = Field("audience", RULES.fields["audience"], ["Unisex", "male", "Female"], RULES.missing)
    for word, other in (("male", "Female"), ("female", "male")):
        state = field.state(word)
        agrees = {value for value, each in zip(field.values, state, strict=False) if each == EXACT}
        assert agrees == {"Unisex", "male", "Female"} - {other}


@pytest.mark.parametrize(
    "cell", ["", "-", "--", "\u2013", "...", "?", "N/A", "n/a / N/A", "NaN", "#N/A", "TBD",
             "Not available", "k.A.", "\u65e0", " None ",
             "<br>", "&nbsp;"],
)  # fmt: skip
def test_a_cell_that_says_nothing_is_not_judged(cell: str) -> None:
    field = Field("colour", RULES.fields["colour"], [cell, "Red"], RULES.missing)
    assert field.codes.tolist() == [-1, 0]
    assert field.state("red").tolist() == [EXACT, UNKNOWN]


def test_products_of_a_list_agree_in_each_of_its_values() -> None:
    cells = ["red|blue", "Red & Blue", "red", "navy, n/a", "Dark Red / light blue"]
    field = Field("colour", RULES.fields["colour"], cells, RULES.missing)
    # A red one is no neighbour of blue, although some are red and blue.
    for word, expected in (("blue", [2, 2, 0, 1, 1]), ("red", [2, 2, 2, 0, 1])):
        state = field.state(word)
        assert [int(state[code]) for code in field.codes] == expected


def test_families_of_a_list_are_none_of_its_single_values() -> None:
    field = Field("colour", RULES.fields["colour"], ["red|blue", "blue", "red", "navy|x"])
    field.set_families("family", ["Reds", "Blues", "Reds", "Blues"], [])
    assert field.near_families("blue") == [0]
    assert field.near_families("red") == [1]
    assert field.near_families("navy") == [0]
