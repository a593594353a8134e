"""The command that makes queries of fields: options, the guide to Kaggle's files, a real shop."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from beyond_text.tables.text import normal_text
from data_prep.asking.rules import read_rules
from data_prep.asking.shop import attributes_of
from data_prep.queries import main, make_queries
from data_prep.shards import build_shards
from tests import ROOT
from tests.data_prep.asking.shops import (
    ATTRIBUTES,
    HEADER,
    STRICT,
    error_of,
    grades_of,
    made,
    queries_of,
    read_csv,
    shop_rows,
    write_csv,
    write_rules,
)

REAL = Path(os.environ.get("HM_TABLES", Path(__file__).parents[3] / "shared" / "data" / "hm"))


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
        assert list(read_csv(out / "attributes.csv")[0]) == [
            "product_id", "product_type", "colour", "pattern", "audience", "colour_family"
        ]  # fmt: skip
        judged = grades_of(out)
        navy = next(grades for (_, text), grades in judged.items() if text == "navy skirt")
        assert set(navy.values()) == {2.0}
        manifest = build_shards(out, tmp_path / "shards", workers=1)
        assert sum(entry["pictures"] for entry in manifest["splits"].values()) == 80


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
    # Theirs are of the short forms alone.
    rules = read_rules(write_rules(tmp_path / "rules.yaml", {"asks": STRICT}))
    make_queries(
        REAL, tmp_path / "out", attributes_of(ATTRIBUTES), REAL / "attributes.csv",
        rules=rules, map_path=queries,
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
