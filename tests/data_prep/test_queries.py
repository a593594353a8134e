"""Tests queries made of a shop's fields: words, grades, splits, draws, and that no field leaks."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from beyond_text.tables.layouts import TEXT_COLUMNS
from beyond_text.tables.read import read_tables
from beyond_text.tables.text import normal_text
from data_prep.asking.compose import mistyped, plural
from data_prep.asking.mapped import Mapper
from data_prep.asking.rules import DEFAULT_RULES, read_rules
from data_prep.asking.shop import attributes_of
from data_prep.asking.values import EXACT, NEAR, OFF, UNKNOWN, Field, key_of
from data_prep.queries import main, make_queries
from data_prep.shards import build_shards
from tests import ROOT

REAL = Path(os.environ.get("HM_TABLES", Path(__file__).parents[3] / "shared" / "data" / "hm"))
ATTRIBUTES = "colour,pattern,product_type,audience"
HEADER = ("product_id", "title", "category", "image", "group_id", "split", *ATTRIBUTES.split(","))
# Of one word each, so that a query can be read back without the code under test.
COLOURS = ["Red", "Dark Red", "Blue", "Navy", "Unknown", ""]
PATTERNS = ["Zigzag", "Lines", "Solid", ""]
TYPES = ["Vest", "Coat", "Robe", ""]
AUDIENCES = ["Men", "Women", "Unisex", ""]
WAYS = dict.fromkeys(("plural", "no_hyphen", "capitals", "typo"), 0.0)
PLAIN = {
    "written": WAYS,
    "fields": {
        "product_type": {"words": {"vest": ["vest"], "coat": ["coat"], "robe": ["robe"]}},
        "colour": {
            "words": {"dark red": ["darkred"], "navy": ["navy"]},
            "neighbours": [["blue", "navy"]],
        },
        "pattern": {"words": {"zigzag": ["zigzagged"], "lines": ["lined"]}},
        "audience": {
            "words": {"menswear": ["men"], "ladieswear": ["women"]},
            "first_words": {"menswear": ["men"], "ladieswear": ["women"]},
        },
    },
}
WORDS = {
    "red": ("colour", "Red"),
    "darkred": ("colour", "Dark Red"),
    "blue": ("colour", "Blue"),
    "navy": ("colour", "Navy"),
    "zigzagged": ("pattern", "Zigzag"),
    "lined": ("pattern", "Lines"),
    "vest": ("product_type", "Vest"),
    "coat": ("product_type", "Coat"),
    "robe": ("product_type", "Robe"),
    "men": ("audience", "Men"),
    "women": ("audience", "Women"),
}
NEIGHBOURS = [{"Red", "Dark Red"}, {"Blue", "Navy"}]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rules(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def shop_rows(number: int = 240, seed: int = 0) -> list[tuple[str, ...]]:
    draw = random.Random(seed)
    rows = []
    for at in range(number):
        split = "dev" if at % 4 == 0 else "train"
        values = [draw.choice(each) for each in (COLOURS, PATTERNS, TYPES, AUDIENCES)]
        rows.append((f"p{at:03}", f"thing {at}", "things", "", f"g{at // 2}", split, *values))
    return rows


def made(
    folder: Path, rows: Iterable[Sequence[object]], *options: str, header: Sequence[str] = HEADER
) -> Path:
    """Makes queries of a shop; returns the folder of tables."""
    shop, out = folder / "shop", folder / "out"
    write_csv(shop / "products.csv", header, rows)
    options = options if "--attributes" in options else ("--attributes", ATTRIBUTES, *options)
    assert main([str(shop), str(out), *options]) == 0
    return out


def grades_of(out: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Returns the grades of each query, by split and wording."""
    name = {each["query_id"]: (each["split"], each["query"]) for each in queries_of(out)}
    grades: dict[tuple[str, str], dict[str, float]] = {each: {} for each in name.values()}
    for row in read_csv(out / "qrels.csv"):
        grades[name[row["query_id"]]][row["product_id"]] = float(row["relevance"])
    return grades


def queries_of(out: Path) -> list[dict[str, str]]:
    return read_csv(out / "queries.csv")


def error_of(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Returns the one line with which a bad command ends."""
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    message = str(stop.value)
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in capsys.readouterr().err
    return message


def expected_grade(asked: Mapping[str, str], product: Mapping[str, str]) -> float | None:
    """Grades by the rules as one reads them; None is no judgment."""
    if product["product_type"] != asked["product_type"]:
        return None
    faults = []
    for name, value in asked.items():
        own = product[name]
        if own in ("", "Unknown"):
            return None
        if own == value or (name == "audience" and own == "Unisex"):
            continue
        near = name == "colour" and any({own, value} <= group for group in NEIGHBOURS)
        faults.append(1.0 if near or name == "pattern" else 0.0)
    return 2.0 if not faults else faults[0] if len(faults) == 1 else 0.0


def test_grades_are_those_of_the_rules_for_every_product(tmp_path: Path) -> None:
    rows = shop_rows()
    rules = write_rules(tmp_path / "rules.yaml", PLAIN)
    out = made(tmp_path, rows, "--rules", str(rules), "--negatives", "9999")
    products = [dict(zip(HEADER, row, strict=True)) for row in rows]
    seen: Counter[float] = Counter()
    for (split, text), grades in grades_of(out).items():
        found = [WORDS[word] for word in text.split() if word not in ("for", "in")]
        asked = dict(found)
        assert len(asked) == len(found) >= 2
        expected = {
            product["product_id"]: grade
            for product in products
            if product["split"] == split
            and (grade := expected_grade(asked, product)) is not None
            and (grade > 0 or split == "train")
        }
        assert grades == expected, text
        seen.update(grades.values())
    assert min(seen[grade] for grade in (0.0, 1.0, 2.0)) > 20


def test_every_query_has_an_exact_product_and_asks_what_it_says(tmp_path: Path) -> None:
    out = made(tmp_path, shop_rows())
    grades = grades_of(out)
    assert len(grades) == len(queries_of(out)) > 100
    assert all(2.0 in each.values() for each in grades.values())
    kinds = {(each["kind"], tuple(each["asked"].split())) for each in queries_of(out)}
    assert ("attribute", ("colour", "pattern", "product_type")) in kinds
    assert ("attribute", ("audience", "colour", "product_type")) in kinds
    assert all("product_type" in asked for _, asked in kinds)


def test_fine_kinds_name_the_fields(tmp_path: Path) -> None:
    out = made(tmp_path, shop_rows(), "--fine-kinds")
    for each in queries_of(out):
        assert each["kind"] == "-".join(["attribute", *each["asked"].split()])


def test_a_family_says_which_shades_are_neighbours(tmp_path: Path) -> None:
    header = ("product_id", "title", "split", "colour", "colour_family", "product_type")
    rows = [
        ("p1", "a", "train", "Moss", "Earth", "Coat"),
        ("p2", "a", "train", "Clay", "Earth", "Coat"),
        ("p3", "a", "train", "Dark Moss", "Water", "Coat"),
        # A rare family of a colour is none of its families.
        *((f"q{at}", "a", "train", "Moss", "Earth", "Hat") for at in range(4)),
        ("p4", "a", "train", "Moss", "Water", "Hat"),
        ("p5", "a", "train", "Sky", "Water", "Hat"),
        ("p6", "a", "train", "Sand", "", "Coat"),
    ]
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--attributes", "colour,product_type", "--rules", str(rules), "--per-product", "40")
    grades = grades_of(made(tmp_path, rows, *options, header=header))
    assert grades["train", "moss coat"] == {"p1": 2, "p2": 1}
    assert grades["train", "dark moss coat"] == {"p3": 2}
    assert grades["train", "moss hat"] == {"q0": 2, "q1": 2, "q2": 2, "q3": 2, "p4": 2}
    assert grades["train", "sky hat"] == {"p5": 2, "p4": 1}
    assert "colour_family" not in read_csv(tmp_path / "out" / "products.csv")[0]


def test_words_are_those_of_the_table_and_agree_with_each_value_so_called(tmp_path: Path) -> None:
    rows = [
        ("p1", "a", "", "", "", "train", "Grey", "Solid", "Sweater", "Ladieswear"),
        ("p2", "b", "", "", "", "train", "grey", "Solid", "JUMPERS", "Women"),
        ("p3", "c", "", "", "", "train", "Dark Blue", "Solid", "Leggings/Tights", "Menswear"),
    ]
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    out = made(tmp_path, rows, "--rules", str(rules), "--per-product", "200")
    grades = grades_of(out)
    words = {text for _, text in grades}
    assert {"grey sweater", "gray jumper", "grey pullover", "womens grey jumper"} <= words
    assert {"navy blue tights", "leggings in navy", "mens navy leggings"} <= words
    assert grades["train", "gray pullover"] == {"p1": 2, "p2": 2}
    assert grades["train", "women grey sweater"] == {"p1": 2, "p2": 2}
    assert not any(re.search("solid|ladieswear|unknown", text) for text in words)


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


def test_what_is_made_depends_on_content_and_seed_and_not_on_the_order_of_rows(
    tmp_path: Path,
) -> None:
    rows = shop_rows()
    outs = [
        made(tmp_path / "a", rows),
        made(tmp_path / "b", rows),
        made(tmp_path / "c", rows[::-1]),
        made(tmp_path / "d", rows, "--seed", "1"),
    ]
    for name in ("queries.csv", "qrels.csv", "made.json"):
        first, again, turned, other = ((out / name).read_bytes() for out in outs)
        assert first == again == turned
        assert first != other


def test_a_new_product_leaves_the_queries_of_others_as_they_were(tmp_path: Path) -> None:
    rows = shop_rows()
    before, after = (
        {(each["split"], normal_text(each["query"])) for each in queries_of(made(folder, some))}
        for folder, some in ((tmp_path / "a", rows[:-20]), (tmp_path / "b", rows))
    )
    assert before < after


def test_fewer_queries_are_a_part_of_more(tmp_path: Path) -> None:
    outs = (
        made(tmp_path / name, shop_rows(), *options)
        for name, options in (("a", ("--queries", "10")), ("b", ("--queries", "30")), ("c", ()))
    )
    ten, thirty, whole = (
        {(each["split"], each["query"]) for each in queries_of(out)} for out in outs
    )
    assert Counter(split for split, _ in ten) == {"train": 10, "dev": 10}
    assert ten < thirty < whole


def test_train_judgments_are_capped_and_other_splits_are_whole(tmp_path: Path) -> None:
    rows = [
        (f"p{at}", "t", "", "", "", ("train", "dev")[at % 2], "Red", "Solid", "Coat", "Men")
        for at in range(60)
    ]
    free = grades_of(made(tmp_path / "a", rows))
    out = made(tmp_path / "b", rows, "--judgments", "7")
    capped = grades_of(out)
    for key, grades in capped.items():
        assert len(grades) == (7 if key[0] == "train" else 30)
        assert grades.items() <= free[key].items()
    assert len({tuple(grades) for key, grades in capped.items() if key[0] == "train"}) > 1
    counts = json.loads((out / "made.json").read_text())["splits"]
    assert counts["train"]["at_limit"] == counts["train"]["queries"] > 1
    assert counts["dev"]["at_limit"] == 0


def test_negatives_are_of_the_type_that_is_asked_and_so_many(tmp_path: Path) -> None:
    rules = write_rules(tmp_path / "rules.yaml", PLAIN)
    out = made(tmp_path, shop_rows(), "--negatives", "3", "--rules", str(rules))
    type_of = {row[0]: row[8].lower() for row in shop_rows()}
    number = Counter()
    for (split, text), grades in grades_of(out).items():
        zeros = [each for each, grade in grades.items() if grade == 0]
        assert len(zeros) <= (3 if split == "train" else 0)
        assert all(type_of[each] in text.split() for each in zeros)
        number[len(zeros)] += 1
    assert number[3] > 20


HOSTILE = [
    "<script>alert(1)</script>", "<b>Bordeaux</b>", "Black, White", "Gr\u00fcn/Wei\u00df",
    "{product_type}", "{0.__class__}", "${oc.env:HOME}", "=1+1", "a\nb", '"quoted"',
    "\u202egnp.exe", "\u8d64", "\U0001f9e5", "x" * 500, "'; DROP TABLE products; --",
    "/", ",", "%s%n", "\\1", "-", "No", "off",
]  # fmt: skip


def test_hostile_values_are_text_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        (f"p{at}", "t", "", "", "", "train", value, "Dot", "Coat", "Men")
        for at, value in enumerate(HOSTILE)
    ]
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--rules", str(rules), "--per-product", "60")
    grades = grades_of(made(tmp_path, rows, *options))
    texts = [text for _, text in grades]
    assert not any("<" in text or "x" * 61 in text or "\n" in text for text in texts)
    assert not any("\u202e" in text for text in texts)
    assert grades["train", "bordeaux coat"] == {"p1": 2}
    assert grades["train", "black coat"] == grades["train", "white coat"] == {"p2": 2}
    assert grades["train", "wei\u00df coat"] == {"p3": 2}
    assert grades["train", "{product_type} coat"] == {"p4": 2}
    assert grades["train", "\u8d64 coat"] == {"p11": 2}
    assert grades["train", "no coat"] == {"p20": 2}
    with_dots = grades["train", "polka dot coat"]
    assert len(with_dots) == len(HOSTILE)
    # They survive the way through the tables.
    again = read_tables(tmp_path / "out")
    assert not again.rejects
    assert sorted(again.queries["query"]) == sorted(texts)


def test_products_without_a_value_are_neither_asked_for_nor_judged(tmp_path: Path) -> None:
    header = ("product_id", "title", "split", "colour", "pattern", "product_type")
    rows = [
        ("p1", "a", "train", "Red", "Dot", "Coat"),
        ("p2", "a", "train", "red ", "", "Coat"),
        ("p3", "a", "train", " n/a", "Dot", "Coat"),
        ("p4", "a", "train", "Red", "Stripe", "coats"),
    ]
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--attributes", "colour,pattern,product_type", "--rules", str(rules),
               "--per-product", "60", "--negatives", "9")  # fmt: skip
    grades = grades_of(made(tmp_path, rows, *options, header=header))
    assert grades["train", "red coat"] == {"p1": 2, "p2": 2, "p4": 2}
    assert grades["train", "red polka dot coat"] == {"p1": 2, "p4": 1}
    assert not any("n/a" in text for _, text in grades)


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
        ([("p001", "", "Coat")], "expected products with values of colour, product_type"),
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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1]", "expected a mapping"),
        ("fields: {colour: {naer: 1}}", "unknown field `naer`"),
        ("fields: {colour: {near: 2}}", "expected grades from 0 to below exact, 2, got 2"),
        ("fields: {colour: {near: -1}}", "got -1"),
        ("fields: {colour: {words: {red: []}}}", "expected words for 'red'"),
        ("asks: [{forms: ['{colour}', '{pattern}']}]", "expected {colour}, each once"),
        ("asks: [{forms: ['{colour} {colour}']}]", "each once, got '{colour} {colour}'"),
        ("asks: [{forms: ['{size} coat']}]", "got 'size'"),
        ("asks: [{forms: ['coat']}]", "each once, got 'coat'"),
        ("asks: [{forms: ['{colour}'], weight: 0}]", "a weight above 0"),
        ("written: {shouting: 0.1}", "expected shares"),
        ("written: {typo: 0.9, plural: 0.2}", "expected shares"),
        ("mapped: {needed: [audience]}", "mapped.needed: expected"),
        ("a: {b", "expected rules in YAML"),
        ("!!python/object/apply:os.system [ls]", "expected rules in YAML"),
    ],
)
def test_rules_that_say_nothing_sensible_are_refused(
    tmp_path: Path, content: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows(8))
    rules = tmp_path / "rules.yaml"
    rules.write_text(content)
    message = error_of(
        capsys, tmp_path, tmp_path / "out", "--attributes", ATTRIBUTES, "--rules", rules
    )
    assert str(rules) in message
    assert expected in message


def test_rules_of_a_file_lie_over_the_default_ones(tmp_path: Path) -> None:
    rules = read_rules(write_rules(tmp_path / "r.yaml", {"fields": {"pattern": {"other": 0.5}}}))
    default = read_rules()
    assert rules.fields["pattern"].other == 0.5
    assert rules.fields["pattern"].words == default.fields["pattern"].words
    assert rules.asks == default.asks
    assert rules.digest != default.digest == read_rules(DEFAULT_RULES).digest


@pytest.mark.parametrize(
    ("option", "value"),
    [("--per-product", 0), ("--queries", 0), ("--judgments", 0), ("--negatives", -1)],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, option: str, value: int, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows(8))
    arguments = (tmp_path, tmp_path / "out", "--attributes", ATTRIBUTES, option, value)
    assert f"{option}: expected a number from" in error_of(capsys, *arguments)


def test_a_folder_of_others_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = made(tmp_path, shop_rows(40))
    assert main([str(tmp_path / "shop"), str(out), "--attributes", ATTRIBUTES]) == 0
    (out / "made.json").unlink()
    arguments = (tmp_path / "shop", out, "--attributes", ATTRIBUTES)
    assert "expected a new or empty folder" in error_of(capsys, *arguments)
    assert queries_of(out)


def test_ways_of_writing_change_the_words_and_not_the_grades(tmp_path: Path) -> None:
    rows = [("p1", "a", "", "", "", "train", "Off White", "Dot", "T-shirt", "Men"),
            ("p2", "b", "", "", "", "train", "Off White", "Dot", "Dress", "Men")]  # fmt: skip
    seen = {}
    for way in WAYS:
        rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS | {way: 1.0}})
        out = made(tmp_path / way, rows, "--rules", str(rules), "--per-product", "80")
        seen[way] = {text for _, text in grades_of(out)}
        assert all(2.0 in each.values() for each in grades_of(out).values())
    assert {"off-white t-shirts", "off-white dresses"} <= seen["plural"]
    assert {"off white tshirt", "off white t shirt"} & seen["no_hyphen"]
    assert not any("-" in text for text in seen["no_hyphen"])
    assert "Off-white T-shirt" in seen["capitals"]
    assert all(text != text.lower() for text in seen["capitals"])
    assert len(seen["typo"] - seen["plural"]) > 20


@pytest.mark.parametrize(
    ("word", "expected"),
    [("dress", "dresses"), ("watch", "watches"), ("body", "bodies"), ("toy", "toys"),
     ("shorts", "shorts"), ("coat", "coats"), ("bed frame", "bed frames")],
)  # fmt: skip
def test_plurals(word: str, expected: str) -> None:
    assert plural(word) == expected
    assert key_of(expected) == key_of(word)


def test_a_typing_error_is_of_one_place(tmp_path: Path) -> None:
    for seed in range(50):
        text = mistyped(random.Random(seed), "sweater")
        assert text[0] == "s"
        assert len(text) in (6, 7)
        assert sum((Counter("sweater") - Counter(text)).values()) <= 1
    assert mistyped(random.Random(0), "hat") == "hat"


def test_no_query_says_a_word_twice(tmp_path: Path) -> None:
    header = ("product_id", "title", "split", "colour", "usage", "product_type")
    rows = [("p1", "a", "train", "Blue", "Sports", "Sports Shoes"),
            ("p2", "a", "train", "Blue", "Casual", "Shirts")]  # fmt: skip
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--attributes", "colour,usage,product_type", "--rules", str(rules),
               "--per-product", "60")  # fmt: skip
    texts = [text for _, text in grades_of(made(tmp_path, rows, *options, header=header))]
    assert {"blue sports shoes", "casual blue shirt"} <= set(texts)
    assert not any(text.count("sports") > 1 for text in texts)


KAGGLE = (
    "article_id,product_code,prod_name,product_type_name,graphical_appearance_name,"
    "colour_group_name,perceived_colour_value_name,perceived_colour_master_name,index_name,"
    "index_group_name,garment_group_name,detail_desc"
)
TOLOKA = "image\tEnglish query\tGerman query\n"


def test_the_guide_to_kaggles_files_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands, on articles of the columns of Kaggle and queries in the columns of Toloka."""
    guide = (ROOT / "recipes" / "data" / "hm.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", guide, flags=re.DOTALL))
    commands = [shlex.split(line) for line in lines.replace("\\\n", " ").splitlines()]
    made = [command for command in commands if command[1:3] == ["-m", "data_prep.queries"]]
    assert len(made) >= 1
    monkeypatch.chdir(tmp_path)
    rows = [
        (f"01{at:08}", f"01{at:05}", f"Name {at}", ("Dress", "Skirt")[at % 2], "Stripe",
         ("Dark Blue", "Light Blue")[at // 2 % 2], "Dark", "Blue", "Ladieswear", "Ladieswear",
         "Dresses", "A text.")
        for at in range(80)
    ]  # fmt: skip
    folder = tmp_path / "hm"
    write_csv(folder / "articles.csv", KAGGLE.split(","), rows)
    for row in rows:
        path = folder / "images" / row[0][:3] / f"{row[0]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), "teal").save(path)
    people = "u\tlong blue striped dress for women\tKleid\n" + 2 * "u\tnavy skirt\tRock\n"
    (tmp_path / "queries_full_dataset.tsv").write_text(TOLOKA + people)
    for command in made:
        assert main(command[3:]) == 0
        out = Path(command[4])
        assert len(read_csv(out / "products.csv")) == 80
        kinds = Counter(each["kind"] for each in queries_of(out))
        assert kinds["human"] == 2
        assert kinds["attribute"] > 10
        assert not re.search("blue|stripe", (out / "products.csv").read_text(), re.IGNORECASE)
        judged = grades_of(out)
        navy = next(grades for (_, text), grades in judged.items() if text == "navy skirt")
        assert set(navy.values()) == {2.0}
        manifest = build_shards(out, tmp_path / "shards", workers=1)
        assert sum(entry["pictures"] for entry in manifest["splits"].values()) == 80


def test_states_of_a_field() -> None:
    rules = read_rules().fields["colour"]
    field = Field("colour", rules, ["Light Pink", "pink", "Navy Blue", "Blue", "", "Black"])
    state = dict(zip([*field.values, ""], field.state("pink").tolist(), strict=True))
    assert state == {"Light Pink": NEAR, "pink": EXACT, "Navy Blue": OFF, "Blue": OFF,
                     "Black": OFF, "": UNKNOWN}  # fmt: skip
    state = dict(zip([*field.values, ""], field.state("navy").tolist(), strict=True))
    assert (state["Navy Blue"], state["Blue"], state["Black"]) == (EXACT, NEAR, OFF)


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


def test_help_names_every_option(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for option in ("--attributes", "--fields", "--rules", "--per-product", "--queries", "--map",
                   "--judgments", "--negatives", "--fine-kinds", "--seed", "--layout"):  # fmt: skip
        assert option in text


@pytest.mark.skipif(not (REAL / "attributes.csv").is_file(), reason=f"no tables at {REAL}")
def test_most_judgments_agree_with_those_of_a_real_shop(tmp_path: Path) -> None:
    people = [
        (each["query_id"], each["query"], each["split"])
        for each in queries_of(REAL)
        if each["kind"] == "human" and each["split"] == "train"
    ]
    queries = write_csv(tmp_path / "people.csv", ("query_id", "query", "split"), people)
    make_queries(
        REAL, tmp_path / "out", attributes_of(ATTRIBUTES), REAL / "attributes.csv",
        map_path=queries,
    )  # fmt: skip
    theirs, ours = _judged(REAL), _judged(tmp_path / "out")
    for kind, compared, share in (("attribute", 2500, 0.9), ("human", 2300, 0.83)):
        common = [key for key in theirs if key[:2] == ("train", kind) and key in ours]
        assert len(common) >= compared
        same = total = 0
        for key in common:
            for product in theirs[key].keys() | ours[key].keys():
                same += theirs[key].get(product, 0) == ours[key].get(product, 0)
                total += 1
        assert same / total > share, f"{kind}: {same / total:.3f} of {total}"


def _judged(folder: Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """Returns the grades of each query, by split, kind and normal wording."""
    name = {
        each["query_id"]: (each["split"], each["kind"], normal_text(each["query"]))
        for each in queries_of(folder)
    }
    grades: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in read_csv(folder / "qrels.csv"):
        grades.setdefault(name[row["query_id"]], {})[row["product_id"]] = float(row["relevance"])
    return grades
