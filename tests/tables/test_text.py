"""Tests that texts are what a shopper reads: no markup, and no word lost."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beyond_text.tables.text import normal_text, product_text, shown_text

SHOWN = {
    "<p>Soft<br>and <b>S</b>mall</p>": "Soft and Small",
    "<ul><li>a<li>b</ul>": "a b",
    "Tom &amp; Jerry&nbsp;&#8217;s &frac12;": "Tom & Jerry \u2019s \u00bd",
    "&lt;p&gt;Soft&lt;/p&gt;": "Soft",
    "&amp;lt;b&amp;gt;x&amp;lt;/b&amp;gt;": "x",
    "<script>alert(1 < 2)</script>x<style>p{}</style>": "x",
    "<!-- note -->Hi<!DOCTYPE html>": "Hi",
    "<![CDATA[Hello <b>x</b>]]>": "Hello x",
    '<img alt="a > b" src=x>word': "word",
    "<strong>Cut</strong> <em>off": "Cut off",
    "<o:p></o:p>Word": "Word",
    "a\u00a0b\u200bc\x00d\u202e\ufeff": "a bcd",
    " two  blanks \n stay ": "two  blanks \n stay",
}


@pytest.mark.parametrize("value", SHOWN)
def test_markup_goes_and_words_stay(value: str) -> None:
    assert shown_text(value) == SHOWN[value]


@pytest.mark.parametrize(
    "value",
    ["size < 5 & > 3", "AC/DC <3", "R&D", "AT&T; M&notebook", "Shirt <S>", "Bowl <small>",
     "x <y and z", "a <p", "<", "&", "<<b>", "1<2>0", "<brand> vase", "&foo; bar", "<script>x",
     "caf\u00e9 \U0001f468\u200d\U0001f469", "[set of 4]", "50% off {now}"],
)  # fmt: skip
def test_what_is_no_markup_stays_as_it_is(value: str) -> None:
    assert shown_text(value) == value


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Z"))))
def test_escaped_text_comes_back_whole_and_again_changes_nothing(value: str) -> None:
    shown = shown_text(value)
    assert shown_text(shown) == shown
    if "<" not in value and "&" not in value:
        assert shown_text(f"<p>{html.escape(value)}</p>").split() == shown.split()


def test_equal_texts_have_one_normal_form() -> None:
    assert normal_text(" Red\u3000VASE \uff21 ") == normal_text("red vase a")
    assert normal_text("red vases") != normal_text("red vase")


def test_product_text_joins_the_chosen_fields_that_are_not_empty() -> None:
    fields = {"title": "Vase.", "category": "", "description": "A vase. ", "group_id": "7"}
    assert product_text(fields, ["title", "category", "description"]) == "Vase. A vase"
    assert product_text(fields, ["description"]) == "A vase"
    assert product_text(fields, ["category"]) == ""
