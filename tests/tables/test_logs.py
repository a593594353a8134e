"""Tests that logs become queries and graded judgments by the documented rule."""

from __future__ import annotations

from math import log2
from pathlib import Path

import pandas as pd
import pytest

from beyond_text.tables.read import read_tables
from beyond_text.tables.splits import content_id
from beyond_text.tables.tables import Tables
from data_prep.adapters import ADAPTERS
from tests.tables.test_tables import folder, reasons

PRODUCTS = "product_id,title\np1,red vase\np2,blue vase\np3,lamp\n"


def log(path: Path, text: str, **options: float) -> Tables:
    return read_tables(folder(path, products=PRODUCTS, clicks=text), ADAPTERS["clicks"], **options)


def grades(tables: Tables) -> dict[tuple[str, str], float]:
    query = dict(zip(tables.queries["query_id"], tables.queries["query"], strict=True))
    return {
        (query[row.query_id], row.product_id): row.relevance for row in tables.qrels.itertuples()
    }


def test_counts_are_damped_and_scaled_by_the_querys_highest(tmp_path: Path) -> None:
    tables = log(tmp_path, "query,product_id,clicks\nvase,p1,15\nvase,p2,3\nvase,p3,0\nlamp,p3,1\n")
    assert grades(tables) == {
        ("vase", "p1"): 3.0,
        ("vase", "p2"): pytest.approx(3 * log2(4) / log2(16), abs=1e-4),
        ("vase", "p3"): 0.0,
        # One click is less than enough, which is three.
        ("lamp", "p3"): pytest.approx(3 * log2(2) / log2(4), abs=1e-4),
    }


def test_wordings_of_one_query_are_one_and_its_rows_are_added_up(tmp_path: Path) -> None:
    text = "Query,SKU\nRed  Vase,p1\nred vase,p1\n\uff32ED VASE,p1\nred vase,p2\n"
    tables = log(tmp_path, text)
    assert tables.queries[["query_id", "query", "kind", "row"]].to_numpy().tolist() == [
        [content_id("query", "red vase"), "Red  Vase", "clicks", 2]
    ]
    assert grades(tables) == {("Red  Vase", "p1"): 3.0, ("Red  Vase", "p2"): 1.5}
    assert tables.qrels["row"].tolist() == [2, 5]


def test_events_weigh_by_their_kind_and_unknown_ones_are_rejected(tmp_path: Path) -> None:
    tables = log(
        tmp_path,
        "query,product_id,event,timestamp\nvase,p1,Purchase,1\nvase,p2,add-to-cart,2\n"
        "vase,p3,view,3\nvase,p3,frobbed,4\nvase,p9,click,5\n,p1,click,6\n",
    )
    highest = log2(1 + 5)
    assert grades(tables) == {
        ("vase", "p1"): 3.0,
        ("vase", "p2"): pytest.approx(3 * log2(4) / highest, abs=1e-4),
        ("vase", "p3"): pytest.approx(3 * log2(2) / highest, abs=1e-4),
    }
    assert sorted(reasons(tables)) == [
        ("clicks.csv", 5, "vase p3", "unknown event"),
        ("clicks.csv", 6, "vase p9", "unknown product"),
        ("clicks.csv", 7, " p1", "empty query"),
    ]


@pytest.mark.parametrize("form", ["counts", "events"])
def test_with_impressions_it_is_the_rate_of_clicks_shrunk_to_the_mean(
    tmp_path: Path, form: str
) -> None:
    shown = {"p1": (4, 10), "p2": (1, 40), "p3": (0, 50)}
    if form == "counts":
        rows = [f"vase,{name},{clicks},{seen}" for name, (clicks, seen) in shown.items()]
        text = "query,product_id,clicks,impressions\n" + "\n".join(rows)
    else:
        rows = [
            f"vase,{name},{event}"
            for name, (clicks, seen) in shown.items()
            for event in ["impression"] * seen + ["click"] * clicks
        ]
        text = "query,product_id,event\n" + "\n".join(rows)
    mean = 5 / 100
    first, second = (4 + 10 * mean) / 20, (1 + 10 * mean) / 50
    assert grades(log(tmp_path, text)) == {
        ("vase", "p1"): 3.0,
        ("vase", "p2"): pytest.approx(3 * second / first, abs=1e-4),
        ("vase", "p3"): 0.0,
    }


@pytest.mark.parametrize("count", ["-1", "many", "nan", "1e13"])
def test_a_count_that_is_none_is_rejected(tmp_path: Path, count: str) -> None:
    tables = log(tmp_path, f"query,product_id,clicks\nvase,p1,{count}\nvase,p2,\nlamp,p3,2\n")
    assert [(each.row, each.reason) for each in tables.rejects] == [(2, "bad count")]
    assert grades(tables)["vase", "p2"] == 0.0


def test_a_log_keeps_its_ids_and_splits_in_any_order(tmp_path: Path) -> None:
    rows = [f"query {number // 2},p{number % 3 + 1}" for number in range(400)]
    text = "query,product_id\n"
    one = log(tmp_path, text + "\n".join(rows), dev_share=0.3, test_share=0.2).queries
    two = log(tmp_path, text + "\n".join(reversed(rows)), dev_share=0.3, test_share=0.2).queries
    columns = ["query_id", "query", "split"]
    one, two = (each[columns].sort_values("query").reset_index(drop=True) for each in (one, two))
    pd.testing.assert_frame_equal(one, two)
    assert one["query_id"].is_unique
    assert set(one["split"]) <= {"train", "dev", "test"}


def test_a_log_of_clicks_that_the_layout_does_not_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products.csv").write_text("product_id,title\n1,vase\n2,rug\n")
    (tmp_path / "clicks.csv").write_text("query,product_id\nvase,1\n")
    assert read_tables(tmp_path).queries.empty
    said = capsys.readouterr().err
    assert said == "clicks.csv: not read: --layout clicks makes judgments of it\n"
