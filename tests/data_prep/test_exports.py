"""Tests that shops' exports are read as their programs write them."""

from __future__ import annotations

import csv
import json
import tarfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beyond_text.shards.manifest import read_manifest
from beyond_text.shards.split import Split
from beyond_text.tables.cells import picture_names
from beyond_text.tables.columns import read_source
from beyond_text.tables.layouts import Reject, TableError, find_table
from beyond_text.tables.read import read_tables
from beyond_text.tables.tables import Tables
from beyond_text.tables.templates import fields_of
from data_prep.adapters import ADAPTERS
from data_prep.pictures import fetch_pictures
from data_prep.rejects import BuildError
from data_prep.shards import build_shards, main

CDN = "https://cdn.shop.example/files"
SHOPIFY = f"""Handle,Title,Body (HTML),Vendor,Product Category,Type,Published,Option1 Name,\
Option1 Value,Variant SKU,Image Src,Image Position,Variant Image,Status
runner,Table Runner,"<p>Hand <b>woven</b> &amp; dyed.</p><p>Soft</p>",Acme,,Textiles,true,Size,\
Small,RUN-S,{CDN}/b.jpg?v=1,2,,active
runner,,,,,,,,Large,RUN-L,{CDN}/a.jpg?v=1,1,{CDN}/a.jpg?v=1,
runner,,,,,,,,,,{CDN}/c.jpg?v=1,3,,
mug,Mug,,Acme,Home > Mugs,,true,Title,Default Title,MUG,,,,active
"""


def shop(path: Path, layout: str, **options: object) -> Tables:
    return read_tables(path, ADAPTERS[layout], **options)  # type: ignore[arg-type]


def cells(path: Path, layout: str) -> list[list[str]]:
    """Returns the pictures of each product, as the command that fetches them sees them."""
    rejects: list[Reject] = []
    source = ADAPTERS[layout].products
    assert source is not None
    table = path if path.is_file() else find_table(path, source)
    assert table is not None
    frame, _ = read_source(table, source, rejects)
    return [picture_names(cell) for cell in frame["image"]]


def test_a_shopify_product_is_one_with_all_its_variants_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "products_export_1.csv").write_bytes(b"\xef\xbb\xbf" + SHOPIFY.encode())
    tables = shop(tmp_path, "shopify")
    columns = ["product_id", "title", "description", "category", "group_id", "row"]
    assert tables.products[columns].to_numpy().tolist() == [
        ["runner", "Table Runner", "Hand woven & dyed. Soft", "Textiles", "runner", 2],
        ["mug", "Mug", "", "Home > Mugs", "mug", 5],
    ]
    assert cells(tmp_path, "shopify") == [
        [f"{CDN}/a.jpg?v=1", f"{CDN}/b.jpg?v=1", f"{CDN}/c.jpg?v=1"],
        [],
    ]
    assert [(each.row, each.id, each.reason) for each in tables.rejects] == [
        (2, "runner", "picture is a URL")
    ] * 3


def test_shopifys_newer_names_of_columns_and_a_file_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "my shop.csv"
    path.write_text(
        "Title,URL handle,Description,Product category,Type,Product image URL,Image position,"
        f"Variant image URL\nMug,mug,A mug,,Cups,{CDN}/m.jpg,1,\n,mug,,,,,,{CDN}/n.jpg\n"
    )
    products = shop(path, "shopify", pictures=tmp_path).products
    assert products[["product_id", "title", "description", "category"]].to_numpy().tolist() == [
        ["mug", "Mug", "A mug", "Cups"]
    ]
    assert cells(path, "shopify") == [[f"{CDN}/m.jpg", f"{CDN}/n.jpg"]]


def test_woocommerces_variations_join_their_product_by_sku_or_number(tmp_path: Path) -> None:
    up = "https://shop.example/wp-content/uploads"
    (tmp_path / "wc-product-export-29-11-2026-1.csv").write_text(
        "ID,Type,SKU,Name,Published,Short description,Description,Categories,Images,Parent\n"
        f'9,variation,hood-red,Hoodie - Red,1,,,,"{up}/red.jpg",hood\n'
        f'7,variable,hood,Hoodie,1,Warm.,"<p>Of cotton</p>\\n",Clothing > Hoodies,'
        f'"{up}/a.jpg, {up}/b,1.jpg",\n'
        "8,variable,,Cap,1,,,Caps,cap.jpg,\n10,variation,,Cap - Blue,1,,,,,id:8\n"
        "11,simple,,Beanie,1,,,,images/beanie.jpg,\n"
    )
    tables = shop(tmp_path, "woocommerce")
    assert tables.products[["product_id", "title", "category"]].to_numpy().tolist() == [
        ["hood", "Hoodie", "Clothing > Hoodies"],
        ["id:8", "Cap", "Caps"],
        ["id:11", "Beanie", ""],
    ]
    assert tables.products["description"].tolist()[0].startswith("Warm. Of cotton")
    assert cells(tmp_path, "woocommerce") == [
        [f"{up}/a.jpg", f"{up}/b,1.jpg", f"{up}/red.jpg"],
        ["cap.jpg"],
        ["images/beanie.jpg"],
    ]


FEEDS = {
    "feed.txt": "id\ttitle\tdescription\timage link\tadditional image link\titem group id\t"
    "product type\n1\tRed & blue mug\tA <b>mug</b>\thttps://x/1.jpg\thttps://x/2.jpg,"
    "https://x/3.jpg\tmugs\tHome > Mugs\n2\tLamp\t\thttps://x/l.jpg\t\t\t\n",
    "rss.xml": '<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0">'
    "<channel><title>Shop</title><item><g:id>1</g:id><title>Red &amp; blue mug</title>"
    "<g:description><![CDATA[A <b>mug</b>]]></g:description><g:image_link>https://x/1.jpg"
    "</g:image_link><g:additional_image_link>https://x/2.jpg</g:additional_image_link>"
    "<g:additional_image_link>https://x/3.jpg</g:additional_image_link>"
    "<g:item_group_id>mugs</g:item_group_id><g:product_type>Home &gt; Mugs</g:product_type>"
    "</item><item><g:id>2</g:id><title>Lamp</title><g:image_link>https://x/l.jpg</g:image_link>"
    "</item></channel></rss>",
    "atom.xml": '<feed xmlns="http://www.w3.org/2005/Atom" '
    'xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title><entry><id>tag:x</id>'
    "<g:id>1</g:id><title>not this</title><g:title>Red &amp; blue mug</g:title>"
    "<summary>A &lt;b&gt;mug&lt;/b&gt;</summary><g:image_link>https://x/1.jpg</g:image_link>"
    "<g:additional_image_link>https://x/2.jpg</g:additional_image_link>"
    "<g:additional_image_link>https://x/3.jpg</g:additional_image_link>"
    "<g:item_group_id>mugs</g:item_group_id><g:product_type>Home &gt; Mugs</g:product_type>"
    "</entry><entry><g:id>2</g:id><g:title>Lamp</g:title><g:image_link>https://x/l.jpg"
    "</g:image_link></entry></feed>",
}


@pytest.mark.parametrize("name", FEEDS)
def test_a_feed_of_google_merchant_is_read_in_each_of_its_formats(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(FEEDS[name])
    products = shop(tmp_path, "google_merchant").products
    columns = ["product_id", "title", "description", "category", "group_id"]
    assert products[columns].to_numpy().tolist() == [
        ["1", "Red & blue mug", "A mug", "Home > Mugs", "mugs"],
        ["2", "Lamp", "", "", "2"],
    ]
    expected = [["https://x/1.jpg", "https://x/2.jpg", "https://x/3.jpg"], ["https://x/l.jpg"]]
    assert cells(tmp_path, "google_merchant") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><rss><item><id>&a;</id></item></rss>', "DTDForbidden"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><rss><item/></rss>', "DTDForbidden"),
        ("<rss><channel><item><id>1</id>", "no element found"),
        ("<html></html>", "got no item and no entry"),
        ("", "no element found"),
    ],
)
def test_a_hostile_feed_is_an_error_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "feed.xml").write_text(text)
    with pytest.raises(TableError, match=rf"feed\.xml: expected an RSS or Atom feed.*{message}"):
        shop(tmp_path, "google_merchant")


def test_sqids_urls_are_further_pictures_of_esci(tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "product_id": ["B01", "B02"],
            "product_title": ["Gas mask", "Filter"],
            "product_description": "",
            "product_bullet_point": "",
            "product_brand": "",
            "product_color": "",
            "product_locale": "us",
        }
    ).to_parquet(tmp_path / "shopping_queries_dataset_products.parquet")
    examples = [("gas mask", 5, "B01", "us", "Exact", "train"), ("f", 6, "B02", "us", "I", "test")]
    columns = ["query", "query_id", "product_id", "product_locale", "esci_label", "split"]
    pd.DataFrame(examples, columns=columns).to_csv(
        tmp_path / "shopping_queries_dataset_examples.csv"
    )
    urls = "product_id,image_url\nB01,https://m.example/1.jpg\nB01,images/B01.jpg\nB02,\n"
    (tmp_path / "product_image_urls.csv").write_text(urls)
    (tmp_path / "supp_product_image_urls.csv").write_text("product_id,image_url\nB99,https://x\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "B01.jpg").write_bytes(b"there")
    tables = shop(tmp_path, "esci")
    assert tables.products["images"].tolist() == [[str(tmp_path.resolve() / "images/B01.jpg")], []]
    assert tables.qrels["relevance"].tolist() == [3.0, 0.0]
    assert [(each.file, each.id, each.reason) for each in tables.rejects] == [
        ("supp_product_image_urls.csv", "B99", "unknown product")
    ]


def test_a_folder_of_beir_names_its_splits_by_its_files(tmp_path: Path) -> None:
    corpus = [
        {"_id": "d1", "title": "Vase", "text": "A red vase", "metadata": {"url": "x"}},
        {"_id": "d2", "title": "", "text": "A lamp", "metadata": {}},
        {"_id": 3, "title": "Rug", "text": None},
    ]
    queries = [{"_id": "q1", "text": "vase", "metadata": {}}, {"_id": "q2", "text": "lamp"}]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines + "\n")
    (tmp_path / "qrels").mkdir()
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "train.tsv").write_text(f"{header}q1\td1\t2\nq1\td9\t1\n")
    (tmp_path / "qrels" / "test.tsv").write_text(f"{header}q1\td1\t1\nq2\td2\t1\nq2\td2\t1\n")
    tables = shop(tmp_path, "beir")
    judged = tables.qrels[["query_id", "product_id", "relevance", "split"]].to_numpy().tolist()
    assert sorted(judged) == [
        ["q1", "d1", 1.0, "test"],
        ["q1", "d1", 2.0, "train"],
        ["q2", "d2", 1.0, "test"],
    ]
    products = tables.products[["product_id", "split"]].to_numpy().tolist()
    assert sorted(products) == [["3", "train"], ["d1", "test"], ["d1", "train"], ["d2", "test"]]
    found = tables.queries[["query_id", "split", "seen"]].to_numpy().tolist()
    assert sorted(found) == [["q1", "test", "1"], ["q1", "train", ""], ["q2", "test", ""]]
    assert [(each.file, each.row, each.reason) for each in tables.rejects] == [
        ("test.tsv", 4, "duplicate judgment"),
        ("train.tsv", 3, "unknown product"),
    ]
    manifest = build_shards(tmp_path, tmp_path / "out", ADAPTERS["beir"], max_rejected=1, workers=1)
    assert manifest["crossing"]["test"] == {
        "queries": 1, "products": 1, "groups": 1, "texts": 1, "pictures": 0,
    }  # fmt: skip
    (tmp_path / "qrels" / "train.csv").write_text("query-id,corpus-id,score\nq1,d1,2\n")
    with pytest.raises(TableError, match=r"expected train\.csv or train\.tsv, got both"):
        shop(tmp_path, "beir")
    # Of lines none of which is an object, the first is named.
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "\\ud800"}\n')
    with pytest.raises(TableError, match=r"corpus\.jsonl row 1: expected a JSON object"):
        shop(tmp_path, "beir")


def test_urls_stop_the_build_with_what_to_do_and_texts_go_on_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "products_export.csv").write_text(SHOPIFY)
    with pytest.raises(BuildError) as caught:
        build_shards(tmp_path, tmp_path / "out", ADAPTERS["shopify"], workers=1)
    advice = "3 pictures are URLs: fetch them first with `python -m data_prep.pictures TABLES OUT "
    assert f"{advice}--layout shopify`" in str(caught.value)
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "for an export give --layout: beir, clicks, esci" in capsys.readouterr().err
    command = [str(tmp_path), str(tmp_path / "out"), "--layout", "shopify", "--workers", "1"]
    assert main([*command, "--absent-pictures"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert sum(entry["products"] for entry in manifest["splits"].values()) == 2


def test_an_export_is_judged_by_a_log_of_clicks_or_by_our_tables(tmp_path: Path) -> None:
    (tmp_path / "products_export.csv").write_text(SHOPIFY)
    (tmp_path / "clicks.csv").write_text("query,product_id\nlinen,runner\n")
    assert shop(tmp_path, "shopify").queries["query"].tolist() == ["linen"]
    (tmp_path / "queries.csv").write_text("query_id,query\n1,cup\n")
    (tmp_path / "qrels.csv").write_text("query_id,product_id,relevance\n1,mug,1\n")
    with pytest.raises(TableError, match=r"queries\.csv with judgments or clicks\.csv, got both"):
        shop(tmp_path, "shopify")
    (tmp_path / "clicks.csv").unlink()
    assert shop(tmp_path, "shopify").queries["query"].tolist() == ["cup"]


WORD = st.sampled_from(
    ["", "a", "1.0", "<p>x</p>", "&amp;", "\0", "http://x/a.jpg", "a|b", '["a"]', "id:1",
     "variation", "3", "-1", "nan", "train", "1e400", '"', "\t", ",", "{x}", "null"]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(ADAPTERS)), st.data())
def test_fuzzed_exports_are_our_errors_or_shards(layout: str, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        for name in ("products", "queries", "qrels", "images", "clicks"):
            source = getattr(ADAPTERS[layout], name)
            if source is None or (name != "products" and data.draw(st.booleans())):
                continue
            fields = [each for value in source.columns.values() for each in fields_of(value)]
            fields = list(dict.fromkeys([*fields, *source.keep, *source.last]))
            row = st.lists(WORD, min_size=len(fields), max_size=len(fields))
            rows = data.draw(st.lists(row, max_size=3))
            ending = ".jsonl" if ".jsonl" in source.endings else ".csv"
            path = Path(folder) / "shop" / (source.file.replace("*", "x") + ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            if ending == ".jsonl":
                lines = [json.dumps(dict(zip(fields, each, strict=True))) for each in rows]
                path.write_text("\n".join(lines))
                continue
            with path.open("w", newline="", encoding="utf-8") as file:
                delimiter = data.draw(st.sampled_from(",;|\t"))
                csv.writer(file, delimiter=delimiter).writerows([fields, *rows])
        with suppress(TableError, BuildError):
            out = Path(folder) / "out"
            build_shards(Path(folder) / "shop", out, ADAPTERS[layout], max_rejected=1, workers=1)
            assert read_manifest(out)["splits"]


FURTHER = {
    "shopify": (
        "products.csv",
        "Handle,Title,Vendor,Variant SKU,Variant Price,Variant Inventory Qty,Cost per item,Tags\n"
        "rug,Rug,Acme,R-S,20.00,3,9.99,soft\nrug,,,R-L,30.00,0,,\n",
        {"brand": "Acme", "sku": "R-S | R-L", "price": "20.00", "stock": "3", "tags": "soft"},
        "Cost per item",
    ),
    "woocommerce": (
        "products.csv",
        'ID,Type,SKU,Name,Brands,"GTIN, UPC, EAN, or ISBN",In stock?,Sale price,Regular price,'
        "Parent,Weight (kg)\n"
        '1,variable,R,Rug,Acme,,1,,"20,50",,\n2,variation,R-L,Rug L,,400638,0,,30,R,2\n',
        {"brand": "Acme", "sku": "R | R-L", "gtin": "400638", "price": "20.50",
         "in_stock": "true"},
        "Weight (kg)",
    ),
    "google_merchant": (
        "feed.tsv",
        "id\ttitle\tbrand\tmpn\tprice\tsale_price\tavailability\tcolor\tshipping\n"
        "7\tRug\tAcme\tAB-12/C\t20.00 EUR\t15.00 EUR\tout of stock\tred\tDE::5\n",
        {"brand": "Acme", "mpn": "AB-12/C", "price": "15.00", "in_stock": "false",
         "color": "red"},
        "shipping",
    ),
    "esci": (
        "shopping_queries_dataset_products.csv",
        "product_id,product_title,product_bullet_point,product_description,product_brand,"
        "product_color,product_locale\nB1,Rug,,,Acme,red,us\n",
        {"brand": "Acme", "color": "red"},
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", FURTHER)
def test_exports_bring_brand_numbers_price_and_stock(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, text, expected, ignored = FURTHER[layout]
    (tmp_path / name).write_text(text)
    source = ADAPTERS[layout].products
    assert source is not None
    frame, _ = read_source(tmp_path / name, source, [])
    assert frame["further"].tolist() == [expected]
    said = capsys.readouterr().err
    assert (f"columns ignored: {ignored}" in said) == bool(ignored)
    assert "kept" not in said


def test_further_columns_go_into_shards_and_into_fetched_tables(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    text = "Handle,Title,Image Src,Vendor,Variant SKU\nrug,Rug,,Acme,R-1\nmug,Mug,,,\n"
    (tmp_path / "shop" / "products.csv").write_text(text)
    fetch_pictures(tmp_path / "shop", tmp_path / "fetched", ADAPTERS["shopify"])
    expected = {"rug": {"brand": "Acme", "sku": "R-1"}, "mug": {}}
    products = read_tables(tmp_path / "fetched").products
    assert dict(zip(products["product_id"], products["further"], strict=True)) == expected
    build_shards(tmp_path / "fetched", tmp_path / "shards", dev_share=0)
    found = {}
    for further in (True, False):
        split = Split(tmp_path / "shards", "train", ["title"], further=further)
        fields = [split.read(sample, None)[0] for sample in range(len(split))]
        found[further] = {each["product_id"]: each.get("further", {}) for each in fields}
    assert found == {True: expected, False: {"rug": {}, "mug": {}}}
    # A product without any has no such field, as in shards of old.
    with tarfile.open(tmp_path / "shards" / "train-00000.tar") as tar:
        texts = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith("json")]
    assert sorted("further" in json.loads(text) for text in texts) == [False, True]
