"""Shops with fields, and what is made of them: for the tests of this folder."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.asking.rules import DEFAULT_RULES
from data_prep.queries import main

ATTRIBUTES = "colour,pattern,product_type,audience"
HEADER = ("product_id", "title", "category", "image", "group_id", "split", *ATTRIBUTES.split(","))
# Of one word each, so that a query can be read back without the code under test.
COLOURS = ["Red", "Dark Red", "Blue", "Navy", "Unknown", ""]
PATTERNS = ["Zigzag", "Lines", "Solid", ""]
TYPES = ["Vest", "Coat", "Robe", ""]
AUDIENCES = ["Men", "Women", "Unisex", ""]
WAYS = dict.fromkeys(("plural", "no_hyphen", "capitals", "typo"), 0.0)
# Forms whose words are all asked for.
STRICT = [ask for ask in yaml.safe_load(DEFAULT_RULES.read_text("utf-8"))["asks"]
          if not ask.get("broad")]  # fmt: skip
PLAIN = {
    "asks": STRICT,
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
