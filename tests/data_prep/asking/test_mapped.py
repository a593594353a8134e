"""Queries that people wrote are judged by the words of fields found in them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data_prep.asking.mapped import Mapper
from data_prep.asking.rules import read_rules
from data_prep.asking.values import Field
from data_prep.queries import main
from tests.data_prep.asking.shops import (
    ATTRIBUTES,
    HEADER,
    error_of,
    queries_of,
    read_csv,
    write_csv,
)


def people_shop(folder: Path) -> tuple[Path, Path]:
    shop = [
        ("p1", "a", "", "", "", "train", "Navy Blue", "Dot", "Dress", "Women"),
        ("p2", "b", "", "", "", "train", "Blue", "Dot", "Dress", "Men"),
        ("p3", "c", "", "", "", "train", "Blue", "Stripe", "Dress", ""),
        ("p4", "d", "", "", "", "train", "Red", "Solid", "Dress", ""),
        ("p5", "e", "", "", "", "train", "Red", "Solid", "T-shirt", ""),
        ("p6", "f", "", "", "", "dev", "Red", "Solid", "Shorts", ""),
        ("p7", "g", "", "", "", "dev", "Dark Red", "Solid", "Tshirts", ""),
    ]
    write_csv(folder / "shop" / "products.csv", HEADER, shop)
    queries = write_csv(
        folder / "people.csv",
        ("query_id", "query", "split", "kind"),
        [
            ("q1", "Women's NAVY polka-dot dress with red collar", "train", ""),
            ("q2", "red dress", "train", "log"),
            ("q3", "short sleeve red t shirt", "dev", ""),
            ("q4", "something nice", "train", ""),
            ("q5", "a dress", "train", ""),
        ],
    )
    return folder / "shop", queries


def test_queries_of_people_are_judged_by_the_words_found_in_them(tmp_path: Path) -> None:
    shop, queries = people_shop(tmp_path)
    out = tmp_path / "out"
    arguments = ["--attributes", ATTRIBUTES, "--map", str(queries), "--per-product", "0"]
    assert main([str(shop), str(out), *arguments]) == 0
    written = {each["query_id"]: each for each in queries_of(out)}
    assert written.keys() == {"q1", "q2", "q3"}
    assert written["q1"] == {
        "query_id": "q1", "query": "Women's NAVY polka-dot dress with red collar",
        "split": "train", "kind": "human", "asked": "colour pattern product_type",
    }  # fmt: skip
    assert written["q2"]["kind"] == "log"
    judged: dict[str, dict[str, float]] = {}
    for row in read_csv(out / "qrels.csv"):
        judged.setdefault(row["query_id"], {})[row["product_id"]] = float(row["relevance"])
    # Blue is near navy, which people do not tell apart.
    assert judged == {"q1": {"p1": 2, "p2": 2, "p3": 1}, "q2": {"p4": 2}, "q3": {"p7": 2}}
    left = read_csv(out / "unmapped.csv")
    assert [(each["row"], each["query"]) for each in left] == [
        ("5", "something nice"),
        ("6", "a dress"),
    ]
    assert json.loads((out / "made.json").read_text())["unmapped"] == 2


def test_queries_of_people_without_a_split_get_one_by_their_words(tmp_path: Path) -> None:
    shop, _ = people_shop(tmp_path)
    texts = [f"red dress number {at}" for at in range(60)]
    splits = []
    for name, order in (("a", texts), ("b", texts[::-1])):
        queries = write_csv(tmp_path / f"{name}.csv", ("query",), [(text,) for text in order])
        out = tmp_path / name
        arguments = ["--attributes", ATTRIBUTES, "--map", str(queries), "--per-product", "0"]
        assert main([str(shop), str(out), *arguments]) == 0
        splits.append({each["query"]: each["split"] for each in queries_of(out)})
    assert splits[0] == splits[1]
    assert Counter(splits[0].values())["train"] > Counter(splits[0].values())["dev"] > 5


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("q1", "red dress", "test")], "row 2: expected a split of the products"),
        ([("q1", "red dress", "dev"), ("q1", "blue dress", "dev")],
         "row 3: expected a new query_id, got 'q1'"),
    ],
)  # fmt: skip
def test_queries_of_people_that_do_not_fit_are_refused(
    tmp_path: Path, rows: list[tuple], expected: str, capsys: pytest.CaptureFixture
) -> None:
    shop, _ = people_shop(tmp_path)
    queries = write_csv(tmp_path / "q.csv", ("query_id", "query", "split"), rows)
    arguments = (shop, tmp_path / "out", "--attributes", ATTRIBUTES, "--map", queries)
    message = error_of(capsys, *arguments)
    assert str(queries) in message
    assert expected in message


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Black leather jacket with a red shirt", ("black", "jacket")),
        ("red shirt dress", ("red", "dress")),
        ("Plain gray JEANS, high waist", ("gray", "trouser")),
        ("tight short black dress", ("black", "dress")),
        ("dress, long, navy-blue", ("navy blue", "dress")),
        ("tank-top white women", ("white", "tank top")),
        # Another product's colour is not this one's, and a part's may be.
        ("jacket for a black dress, red", ("red", "jacket")),
        ("jacket with belt red", ("red", "jacket")),
        ("jacket, cotton, black, shirt", ("black", "jacket")),
        ("suitable for work red jacket", ("red", "jacket")),
    ],
)
def test_words_of_fields_are_found_in_texts(text: str, asked: tuple[str, str]) -> None:
    rules = read_rules()
    cells = {
        "product_type": ["Jacket", "Shirt", "Dress", "Trousers", "Shorts", "Tights", "Vest top"],
        "colour": ["Black", "Red", "Grey", "Dark Blue", "White", "Blue", "Blue"],
        "pattern": ["Denim"] * 7,
    }
    fields = {name: Field(name, rules.fields[name], each) for name, each in cells.items()}
    query = Mapper(rules, fields).query_of(text)
    assert query is not None
    found = dict(query.asked)
    assert (found["colour"], found["product_type"]) == asked
    assert ("pattern" in found) == ("JEANS" in text)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        # A word that two fields have asks for the one that nothing else asks for.
        ("transparent black shirt", {"colour": "black", "pattern": "transparent"}),
        ("transparent shirt", {"colour": "transparent"}),
        # The table's own name of a value is a word for it.
        ("white shirt with stripes", {"colour": "white", "pattern": "stripe"}),
        # What is of another product, before its name; and a noun before a noun.
        ("white shirt with red jeans", {"colour": "white"}),
        ("white shirt, blue jeans", {"colour": "white"}),
        ("red jean shirt", {"colour": "red", "pattern": "denim"}),
        ("red, with striped shirt, casual shirt", {"colour": "red", "pattern": "striped"}),
    ],
)
def test_what_a_query_asks_for_beside_its_noun(text: str, asked: dict[str, str]) -> None:
    rules = read_rules()
    cells = {
        "product_type": ["Shirt", "Trousers", "Shirt", "Shirt"],
        "colour": ["Black", "White", "Transparent", "Red"],
        "pattern": ["Stripe", "Denim", "Transparent", "Solid"],
    }
    fields = {name: Field(name, rules.fields[name], each) for name, each in cells.items()}
    query = Mapper(rules, fields).query_of(text)
    assert query is not None
    assert dict(query.asked) == asked | {"product_type": "shirt"}
    # What is asked is what products are found by.
    assert all(fields[name].codes_of[word] for name, word in query.asked)


def test_rows_of_people_that_are_no_new_query_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shop, _ = people_shop(tmp_path)
    rows = [("Red dress",), ("red  dress",), ("",), *((f"red dress {n}",) for n in range(30))]
    queries = write_csv(tmp_path / "q.csv", ("query",), rows)
    out = tmp_path / "out"
    arguments = ["--attributes", ATTRIBUTES, "--map", str(queries), "--per-product", "0"]
    assert main([str(shop), str(out), *arguments]) == 0
    left = [(row["row"], row["reason"], row["detail"]) for row in read_csv(out / "rejects.csv")]
    assert left == [
        ("4", "empty query", "expected a text"),
        ("3", "repeats a query", "as in row 2: red dress"),
    ]
    assert "q.csv: repeats a query: 1 rejected" in capsys.readouterr().err
    # The seed is of draws: it moves nothing between splits.
    splits = {each["query"]: each["split"] for each in queries_of(out)}
    assert main([str(shop), str(out), *arguments, "--seed", "1"]) == 0
    assert {each["query"]: each["split"] for each in queries_of(out)} == splits
    write_csv(queries, ("query",), [])
    assert "expected queries, got no row" in error_of(capsys, shop, out, *arguments)
