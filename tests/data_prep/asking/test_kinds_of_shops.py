"""Tests queries of shops that sell other things than clothes, with fields as their exports have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from tests.data_prep.asking.shops import WAYS, grades_of, made, queries_of, write_csv, write_rules

Grades = dict[str, dict[str, float]]


def asked(
    folder: Path,
    fields: dict[str, list[str]],
    *options: str,
    count: int = 48,
    texts: Sequence[str] = ("",),
) -> Grades:
    """Returns the grades of the queries of a shop whose products have every mixture of values.

    A product is called by its values; each mixture has every text. All products are of train.
    """
    folder.mkdir(exist_ok=True)
    mixtures = list(product(*fields.values()))
    header = ("product_id", "title", "description", *fields)
    rows = []
    for at in range(count):
        values = mixtures[at % len(mixtures)]
        name = " / ".join(values)
        text = texts[at // len(mixtures) % len(texts)]
        rows.append((f"{name} #{at}", f"thing {at}", text, *values))
    rules = write_rules(folder / "rules.yaml", {"written": WAYS})
    given = ("--per-product", "12", "--dev-share", "0", *options)
    given = (*given, "--attributes", ",".join(fields), "--rules", str(rules))
    out = made(folder, rows, *given, header=header)
    return {text: each for (_, text), each in grades_of(out).items()}


def values_of(grades: dict[str, float], grade: float) -> set[str]:
    """Returns the values of the products with a grade."""
    return {name.partition(" #")[0] for name, each in grades.items() if each == grade}


@pytest.mark.parametrize("values", [["Black Gloss", "White Gloss"], ["Ruby 01", "Ivory 01"]])
def test_a_finish_or_a_number_makes_no_two_colours_one(tmp_path: Path, values: list[str]) -> None:
    found = asked(tmp_path, {"product_type": ["Bike"], "colour": values})
    named = {text: each for text, each in found.items() if values[0].lower() in text}
    assert len(named) > 5
    for text, grades in named.items():
        assert values_of(grades, 2) == {f"Bike / {values[0]}"}, text
        assert values_of(grades, 1) == set(), text


def test_shades_that_end_in_a_colour_are_neighbours(tmp_path: Path) -> None:
    found = asked(tmp_path, {"product_type": ["Bike"], "colour": ["Dusty Red", "Bright Red"]})
    assert values_of(found["bike in dusty red"], 1) == {"Bike / Bright Red"}


def test_the_sign_of_a_number_counts(tmp_path: Path) -> None:
    found = asked(tmp_path, {"product_type": ["Bag"], "comfort": ["-5 \u00b0C", "5 \u00b0C"]})
    assert values_of(found["-5 \u00b0c bag"], 2) == {"Bag / -5 \u00b0C"}
    assert values_of(found["5 \u00b0c bag"], 2) == {"Bag / 5 \u00b0C"}


def test_what_two_fields_may_mean_is_asked_for_by_the_name_of_one(tmp_path: Path) -> None:
    sizes = ["60 cm", "80 cm"]
    fields = {"product_type": ["Planter"], "height": sizes, "width": sizes, "depth": ["9 cm"]}
    found = asked(tmp_path, fields)
    assert values_of(found["width 60 cm planter"], 2) == {
        f"Planter / {height} / 60 cm / 9 cm" for height in sizes
    }
    assert "60 cm planter" not in found
    assert "9 cm planter" in found


def test_a_letter_is_asked_for_by_the_name_of_its_field(tmp_path: Path) -> None:
    found = asked(tmp_path, {"product_type": ["Fridge"], "energy_class": ["A", "B"]})
    assert values_of(found["energy class a fridge"], 2) == {"Fridge / A"}
    assert not any(text.startswith("a ") for text in found)


def test_a_field_is_not_called_by_what_the_type_says(tmp_path: Path) -> None:
    fields = {"product_type": ["Wheel", "Tyre"], "wheel_size": ["20", "21"]}
    found = asked(tmp_path, fields)
    assert values_of(found["size 21 wheel"], 2) == {"Wheel / 21"}
    assert values_of(found["tyre wheel size 21"], 2) == {"Tyre / 21"}


def test_products_without_a_colour_are_asked_for_beside_those_with_one(tmp_path: Path) -> None:
    header = ("product_id", "title", "product_type", "colour", "audience")
    rows = [(f"p{at}", f"thing {at}", *(("Lipstick", "Red") if at % 2 else ("Face Cream", "")),
             "Women") for at in range(40)]  # fmt: skip
    found = grades_of(made(tmp_path, rows, "--attributes", ",".join(header[2:]),
                           "--dev-share", "0", header=header))  # fmt: skip
    creams = {f"p{at}" for at in range(0, 40, 2)}
    assert set(found["train", "face cream for women"]) == creams
    # Those with a colour are asked for with it.
    assert ("train", "lipstick") not in found


def test_words_of_clothes_are_said_of_clothes_alone(tmp_path: Path) -> None:
    fields = {"colour": ["Red", "Blue"], "audience": ["Men", "Women"]}
    clothes = asked(tmp_path / "clothes", {"product_type": ["Dress", "Shirt"], **fields})
    bikes = asked(tmp_path / "bikes", {"product_type": ["City Bike", "Helmet"], **fields})
    worn = re.compile(r"\b(?:wear|formal|party|office|weekend|winter)\b")
    assert any(map(worn.search, clothes))
    assert len(bikes) > 50
    assert not any(map(worn.search, bikes))


def test_plural_types_have_no_article_whatever_follows(tmp_path: Path) -> None:
    texts = ("Stainless steel.", "Galvanised.", "With washer.", "Slotted.")
    found = asked(tmp_path, {"product_type": ["Bolts", "Screw"]}, count=96, texts=texts)
    behind = [text for text in found if re.search(r"(?:bolts|screw) \w", text)]
    assert any(" a screw" in text for text in behind)
    assert any("bolts stainless steel" in text for text in behind)
    assert not any(re.search(r"\ba bolts", text) for text in found)


def test_one_detail_is_not_asked_for_twice(tmp_path: Path) -> None:
    texts = ("With zip and hood.", "With hood and pockets.", "With pockets and zip.", "Soft.")
    fields = {"product_type": ["Duvet Cover"], "colour": ["Red", "Blue"]}
    found = asked(tmp_path, fields, "--per-product", "40", count=96, texts=texts)
    said = [re.findall(r"\b(?:zip up|zip|zipped|zippers?)\b", text) for text in found]
    assert max(map(len, said)) == 1


def test_what_is_denied_is_no_detail(tmp_path: Path) -> None:
    texts = ("Not suitable for outdoor use.", "For outdoor use, with dimmer.", "Glass shade.",
             "It isn't made for outdoor use in rain, but with glass shade.")  # fmt: skip
    fields = {"product_type": ["Lamp"]}
    found = asked(tmp_path, fields, "--per-product", "20", count=60, texts=texts)
    has = {text: {int(name.partition("#")[2]) % 4 for name, grade in grades.items() if grade == 2}
           for text, grades in found.items()}  # fmt: skip
    assert has["lamp outdoor use"] == {1}
    assert has["lamp with glass shade"] == {2, 3}


def test_of_long_lists_the_short_parts_are_asked_for(tmp_path: Path) -> None:
    cars = "BMW 3 Series E46|Ford Focus II|Opel Astra G 1.6 16V Caravan (1998-2004)"
    found = asked(tmp_path, {"product_type": ["Brake Pad"], "fitment": [cars]}, count=8)
    assert "ford focus ii brake pad" in found
    assert not any("opel" in text for text in found)


def test_writing_otherwise_changes_no_number_and_no_unit(tmp_path: Path) -> None:
    ways = {"written": {**WAYS, "no_hyphen": 0.5, "typo": 0.5}}
    header = ("product_id", "title", "product_type", "age", "size")
    rows = [(f"p{at}", f"thing {at}", "Board-Game", ("3-6 years", "6-12 years")[at % 2],
             ("12 mm", "10 inch")[at // 2 % 2]) for at in range(80)]  # fmt: skip
    rules = write_rules(tmp_path / "rules.yaml", ways)
    out = made(tmp_path, rows, "--attributes", ",".join(header[2:]), "--rules", str(rules),
               "--per-product", "20", header=header)  # fmt: skip
    texts = [each["query"] for each in queries_of(out)]
    numbers = {number for text in texts for number in re.findall(r"\d[\d-]*(?: mm| inch)?", text)}
    assert numbers == {"3-6", "6-12", "12 mm", "10 inch"}
    assert any("boardgame" in text for text in texts)
    assert not all(re.search("board-?game|board game", text.lower()) for text in texts)


def test_a_category_that_is_a_field_draws_no_splits(tmp_path: Path) -> None:
    header = ("product_id", "title", "category", "colour")
    rows = [(f"{kind} {at}", f"thing {at}", kind, "Red")
            for at in range(60) for kind in ("Duvet cover", "Pillowcase")]  # fmt: skip
    options = ("--attributes", "product_type=category,colour", "--dev-share", "0.3")
    found = grades_of(made(tmp_path, rows, *options, header=header))
    split_of = {name: split for (split, _), grades in found.items() for name in grades}
    splits = [{split_of.get(f"{kind} {at}") for kind in ("Duvet cover", "Pillowcase")} - {None}
              for at in range(60)]  # fmt: skip
    assert {"dev"} in splits
    assert {"train"} in splits
    assert {"dev", "train"} not in splits


def test_fields_that_a_file_lacks_are_those_of_the_products(tmp_path: Path) -> None:
    header = ("product_id", "title", "category", "brand")
    rows = [(f"p{at}", f"thing {at}", "Drill", ("Bosch", "Makita")[at % 2]) for at in range(30)]
    fields = write_csv(tmp_path / "f.csv", ("product_id", "voltage", "brand"),
                       [(f"p{at}", "18 V", "Metabo") for at in range(30)])  # fmt: skip
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--attributes", "product_type=category,voltage,brand", "--fields", str(fields))
    out = made(tmp_path, rows, *options, "--dev-share", "0", "--rules", str(rules), header=header)
    found = {text: each for (_, text), each in grades_of(out).items()}
    assert len(found["18 v drill"]) == 30
    # The file's own columns come first.
    assert "metabo drill" in found
    assert not any("bosch" in text for text in found)
