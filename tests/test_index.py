"""The index command says what it did, and what cannot be done in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from beyond_text.index import main
from beyond_text.indexing.index import Index
from beyond_text.search import main as search
from tests import ROOT
from tests.indexing.shop import copied_shop, rows_of, write_rows


@pytest.fixture
def shop(tiny_tables: Path, tmp_path: Path) -> Path:
    return copied_shop(tiny_tables, tmp_path / "shop [1]: a=b")


def test_the_command_builds_and_updates(
    shop: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(shop), str(tmp_path / "index"), "--model", str(tiny_run)]
    main([*words, "--weight", "0.5", "--dim", "8"])
    said = capsys.readouterr().out
    assert "48 products: 48 encoded, 0 as they were, 0 removed; exact, recall@10 1.000" in said
    index = Index.open(tmp_path / "index")
    assert (index.dim, index.facts.weight, len(index)) == (8, 0.5, 48)
    assert index.columns == {
        "title": "text",
        "category": "text",
        "price": "number",
        "in_stock": "boolean",
        "brand": "text",
        "gtin": "number",
    }
    rows = rows_of(shop)
    rows.pop()
    for row in rows:
        row["price"] = "7.5"
    write_rows(shop, rows)
    main([*words, "--weight", "0.5", "--dim", "8"])
    # Prices need no model.
    assert "47 products: 0 encoded, 47 as they were, 1 removed" in capsys.readouterr().out
    assert Index.open(tmp_path / "index").product("dev.2").columns["price"] == 7.5


def test_jobs_of_an_array_say_who_makes_the_index(
    shop: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(shop), str(tmp_path / "index"), "--model", str(tiny_run)]
    main([*words, "--array", "1/2"])
    assert "the job that finds all shares done makes the index" in capsys.readouterr().out
    main([*words, "--array", "0/2"])
    assert "48 products: 48 encoded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{shop}", "{out}", "--model", "{run}", "--array", "2/2"], "expected I from 0 to N - 1"),
        (["{shop}", "{out}", "--model", "{run}", "--gpus", "nan"], "gpus: expected at least 0"),
        (["{shop}", "{out}", "--model", "{run}", "--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: "),
        (["{shop}", "{out}", "--model", "nowhere"], "nowhere: no finished model there"),
        (["nowhere", "{out}", "--model", "{run}"], "nowhere: no such file or folder"),
        (["{shop}", "{shop}", "--model", "{run}"], "expected a new or empty folder or an index"),
        (["{shop}", "/proc/none", "--model", "{run}"], "/proc"),
        (["{shop}", "{out}", "--model", "{run}", "--dim", "17"], "dim: expected 1 to 16"),
        (["{shop}", "{out}", "--model", "{run}", "--dim", "0"], "dim: expected 1 to 16"),
        (["{shop}", "{out}", "--model", "{run}", "--split", "autumn"], "split 'autumn'"),
        (["{shop}", "{out}", "--model", "{run}", "--workers", "0"], "expected at least 1"),
        (["{shop}", "{out}", "--model", "{run}", "--weight", "2"], "expected 0 to 1"),
        (["{shop}", "{out}", "--model", "{run}", "--weight", "nan"], "expected 0 to 1"),
        (["{shop}", "{out}", "--model", "{run}", "--kind", "best"], "invalid choice: 'best'"),
    ],
)
def test_what_cannot_be_indexed_is_said_in_one_line(
    words: list[str], said: str, shop: Path, tiny_run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    places = {"shop": shop, "out": tmp_path / "index", "run": tiny_run}
    with pytest.raises(SystemExit) as caught:
        main([word.format(**places) for word in words])
    written = capsys.readouterr().err
    assert said in f"{caught.value.code}{written}"
    assert "Traceback" not in written
    assert "\n" not in str(caught.value.code)
    assert not (tmp_path / "index" / "index.json").exists()


def test_a_search_in_a_runs_own_index_filters_and_weighs_words(
    shop: Path, tiny_run: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(tiny_run), "rug", "--products", str(shop)]
    search([*words, "--where", "price<9", "--where", "brand=Norrby", "--top", "48"])
    said = capsys.readouterr().out
    assert [f"train.{number} " in said for number in range(12)] == [
        number < 9 and number % 2 == 0 for number in range(12)
    ]
    search([words[0], "dev.7", *words[2:], "--weight", "0", "--top", "1"])
    assert "dev.7 " in capsys.readouterr().out.partition("48 products")[2]
    with pytest.raises(SystemExit, match=r"error: .*prices<9"):
        search([*words, "--where", "prices<9"])


def test_a_search_of_an_index_takes_no_products(shop: Path, tiny_run: Path, tmp_path: Path) -> None:
    main([str(shop), str(tmp_path / "index"), "--model", str(tiny_run)])
    with pytest.raises(SystemExit, match="an index has its own products"):
        search([str(tmp_path / "index"), "rug", "--products", str(shop)])


def test_a_damaged_index_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    words = [sys.executable, "-m", "beyond_text.search", str(tmp_path), "rug"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
