"""Shops that differ in kind: other goods, names of columns, languages and files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from beyond_text.tables.read import read_tables
from data_prep.asking.compose import with_article
from data_prep.asking.rules import read_rules
from data_prep.asking.shop import known_attributes
from data_prep.queries import main
from tests.data_prep.asking.shops import (
    WAYS,
    error_of,
    grades_of,
    made,
    queries_of,
    read_csv,
    write_csv,
    write_rules,
)

AS_IT_IS = {"written": WAYS}


def asked_of(
    folder: Path, header: Sequence[str], rows: Sequence[Sequence[object]], names: str, *options: str
) -> tuple[Path, dict[str, dict[str, float]]]:
    """Makes queries of a shop of train products; returns the folder and the grades by wording."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = write_rules(folder / "rules.yaml", AS_IT_IS)
    every = ("--attributes", names, "--rules", str(rules), "--per-product", "60",
             "--dev-share", "0")  # fmt: skip
    out = made(folder, rows, *every, *options, header=header)
    return out, {text: grades for (_, text), grades in grades_of(out).items()}


@pytest.mark.parametrize(
    ("column", "name"),
    [("Color", "colour"), ("colour_name", "colour"), ("Farbe", "colour"), ("COLOR", "Color"),
     ("\u989c\u8272", "colour"), ("base colour", "colour=Base_Colour")],
)  # fmt: skip
def test_a_column_of_another_name_is_found_and_left_out(
    tmp_path: Path, column: str, name: str
) -> None:
    rows = [("p1", "a", "Navy Blue", "Sofa"), ("p2", "b", "Blue", "Sofa")]
    out, grades = asked_of(
        tmp_path, ("product_id", "title", column, "Type"), rows, f"{name},product_type"
    )
    assert grades["navy sofa"] == {"p1": 2, "p2": 1}
    assert not {column, "Type"} & set(read_csv(out / "products.csv")[0])


def test_fields_without_rules_are_asked_for_too(tmp_path: Path) -> None:
    rows = [("p1", "a", "Acme", "42", "Sneakers"), ("p2", "b", "Acme", "43", "Sneakers"),
            ("p3", "c", "O'Hara", "42.0", "Sneakers"), ("p4", "d", "Acme", "42", "Boots"),
            ("p5", "e", "Acme", "", "Sneakers")]  # fmt: skip
    header = ("product_id", "title", "Brand", "Shoe size", "product_type")
    out, grades = asked_of(tmp_path, header, rows, "Brand,Shoe size,product_type")
    assert grades["acme sneakers"] == {"p1": 2, "p2": 2, "p5": 2, "p3": 1}
    assert grades["sneakers shoe size 42"] == {"p1": 2, "p3": 2, "p2": 1}
    assert grades["sneakers"] == dict.fromkeys(("p1", "p2", "p3", "p5"), 2)
    assert {each["asked"] for each in queries_of(out)} == {
        "brand product_type", "product_type shoe_size", "product_type",
    }  # fmt: skip


def test_a_type_of_most_products_is_no_reason_for_a_grade_alone(tmp_path: Path) -> None:
    rows = [(f"p{at}", f"{at}", f"Author{at % 4}", "Book", "with a map" if at % 2 else "bound")
            for at in range(24)]  # fmt: skip
    header = ("product_id", "title", "author", "product_type", "description")
    for judgments, others in (("24", 1), ("23", None)):
        options = ("author,product_type", "--judgments", judgments)
        _, grades = asked_of(tmp_path / judgments, header, rows, *options)
        author, detail = grades["author1 book"], grades["book with map"]
        assert {each: author.get(f"p{each}") for each in (1, 2, 5)} == {1: 2, 2: others, 5: 2}
        assert {each: detail.get(f"p{each}") for each in (1, 2, 3)} == {1: 2, 2: others, 3: 2}


def test_a_shop_without_colours_is_asked_for_what_it_has(tmp_path: Path) -> None:
    rows = [("p1", "a", "Thriller", "Women", "60% oak, 40% steel"),
            ("p2", "b", "Thriller", "Men", "Oak")]  # fmt: skip
    header = ("product_id", "title", "genre", "audience", "material")
    _, grades = asked_of(tmp_path, header, rows, "product_type=genre,audience,material")
    assert grades["thriller"] == {"p1": 2, "p2": 2}
    assert grades["thriller for men"] == {"p2": 2}
    assert grades["oak thriller"] == {"p1": 2, "p2": 2}
    assert grades["steel thriller"] == {"p1": 2, "p2": 1}
    assert not any("60" in text or "%" in text for text in grades)


def test_forms_of_words_are_left_out_where_fields_are_in_another_script(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(f"p{at}", f"{at}", ("\u7ea2\u8272", "\u767d\u8272", "\u65e0")[at % 3], "\u6c99\u53d1")
            for at in range(12)]  # fmt: skip
    header = ("product_id", "title", "\u989c\u8272", "kind")
    made(tmp_path, rows, "--attributes", "colour,product_type=kind", header=header)
    texts = {each["query"] for each in queries_of(tmp_path / "out")}
    assert texts
    assert not any(re.search("[a-z]|\u65e0", text, re.IGNORECASE) for text in texts)
    assert "--rules" in capsys.readouterr().err
    # A shop's own forms may have words of that script.
    forms = {"asks": [{"forms": ["{colour}\u7684{product_type}", "a {colour} {product_type}"]}]}
    rules = write_rules(tmp_path / "rules.yaml", forms | {"written": WAYS})
    options = ("--attributes", "colour,product_type=kind", "--rules", str(rules))
    out = made(tmp_path / "own", rows, *options, header=header)
    assert {each["query"] for each in queries_of(out)} == {
        "\u7ea2\u8272\u7684\u6c99\u53d1", "\u767d\u8272\u7684\u6c99\u53d1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [("show me a green tea", "show me green tea"),
     ("i need a armchair", "i need an armchair"), ("i want a usb-c cable", "i want a usb-c cable"),
     ("show me a nice headphones in red", "show me nice headphones in red"),
     ("find me a oak table for boys", "find me an oak table for boys"),
     ("i need a dress, red", "i need a dress, red"), ("i want a unit", "i want a unit")],
)  # fmt: skip
def test_articles_suit_what_follows(text: str, expected: str) -> None:
    assert with_article(text) == expected


def test_words_of_clothes_are_not_said_of_other_things(tmp_path: Path) -> None:
    rows = [(f"p{at}", "a", "Red", "Laptop") for at in range(20)]
    header = ("product_id", "title", "colour", "product_type")
    _, grades = asked_of(tmp_path, header, rows, "colour,product_type")
    texts = " ".join(grades)
    assert "modern" in texts
    assert not re.search("comfortable|fashionable|casual|cute|wear", texts)


def test_a_value_may_repeat_a_word_or_sign(tmp_path: Path) -> None:
    rows = [("p1", "a", "red & white & blue", "Pots and pans and lids"),
            ("p2", "b", "red", "Home > Garden > Bed frame bed")]  # fmt: skip
    header = ("product_id", "title", "colour", "product_type")
    _, grades = asked_of(tmp_path, header, rows, "colour,product_type")
    assert grades["red pots and pans and lids"] == {"p1": 2}
    assert grades["red bed frame bed"] == {"p2": 2}
    assert not any("home" in text or ">" in text for text in grades)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_fields_may_be_lists_and_numbers_of_any_file(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "shop" / "products.csv", ("product_id", "title"),
              [("1", "a"), ("2", "b"), ("3", "c")])  # fmt: skip
    fields = pd.DataFrame(
        {"product_id": [1, 2, 4], "colour": [["red", "blue"], ["red"], ["red"]],
         "product_type": ["Sofa", "Sofa", "Sofa"], "seats": [2.0, 3.0, None]}
    )  # fmt: skip
    path = tmp_path / f"fields.{ending}"
    if ending == "parquet":
        fields.to_parquet(path)
    elif ending == "csv":
        fields.to_csv(path, index=False)
    else:
        fields.to_json(path, orient="records", lines=True)
    rules = write_rules(tmp_path / "rules.yaml", AS_IT_IS)
    assert main([str(tmp_path / "shop"), str(tmp_path / "out"), "--fields", str(path),
                 "--attributes", "colour,product_type,seats", "--rules", str(rules),
                 "--per-product", "60", "--dev-share", "0"]) == 0  # fmt: skip
    grades = {text: each for (_, text), each in grades_of(tmp_path / "out").items()}
    assert grades["red sofa"] == {"1": 2, "2": 2}
    assert grades["blue sofa"] == {"1": 2}
    assert grades["sofa seats 2"] == {"1": 2, "2": 1}
    # Neither side of what does not meet is passed over in silence.
    said = capsys.readouterr().err
    assert f"fields.{ending}: 1 of 3 products not in it" in said
    assert f"fields.{ending}: 1 of 3 ids are of no product, the first is '4' in row" in said


def test_counts_say_who_is_left_out_and_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [(f"p{at}", f"t{at}", ("Red", "12", "multi", "-")[at % 4],
             f"Thing {chr(97 + at)}" if at % 12 < 11 else "")
            for at in range(24)]  # fmt: skip
    header = ("product_id", "title", "colour", "product_type")
    out = made(tmp_path, rows, "--attributes", "colour,product_type", header=header)
    counts = json.loads((out / "made.json").read_text())
    assert counts["fields"]["colour"] == {
        "values": 3, "products": 18, "without": 6, "not_asked": {"12": 6, "multi": 6},
        "more_not_asked": 0, "neighbours_by": "the rules",
    }  # fmt: skip
    assert sum(each["products_without_a_query"] for each in counts["splits"].values()) == 2
    said = capsys.readouterr().out
    assert (
        "colour: 3 values of 18 products, 6 without one; not asked for: 12 (6), multi (6)" in said
    )
    assert (
        "product_type: 22 values of 22 products, 2 without one; nearly every product has its own"
        in said
    )
    assert "train: " in said
    assert "products without a query" in said


def test_a_text_that_is_a_field_is_left_out_too(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(f"p{at}", f"t{at}", "Home > Sofas", "Red") for at in range(4)]
    header = ("product_id", "title", "category", "colour")
    out, grades = asked_of(tmp_path, header, rows, "colour,product_type=category")
    assert "red sofa" in grades or "red sofas" in grades
    assert "sofa" not in (out / "products.csv").read_text().lower()
    assert read_tables(out).products["title"].tolist() == [f"t{at}" for at in range(4)]
    assert "products.csv: category left out as a field" in capsys.readouterr().err
    # It stays where a file of fields has the type.
    fields = write_csv(tmp_path / "f.csv", ("product_id", "category", "colour"),
                       [(row[0], *row[2:]) for row in rows])  # fmt: skip
    out, _ = asked_of(tmp_path / "file", header, rows, "colour,product_type=category",
                      "--fields", str(fields))  # fmt: skip
    assert set(read_tables(out).products["category"]) == {"Home > Sofas"}


def test_a_title_that_is_a_field_leaves_pictures_or_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    header = ("product_id", "title", "colour", "image")
    for at in range(2):
        (tmp_path / "shop").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (at, 0, 0)).save(tmp_path / "shop" / f"{at}.png")
    rows = [(f"p{at}", "Sofa", "Red", f"{at}.png") for at in range(2)]
    out = made(tmp_path, rows, "--attributes", "colour,product_type=title", header=header)
    assert "sofa" not in (out / "products.csv").read_text().lower()
    write_csv(tmp_path / "shop" / "products.csv", header, [*rows, ("p2", "Sofa", "Red", "")])
    message = error_of(capsys, tmp_path / "shop", tmp_path / "no", "--attributes",
                       "colour,product_type=title")  # fmt: skip
    assert "products.csv row 4: expected a text beside the fields, or a picture" in message
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            "colr=Shade,product_type",
            "expected colour=Shade, or another field as NAME=Shade, got colr=Shade",
        ),
        ("Color,colour,product_type", "expected each field once, got 'colour' twice"),
        (
            "colour=Shad,product_type",
            "got title, description, category, Shade, Type, a_b, A-B; the "
            "nearest is 'Shade'; name it as colour=COLUMN",
        ),
        (
            "colour=Shade,material=a b,product_type=Type",
            "expected one column 'a b', got a_b and A-B",
        ),
        ("colour=Shade", "got 'colour' without product_type in colour"),
        ("!!!,product_type", "expected NAME=!!!, got !!!=!!!"),
        ("detail=Shade,product_type", "expected NAME=Shade, got detail=Shade"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(
    tmp_path: Path, attributes: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    rows = [("p1", "a", "Red", "Sofa", "1", "2")]
    header = ("product_id", "title", "Shade", "Type", "a_b", "A-B")
    write_csv(tmp_path / "products.csv", header, rows)
    message = error_of(capsys, tmp_path, tmp_path / "out", "--attributes", attributes)
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_an_age_group_beside_a_gender_is_a_field_of_its_own() -> None:
    attributes = {"product_type": "product_type", "gender": "gender", "age_group": "age_group"}
    assert known_attributes(attributes, read_rules()) == {
        "product_type": "product_type", "audience": "gender", "age_group": "age_group",
    }  # fmt: skip


def test_forms_of_fields_without_rules_are_checked(tmp_path: Path) -> None:
    bad = write_rules(tmp_path / "r.yaml", {"others": {"asks": [{"forms": ["{other} {size}"]}]}})
    with pytest.raises(ValueError, match=r"r\.yaml: asks: expected .*, got 'size'"):
        read_rules(bad)
    bad = write_rules(tmp_path / "r.yaml", {"asks": [{"forms": ["{colour}"], "unless": ["hue"]}]})
    with pytest.raises(ValueError, match=r"unless: expected .*, got 'hue'"):
        read_rules(bad)


def test_rows_that_are_not_used_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(f"p{at}", "a", "Red", "Sofa") for at in range(40)]
    header = ("product_id", "title", "colour", "product_type")
    fields = tmp_path / "f.csv"
    lines = [f"{each[0]},{each[2]},{each[3]}" for each in rows]
    fields.write_text("\n".join(["product_id,colour,product_type", *lines, "p1,Red,Sofa,more"]))
    out = made(tmp_path, [*rows, rows[0]], "--attributes", "colour,product_type",
               "--fields", str(fields), header=header)  # fmt: skip
    listed = [(each["file"], each["row"], each["reason"]) for each in read_csv(out / "rejects.csv")]
    assert listed == [("products.csv", "42", "duplicate id"), ("f.csv", "42", "malformed row")]
    assert json.loads((out / "made.json").read_text())["rejects"] == {
        "products.csv: duplicate id": 1, "f.csv: malformed row": 1,
    }  # fmt: skip
    assert "products.csv: duplicate id: 1 rejected, listed in" in capsys.readouterr().err
    assert not read_tables(out).rejects


def test_a_shop_with_pictures_by_url_goes_on_by_its_texts_where_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(f"p{at}", "a", "Red", "Sofa", "https://shop.example/a.jpg") for at in range(4)]
    header = ("product_id", "title", "colour", "product_type", "image")
    shop = write_csv(tmp_path / "shop" / "products.csv", header, rows).parent
    names = ("--attributes", "colour,product_type")
    assert "--absent-pictures" in error_of(capsys, shop, tmp_path / "out", *names)
    out = made(tmp_path, rows, *names, "--absent-pictures", header=header)
    assert len(read_csv(out / "products.csv")) == 4
    assert queries_of(out)
