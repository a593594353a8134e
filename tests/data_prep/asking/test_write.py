"""What is drawn depends on content and seed, and its limits are kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from beyond_text.tables.text import normal_text
from tests.data_prep.asking.shops import (
    PLAIN,
    grades_of,
    made,
    queries_of,
    shop_rows,
    write_rules,
)


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
