"""The comparison of two fusions query by query: groups, differences, seeds, and the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from beyond_text.metrics.found import Ranking
from beyond_text.metrics.results import METRICS
from beyond_text.metrics.trec import write_trec
from beyond_text.retrieval.read_split import read_split
from tests.benchmarks.fusion_pays import main, words_of
from tests.conftest import COLOURS, KINDS


def write_run(folder: Path, shards: Path, best_first: Callable[[str], bool]) -> Path:
    """Writes what a run finds: for queries that `best_first` says the best products first."""
    catalogue, query_set = read_split(shards, "dev", ["title"], 32)
    queries, qrels = query_set.queries, query_set.qrels
    grade = qrels.set_index(["query_id", "product_id"])["relevance"].to_dict()
    rows = []
    for query_id in queries["query_id"]:
        sign = -1 if best_first(query_id) else 1
        ids = catalogue.product_ids
        rows.append(sorted(ids, key=lambda i, q=query_id: (sign * grade.get((q, i), 0), i)))
    scores = np.tile(-np.arange(len(rows[0]), dtype=np.float32), (len(rows), 1))
    write_trec(folder, Ranking(list(queries["query_id"]), rows, scores), qrels, queries)
    (folder / METRICS).write_text("{}")
    return folder


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Colours and types of the products, one in several words, some of no product of dev."""
    rows = [
        {"product_id": f"p{number}", "colour": colour.title(), "type": kind}
        for number, (colour, kind) in enumerate(
            (c, k) for c in [*COLOURS, "dark red", ""] for k in KINDS
        )
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "attributes.csv", index=False)
    return tmp_path / "attributes.csv"


def table_of(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return {cells[1]: cells[2:-1] for cells in ([c.strip() for c in r.split("|")] for r in lines)}


def test_differences_by_kind_and_by_the_words_that_queries_name(
    tiny_shards: Path, tmp_path: Path, fields: Path, capsys: pytest.CaptureFixture
) -> None:
    a = write_run(tmp_path / "runs/sum", tiny_shards, lambda query: "blue" in query)
    for seed in (0, 1):
        write_run(
            tmp_path / f"runs/learned<i>-seed{seed}",
            tiny_shards,
            lambda query, seed=seed: "red" in query and (seed == 0 or "rug" in query),
        )
    rows = [f"fusion,learned<i>,{seed},learned<i>-seed{seed}" for seed in (0, 1)]
    (tmp_path / "runs/runs.csv").write_text("\n".join(["ladder,name,seed,run", *rows, ""]))
    out, more = tmp_path / "out", ["--fields", str(fields), "--least", "1"]
    main([str(a), str(tmp_path / "runs/learned<i>"), "--shards", str(tiny_shards), *more,
          "--out", str(out)])  # fmt: skip
    found = table_of(capsys.readouterr().out)
    # No query names no colour.
    assert list(found)[:4] == ["all", "kind attribute", "names a colour", "colour: red"]
    assert found["all"][:2] == ["12", "12"]
    assert found["names a type"][:2] == ["12", "12"]
    # Red: all four by seed 0, and one of them by seed 1.
    assert found["colour: red"][0] == "4"
    red = float(found["colour: red"][4].split(" ")[0])
    assert red == pytest.approx(5 / 8, abs=0.01)
    assert found["colour: green"][4].startswith("+0.000")
    blue = [float(value) for value in found["colour: blue"][2:4]]
    assert blue == [1.0, pytest.approx(0, abs=0.5)]
    # Values of a field stand in the order of their gain; one that nobody names is not there.
    values = [name for name in found if name.startswith("colour: ")]
    assert values == ["colour: red", "colour: green", "colour: blue"]
    assert (out / "pays.md").read_text().startswith("| queries |")


def test_the_page_shows_gains_and_losses_and_loads_nothing(
    tiny_shards: Path, tmp_path: Path
) -> None:
    a = write_run(tmp_path / "a<b>&", tiny_shards, lambda query: "blue" in query)
    b = write_run(tmp_path / "b", tiny_shards, lambda query: "red" in query)
    out = tmp_path / "out"
    main([str(a), str(b), "--shards", str(tiny_shards), "--out", str(out), "--queries", "2"])
    page = (out / "pays.html").read_text()
    gains, losses = page.split("Queries that gain most")[1].split("Queries that lose most")
    assert re.findall(r"<h3>(\w+) ", gains) == ["red", "red"]
    assert re.findall(r"<h3>(\w+) ", losses) == ["blue", "blue"]
    # Two runs of six products each; both green frames and pictures are there.
    assert gains.count("<figure") == 2 * 2 * 6
    assert gains.count('class="two"') >= 4
    assert gains.count('src="data:image/jpeg;base64,') + gains.count("cushion</figure") >= 20
    assert "a&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_what_cannot_be_compared_is_told_in_a_line(tiny_shards: Path, tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", tiny_shards, lambda query: True)

    def error(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--out", str(tmp_path / "out")])
        return str(stop.value)

    shards = ["--shards", str(tiny_shards)]
    assert "no finished run" in error(str(a), str(tmp_path / "none"), *shards)
    b = write_run(tmp_path / "b", tiny_shards, lambda query: True)
    for name in ("queries.csv", "qrels.trec", "run.trec"):
        text = (b / name).read_text()
        (b / name).write_text(text.replace("dev-red-rug", "other"))
    assert "measured on other queries, such as dev-red-rug" in error(str(a), str(b), *shards)
    assert "is not in" in error(str(b), str(b), *shards)
    # Another grade of one product, and products that shards no longer have.
    for name, old, new, said in (
        (
            "qrels.trec",
            "dev-red-rug 0 dev.2 2",
            "dev-red-rug 0 dev.2 1",
            "c: judged otherwise, such",
        ),
        ("run.trec", "dev.2 ", "dev.gone ", "c: product dev.gone is not in"),
    ):
        c = write_run(tmp_path / "c", tiny_shards, lambda query: True)
        text = (c / name).read_text()
        assert old in text
        (c / name).write_text(text.replace(old, new))
        assert said in error(str(a), str(c), *shards)
    # At each number of labels there is a row of that name.
    rows = [f"{number} labels,a,0,a" for number in (37, 100)]
    (tmp_path / "runs.csv").write_text("\n".join(["ladder,name,seed,run", *rows, ""]))
    (a / METRICS).unlink()
    assert "a row of several ladders of" in error(str(a), str(b), *shards)
    (a / METRICS).write_text("{}")
    (tmp_path / "fields.csv").write_text("name,colour\n1,red\n")
    given = ["--fields", str(tmp_path / "fields.csv")]
    assert "expected product_id" in error(str(a), str(a), *shards, *given)


def test_runs_of_one_name_are_told_apart_and_fields_are_read_as_where_queries_are_made(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runs = [str(write_run(tmp_path / each / "a|b", tiny_shards, lambda query: True))
            for each in ("one", "other")]  # fmt: skip
    fields = tmp_path / "fields.csv"
    fields.write_text("Product_ID;colour\n1;red, blue\n2;\n")
    given = [*runs, "--shards", str(tiny_shards), "--fields", str(fields), "--least", "1"]
    main([*given, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "| one/a\\|b | other/a\\|b | other/a\\|b less one/a\\|b |" in printed
    assert {"colour: red", "colour: blue"} <= table_of(printed).keys()
    assert words_of(fields) == {"colour": ["blue", "red"]}
    pd.DataFrame({"sku": ["1"], "colour": ["Red"]}).to_parquet(tmp_path / "fields.parquet")
    assert words_of(tmp_path / "fields.parquet") == {"colour": ["red"]}
    fields.write_text("colour\nred\n")
    with pytest.raises(SystemExit, match=r"fields\.csv: expected product_id .*, got colour"):
        main([*given, "--out", str(tmp_path / "out")])
