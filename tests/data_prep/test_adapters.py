"""Tests that adapters read small tables with the column names of public data sets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables
from data_prep.adapters import ADAPTERS


def test_hm_articles_get_their_leading_zero_and_picture_path_back(tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "article_id": ["0108775015", "108775044"],
            "product_code": ["108775", "108775"],
            "prod_name": ["Strap top", "Strap top"],
            "product_type_name": ["Vest top", "Vest top"],
            "index_name": ["Ladieswear", "Ladieswear"],
            "garment_group_name": ["Jersey Basic", ""],
            "detail_desc": ["Jersey top with narrow straps, fitted.", ""],
            "colour_group_name": ["Black", "White"],
        }
    ).to_csv(tmp_path / "articles.csv", index=False)
    tables = read_tables(tmp_path, ADAPTERS["hm_articles"])
    first, second = tables.products.to_dict("records")
    images = tmp_path.resolve() / "images"
    assert first["product_id"] == "0108775015"
    assert first["title"] == "Strap top"
    assert first["description"] == "Jersey top with narrow straps, fitted."
    assert first["category"] == "Ladieswear > Jersey Basic > Vest top"
    assert first["image"] == str(images / "010" / "0108775015.jpg")
    assert second["image"] == str(images / "010" / "0108775044.jpg")
    assert second["category"] == "Ladieswear > Vest top"
    assert first["group_id"] == second["group_id"] == "0108775"
    assert first["split"] == second["split"]


def test_fashion_product_images_titles_keep_their_commas(tmp_path: Path) -> None:
    (tmp_path / "styles.csv").write_text(
        "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,"
        "productDisplayName\n"
        "15970,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Shirt\n"
        "6044,Men,Apparel,Topwear,Tshirts,Red,,2011,Casual,Tee, pack of 2, red\n"
        "7,Men,Apparel\n",
        encoding="utf-8",
    )
    tables = read_tables(tmp_path, ADAPTERS["fashion_product_images"])
    assert tables.products["title"].tolist() == ["Turtle Check Shirt", "Tee, pack of 2, red"]
    assert tables.products["category"].tolist()[0] == "Apparel > Topwear > Shirts"
    assert tables.products["description"].tolist()[1] == "Men Red 2011 Casual"
    assert tables.products["image"].tolist()[1] == str(tmp_path.resolve() / "images/6044.jpg")
    assert [(reject.row, reject.id, reject.reason) for reject in tables.rejects] == [
        (4, "7", "malformed row")
    ]


def test_esci_labels_are_grades_and_other_locales_are_counted(tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "product_id": ["B01", "B02", "B02"],
            "product_title": ["Gas mask", "Filter", "Filtro"],
            "product_description": [None, "<p>40 mm</p>", None],
            "product_bullet_point": ["Full face", None, None],
            "product_brand": ["Acme", None, None],
            "product_color": ["Black", "Grey", None],
            "product_locale": ["us", "us", "es"],
        }
    ).to_parquet(tmp_path / "shopping_queries_dataset_products.parquet")
    rows = [
        ("gas mask", 5, "B01", "us", "E", "train"),
        ("gas mask", 5, "B02", "us", "C", "train"),
        ("filter", 6, "B02", "us", "S", "test"),
        ("filter", 6, "B01", "us", "I", "test"),
        ("filtro", 7, "B02", "es", "E", "train"),
        ("gas mask", 5, "B03", "us", "E", "train"),
    ]
    names = ["query", "query_id", "product_id", "product_locale", "esci_label", "split"]
    examples = pd.DataFrame(rows, columns=names)
    examples.insert(0, "example_id", range(len(examples)))
    examples["small_version"] = 1
    examples.to_parquet(tmp_path / "shopping_queries_dataset_examples.parquet")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "B01.jpg").write_bytes(b"there")

    tables = read_tables(tmp_path, ADAPTERS["esci"])
    assert tables.grades == ["relevance"]
    judged = tables.qrels[["query_id", "product_id", "relevance", "split"]].to_numpy().tolist()
    assert judged == [
        ["5", "B01", 3.0, "train"],
        ["5", "B02", 1.0, "train"],
        ["6", "B02", 2.0, "test"],
        ["6", "B01", 0.0, "test"],
    ]
    assert tables.queries[["query_id", "query", "split"]].to_numpy().tolist() == [
        ["5", "gas mask", "train"],
        ["6", "filter", "test"],
    ]
    products = tables.products.set_index(["product_id", "split"])
    assert len(products) == 4
    assert products.loc[("B01", "train"), "image"] == str(tmp_path.resolve() / "images/B01.jpg")
    assert products.loc[("B02", "test"), "image"] == ""
    assert products.loc[("B01", "test"), "description"] == "Full face"
    assert products.loc[("B01", "test"), "category"] == "Acme, Black"
    assert [reject.reason for reject in tables.rejects] == ["unknown product"]
    assert tables.files["products"].left_out == 1
    assert tables.files["qrels"].left_out == 1


def test_an_adapter_names_the_column_it_misses(tmp_path: Path) -> None:
    (tmp_path / "articles.csv").write_text("article_id,prod_names\n1,a\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"'prod_name', got .*; the nearest is 'prod_names'"):
        read_tables(tmp_path, ADAPTERS["hm_articles"])
