"""Runs are measured on every shop as `evaluate` measures them, against the untouched encoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from beyond_text.evaluate import evaluate, main
from beyond_text.evaluation.shops import compare_shops, shop_names
from beyond_text.metrics.ranking import per_query
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import split_for
from beyond_text.training.untouched import untouched

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other(tiny_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that has half of the dev queries, of one kind."""
    folder = tmp_path_factory.mktemp("shops") / "other"
    shutil.copytree(tiny_tables, folder)
    queries = pd.read_csv(folder / "queries.csv", dtype=str)
    dev = queries[queries["split"] == "dev"][::2].assign(kind="human")
    dev.to_csv(folder / "queries.csv", index=False)
    qrels = pd.read_csv(folder / "qrels.csv", dtype=str)
    qrels[qrels["query_id"].isin(dev["query_id"])].to_csv(folder / "qrels.csv", index=False)
    return folder


def test_every_number_is_that_of_an_evaluation_and_differences_are_from_untouched_text(
    tiny_run: Path, tiny_shards: Path, other: Path, tmp_path: Path
) -> None:
    rows = compare_shops([tiny_run], [tiny_shards, other], "dev", tmp_path / "out")
    assert rows == json.loads((tmp_path / "out/shops.json").read_text())
    found = {(r["run"], r["shop"], r["view"]): r for r in rows if r["kind"] == "all"}
    assert len(found) == 2 * 2 * 3
    encoder = untouched(tiny_run)
    for shop, folder in (("tiny", tiny_shards), ("other", other)):
        catalogue, query_set = split_for(encoder.model, folder, "dev")
        ranking = rank(encoder, catalogue, query_set, ("text",))["text"]
        before = per_query(ranking, query_set.queries, query_set.qrels).mean()
        assert found["untouched", shop, "text"]["mean"] == pytest.approx(before)
        assert "p" not in found["untouched", shop, "text"]
        for view in ("product", "text", "image"):
            metrics = evaluate(tiny_run, folder, "dev", tmp_path / shop / view, view)["all"]
            row = found[tiny_run.name, shop, view]
            assert row["mean"] == pytest.approx(metrics["ndcg@10"])
            assert row["queries"] == metrics["queries"]
            assert row["difference"] == pytest.approx(row["mean"] - before)
            assert row["low"] <= row["mean"] <= row["high"]
            assert 0 < row["p"] <= 1
    assert found["untouched", "other", "text"]["queries"] == 6


def test_the_command_writes_one_table_with_a_line_a_run(
    tiny_run: Path, tiny_shards: Path, other: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # A run that is called as the row of the untouched encoders goes by its path.
    again = Path(shutil.copytree(tiny_run, tmp_path / "untouched"))
    out = tmp_path / "out"
    given = [str(tiny_run), str(again), "--tables", str(tiny_shards), "--others", str(other)]
    main([*given, "--out", str(out)])
    text = (out / "shops.md").read_text()
    assert text in capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| tiny (12), fused | tiny (12), text | tiny (12), picture | tiny, fused less" in lines[0]
    )
    assert "| other (6), fused |" in lines[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[0] for row in cells] == ["untouched", tiny_run.name, str(again)]
    assert cells[1][1:] == cells[2][1:]
    assert ", p " in cells[1][4]
    # Each kind stands in the JSON.
    rows = json.loads((out / "shops.json").read_text())
    assert np.unique([row["kind"] for row in rows]).tolist() == ["all"]


def test_mistakes_are_said_in_one_line(tiny_run: Path, tiny_shards: Path, tmp_path: Path) -> None:
    given = [str(tiny_run), "--tables", str(tiny_shards), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"^error: .*given twice"):
        main([*given, "--others", str(tiny_shards)])
    with pytest.raises(SystemExit, match=r"^error: .*no such file or folder"):
        main([*given, "--others", str(tmp_path / "no")])
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--others", str(tiny_shards), "--missing"])


def test_shops_go_by_their_folders_names_where_these_differ() -> None:
    assert shop_names([Path("a/shop"), Path("b/other")]) == ["shop", "other"]
    assert shop_names([Path("a/shop"), Path("b/shop")]) == ["a/shop", "b/shop"]
    assert shop_names([Path("/x/a/shop"), Path("/x/b/shop")]) == ["a/shop", "b/shop"]
