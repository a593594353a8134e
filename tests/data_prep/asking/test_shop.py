"""Products keep texts and splits, no field leaks, and fields that do not fit are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from beyond_text.tables.layouts import TEXT_COLUMNS
from beyond_text.tables.read import read_tables
from data_prep.asking.shop import attributes_of
from data_prep.queries import main
from data_prep.shards import build_shards
from tests.data_prep.asking.shops import (
    HEADER,
    error_of,
    grades_of,
    made,
    queries_of,
    read_csv,
    shop_rows,
    write_csv,
)


@pytest.mark.parametrize("from_file", [True, False], ids=["fields", "own columns"])
def test_products_keep_their_texts_and_nothing_of_the_fields(
    tmp_path: Path, from_file: bool, capsys: pytest.CaptureFixture
) -> None:
    shop = tmp_path / "shop"
    rows = [
        (f"0{at}", f"Coat <b>{at}</b>, warm &amp; 'dry'", "Made\nof \"wool\"", "A | B",
         f"pics/{at}.jpg" if at % 3 else "", f"g{at // 2}", "Secret colour", "Vest", "5.00")
        for at in range(40)
    ]  # fmt: skip
    header = ("product_id", "title", "description", "category", "image", "group_id", "Colour",
              "product type", "price")  # fmt: skip
    write_csv(shop / "products.csv", header, rows)
    for at in range(40):
        (shop / "pics").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (at, 0, 0)).save(shop / f"pics/{at}.jpg")
    options = ["--attributes", "colour,product_type"]
    if from_file:
        fields = [(row[0], "Hidden shade", "Robe") for row in rows]
        fields_path = write_csv(
            tmp_path / "f.csv", ("product_id", "colour", "product_type"), fields
        )
        options += ["--fields", str(fields_path)]
    assert main([str(shop), str(tmp_path / "out"), *options]) == 0
    out = tmp_path / "out"
    written = (out / "products.csv").read_text()
    assert not re.search("secret|hidden|shade|vest|robe|colour|type", written, re.IGNORECASE)
    before, after = read_tables(shop).products, read_tables(out).products
    for column in ("product_id", *TEXT_COLUMNS, "group_id", "split"):
        assert before[column].tolist() == after[column].tolist()
    assert [[Path(one).resolve() for one in each] for each in after["images"]] == [
        [Path(one).resolve() for one in each] for each in before["images"]
    ]
    assert after["further"].tolist() == [{"price": "5.00"}] * 40
    assert not any(path.suffix == ".jpg" for path in out.iterdir())
    # The fields that were left out are read from beside the products.
    assert main([str(out), str(tmp_path / "again"), *options[:2]]) == 0
    for name in ("attributes.csv", "queries.csv", "qrels.csv"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    capsys.readouterr()
    manifest = build_shards(out, tmp_path / "shards", workers=1)
    packed = manifest["splits"].values()
    assert sum(entry["pictures"] for entry in packed) == sum(1 for row in rows if row[4])
    assert sum(entry["queries"] for entry in packed) == len(queries_of(out))
    assert not manifest["rejects"]


def test_queries_of_a_split_are_judged_for_its_products_alone(tmp_path: Path) -> None:
    out = made(tmp_path, shop_rows())
    split_of = {row["product_id"]: row["split"] for row in read_csv(out / "products.csv")}
    assert split_of == {row[0]: row[5] for row in shop_rows()}
    of_query = {row["query_id"]: row["split"] for row in queries_of(out)}
    judgments = read_csv(out / "qrels.csv")
    assert {of_query[row["query_id"]] for row in judgments} == {"train", "dev"}
    assert all(of_query[row["query_id"]] == split_of[row["product_id"]] for row in judgments)


def test_products_without_a_split_get_that_of_the_shards(tmp_path: Path) -> None:
    header = HEADER[:5] + HEADER[6:]
    rows = [row[:5] + row[6:] for row in shop_rows()]
    out = made(tmp_path, rows, "--dev-share", "0.3", "--test-share", "0.2", header=header)
    drawn = read_tables(tmp_path / "shop", dev_share=0.3, test_share=0.2).products
    written = {row["product_id"]: row["split"] for row in read_csv(out / "products.csv")}
    assert written == dict(zip(drawn["product_id"], drawn["split"], strict=True))
    assert set(written.values()) == {"train", "dev", "test"}
    groups: dict[str, set[str]] = {}
    for row in read_csv(out / "products.csv"):
        groups.setdefault(row["group_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in groups.values())


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("colour,size", "--attributes: expected fields that a form of the rules asks for"),
        ("colour,pattern", "--attributes: expected fields that a form of the rules asks for"),
        ("colour,,product_type", "--attributes: expected names such as"),
        ("colour,colour,product_type", "got 'colour'"),
        ("colour=,product_type", "got 'colour='"),
        ("colour=shade,product_type", "expected a column 'shade' with a value, got title"),
    ],
)
def test_attributes_that_cannot_be_asked_are_refused(
    tmp_path: Path, attributes: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows(8))
    message = error_of(capsys, tmp_path, tmp_path / "out", "--attributes", attributes)
    assert expected in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("p001", "Red", "Coat"), ("p001", "Blue", "Coat")],
         "row 3: expected an id of a product, each once, got 'p001'"),
        ([("p001", "Red", "Coat"), ("", "Blue", "Coat")],
         "row 3: expected an id of a product, each once, got ''"),
        ([("other", "Red", "Coat")], "expected ids of products.csv, such as 'p000', got 'other'"),
        ([("p001", "", "")], "expected products with values of colour, product_type"),
        ([], "got 'no row'"),
    ],
    ids=["twice", "no id", "other ids", "no value", "empty"],
)  # fmt: skip
def test_a_file_of_fields_that_does_not_fit_is_refused(
    tmp_path: Path, rows: list[tuple], expected: str, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows(8))
    fields = write_csv(tmp_path / "f.csv", ("product_id", "colour", "product_type"), rows)
    arguments = (tmp_path, tmp_path / "out", "--attributes", "colour,product_type")
    message = error_of(capsys, *arguments, "--fields", fields)
    assert str(fields) in message
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_fields_may_have_other_names_and_ids_of_an_article(tmp_path: Path) -> None:
    rows = [(row[0], "Red", "Trousers") for row in shop_rows(8)]
    fields = write_csv(tmp_path / "a.csv", ("article_id", "colour_group_name", "kind"), rows)
    attributes = "colour=colour_group_name, product_type=kind"
    out = made(tmp_path, shop_rows(8), "--attributes", attributes, "--fields", str(fields))
    assert ("train", "red trousers") in grades_of(out)
    assert attributes_of(attributes) == {"colour": "colour_group_name", "product_type": "kind"}


def test_a_table_of_attributes_beside_the_products_has_the_fields_that_these_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shop, out = tmp_path / "shop", tmp_path / "out"
    ids = [row[0] for row in shop_rows(8)]
    rows = [(each, f"Thing {each}", "Blue") for each in ids]
    write_csv(shop / "products.csv", ("product_id", "title", "colour"), rows)
    beside = write_csv(
        shop / "attributes.csv", ("product_id", "product_type"), [(e, "Trousers") for e in ids]
    )
    arguments = [str(shop), str(out), "--attributes", "colour,product_type"]
    assert main(arguments) == 0
    assert ("train", "blue trousers") in grades_of(out)
    assert f"fields are of {beside}" in capsys.readouterr().err
    # A file that is named is the one, and what the products have alone needs none.
    other = write_csv(
        tmp_path / "f.csv", ("product_id", "product_type"), [(e, "Vest") for e in ids]
    )
    assert main([*arguments, "--fields", str(other)]) == 0
    assert ("train", "blue vest") in grades_of(out)
    write_csv(
        shop / "products.csv", ("product_id", "title", "colour", "product_type"),
        [(*row, "Robe") for row in rows],
    )  # fmt: skip
    assert main(arguments) == 0
    assert ("train", "blue robe") in grades_of(out)
    (shop / "attributes.tsv").write_text("product_id\tproduct_type\n")
    write_csv(shop / "products.csv", ("product_id", "title", "colour"), rows)
    assert "expected one of attributes.csv, attributes.tsv, got both" in error_of(
        capsys, *arguments
    )


def test_a_file_of_fields_that_is_the_products_own_is_read_alike(tmp_path: Path) -> None:
    """Ids that lost a leading zero get it back, and a row that stands twice counts once."""
    rows = [(f"{1000 + at}", "7", f"Name {at}", "Women", "Jersey", "Red", "Coat", "")
            for at in range(40)]  # fmt: skip
    header = ("article_id", "product_code", "prod_name", "index_name", "garment_group_name",
              "colour_group_name", "product_type_name", "detail_desc")  # fmt: skip
    shop, out = tmp_path / "shop", tmp_path / "out"
    file = write_csv(shop / "articles.csv", header, [*rows, rows[3]])
    assert main(
        [str(shop), str(out), "--layout", "hm_articles", "--fields", str(file), "--attributes",
         "colour=colour_group_name,product_type=product_type_name", "--absent-pictures"]
    ) == 0  # fmt: skip
    assert "classic red simple coat" in {text for _, text in grades_of(out)}
    products = read_csv(out / "products.csv")
    assert products[0]["product_id"] == "0000001000"
    assert {row["group_id"] for row in products} == {"0000007"}
    rejects = [(row["row"], row["reason"]) for row in read_csv(out / "rejects.csv")]
    assert rejects == [("42", "duplicate id")] * len(rejects)
    assert rejects


def test_what_says_which_shades_are_neighbours_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(f"p{at}", f"Thing {at}", "Red", "Vest", "Warm") for at in range(8)]
    header = ("product_id", "title", "colour", "product_type", "colour_family")
    for columns, source in ((5, "colour_family"), (4, "the rules")):
        write_csv(tmp_path / "products.csv", header[:columns], [row[:columns] for row in rows])
        out = tmp_path / f"out{columns}"
        assert main([str(tmp_path), str(out), "--attributes", "colour,product_type"]) == 0
        assert f"neighbours by {source};" in capsys.readouterr().out
        made = json.loads((out / "made.json").read_text())
        assert made["fields"]["colour"]["neighbours_by"] == source
        assert made["fields"]["product_type"]["neighbours_by"] == ""
