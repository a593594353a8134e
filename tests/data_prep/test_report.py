"""Tests the counts of a report, that its rejects are a build's, and that it loads nothing."""

from __future__ import annotations

import csv
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from beyond_text.tables.layouts import Reject
from beyond_text.tables.read import read_tables
from data_prep.report.__main__ import main, write_report
from data_prep.report.facts import (
    Crossing,
    Duplicates,
    SplitCounts,
    count_grades,
    count_splits,
    find_crossings,
    find_duplicates,
    group_rejects,
    judgments_a_query,
    share_rejected,
)
from data_prep.report.lengths import EncoderError, Lengths, length_counter, measure
from data_prep.report.sheet import draw_cards
from data_prep.report.usable import Usable, read_usable
from data_prep.shards import build_shards

# Nothing else reads as markup to those who read the tables.
SCRIPT = "<script>"
PRODUCTS = [
    ("p1", "Red Vase", "a.png", "g1", "train"),
    ("p2", "red  vase", "copy-of-a.png", "g2", "train"),
    ("p3", "Red vase.", "b.png", "g3", "dev"),
    ("p4", SCRIPT, "broken.png", "g4", "dev"),
    ("p5", "", "broken.png", "g5", "dev"),
    ("p6", "Blue mug", "a.png", "g1", "dev"),
    ("p7", "Lamp", "", "g7", "train"),
    ("p1", "Vase again", "", "", "train"),
]
QUERIES = [
    ("q1", "red vase", "train"),
    ("q2", "RED  vase", "dev"),
    ("q3", "&amp; <b>mug</b>", "dev"),
]
QRELS = [
    ("q1", "p1", "2"),
    ("q1", "p2", "0"),
    ("q2", "p3", "1"),
    ("q2", "p6", "0.5"),
    ("q2", "p5", "1"),
    ("q2", "p9", "1"),
]


def write(path: Path, header: str, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "shop & co"
    folder.mkdir()
    write(folder / "products.csv", "product_id,title,image,group_id,split", PRODUCTS)
    write(folder / "queries.csv", "query_id,query,split", QUERIES)
    write(folder / "qrels.csv", "query_id,product_id,relevance", QRELS)
    for name, colour in (("a", "red"), ("copy-of-a", "red"), ("b", "blue")):
        Image.new("RGB", (300, 200), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    return folder


def read(folder: Path, max_rejected: float = 0.05) -> Usable:
    fields = ["title", "category", "description"]
    return read_usable(read_tables(folder), fields, 10**6, max_rejected, 1)


def test_each_split_is_counted(tables: Path) -> None:
    views = {"products": 3, "with_text": 3, "with_picture": 2, "with_both": 2, "judged": 2}
    assert count_splits(read(tables)) == [
        SplitCounts("train", **views, queries=1, judged_queries=1, judgments=2, positive=1),
        SplitCounts("dev", **views, queries=2, judged_queries=1, judgments=2, positive=2),
    ]


def test_judgments_are_counted_by_query_and_grade(tables: Path) -> None:
    usable = read(tables)
    assert judgments_a_query(usable) == {"train": [2], "dev": [2, 0]}
    assert count_grades(usable) == {
        "relevance": {"train": {0.0: 1, 2.0: 1}, "dev": {0.5: 1, 1.0: 1}}
    }


def test_duplicates_are_found_by_content(tables: Path) -> None:
    assert find_duplicates(read(tables)) == [
        Duplicates("products", "picture", 1, 3, 6, [("Red Vase", ["p1", "p2", "p6"])]),
        Duplicates("products", "text", 1, 3, 6, [("Red Vase", ["p1", "p2", "p3"])]),
        Duplicates("queries", "words", 1, 2, 3, [("red vase", ["q1", "q2"])]),
    ]


def test_what_crosses_splits_is_counted(tables: Path) -> None:
    assert find_crossings(read(tables)) == [
        Crossing("query words", "train", "dev", 1, 2, ["RED  vase"]),
        Crossing("query pictures", "train", "dev", 0, 2, []),
        Crossing("product texts", "train", "dev", 1, 3, ["Red vase"]),
        Crossing("product pictures", "train", "dev", 1, 3, ["p6"]),
        Crossing("products (product_id)", "train", "dev", 0, 3, []),
        Crossing("designs (group_id)", "train", "dev", 1, 3, ["g1"]),
    ]


def test_a_product_of_two_splits_crosses_them(tables: Path) -> None:
    """Without a split of its own, a product belongs to every split that it is judged in."""
    write(tables / "products.csv", "product_id,title", [("p1", "Vase"), ("p2", "Mug")])
    judged = [("q1", "p1", "1"), ("q2", "p1", "1"), ("q2", "p2", "1")]
    write(tables / "qrels.csv", "query_id,product_id,relevance", judged)
    found = {crossing.kind: crossing for crossing in find_crossings(read(tables))}
    assert found["products (product_id)"].rows == 1
    assert found["products (product_id)"].of == 2
    assert find_duplicates(read(tables))[1].rows == 0


def test_rejects_are_those_of_a_build(tables: Path, tmp_path: Path) -> None:
    usable = read(tables)
    build_shards(tables, tmp_path / "shards", workers=1, max_rejected=1.0, max_pixels=10**6)
    with (tmp_path / "shards/rejects.csv").open(newline="") as file:
        built = {Reject(r[0], int(r[1]), *r[2:]) for r in list(csv.reader(file))[1:]}
    assert set(usable.rejects.rejects) == built
    groups = {(group.file, group.reason): group for group in group_rejects(usable)}
    assert {key: group.times for key, group in groups.items()} == {
        ("products.csv", "duplicate id"): 1,
        ("products.csv", "picture unreadable"): 2,
        ("products.csv", "no text and no picture"): 1,
        ("qrels.csv", "unknown product"): 2,
    }
    assert groups["products.csv", "picture unreadable"].examples[0][:2] == (5, "p4")


def test_a_file_whose_rejects_would_stop_a_build_is_marked(tables: Path) -> None:
    shares = {share.file: share for share in share_rejected(read(tables))}
    assert (shares["products.csv"].rejected, shares["products.csv"].rows) == (3, 8)
    assert shares["products.csv"].stops
    assert not shares["queries.csv"].stops
    assert not any(share.stops for share in share_rejected(read(tables, max_rejected=0.5)))


def test_lengths_are_those_of_distinct_texts(tiny_text_encoder: Path) -> None:
    unit, count = length_counter("")
    texts = ["a b c", "a b c", "", "a", " ".join("x" * 100)]
    assert (unit, measure("texts", texts, count, 3)) == (
        "words",
        Lengths("texts", 3, 3, 100, 100, 3, 1, [2, *[0] * 13, 1, 0], 112),
    )
    assert measure("texts", ["", ""], count, 3) is None
    unit, count = length_counter(str(tiny_text_encoder))
    assert unit == "tokens"
    # A token before and one behind, and nothing is cut at the tokenizer's own limit of 32.
    assert count(["red vase", " ".join(["vase"] * 50)]) == [4, 52]


def test_a_length_at_the_limit_is_not_cut() -> None:
    _, count = length_counter("")
    measured = measure("texts", ["a b", "a b c", "a b c d"], count, 3)
    assert measured is not None
    assert measured.cut == 1


@pytest.mark.parametrize("kind", ["nothing", "empty", "no tokenizer"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "encoder"
    if kind != "nothing":
        folder.mkdir()
    if kind == "no tokenizer":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EncoderError, match=str(folder)):
        length_counter(str(folder))


def test_the_sheet_is_drawn_by_its_seed(tables: Path) -> None:
    usable = read(tables)
    cards = draw_cards(usable, 4, 32, seed=3, max_pixels=10**6)
    assert cards == draw_cards(read(tables), 4, 32, seed=3, max_pixels=10**6)
    assert len({card.product_id for card in cards}) == 4
    draws = {
        tuple(card.product_id for card in draw_cards(usable, 3, 8, seed, 10**6))
        for seed in range(9)
    }
    assert len(draws) > 1
    everything = {card.product_id: card for card in draw_cards(usable, 99, 32, 0, 10**6)}
    assert len(everything) == 6
    assert everything["p1"].queries == [("red vase", 2.0)]
    assert everything["p4"].picture == ""
    with Image.open(BytesIO(b64decode(everything["p3"].picture.partition(",")[2]))) as picture:
        assert picture.size == (32, 21)


class Page(HTMLParser):
    """Collects the elements, the attributes that load, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data"):
                self.loads.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + "\n"


def test_the_page_is_whole_and_all_that_a_shop_wrote_is_text(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tables), str(tmp_path / "new/report.html"), "--workers", "1"]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'new/report.html'}\n"
    content = (tmp_path / "new/report.html").read_text(encoding="utf-8")
    page = Page(content)
    assert not page.elements & {"script", "iframe", "object", "embed", "link"}
    assert "<script" not in content.lower()
    assert page.loads
    assert all(re.match(r"data:image/jpeg;base64,[\w+/=]+$", load) for load in page.loads)
    for line in (
        "shop & co",
        SCRIPT,
        "products.csv: 3 of 8 rows are rejected; shards are not made.",
        "1 of 2 query words of dev stand in train too.",
        "3 of 6 products have the picture of another.",
        "0 of 3",
        "picture unreadable",
    ):
        assert line in page.text.splitlines()


def test_tables_without_queries_or_pictures_have_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    write(folder / "products.csv", "product_id,title,split", [("a", "Mug", "train")])
    write_report(read_tables(folder), tmp_path / "report.html", workers=1)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "There are no queries." in text
    assert "There is one split alone." in text
    assert "There is nothing to measure: no query of dev has a judgment." in text
    write(folder / "products.csv", "product_id,title,split", [("", "Mug", "train")])
    write_report(read_tables(folder), tmp_path / "report.html", workers=1)
    assert "No product is left." in (tmp_path / "report.html").read_text()


def test_the_limit_is_the_recipes(tables: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "short.yaml"
    recipe.write_text("text_encoder: {max_length: 4}\ndata: {text_fields: [title]}\n")
    header = "product_id,title,description,split"
    rows = [("a", "a b c d", "e", "dev"), ("b", "a b c d e", "", "dev")]
    write(tables / "products.csv", header, rows)
    write_report(read_tables(tables), tmp_path / "report.html", recipe=[recipe], workers=1)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "1 of 2 product texts are cut: more than 4 words." in text


def test_an_error_is_one_line(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "report.html")
    for command, named in (
        ([str(tmp_path / "none"), out], "no such file or folder"),
        ([str(tables), str(tmp_path)], "expected a file to write"),
        ([str(tables), out, "--recipe", "none.yaml"], "no such recipe"),
        ([str(tables), out, "--encoder", "none"], "folder of a text encoder"),
        ([str(tables), out, "--dev-share", "2"], "dev_share"),
    ):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert named in error
    assert not Path(out).exists()
