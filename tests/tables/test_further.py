"""Tests that products keep the columns that are not ours, within limits that are said aloud."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beyond_text.tables.further import MAX_COLUMNS, MAX_VALUE, merged
from beyond_text.tables.read import read_tables
from beyond_text.tables.templates import Price

HEADER = "product_id,title,Brand,sku,price,in stock,Unnamed: 6"


def further(folder: Path) -> list[dict[str, str]]:
    return read_tables(folder).products["further"].tolist()


def test_columns_that_are_not_ours_are_kept_without_empty_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "a,Vase,Halvard,0012-A,12.50,true,0\nb,Lamp,,,,,1\nc,Rug,A &amp; B,<b>x</b>y,7,no,2\n"
    (tmp_path / "products.csv").write_text(f"{HEADER}\n{rows}")
    assert further(tmp_path) == [
        {"Brand": "Halvard", "sku": "0012-A", "price": "12.50", "in stock": "true"},
        {},
        {"Brand": "A & B", "sku": "xy", "price": "7", "in stock": "no"},
    ]
    kept = "kept for search by words and for filters: Brand, sku, price, in stock"
    assert capsys.readouterr().err == f"products.csv: columns {kept}\n"


def test_without_such_columns_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products.csv").write_text("product_id,title\na,Vase\n")
    assert further(tmp_path) == [{}]
    assert capsys.readouterr().err == ""


def test_a_column_that_could_be_mistaken_for_ours_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products.csv").write_text("product_id,title,Title,SKU,sku\na,Vase,VASE,1,2\n")
    assert further(tmp_path) == [{"SKU": "1", "sku": "2"}]
    assert "columns ignored: Title\n" in capsys.readouterr().err


def test_more_columns_than_the_limit_are_ignored_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"c{number}" for number in range(MAX_COLUMNS + 3)]
    values = ",".join(map(str, range(len(names))))
    (tmp_path / "products.csv").write_text(f"product_id,title,{','.join(names)}\na,b,{values}\n")
    assert list(further(tmp_path)[0]) == names[:MAX_COLUMNS]
    said = capsys.readouterr().err
    assert f"c7 and {MAX_COLUMNS - 8} more\n" in said
    assert "columns ignored: c100, c101, c102\n" in said


def test_long_values_are_cut_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = f"a,b,{'x' * 5000},y\nc,d,{'x' * MAX_VALUE},{'z' * 1001}\n"
    (tmp_path / "products.csv").write_text(f"product_id,title,notes,more\n{rows}")
    assert [len(row["notes"]) for row in further(tmp_path)] == [MAX_VALUE, MAX_VALUE]
    assert "products.csv: 2 values cut to 1,000 characters\n" in capsys.readouterr().err


def test_hostile_names_are_shown_as_their_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"product_id": ["a"], "title": ["b"], "\x1b[2J\u202ered": ["x"]})
    frame.to_parquet(tmp_path / "products.parquet")
    assert further(tmp_path) == [{"[2Jred": "x"}]
    assert "\x1b" not in capsys.readouterr().err


def test_parquet_of_any_plain_type_is_text_and_structures_are_ignored_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table(
        {
            "product_id": ["a", "b"],
            "title": ["x", "y"],
            "price": [12.5, None],
            "stock": [3.0, None],
            "gtin": [4006381333931, 1],
            "sale": [True, None],
            "amount": [decimal.Decimal("1.10"), None],
            "day": [datetime.date(2026, 1, 31), None],
            "kind": pa.array(["r", None]).dictionary_encode(),
            "tags": [["a", "b"], []],
            "size": pa.array([{"w": 1}, None]),
            "raw": [b"\xff", None],
            "boxes": [[{"w": 1}], None],
        }
    )
    pq.write_table(table, tmp_path / "products.parquet")
    assert further(tmp_path) == [
        {"price": "12.5", "stock": "3", "gtin": "4006381333931", "sale": "true",
         "amount": "1.10", "day": "2026-01-31", "kind": "r", "tags": "a, b"},
        {"gtin": "1"},
    ]  # fmt: skip
    assert "columns ignored: size, raw, boxes\n" in capsys.readouterr().err


def test_other_tables_ignore_columns_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products.csv").write_text("product_id,title,split\na,Vase,dev\n")
    (tmp_path / "queries.csv").write_text("query_id,query,note\nq,vase,x\n")
    (tmp_path / "qrels.csv").write_text("query_id,product_id,relevance,who\nq,a,1,Ann\n")
    tables = read_tables(tmp_path)
    assert "further" not in tables.queries
    said = "queries.csv: columns ignored: note\nqrels.csv: columns ignored: who\n"
    assert capsys.readouterr().err == said


def test_a_product_of_several_splits_has_its_columns_in_each(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product_id,title,sku\na,Vase,A-1\nb,Rug,B-2\n")
    (tmp_path / "queries.csv").write_text("query_id,query,split\nq,vase,dev\nr,a vase,train\n")
    (tmp_path / "qrels.csv").write_text("query_id,product_id,relevance\nq,a,1\nr,a,1\n")
    products = read_tables(tmp_path).products
    found = products.set_index(["product_id", "split"])["further"].to_dict()
    vase = {"sku": "A-1"}
    assert found == {("a", "dev"): vase, ("a", "train"): vase, ("b", "train"): {"sku": "B-2"}}


def test_logs_and_pairs_have_no_further_columns(tmp_path: Path) -> None:
    (tmp_path / "query_title.csv").write_text("query,title,relevance\nvase,A vase,1\nrug,Rug,1\n")
    assert further(tmp_path) == [{}, {}]
    item = {f"item_{name}_{n}": f"{name}{n}" for name in ("id", "title", "image") for n in (1, 2)}
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "pairs.jsonl").write_text(json.dumps(item) + "\n")
    assert further(tmp_path / "pairs") == [{}, {}]


def test_merged_rows_keep_the_first_value_and_of_some_columns_all() -> None:
    rows = [{"sku": "A"}, {"sku": "B", "price": "5"}, {"sku": "A", "price": "4"}, {}]
    assert merged(rows, {"sku"}) == {"sku": "A | B", "price": "5"}
    assert len(merged([{"sku": "x" * 900 + str(n)} for n in range(9)], {"sku"})["sku"]) == MAX_VALUE


PRICES = {
    "12.99 USD": "12.99", "USD 12.99": "12.99", "$12.99": "12.99", "12,99 \u20ac": "12.99",
    "\u00a3 3": "3", "7": "7", "kr 100": "100", "": "", "free": "free", "1,299.00 USD":
    "1,299.00 USD", "12-15": "12-15", "12,990": "12,990", "-5": "-5",
}  # fmt: skip


@pytest.mark.parametrize("value", PRICES)
def test_a_price_loses_its_currency_and_nothing_else_is_guessed(value: str) -> None:
    assert Price(("{sale}", "{price}")).combine(["", value]) == PRICES[value]
