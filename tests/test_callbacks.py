"""What is watched while training survives odd corpora: kinds without judgements, missing views."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from beyond_text.callbacks import panel_of, read_history, save_history
from beyond_text.config import load_config
from beyond_text.corpus import read_corpus
from beyond_text.metrics import Ranking
from beyond_text.panel import AMBER, GREEN, GREY
from beyond_text.train import report, train
from data_prep.shards import build_shards


def test_history_is_read_back_in_order_and_empty_where_there_is_none(tmp_path: Path) -> None:
    assert read_history(tmp_path) == {}
    history = {name: {"product": {"all": {"ndcg@10": 0.5}}} for name in ("step 0", "b", "a")}
    save_history(tmp_path, history)
    assert list(read_history(tmp_path)) == ["step 0", "b", "a"]
    assert read_history(tmp_path) == history


def test_panel_frames_right_products_by_grade(tiny_shards: Path) -> None:
    corpus = read_corpus(tiny_shards, "dev", ["title"], 32)
    first = corpus.queries["query_id"].iloc[0]
    grade = corpus.qrels[corpus.qrels["query_id"] == first].set_index("product_id")["relevance"]
    exact, partial = (list(grade.index[grade == value]) for value in (2, 1))
    wrong = [name for name in corpus.product_ids if name not in grade.index]
    shown = [exact[0], partial[0], wrong[0]]
    ranking = Ranking([first], [shown], np.array([[3, 2, 1]], dtype=np.float32))
    picture = panel_of(corpus, ranking, queries=1, top=3)
    assert picture.dtype == np.uint8
    row = picture[6 + 56]
    for number, colour in enumerate((GREEN, AMBER, GREY)):
        left = 2 * 6 + 224 + number * (112 + 6)
        assert tuple(row[left]) == colour


def test_panel_shows_the_queries_of_the_ranking_also_those_that_are_a_picture(
    tiny_shards: Path,
) -> None:
    corpus = read_corpus(tiny_shards, "dev", ["title"], 32)
    asked = list(corpus.queries["query_id"])
    products = [corpus.product_ids[:3]]

    def panel(queries: pd.DataFrame, query_id: str) -> np.ndarray:
        ranking = Ranking([query_id], products, np.array([[3, 2, 1]], dtype=np.float32))
        return panel_of(corpus._replace(queries=queries), ranking, queries=1, top=3)

    # By its id, wherever the query stands in the table.
    assert np.array_equal(panel(corpus.queries, asked[5]), panel(corpus.queries[::-1], asked[5]))
    assert not np.array_equal(panel(corpus.queries, asked[5]), panel(corpus.queries, asked[4]))
    mute = corpus.queries.assign(query="")
    said = corpus.queries.assign(query="(a picture)")
    assert np.array_equal(panel(mute, asked[0]), panel(said, asked[0]))


def test_kinds_without_judgements_and_products_without_pictures_do_not_stop_a_run(
    tiny_tables: Path, tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tables = tmp_path / "tables"
    shutil.copytree(tiny_tables, tables)
    products = pd.read_csv(tables / "products.csv", keep_default_na=False)
    products["image"] = ""
    products.to_csv(tables / "products.csv", index=False)
    queries = pd.read_csv(tables / "queries.csv")
    unjudged = pd.DataFrame(
        [("new", "a red lamp", "dev", "human")], columns=["query_id", "query", "split", "kind"]
    )
    pd.concat([queries, unjudged]).to_csv(tables / "queries.csv", index=False)
    build_shards(tables, tmp_path / "shards", picture_size=40, workers=1)
    settings = [
        *tiny_overrides, "losses.query_text=1", f"data.dev={tmp_path / 'shards'}",
        f"data.sources.tables.path={tmp_path / 'shards'}", "evaluate_every=2",
    ]  # fmt: skip
    metrics = train(load_config([], settings))
    assert "ndcg@10" not in metrics["human"]
    assert 0 < metrics["attribute"]["ndcg@10"] <= 1
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert set(history["run"]) == {"product", "text"}
    report(tmp_path / "run")
    human = [line for line in capsys.readouterr().out.splitlines() if "human" in line]
    assert len(human) == 2
    assert all(line.split().count("-") == 2 for line in human)
