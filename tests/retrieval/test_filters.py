"""Tests that filters are read, refused and applied as their documentation says."""

from __future__ import annotations

import operator
from contextlib import suppress

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beyond_text.retrieval.filters import Filter, FilterError, parse_filter, rows_of

READ = {
    "price<50": Filter("price", "<", ("50",)),
    " price <= 50.5 ": Filter("price", "<=", ("50.5",)),
    "price>50": Filter("price", ">", ("50",)),
    "price>=-1e3": Filter("price", ">=", ("-1e3",)),
    "category=Rugs": Filter("category", "=", ("Rugs",)),
    "category = Home > Rugs | Lamps": Filter("category", "=", ("Home > Rugs", "Lamps")),
    "brand!=A|B|C": Filter("brand", "!=", ("A", "B", "C")),
    "brand=a=b<c": Filter("brand", "=", ("a=b<c",)),
    "in_stock": Filter("in_stock", "is"),
    "!in_stock": Filter("in_stock", "is not"),
    "! in stock ": Filter("in stock", "is not"),
    '"size=cm"<60': Filter("size=cm", "<", ("60",)),
    '"!odd"': Filter("!odd", "is"),
    '!"a""b"': Filter('a"b', "is not"),
    'brand="A|B"|C': Filter("brand", "=", ("A|B", "C")),
    'brand=" A "': Filter("brand", "=", (" A ",)),
    'brand="say ""x"""': Filter("brand", "=", ('say "x"',)),
    'size=12"': Filter("size", "=", ('12"',)),
    "Preis €>=5": Filter("Preis €", ">=", ("5",)),
    "brand=a\nb": Filter("brand", "=", ("a\nb",)),
}
REFUSED = [
    "", " ", "=", "<5", "=x", "!", '""=x', '""', "price<", "price=", "price= | ", "brand=A|",
    "brand=|A", "brand=A||B", 'brand="A', 'brand="A"B', '"brand', '"brand"x=1', "price<1|2",
    "brand!=", 'brand=""', "a<>b|",
]  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_a_filter_is_read(text: str) -> None:
    assert parse_filter(text) == READ[text]
    assert parse_filter(str(READ[text])) == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_filter_is_refused_and_named(text: str) -> None:
    with pytest.raises(FilterError) as refused:
        parse_filter(text)
    assert repr(text) in str(refused.value)


WORDS = st.text(min_size=1, max_size=8).filter(str.strip)
VALUES = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3).map(tuple)


@settings(deadline=None)
@given(
    st.one_of(
        st.builds(Filter, WORDS, st.sampled_from(["=", "!="]), VALUES),
        st.builds(Filter, WORDS, st.sampled_from(["is", "is not"]), st.just(())),
    )
)
def test_a_filter_that_is_written_is_read_again(wanted: Filter) -> None:
    assert parse_filter(str(wanted)) == wanted


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    with suppress(FilterError):
        assert parse_filter(text).column


TABLE = pa.table(
    {
        "price": pa.array([10.0, 50.0, None, float("nan"), 70.5]),
        "stock": pa.array([3, 0, None, 2**53, -1], pa.int64()),
        "sale": pa.array([True, False, None, True, False]),
        "brand": pa.array(["A", "B|C", None, "", "a"]),
        "kind": pa.array(["Rug", "Lamp", "Rug", None, ""]).dictionary_encode(),
        "tags": pa.array([["x"], [], None, ["y"], []]),
        "100%": pa.array(["x", "y", "z", "x", "x"], pa.large_string()),
    }
)


@pytest.mark.parametrize(
    ("texts", "rows"),
    [
        (["price<50"], [0]),
        (["price<=50"], [0, 1]),
        (["price>50"], [4]),
        (["price>=50"], [1, 4]),
        (["price=50"], [1]),
        (["price=50|10"], [0, 1]),
        (["price!=50"], [0, 4]),
        (["price!=50|70.5"], [0]),
        (["stock=9007199254740992"], [3]),
        (["stock<0"], [4]),
        (["sale"], [0, 3]),
        (["!sale"], [1, 4]),
        (["sale=false"], [1, 4]),
        (["sale!=FALSE"], [0, 3]),
        (["sale=yes|no"], [0, 1, 3, 4]),
        (["brand=A"], [0]),
        (['brand="B|C"'], [1]),
        (["brand=B|C"], []),
        (["brand!=A"], [1, 4]),
        (["kind=Rug"], [0, 2]),
        (["kind!=Rug"], [1]),
        (["kind!=Nothing"], [0, 1, 2]),
        (["100%=x|z"], [0, 2, 3, 4]),
        (["price>=10", "sale"], [0]),
        (["price>=10", "sale", "brand=a"], []),
    ],
)
def test_the_products_that_pass(texts: list[str], rows: list[int]) -> None:
    found = rows_of(TABLE, [parse_filter(text) for text in texts])
    assert found is not None
    assert found.dtype == np.int64
    assert found.tolist() == rows
    # The same of a table of several chunks.
    parts = pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(2)], promote_options="none")
    assert rows_of(parts, [parse_filter(text) for text in texts]).tolist() == rows


def test_no_filter_is_none() -> None:
    assert rows_of(TABLE, []) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour=red", "no column 'colour', there are price, stock, sale, brand"),
        ("prise<5", "the nearest is price"),
        ("price<cheap", "price holds numbers: expected one, got 'cheap'"),
        ("price<nan", "expected one, got 'nan'"),
        ("price<inf", "expected one, got 'inf'"),
        ("price<1_000", "expected one, got '1_000'"),
        ("price<٣", "expected one, got '٣'"),
        ("price<1e9999", "expected one, got '1e9999'"),
        ("price", "price holds numbers: expected an operator"),
        ("!brand", "brand holds texts: expected an operator"),
        ("brand<B", "brand holds texts: expected = or !=, got <"),
        ("sale>false", "sale holds booleans: expected = or !=, got >"),
        ("sale=maybe", "sale holds booleans: expected true or false, got 'maybe'"),
        ("tags=x", "tags holds list"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_and_named(text: str, said: str) -> None:
    with pytest.raises(FilterError, match="filter ") as refused:
        rows_of(TABLE, [parse_filter(text)])
    assert said in str(refused.value)
    assert str(parse_filter(text)) in str(refused.value)


def test_a_name_that_two_columns_have_is_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(FilterError, match="2 columns have the name 'a'"):
        rows_of(table, [parse_filter("a=1")])


def test_errors_stay_short() -> None:
    wide = pa.table({f"column {number}": [1] for number in range(500)})
    with pytest.raises(FilterError) as refused:
        rows_of(wide, [Filter("x" * 10_000, "=", ("y" * 10_000,))])
    assert len(str(refused.value)) < 1000
    assert "and 480 more" in str(refused.value)


@pytest.mark.parametrize("text", ["a" + " " * 5000, "a=" + "|" * 5000, '"' * 5001, "a=b" * 5000])
def test_long_filters_are_refused_at_once(text: str) -> None:
    with pytest.raises(FilterError, match="at most 2,000 characters, got"):
        parse_filter(text)


def test_a_text_that_fits_in_many_ways_is_read_in_one() -> None:
    """Cubic time in blanks took minutes, not a moment."""
    assert parse_filter(" " * 1999 + "b") == Filter("b", "is")
    blank = " " * 480
    for text in (
        f"{blank}b{blank}c{blank}<",
        f"{blank}!{blank}b{blank}<",
        f'a="b"{blank}c|{blank}',
    ):
        with pytest.raises(FilterError):
            parse_filter(text)


def test_whole_numbers_beyond_what_a_float_holds_are_compared() -> None:
    table = pa.table({"gtin": pa.array([2**60 + 1, 5, None], pa.int64())})
    assert rows_of(table, [parse_filter("gtin>5")]).tolist() == [0]
    assert rows_of(table, [parse_filter("gtin!=5")]).tolist() == [0]


OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
NUMBERS = st.none() | st.floats(allow_infinity=True, width=32) | st.integers(-3, 3).map(float)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(NUMBERS, max_size=12),
    st.sampled_from(sorted(OPERATORS)),
    st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-3, 3).map(float),
)
def test_numbers_pass_as_in_pandas(values: list[float | None], op: str, wanted: float) -> None:
    column = pd.Series(values, dtype=float)
    expected = np.flatnonzero(OPERATORS[op](column, wanted) & column.notna())
    table = pa.table({"n": pa.array(values, pa.float64())})
    found = rows_of(table, [parse_filter(f"n{op}{wanted!r}")])
    assert found is not None
    assert found.tolist() == expected.tolist()


TEXTS = st.none() | st.sampled_from(["", "a", "b", "A", "a|b", "ä", " a"]) | st.text(max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=12), st.sampled_from(["=", "!="]), VALUES)
def test_texts_pass_as_in_pandas(
    values: list[str | None], op: str, wanted: tuple[str, ...]
) -> None:
    column = pd.Series(values, dtype=object)
    any_of = column.isin(wanted)
    present = column.notna() & (column != "")
    expected = np.flatnonzero((any_of if op == "=" else ~any_of) & present)
    table = pa.table({"t": pa.array(values, pa.string())})
    found = rows_of(table, [parse_filter(str(Filter("t", op, wanted)))])
    assert found is not None
    assert found.tolist() == expected.tolist()
