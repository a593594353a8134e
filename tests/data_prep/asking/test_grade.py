"""Grades are those of the rules: of equal values, neighbouring shades and lacking ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from data_prep.asking.rules import read_rules
from data_prep.asking.values import EXACT, NEAR, OFF, UNKNOWN, Field
from tests.data_prep.asking.shops import (
    HEADER,
    PLAIN,
    STRICT,
    WAYS,
    grades_of,
    made,
    read_csv,
    shop_rows,
    write_rules,
)

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
OF_FORMS = {*["for", "in", "find", "show", "me", "i", "am", "looking", "need", "want", "a", "an"]}
NEIGHBOURS = [{"Red", "Dark Red"}, {"Blue", "Navy"}]


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
        found = [WORDS[word] for word in text.split() if word not in OF_FORMS]
        asked = dict(found)
        # By the type alone only those are asked for that have no colour.
        assert len(asked) == len(found) >= 1
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


def test_grades_of_products_with_several_values_are_those_of_the_rules(tmp_path: Path) -> None:
    draw = random.Random(0)
    near = [{"red", "darkred"}, {"blue", "azure"}]
    rows, have = [], {}
    for at in range(200):
        colours = draw.sample(
            ["red", "darkred", "blue", "azure", "black"], draw.choice([1, 1, 2, 3])
        )
        stuffs = draw.sample(["oak", "wool", "steel"], draw.choice([0, 1, 2]))
        kind = draw.choice(["sofa", "stool"])
        between = draw.choice(["|", "/", ", ", "; ", " & ", " and ", "\n"])
        shares = " + ".join(f"{draw.randrange(1, 100)}% {each}" for each in stuffs)
        rows.append((f"p{at}", f"t{at}", "train", between.join(colours), f"Home > {kind}", shares))
        have[f"p{at}"] = set(colours), set(stuffs), kind
    header = ("product_id", "title", "split", "colour", "product_type", "material")
    fields = {"colour": {"neighbours": [sorted(each) for each in near]}}
    rules = write_rules(
        tmp_path / "rules.yaml", {"asks": STRICT, "written": WAYS, "fields": fields}
    )
    out = made(tmp_path, rows, "--attributes", "colour,product_type,material", "--rules",
               str(rules), header=header)  # fmt: skip
    seen: Counter[float] = Counter()
    for (_, text), grades in grades_of(out).items():
        words = set(text.split()) - {"in"}
        colour, *_ = words & set().union(*(each[0] for each in have.values()))
        kind = "couch" if "couch" in words else next(iter(words & {"sofa", "stool"}))
        stuff = words - {colour, kind}
        expected = {}
        for product, (colours, stuffs, own) in have.items():
            faults = [] if colour in colours else [
                any({colour, each} <= group for each in colours for group in near)
            ]  # fmt: skip
            faults += [True] if stuff - stuffs else []
            is_judged = own == kind.replace("couch", "sofa") and (stuffs or not stuff)
            if is_judged and faults in ([], [True]):
                expected[product] = 2.0 - len(faults)
        assert grades == expected, text
        seen.update(grades.values())
    assert min(seen[1.0], seen[2.0]) > 200


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


def test_states_of_a_field() -> None:
    rules = read_rules().fields["colour"]
    field = Field("colour", rules, ["Light Pink", "pink", "Navy Blue", "Blue", "", "Black"])
    state = dict(zip([*field.values, ""], field.state("pink").tolist(), strict=True))
    assert state == {"Light Pink": NEAR, "pink": EXACT, "Navy Blue": OFF, "Blue": OFF,
                     "Black": OFF, "": UNKNOWN}  # fmt: skip
    state = dict(zip([*field.values, ""], field.state("navy").tolist(), strict=True))
    assert (state["Navy Blue"], state["Blue"], state["Black"]) == (EXACT, NEAR, OFF)
