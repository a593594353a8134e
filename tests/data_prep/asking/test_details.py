"""Tests details of texts in composed queries: which phrases, how said, and which products."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from data_prep.asking.details import Details
from data_prep.asking.phrases import Cutter, Texts
from data_prep.asking.rules import read_rules
from data_prep.asking.schema import DetailRules
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

HEADER = ("product_id", "title", "category", "description", "split", "colour", "product_type",
          "audience")  # fmt: skip
ATTRIBUTES = ("--attributes", "colour,product_type,audience")
HAS = ("a hood", "deep pockets", "wide v-neck", "plain linen")


def phrases_of(text: str, names: tuple[str, ...] = ("dress", "t shirt")) -> list[tuple[str, str]]:
    return [tuple(each) for each in Cutter(read_rules().details, names).phrases(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dress with a round neckline and long sleeves",
         [("with", "round neckline"), ("with", "long sleeves")]),
        ("Dress in soft, organic cotton.", [("in", "soft"), ("", "organic cotton")]),
        ("An A-line dress with pull-on waist", [("", "a-line"), ("with", "pull-on waist")]),
        ("Flared T-shirt without lining, no hood", [("", "flared")]),
        ("Flared without collar or hood. With pockets or lining",
         [("", "flared"), ("with", "pockets"), ("", "lining")]),
        ("No zip, buttons or pockets. Long sleeves", [("", "long sleeves")]),
        ("Without lining, hood, or belt, with long sleeves", [("with", "long sleeves")]),
        ("No hood, long sleeves and zip or ties",
         [("", "long sleeves"), ("", "zip"), ("", "ties")]),
        ("Soft cotton. Hood (not included)", [("", "soft cotton")]),
        ("With long sleeves, the belt is not included", [("with", "long sleeves")]),
        ("Belt sold separately with pockets", [("with", "pockets")]),
        ("Not suitable for outdoor use with salt, but with a dimmer", [("with", "dimmer")]),
        ("Isn\u2019t made for rain. For gardens with lamps",
         [("", "gardens"), ("with", "lamps")]),
        ("Not lined but with pockets", [("with", "pockets")]),
        ("Not included", []),
        ("Soft cotton. Not available in stores", [("", "soft cotton"), ("in", "stores")]),
        ("T Shirts DRESSES - Fine rib", [("", "fine rib")]),
        ("off-the-shoulder; in - with", [("", "off-the-shoulder")]),
        ("with the waist", [("", "waist")]),
        ("", []),
        ("!? ...", []),
    ],
)  # fmt: skip
def test_texts_are_cut_into_phrases(text: str, expected: list[tuple[str, str]]) -> None:
    assert phrases_of(text) == expected


def details_of(texts: list[str], types: list[int] | None = None, **rules: object) -> Details:
    settings = DetailRules(
        links=["with", "in"], anywhere=["in"], passed=["a", "and"], denied=["without"],
        **{"least": 2, "most": 1.0, **rules},  # type: ignore[arg-type]
    )  # fmt: skip
    read = Texts(Cutter(settings, ()))
    for text in texts:
        read.add(text)
    return Details(settings, read, range(len(texts)), types or [0] * len(texts))


def said(details: Details, row: int) -> set[str]:
    codes, _ = details.of(row)
    return {details.known[code].key for code in codes}


def test_a_single_word_is_a_detail_where_it_stands_behind_a_link() -> None:
    texts = ["x with hood", "y with hood", "hood, strange", "strange, wide cut", "Wide cuts", "q"]
    details = details_of(texts)
    assert said(details, 0) == said(details, 2) == {"hood"}
    assert said(details, 3) == {"wide cut"}
    assert said(details, 5) == set()
    assert said(details_of(texts, words={"strange": ["odd"]}), 3) == {"strange", "wide cut"}
    assert said(details_of(texts, never=["cut"]), 3) == set()
    assert said(details_of(texts, not_alone=["hood", "cut"]), 3) == {"wide cut"}
    assert said(details_of(texts, not_alone=["hood"]), 0) == set()


def test_a_phrase_has_the_details_that_it_ends_with_and_of_materials_all() -> None:
    texts = ["in cotton", "in cotton", "in soft cotton jersey", "with cotton trim", "no cotton",
             "with leather", "with leather", "in fake leather"]  # fmt: skip
    details = details_of(texts)
    rows = list(range(len(texts)))
    has = dict(zip(texts, details.has("cotton", rows).tolist(), strict=True))  # type: ignore[arg-type]
    assert has == {"in cotton": True, "in soft cotton jersey": True, "with cotton trim": False,
                   "no cotton": True, "with leather": False, "in fake leather": False}  # fmt: skip
    assert details.has("leather", rows).tolist() == [False] * 5 + [True] * 3  # type: ignore[arg-type]
    assert not details.has("unheard of", rows).any()  # type: ignore[arg-type]


def test_what_parts_the_type_best_is_asked_for_most_and_what_all_have_is_not() -> None:
    texts = [f"t{at} with lining" + " and hood" * (at < 5) + " and belt" * (at < 2)
             for at in range(10)]  # fmt: skip
    details = details_of(texts, most=0.5)
    codes, sums = details.of(0)
    assert {details.known[code].key for code in codes} == {"hood", "belt"}
    weight = dict(zip((details.known[code].key for code in codes),
                      [sums[0], sums[1] - sums[0]], strict=True))  # fmt: skip
    assert weight == pytest.approx({"hood": 0.25, "belt": 0.16})
    # In types of their own all have them.
    assert said(details_of(texts, types=[int(at < 5) for at in range(10)], most=0.5), 0) == {"belt"}


def test_details_are_said_as_the_texts_say_them_or_by_the_table() -> None:
    texts = 2 * ["x with a Deep V-Neck", "y in fine linen", "z with belts", "slim fit", "with hood"]
    details = details_of(
        [f"{text}, t{at}" for at, text in enumerate(texts)],
        words={"slim fit": ["close fit"]}, first_words={"hood": ["hooded"]},
    )  # fmt: skip
    ways = {each.key: (each.link, each.before, each.behind) for each in details.known}
    assert ways == {
        "deep v neck": ("with", ["deep v-neck"], ["deep v-neck"]),
        "fine linen": ("in", ["fine linen"], ["fine linen"]),
        "belt": ("with", [], ["belts"]),
        "slim fit": ("", ["close fit"], ["close fit"]),
        "hood": ("with", ["hooded"], []),
    }


def shop_rows() -> list[tuple[str, ...]]:
    rows = []
    for at in range(160):
        has = [each for place, each in enumerate(HAS) if at >> place & 1]
        text = f"Item t{at} with {' and '.join(has)}" if has else "" if at % 32 else f"t{at}"
        colour, kind = ("Red", "Dark Red", "Blue")[at % 3], ("Vest", "Coat")[at // 16 % 2]
        split = "dev" if at % 5 == 0 else "train"
        audience = ("Men", "Women")[at // 7 % 2]
        rows.append((f"p{at:03}", "", "things", text, split, colour, kind, audience))
    return rows


def test_grades_of_details_are_those_of_the_rules_for_every_product(tmp_path: Path) -> None:
    """Read back of the words of the query, and of the texts by search, without the code."""
    rows = shop_rows()
    forms = ["{colour} {product_type} {detail}", "{colour} {product_type}, {detail}"]
    two = ["{colour} {product_type}, {detail}, {second_detail}"]
    rules = write_rules(tmp_path / "rules.yaml", {
        "asks": [{"forms": forms}, {"forms": two}, {"forms": ["{colour} {product_type}"]},
                 {"forms": ["{audience} {product_type}"], "weight": 0.01}],
        "written": WAYS,
    })  # fmt: skip
    out = made(tmp_path, rows, *ATTRIBUTES, "--rules", str(rules), "--per-product", "12",
               "--negatives", "9999", header=HEADER)  # fmt: skip
    seen: Counter[float] = Counter()
    for (split, text), grades in grades_of(out).items():
        found = re.fullmatch(r"(dark red|red|blue) (vest|coat)(.*)", text.lower())
        if not found:
            continue
        words = {each for each in ("hood", "pockets", "v-neck", "linen") if each in found[3]}
        shades = {"red": {"dark red"}, "dark red": {"red", "burgundy"}}.get(found[1], set())
        expected = {}
        for identity, _, _, own, own_split, colour, kind, _ in rows:
            if own_split != split or kind.lower() != found[2] or (words and not own):
                continue
            faults = [1.0 for word in words if word not in own]
            if colour.lower() != found[1]:
                faults.append(float(colour.lower() in shades))
            grade = 2.0 if not faults else faults[0] if len(faults) == 1 else 0.0
            if grade > 0 or split == "train":
                expected[identity] = grade
        assert grades == expected, text
        seen.update([(len(words), grade) for grade in expected.values()])  # type: ignore[list-item]
    for words in (0, 1, 2):
        assert min(seen[words, grade] for grade in (0.0, 1.0, 2.0)) > 20  # type: ignore[index]


def test_longer_forms_are_graded_as_those_of_people_and_name_what_they_ask(tmp_path: Path) -> None:
    out = made(tmp_path, shop_rows(), *ATTRIBUTES, "--per-product", "30", header=HEADER)
    queries = queries_of(out)
    of_detail = [each for each in queries if "detail" in each["asked"].split()]
    assert len(of_detail) > 200
    assert any("second_detail" in each["asked"].split() for each in queries)
    assert {len(each["query"].split()) for each in queries} >= {2, 3, 4, 5, 6, 7, 8}
    broad = next(each for each in queries if "for office" in each["query"]
                 and each["asked"] == "colour product_type" and "red" in each["query"].split()
                 and "detail" not in each["asked"] and each["split"] == "train")  # fmt: skip
    colour = {row[0]: row[5] for row in shop_rows()}
    grades = grades_of(out)["train", broad["query"]]
    assert {(colour[name], grade) for name, grade in grades.items()} == {
        ("Red", 2.0), ("Dark Red", 2.0)
    }  # fmt: skip
    header = set(read_csv(out / "products.csv")[0])
    assert not header & {"colour", "product_type", "audience", "asked"}


def test_what_a_field_decides_is_not_only_said(tmp_path: Path) -> None:
    rows = [(f"p{at}", "a", "train", "Blue", "Coat", "Men", ("Ski", "Sea")[at % 2])
            for at in range(30)]  # fmt: skip
    header = ("product_id", "title", "split", "colour", "product_type", "audience", "usage")
    texts = {}
    for names in ("colour,product_type", "colour,product_type,audience",
                  "colour,product_type,audience,usage"):  # fmt: skip
        options = ("--attributes", names, "--per-product", "60")
        out = made(tmp_path / names, rows, *options, header=header)
        texts[names] = " ".join(each["query"] for each in queries_of(out)).lower()
    assert ["office" in text for text in texts.values()] == [False, True, False]
    assert ["winter" in text for text in texts.values()] == [False, True, True]
    assert ["casual" in text for text in texts.values()] == [False, True, False]
    assert all("stylish" in text for text in texts.values())


def test_denim_trousers_are_called_jeans(tmp_path: Path) -> None:
    header = ("product_id", "title", "split", "colour", "product_type", "pattern", "audience")
    rows = [("p1", "a", "train", "Blue", "Trousers", "Denim", "Women"),
            ("p2", "a", "train", "Blue", "Trousers", "Stripe", "Women"),
            ("p3", "a", "train", "Red", "Trousers", "Denim", "Women")]  # fmt: skip
    rules = write_rules(tmp_path / "rules.yaml", {"written": WAYS})
    options = ("--attributes", "colour,product_type,pattern,audience", "--per-product", "200")
    out = made(tmp_path, rows, *options, "--rules", str(rules), header=header)
    jeans = {text: grades for (_, text), grades in grades_of(out).items() if "jeans" in text}
    assert {"blue" in text for text in jeans} == {True, False}
    for text, grades in jeans.items():
        expected = ("p1", "p3") if "blue" in text else ("p3", "p1")
        assert grades == {expected[0]: 2.0} | ({"p2": 1.0} if "blue" in text else {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("asks: [{forms: ['{detail}']}]", "each once, got '{detail}'"),
        ("asks: [{forms: ['<taste> {colour}', '<mood> {colour}']}]", "got 'mood'"),
        ("besides: {taste: {words: []}}", "expected words for 'taste'"),
        ("besides: {taste: {needs: [mood]}}", "besides.taste: expected"),
        ("details: {other: 2}", "expected grades from 0 to below exact, 2, got 2"),
        ("details: {least: 0}", "details.least: expected 1 to inf, got 0"),
        ("details: {most: 1.5}", "details.most: expected 0 to 1, got 1.5"),
        ("details: {longest: 0}", "details.longest"),
        ("details: {linked: -1}", "details.linked"),
        ("details: {anywhere: [under]}", "details.anywhere: expected with, in, got 'under'"),
        ("details: {words: {hood: ['']}}", "expected words for 'hood'"),
    ],
)
def test_rules_of_details_that_say_nothing_sensible_are_refused(
    tmp_path: Path, content: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows()[:8])
    rules = tmp_path / "rules.yaml"
    rules.write_text(content)
    message = error_of(capsys, tmp_path, tmp_path / "out", *ATTRIBUTES, "--rules", rules)
    assert str(rules) in message
    assert expected in message
