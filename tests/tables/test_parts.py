"""A table that is read in several parts is the table that it is as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beyond_text.tables.compact import PART
from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables
from beyond_text.tables.splits import components
from data_prep.adapters import ADAPTERS

ROWS = PART + 2


def write(folder: Path, ending: str) -> None:
    """Writes products over two parts: the last has the id of the first, and its first no text."""
    ids = [f"p{number}" for number in range(ROWS - 1)] + ["p0"]
    titles = [f"Mug {number}" if number != PART else "" for number in range(ROWS)]
    path = folder / f"products.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"product_id": ids, "title": titles}), path)
    else:
        lines = [f"{identity},{title}" for identity, title in zip(ids, titles, strict=True)]
        path.write_text("\n".join(["product_id,title", *lines]))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_are_numbered_and_compared_over_all_parts(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ending)
    tables = read_tables(tmp_path, dev_share=0)
    assert len(tables.products) == ROWS - 2
    assert tables.products["row"].iloc[[0, PART - 1]].tolist() == [2, PART + 1]
    assert [(each.row, each.id, each.reason) for each in tables.rejects] == [
        (ROWS + 1, "p0", "duplicate id"), (PART + 2, f"p{PART}", "no text and no picture")
    ]  # fmt: skip
    assert tables.files["products"].rows == ROWS


def test_a_row_that_is_none_is_counted_where_a_part_ends(tmp_path: Path) -> None:
    lines = [f"{number},Mug" for number in range(PART)]
    (tmp_path / "products.csv").write_text("\n".join(["product_id,title", *lines, "a,b,c"]))
    tables = read_tables(tmp_path, dev_share=0)
    assert len(tables.products) == PART
    assert [(each.row, each.detail) for each in tables.rejects] == [
        (PART + 2, "3 fields, expected 2")
    ]
    assert tables.files["products"].rows == PART + 1


def test_a_byte_that_is_no_text_is_found_wherever_it_stands(tmp_path: Path) -> None:
    lines = "\n".join(f"{number},Mug" for number in range(PART)).encode()
    (tmp_path / "products.csv").write_bytes(b"product_id,title\n" + lines + b"\nx,\xff\n")
    with pytest.raises(TableError, match=rf"row {PART + 2}, byte \d+: expected UTF-8, got 0xff"):
        read_tables(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_they_do_beyond_the_longest_header(tmp_path: Path, end: str) -> None:
    titles = [f"{'x' * 1000} {number}" for number in range(2100)]
    lines = [f'{number},"{title}{end}!"' for number, title in enumerate(titles)]
    path = tmp_path / "products.csv"
    path.write_bytes(end.join(["product_id,title", *lines]).encode())
    products = read_tables(tmp_path, dev_share=0).products
    assert products["title"].tolist() == [f"{title}{end}!" for title in titles]
    assert products["row"].tolist() == list(range(2, 2102))


def test_a_field_of_json_lines_may_first_stand_in_the_last_one(tmp_path: Path) -> None:
    rows = [{"_id": f"a{number}", "title": "Mug"} for number in range(PART + 1)]
    rows[-1] |= {"text": "For tea."}
    lines = [json.dumps(row) for row in rows]
    lines.insert(PART, "no JSON")
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    tables = read_tables(tmp_path, ADAPTERS["beir"], dev_share=0)
    assert len(tables.products) == PART + 1
    assert tables.products["description"].iloc[[0, -1]].tolist() == ["", "For tea."]
    assert tables.products["row"].iloc[-1] == PART + 2
    assert [(each.row, each.reason) for each in tables.rejects] == [(PART + 1, "malformed row")]


def test_compact_tables_are_the_same_ones(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product_id,title,colour\na,Mug,red\nb,Rug,\n")
    (tmp_path / "queries.csv").write_text("query_id,query\nq,cup\n")
    (tmp_path / "qrels.csv").write_text("query_id,product_id,relevance\nq,a,2\nq,b,0.5\n")
    whole, compact = read_tables(tmp_path), read_tables(tmp_path, compact=True)
    assert whole.products["further"].tolist() == [{"colour": "red"}, {}]
    assert compact.products["further"].tolist() == ['{"colour":"red"}', ""]
    assert whole.qrels["product_id"].tolist() == compact.qrels["product_id"].tolist() == ["a", "b"]
    assert isinstance(compact.qrels["product_id"].dtype, pd.CategoricalDtype)
    assert not isinstance(whole.qrels["product_id"].dtype, pd.CategoricalDtype)


def test_rows_are_connected_by_equal_keys_of_any_column_but_empty_ones() -> None:
    group = components(["a", "b", "", "c", ""], ["x", "a", "", "y", "y"]).tolist()
    assert group[0] == group[1]
    assert group[3] == group[4]
    assert len(set(group)) == 3
