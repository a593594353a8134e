"""Tests of the built-in catalogue: its words, judgments, splits, pictures and files."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.catalogue import (
    build_catalogue,
    contact_sheet,
    draw_product,
    judge,
    make_products,
    make_queries,
)
from data_prep.catalogue.objects import DRAW
from data_prep.catalogue.patterns import WEIGHTS
from data_prep.catalogue.products import Product
from data_prep.catalogue.queries import Asked, Query
from data_prep.catalogue.vocabulary import (
    BRANDS,
    COLOURS,
    FEATURES,
    KINDS,
    NEIGHBOUR_COLOURS,
    NEIGHBOUR_PATTERNS,
    PATTERNS,
)


@pytest.fixture(scope="module")
def products() -> list[Product]:
    return make_products(2400, seed=0)


@pytest.fixture(scope="module")
def queries(products: list[Product]) -> list[Query]:
    return make_queries(products, seed=0)


def test_tables_of_words_agree_with_each_other_and_with_the_drawing() -> None:
    assert set(DRAW) == set(KINDS)
    assert set(WEIGHTS) == set(PATTERNS)
    assert {feature for kind in KINDS.values() for feature in kind.features} <= set(FEATURES)
    assert len(KINDS) >= 14
    assert len(COLOURS) >= 12
    assert len(PATTERNS) >= 8


def test_neighbours_are_pairs_of_different_known_values_and_everyone_has_one() -> None:
    for pairs, values in ((NEIGHBOUR_COLOURS, COLOURS), (NEIGHBOUR_PATTERNS, PATTERNS)):
        assert all(len(pair) == 2 for pair in pairs)  # a set of two: symmetric, never of itself
        assert frozenset().union(*pairs) == set(values)


def test_no_name_stands_for_two_values() -> None:
    for names in (
        [name for colour in COLOURS.values() for name in colour.names],
        [word for pattern in PATTERNS.values() for word in pattern.adjectives + pattern.phrases],
        [word for kind in KINDS.values() for word in kind.nouns + kind.query_nouns],
        [word for feature in FEATURES.values() for word in feature.terse + feature.phrases],
    ):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("count", [1, 7, 8, 60, 333, 2000])
def test_counts_and_shares_are_those_asked_for(count: int) -> None:
    products = make_products(count, seed=3)
    assert len({p.product_id for p in products}) == count
    assert sum(not p.has_image for p in products) == round(0.06 * count)
    bare = sum(not p.design.description for p in products)
    assert 0.08 * count <= bare <= 0.08 * count + 7


def test_splits_share_brands_and_kinds_but_no_design(products: list[Product]) -> None:
    groups = {s: {p.design.group_id for p in products if p.design.split == s}
              for s in ("train", "dev", "test")}  # fmt: skip
    assert sum(map(len, groups.values())) == len({p.design.group_id for p in products})
    for split in ("dev", "test"):
        part = [p for p in products if p.design.split == split]
        assert 0.14 <= len(part) / len(products) <= 0.19
        assert {p.design.brand for p in part} == set(BRANDS)
        assert {p.design.kind for p in part} == set(KINDS)


def test_variants_of_a_design_share_their_text_and_differ_in_their_look(
    products: list[Product],
) -> None:
    looks = Counter((p.design.group_id, p.colour, p.pattern) for p in products)
    assert max(looks.values()) == 1
    texts: dict[str, set[tuple[str, str]]] = {}
    for product in products:
        design = product.design
        texts.setdefault(design.group_id, set()).add((design.title, design.description))
    assert all(len(text) == 1 for text in texts.values())


def test_text_names_kind_and_brand_but_never_a_colour_or_a_pattern(
    products: list[Product],
) -> None:
    words = {word for colour in COLOURS.values() for name in colour.names for word in name.split()}
    words -= {"light", "dark", "pale", "pure", "snow", "sky", "bottle", "forest", "midnight",
              "coloured", "sand", "jet"}  # fmt: skip
    words |= {adjective for pattern in PATTERNS.values() for adjective in pattern.adjectives}
    words |= {"stripe", "stripes", "dot", "dots", "check", "checks", "flower", "flowers", "leaf",
              "leaves", "marble", "diamonds", "zigzags", "foliage", "blossoms", "gold", "blue",
              "silver", "sand", "pattern", "patterned", "colour", "coloured"}  # fmt: skip
    forbidden = re.compile(r"\b(" + "|".join(sorted(words)) + r")\b", re.IGNORECASE)
    for product in products:
        design = product.design
        assert not forbidden.search(f"{design.title} {design.description}"), design
        assert design.title.startswith(f"{design.brand} {design.series} ")
        assert design.title.endswith(KINDS[design.kind].nouns)


def _expected_grade(asked: Asked, product: Product) -> int:
    """Grades again, from the set of attributes that disagree."""
    truth = {"kind": product.design.kind, "brand": product.design.brand,
             "material": product.design.material, "colour": product.colour,
             "pattern": product.pattern}  # fmt: skip
    wrong = [name for name, value in truth.items() if getattr(asked, name) not in (None, value)]
    if asked.feature and asked.feature not in product.design.features:
        wrong.append("feature")
    if not wrong:
        return 2
    neighbours = {"colour": NEIGHBOUR_COLOURS, "pattern": NEIGHBOUR_PATTERNS}
    if len(wrong) > 1 or wrong[0] not in neighbours:
        return 0
    pair = {getattr(asked, wrong[0]), truth[wrong[0]]}
    return int(pair in neighbours[wrong[0]])


def test_every_judgment_agrees_with_brute_force_over_attributes() -> None:
    products = make_products(400, seed=5)
    queries = make_queries(products, seed=5)
    expected = {
        (query.query_id, product.product_id): grade
        for query in queries
        for product in products
        if product.design.split == query.split and (grade := _expected_grade(query.asked, product))
    }
    got = {
        (query_id, product_id): grade for query_id, product_id, grade in judge(queries, products)
    }
    assert got == expected
    assert set(got.values()) == {1, 2}


def test_query_counts_and_kinds(queries: list[Query]) -> None:
    splits = Counter(query.split for query in queries)
    assert 2300 <= splits["train"] <= 2700
    assert 430 <= splits["dev"] <= 600
    assert 430 <= splits["test"] <= 600
    for split in splits:
        kinds = Counter(query.kind for query in queries if query.split == split)
        assert set(kinds) == {"attribute", "phrase"}
        assert min(kinds.values()) > 0.4 * splits[split]
    assert len({query.query for query in queries}) == len(queries)


def test_every_query_has_an_exact_answer_that_can_be_found(
    products: list[Product], queries: list[Query]
) -> None:
    for query in queries:
        asked = query.asked
        assert asked.colour or asked.pattern
        assert any(
            product.has_image
            and (not asked.feature or product.design.description)
            and (asked.material or "") in product.design.title + product.design.description
            for product in products
            if product.design.split == query.split and _expected_grade(asked, product) == 2
        ), query


def test_queries_say_what_they_ask_for(queries: list[Query]) -> None:
    for query in queries:
        asked, text = query.asked, query.query.lower()
        kind = KINDS[asked.kind]
        said = [(*kind.nouns, *kind.query_nouns, kind.purpose)]
        if asked.colour:
            said.append(COLOURS[asked.colour].names)
        if asked.pattern:
            said.append(PATTERNS[asked.pattern].adjectives + PATTERNS[asked.pattern].phrases)
        if asked.feature:
            said.append(FEATURES[asked.feature].terse + FEATURES[asked.feature].phrases)
        said += [(value.lower(),) for value in (asked.brand, asked.material) if value]
        for words in said:
            assert any(word.lower() in text for word in words), (query, words)
        assert "  " not in text


def _object_pixels(product: Product, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Returns the picture, and a mask of what changes if the product takes the farthest colour."""
    rgb = np.array(COLOURS[product.colour].rgb)
    other = max(COLOURS, key=lambda name: float(np.abs(rgb - COLOURS[name].rgb).sum()))
    picture = np.asarray(draw_product(product, 0, size), int)
    changed = np.asarray(draw_product(product._replace(colour=other), 0, size), int)
    return picture, np.abs(picture - changed).sum(axis=2) > 90


def test_picture_shows_the_named_colour(products: list[Product]) -> None:
    names = list(COLOURS)
    palette = np.array([COLOURS[name].rgb for name in names])
    right = 0
    sample = [p._replace(pattern="plain") for p in products[::20]]
    for product in sample:
        picture, mask = _object_pixels(product)
        assert mask.mean() > 0.03
        middle = np.median(picture[mask], axis=0)
        # Lightness varies with the light, so it counts less than the hue.
        difference = palette - middle
        lightness = difference.mean(axis=1)
        hue = ((difference - lightness[:, None]) ** 2).sum(axis=1)
        nearest = names[int((hue + 0.5 * lightness**2).argmin())]
        right += nearest == product.colour
    assert right >= 0.9 * len(sample)


def test_own_colour_covers_more_of_every_pattern_than_the_second_colour() -> None:
    u, v = np.meshgrid(*[np.linspace(0, 12, 600, dtype=np.float32)] * 2)
    for name, weight in WEIGHTS.items():
        cover = weight(u, v)
        assert cover.min() >= 0
        assert cover.max() <= 1
        assert (cover.mean() == 0) if name == "plain" else (0.1 < cover.mean() < 0.48), name


def test_pictures_of_every_shape_open_at_the_size_asked_for_and_differ(
    products: list[Product],
) -> None:
    first = {(p.design.kind, p.design.shape): p for p in products}
    assert set(first) == {(name, shape) for name, kind in KINDS.items() for shape in kind.shapes}
    pictures = {draw_product(p, 0, 32).tobytes() for p in first.values()}
    assert len(pictures) == len(first)
    assert all(len(picture) == 32 * 32 * 3 for picture in pictures)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_gives_same_bytes_however_many_processes_draw(tmp_path: Path) -> None:
    for name, seed, workers in (("one", 4, 1), ("two", 4, 2), ("other", 5, 1)):
        build_catalogue(tmp_path / name, products=40, seed=seed, size=32, workers=workers)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert _bytes(tmp_path / "one") != _bytes(tmp_path / "other")


def test_written_tables_refer_to_each_other_and_to_the_pictures(tmp_path: Path) -> None:
    out = tmp_path / "catalogue"
    facts = build_catalogue(out, products=80, size=32, workers=1)

    def rows(name: str) -> list[dict[str, str]]:
        with (out / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    products = {row["product_id"]: row for row in rows("products.csv")}
    queries = {row["query_id"]: row for row in rows("queries.csv")}
    qrels = rows("qrels.csv")
    assert (len(products), len(queries), len(qrels)) == (80, facts["queries"], facts["judgments"])
    for row in qrels:
        assert products[row["product_id"]]["split"] == queries[row["query_id"]]["split"]
        assert row["relevance"] in ("1", "2")
    named = {row["image"] for row in products.values() if row["image"]}
    assert named == {name for name in _bytes(out) if name.endswith(".jpg")}
    assert len(named) == 75  # 80 less round(6 %)
    for name in named:
        with Image.open(out / name) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")


def test_a_foreign_folder_is_kept_and_leftovers_are_cleared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="an earlier build, got neither"):
        build_catalogue(out, products=5, size=16, workers=1)
    assert (out / "precious.txt").read_text() == "mine"
    (out / "precious.txt").unlink()
    out.rmdir()
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "stale").touch()
    for count in (5, 6):  # the second replaces the first
        build_catalogue(out, products=count, size=16, workers=1)
        assert len((out / "products.csv").read_text().splitlines()) == count + 1
    assert not (out / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_contact_sheet_is_a_picture_of_the_grid(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", products=60, seed=0, columns=3, rows=2, tile=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 35 + 3, 2 * 35 + 3)


@pytest.mark.parametrize("arguments", [["--products", "0"], ["--products", "99999"],
                                       ["--size", "3"]])  # fmt: skip
def test_command_names_a_bad_argument_with_what_it_expected(
    tmp_path: Path, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "data_prep.catalogue", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "expected" in done.stderr
    assert not (tmp_path / "out").exists()
