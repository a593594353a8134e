"""A log that is added up part by part is the log that plain Python adds up as a whole."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections import defaultdict
from math import log2
from pathlib import Path

import pandas as pd
import pytest

from beyond_text.tables import sorter
from beyond_text.tables.compact import PART
from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables
from beyond_text.tables.splits import content_id
from beyond_text.tables.tables import Tables
from beyond_text.tables.text import normal_text
from data_prep.adapters import ADAPTERS
from data_prep.shards import build_shards

LAYOUT = ADAPTERS["clicks"]
PRODUCTS = ["007", "7", "p,1", 'p"2', "p 3", "é", "gone"]
QUERIES = [
    'say "hi"', "a, b", "two\nlines", "Red  Vase", "red vase", "\uff32ED VASE", "straße", "STRASSE",
    "nul\0here", "nulhere", "007", "7", "مزهرية", "花瓶", "-", "  trimmed ",
]  # fmt: skip
COUNTS = ["0", "1", "2.5", "3e2", "0.1", "007", "", "1000000000000"]
BAD_COUNTS = ["-1", "nan", "inf", "-inf", "many", "1e13"]
Row = dict[str, str]


def write(path: Path, rows: list[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def shop(folder: Path) -> Path:
    rows = [{"product_id": each, "title": f"Title {each}"} for each in PRODUCTS[:-1]]
    write(folder / "products.csv", rows)
    return folder


def events(number: int, seed: int = 0, bad: float = 0.01) -> list[Row]:
    """Makes rows of a log, of which a share is unfit in each way."""
    draw = random.Random(seed)
    return [
        {
            "query": draw.choice(QUERIES) if draw.random() > bad else draw.choice(["", "  "]),
            "product_id": draw.choice(PRODUCTS[:-1]) if draw.random() > bad else "gone",
            "clicks": draw.choice(COUNTS if draw.random() > bad else BAD_COUNTS),
        }
        for _ in range(number)
    ]


def added_up(rows: list[Row]) -> tuple[list[tuple], list[tuple], list[tuple]]:
    """Adds up a log: queries, judgments and rejects as (row, ...), by the documented rule."""
    queries: dict[str, tuple] = {}
    weight: dict[tuple[str, str], float] = defaultdict(float)
    first: dict[tuple[str, str], int] = {}
    rejects: list[tuple[int, int, str]] = []
    for number, row in enumerate(rows, 2):
        text = row["query"].strip().replace("\0", "")
        try:
            count = float(row["clicks"] or 0)
        except ValueError:
            count = -1.0
        if not text:
            rejects.append((0, number, "empty query"))
        elif row["product_id"] == "gone":
            rejects.append((1, number, "unknown product"))
        elif not 0 <= count <= 1e12:
            rejects.append((2, number, "bad count"))
        else:
            identity = content_id("query", normal_text(text))
            queries.setdefault(identity, (number, identity, text))
            weight[identity, row["product_id"]] += count
            first.setdefault((identity, row["product_id"]), number)
    best = {
        query: max(log2(1 + count) for (each, _), count in weight.items() if each == query)
        for query in queries
    }
    judgments = [
        (number, *pair, round(3 * log2(1 + weight[pair]) / max(best[pair[0]], 2.0), 4))
        for pair, number in first.items()
    ]
    return list(queries.values()), judgments, sorted(rejects)


def found(tables: Tables) -> tuple[list[tuple], list[tuple], list[tuple]]:
    """Returns what was read in the form of `added_up`."""
    queries = tables.queries[["row", "query_id", "query"]]
    judgments = tables.qrels[["row", "query_id", "product_id", "relevance"]]
    order = ["empty query", "unknown product", "bad count"]
    rejects = [(order.index(each.reason), each.row, each.reason) for each in tables.rejects]
    return (
        [tuple(row) for row in queries.astype(object).to_numpy().tolist()],
        [tuple(row) for row in judgments.astype(object).to_numpy().tolist()],
        rejects,
    )


@pytest.mark.parametrize("name", ["clicks.csv", "clicks.csv.gz", "clicks.parquet"])
def test_a_log_of_several_parts_is_added_up_as_a_whole(tmp_path: Path, name: str) -> None:
    rows = events(PART + 3000)
    write(shop(tmp_path) / name, rows)
    tables = read_tables(tmp_path, LAYOUT, dev_share=0.3)
    assert found(tables) == added_up(rows)
    assert {each.file for each in tables.rejects} == {name}
    assert tables.files["qrels"].rows == len(rows)
    ids = {each.id for each in tables.rejects if each.reason == "bad count"}
    assert ids <= {f"{normal} {product}" for row in rows for product in PRODUCTS
                   for normal in [row["query"].strip().replace("\0", "")]}  # fmt: skip


def test_files_of_a_folder_are_one_log_and_rows_are_named_by_their_own(tmp_path: Path) -> None:
    rows = events(400, bad=0.05)
    parts = {"a.csv": rows[:150], "b.parquet": rows[150:300], "c.csv.gz": rows[300:]}
    (tmp_path / "one").mkdir()
    (tmp_path / "several").mkdir()
    write(shop(tmp_path / "one") / "clicks.csv", rows)
    shop(tmp_path / "several")
    for name, part in parts.items():
        write(tmp_path / "several" / "clicks" / name, part)
    one, several = (read_tables(tmp_path / name, LAYOUT) for name in ("one", "several"))
    columns = ["query_id", "query", "split", "seen"]
    pd.testing.assert_frame_equal(one.queries[columns], several.queries[columns])
    columns = ["query_id", "product_id", "relevance", "split"]
    pd.testing.assert_frame_equal(one.qrels[columns], several.qrels[columns])
    starts = dict(zip(parts, (0, 150, 300), strict=True))
    assert sorted(each.row for each in one.rejects) == sorted(
        starts[each.file] + each.row for each in several.rejects
    )
    assert {name: file.rows for name, file in several.files.items()} == {
        "products": 6, "queries": 150, "qrels": 150, "qrels b.parquet": 150, "qrels c.csv.gz": 100
    }  # fmt: skip
    assert set(several.qrels["file"]) <= set(parts)


def test_shards_of_a_log_are_the_same_however_it_is_written(tmp_path: Path) -> None:
    rows = events(300, bad=0)
    built = []
    for name in ("clicks.csv", "clicks.parquet", "clicks/1.csv.gz"):
        folder = tmp_path / name.replace("/", "_")
        folder.mkdir()
        write(shop(folder) / name, rows)
        build_shards(folder, folder / "out", LAYOUT, workers=1, dev_share=0.3)
        built.append(
            {path.name: path.read_bytes() for path in sorted((folder / "out").glob("*-*"))}
        )
    assert built[0].keys() >= {"asked-train.arrow", "judged-train.arrow", "judged-dev.arrow"}
    assert built[0] == built[1] == built[2]


def test_a_row_of_another_split_than_its_query_is_named_wherever_it_stands(tmp_path: Path) -> None:
    rows = [{"query": "Vase", "product_id": "7", "split": "train"}] * (PART + 1)
    rows[0] = {"query": "vase", "product_id": "007", "split": "dev"}
    rows[5] = {"query": "rug", "product_id": "7", "split": "no split!"}
    rows[PART] = {"query": "VASE", "product_id": "7", "split": "dev"}
    write(shop(tmp_path) / "clicks.csv", rows)
    tables = read_tables(tmp_path, LAYOUT, compact=True)
    assert tables.queries[["row", "query", "split"]].to_numpy().tolist() == [[2, "vase", "dev"]]
    assert tables.qrels[["row", "product_id", "split"]].astype(str).to_numpy().tolist() == [
        ["2", "007", "dev"], [str(PART + 2), "7", "dev"]
    ]  # fmt: skip
    first, second, *_, last = tables.rejects
    assert (first.row, first.id, first.reason) == (7, "rug 7", "bad split")
    assert (second.row, second.id, second.reason) == (3, "Vase 7", "crosses splits")
    assert second.detail == "split 'train', expected the split of the query's first row"
    assert (last.row, len(tables.rejects)) == (PART + 1, PART - 1)


def test_what_is_near_to_an_unknown_product_is_named_in_every_part(tmp_path: Path) -> None:
    rows = [{"query": "vase", "product_id": "P 3"}] + [{"query": "vase", "product_id": "7"}] * PART
    rows.append({"query": "vase", "product_id": "7.0"})
    write(shop(tmp_path) / "clicks.csv", rows)
    details = [(each.row, each.detail.partition("; ")[2]) for each in read_tables(
        tmp_path, LAYOUT).rejects]  # fmt: skip
    assert details == [(2, "there is 'p 3'"), (PART + 3, "there is '007'")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("clicks.csv", "clicks.parquet"), "expected one of clicks.csv, clicks.parquet, got both"),
        (("clicks.csv", "clicks/a.csv"), "expected clicks.csv or files in clicks/, got both"),
        (("clicks/a.csv", "clicks/a.csv.gz"), "expected a.csv or a.csv.gz, got both"),
    ],
)
def test_a_log_that_may_be_there_twice_is_refused(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    for name in files:
        write(shop(tmp_path) / name, events(3, bad=0))
    with pytest.raises(TableError, match=message):
        read_tables(tmp_path, LAYOUT)


def test_files_of_a_log_have_all_a_split_or_none(tmp_path: Path) -> None:
    write(shop(tmp_path) / "clicks" / "a.csv", [{"query": "a", "product_id": "7"}])
    write(tmp_path / "clicks" / "b.csv", [{"query": "a", "product_id": "7", "split": "dev"}])
    with pytest.raises(TableError, match=r"b\.csv: expected a column 'split' in all files or none"):
        read_tables(tmp_path, LAYOUT)


def test_a_compressed_file_that_is_cut_or_damaged_is_named(tmp_path: Path) -> None:
    path = shop(tmp_path) / "clicks.csv.gz"
    write(path, events(3000, bad=0))
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:200] + b"\xff" * 50 + whole[250:], whole + b"\x1f\x8b"):
        path.write_bytes(damaged)
        with pytest.raises(TableError, match=r"clicks\.csv\.gz: compressed by gzip and damaged"):
            read_tables(tmp_path, LAYOUT)


def test_a_wrong_byte_in_a_compressed_file_is_found_by_its_row(tmp_path: Path) -> None:
    path = shop(tmp_path) / "clicks.csv.gz"
    path.write_bytes(gzip.compress(b"query,product_id\nvase,7\nv\xffse,7\n"))
    with pytest.raises(TableError, match=r"row 3, byte 25: expected UTF-8, got 0xff"):
        read_tables(tmp_path, LAYOUT)


def test_more_than_memory_goes_to_disk_and_the_sums_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"query": f"query {number % 40_000} {'x' * 150}", "product_id": "7", "clicks": "1"}
        for number in range(120_000)
    ]
    write(shop(tmp_path) / "clicks.csv", rows)
    monkeypatch.setattr(sorter, "MEMORY", "24MB")
    qrels = read_tables(tmp_path, LAYOUT, 0.0, compact=True).qrels
    assert len(qrels) == 40_000
    assert set(qrels["relevance"]) == {3.0}
    assert qrels["row"].tolist() == list(range(2, 40_002))


def test_a_full_disk_is_an_error_of_the_machine(tmp_path: Path) -> None:
    small = "SET max_temp_directory_size = '1MB'; SET memory_limit = '10MB';"
    with pytest.raises(OSError, match="Out of Memory"), sorter.sorter(tmp_path) as connection:
        connection.execute(f"{small} CREATE TABLE t AS SELECT random() FROM range(10000000)")
