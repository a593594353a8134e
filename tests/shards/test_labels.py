"""How many judged queries training sees: drawn by content, few of them among more."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.shards.roles import roles_of
from beyond_text.shards.sources import supplies_of
from beyond_text.shards.split import Split
from data_prep.shards import build_shards

FIELDS = ["title"]
NUMBERS = (0, 1, 5, 17, 40, 41, 1000)


def write_shop(folder: Path, backwards: bool = False) -> Path:
    """Sixty products and 40 queries, of which each two in a row want two products.

    Every fifth query has a twin in other case and under another id, and every seventh is judged 0
    for a product; two more are judged 0 alone. `backwards` gives rows another order and other ids.
    """
    folder.mkdir(parents=True)
    products = [{"product_id": f"p{n}", "title": f"thing {n}", "split": "train"} for n in range(60)]
    queries, qrels = [], []
    for number in range(40):
        words = f"Need number {number}"
        twins = [words, f"need  NUMBER {number}"] if number % 5 == 0 else [words]
        for twin, text in enumerate(twins):
            query_id = f"{99 - number if backwards else number:02}-{twin}"
            queries.append({"query_id": query_id, "query": text, "split": "train"})
            qrels.append({"query_id": query_id, "product_id": f"p{number}", "relevance": 2})
        if number % 7 == 0:
            qrels.append({"query_id": query_id, "product_id": f"p{number + 1}", "relevance": 0})
    for name in ("no-1", "no-2"):
        queries.append({"query_id": name, "query": f"unwanted {name}", "split": "train"})
        qrels.append({"query_id": name, "product_id": "p50", "relevance": 0})
    for name, rows in (("products", products), ("queries", queries), ("qrels", qrels)):
        pd.DataFrame(rows[::-1] if backwards else rows).to_csv(folder / f"{name}.csv", index=False)
    build_shards(folder, folder / "shards", workers=1, samples_per_shard=25)
    return folder / "shards"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("labels") / "shop")


def seen(split: Split) -> set[str]:
    """Returns the words of the queries that some product shows."""
    judged = (split.judgments(sample) for sample in range(len(split)))
    return {" ".join(each.query.lower().split()) for found in judged for each in found}


def labelled(shards: Path, number: int | None) -> Split:
    return Split(shards, "train", FIELDS, labels=number)


def test_few_are_among_more_and_more_than_there_are_is_all(shop: Path) -> None:
    drawn = [seen(labelled(shop, number)) for number in NUMBERS]
    assert [len(words) for words in drawn] == [0, 1, 5, 17, 40, 40, 40]
    for few, more in pairwise(drawn):
        assert few <= more
    every = seen(labelled(shop, None))
    # Queries that no product answers are no labels, and are left out with any number.
    assert every - drawn[-1] == {"unwanted no-1", "unwanted no-2"}
    assert [labelled(shop, n).kept()[1:] for n in (17, 1000, None)] == [
        (17, 40),
        (40, 40),
        (40, 40),
    ]


def test_ids_and_the_order_of_rows_make_no_difference(shop: Path, tmp_path: Path) -> None:
    other = write_shop(tmp_path / "other", backwards=True)
    for number in (1, 5, 17):
        assert seen(labelled(shop, number)) == seen(labelled(other, number))
    # Not simply the first ones.
    first = {f"need number {number}" for number in range(17)}
    assert seen(labelled(shop, 17)) not in (first, {f"need number {n}" for n in range(23, 40)})


def test_both_ids_of_a_wording_are_kept_or_left_out(shop: Path) -> None:
    split = labelled(shop, 17)
    kept = split.kept().rows
    words = [" ".join(split.asked[row].query.lower().split()) for row in range(len(kept))]
    assert {w for w, k in zip(words, kept, strict=True) if k}.isdisjoint(
        w for w, k in zip(words, kept, strict=True) if not k
    )


def products(split: Split, samples: Sequence[int]) -> set[str]:
    return {split.read(int(sample), None)[0]["product_id"] for sample in samples}


def test_anchors_and_judged_negatives_are_those_of_kept_queries(shop: Path) -> None:
    split = labelled(shop, 17)
    roles = roles_of(split, ["query_product"])
    wanted = {words.split()[-1] for words in seen(split)}
    assert products(split, np.flatnonzero(roles.anchor)) == {f"p{number}" for number in wanted}
    with_negatives = np.flatnonzero(np.diff(roles.starts))
    of = {min(products(split, [n])): products(split, roles.of(n)) for n in with_negatives}
    assert of == {f"p{n}": {f"p{int(n) + 1}"} for n in wanted if int(n) % 7 == 0}
    assert 0 < len(of) < 6


def test_another_process_sees_the_same(shop: Path) -> None:
    split = labelled(shop, 5)
    assert seen(pickle.loads(pickle.dumps(split))) == seen(split)


def test_the_run_says_how_many_it_trains_on_and_without_any_what_it_lacks(
    shop: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [f"data.sources.shop.path={shop}", "losses.query_text=1"]
    supplies_of(load_config([], [*given, "data.labels=17"]))
    assert "source shop: 60 products, 17 of 40 judged queries, weight 1" in capsys.readouterr().err
    # A source's own number goes first.
    supplies_of(load_config([], [*given, "data.labels=0", "data.sources.shop.labels=99"]))
    assert "60 products, 40 of 40 judged queries" in capsys.readouterr().err
    supplies_of(load_config([], given))
    assert "source shop: 60 products, weight 1" in capsys.readouterr().err
    with pytest.raises(
        ConfigError, match=r"query_text, which needs queries with judgments and texts \(shop: no "
        r"query in it, of which 0 labels are kept\)",
    ):  # fmt: skip
        supplies_of(load_config([], [*given, "data.labels=0"]))
    for word in ("data.labels=-1", "data.sources.shop.labels=-1"):
        with pytest.raises(ConfigError, match="labels: expected"):
            load_config([], [*given, word])


def test_queries_of_pictures_are_drawn_by_their_pictures_and_know_themselves(
    tmp_path: Path,
) -> None:
    """Queries without words differ by picture; a query that is a product keeps its own pair."""
    splits = []
    for backwards in (False, True):
        folder = tmp_path / f"{backwards}"
        folder.mkdir()
        numbers = range(12)[::-1] if backwards else range(12)
        for n in numbers:
            Image.new("RGB", (20, 20), (20 * n, 255 - 20 * n, 60)).save(folder / f"{n}.jpg")
        names = {n: f"{12 - n if backwards else n:02}" for n in numbers}
        rows = {
            "products": [
                {"product_id": f"p{n}", "title": f"t{n}", "image": f"{n}.jpg", "split": "train"}
                for n in numbers
            ],
            "queries": [
                {"query_id": names[n], "query": "", "image": f"{n}.jpg", "split": "train",
                 "product_id": f"p{n}"}
                for n in numbers
            ],
            "qrels": [
                {"query_id": names[n], "product_id": f"p{(n + 1) % 12}", "relevance": 1}
                for n in numbers
            ],
        }  # fmt: skip
        for name, table in rows.items():
            pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
        build_shards(folder, folder / "shards", workers=1)
        splits.append(Split(folder / "shards", "train", FIELDS, labels=4))
    anchors = []
    for split in splits:
        assert split.kept()[1:] == (4, 12)
        anchors.append(products(split, np.flatnonzero(roles_of(split, ["cmal"]).anchor)))
        assert len(anchors[-1]) == 4
        judged = [split.judgments(sample) for sample in range(12)]
        assert sum(each.gain < 0 for found in judged for each in found) == 12
        assert sum(each.gain > 0 for found in judged for each in found) == 4
    assert anchors[0] == anchors[1]


def test_a_query_that_the_grades_of_training_do_not_want_is_no_label(tmp_path: Path) -> None:
    rows = [{"query_id": f"q{n}", "query": f"need {n}", "split": "train"} for n in range(6)]
    judged = [
        {"query_id": f"q{n}", "product_id": f"p{n}", "relevance": n % 2, "liked": 1}
        for n in range(6)
    ]
    products = [{"product_id": f"p{n}", "title": f"thing {n}", "split": "train"} for n in range(6)]
    for name, table in (("products", products), ("queries", rows), ("qrels", judged)):
        pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
    build_shards(tmp_path, tmp_path / "shards", workers=1, grades=("relevance", "liked"))
    for number in (2, 3):
        few = Split(tmp_path / "shards", "train", FIELDS, labels=number)
        assert (few.kept().number, few.kept().available) == (number, 3)
        assert len(seen(few)) == number
        assert seen(few) <= {"need 1", "need 3", "need 5"}
    liked = Split(tmp_path / "shards", "train", FIELDS, {"liked": 1.0}, labels=5)
    assert (liked.kept().number, liked.kept().available) == (5, 6)
