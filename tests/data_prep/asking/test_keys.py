"""Tests by which form a value is found, however it is written."""

from __future__ import annotations

import pytest

from data_prep.asking.keys import key_of


@pytest.mark.parametrize(
    "alike",
    [
        ("Women's", "WOMEN\u2019S"),
        ("pull-on", "Pull on", "pull\u2011on"),
        ("3-6 years", "3\u20136 year", "3 - 6 Years"),
        ("140x200 cm", "140 x 200 cm", "140\u00d7200cm", "140 X 200 cm"),
        ("1,000", "1000", "1000.0"),
        ("0,75 l", "0.75 L", "0.75l"),
        ("5 Ah", "5Ah", "5.0 Ah"),
        ("-5 \u00b0C", "\u22125\u00b0c"),
        ("60 %", "60%"),
    ],
)
def test_ways_of_writing_one_value_have_one_key(alike: tuple[str, ...]) -> None:
    assert len({key_of(each) for each in alike}) == 1


@pytest.mark.parametrize(
    "different",
    [("-5 \u00b0C", "5 \u00b0C"), ("-1.5", "1.5"), ("1.5", "15"), ("2,5 mm", "25 mm"),
     ("1.000", "1"), ("2.50", "2.5"), ("10 x 20", "1 x 20"), ("5 mg", "5 g")],
)  # fmt: skip
def test_different_values_have_different_keys(different: tuple[str, ...]) -> None:
    assert len({key_of(each) for each in different}) == len(different)
