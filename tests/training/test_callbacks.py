"""Callbacks: history, picture panels and averages; data that lacks views or judgments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from beyond_text.config.load import load_config
from beyond_text.metrics.history import print_history, read_history, save_history
from beyond_text.metrics.ranking import Ranking
from beyond_text.models.checkpoint import load_model
from beyond_text.retrieval.panel import AMBER, GREEN, GREY, panel_of
from beyond_text.retrieval.read_split import read_split
from beyond_text.train import train
from beyond_text.training import trainer as trainers
from beyond_text.training.averaging import Averaging, _update, averaged
from beyond_text.training.callbacks import Retrieval
from data_prep.shards import build_shards


def test_history_is_read_back_in_order_and_empty_where_there_is_none(tmp_path: Path) -> None:
    assert read_history(tmp_path) == {}
    history = {name: {"product": {"all": {"ndcg@10": 0.5}}} for name in ("step 0", "b", "a")}
    save_history(tmp_path, history)
    assert list(read_history(tmp_path)) == ["step 0", "b", "a"]
    assert read_history(tmp_path) == history


def test_the_history_is_printed_beside_the_best_that_there_was_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def view(value: float) -> dict[str, Any]:
        return {"all": {"ndcg@10": value, "recall@10": 0.5}}

    before = {"product": view(0.25), "text": view(0.356), "image": view(0.01)}
    after = {"product": view(0.9), "text": view(0.4), "image": view(0.8)}
    save_history(tmp_path, {"step 0": before, "stage1": after})
    print_history(tmp_path)
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [line[3].strip() for line in lines] == ["0.356 text"] * 3
    save_history(tmp_path, {"stage1": after})
    print_history(tmp_path)
    assert "best before" not in capsys.readouterr().out


def test_panel_frames_right_products_by_grade(tiny_shards: Path) -> None:
    catalogue, query_set = read_split(tiny_shards, "dev", ["title"], 32)
    first = query_set.queries["query_id"].iloc[0]
    grade = query_set.qrels[query_set.qrels["query_id"] == first].set_index("product_id")[
        "relevance"
    ]
    exact, partial = (list(grade.index[grade == value]) for value in (2, 1))
    wrong = [name for name in catalogue.product_ids if name not in grade.index]
    shown = [exact[0], partial[0], wrong[0]]
    ranking = Ranking([first], [shown], np.array([[3, 2, 1]], dtype=np.float32))
    picture = panel_of(catalogue, query_set, ranking, queries=1, top=3)
    assert picture.dtype == np.uint8
    row = picture[6 + 56]
    for number, colour in enumerate((GREEN, AMBER, GREY)):
        left = 2 * 6 + 224 + number * (112 + 6)
        assert tuple(row[left]) == colour


def test_panel_shows_the_queries_of_the_ranking_also_those_that_are_a_picture(
    tiny_shards: Path,
) -> None:
    catalogue, query_set = read_split(tiny_shards, "dev", ["title"], 32)
    asked = list(query_set.queries["query_id"])
    products = [catalogue.product_ids[:3]]

    def panel(queries: pd.DataFrame, query_id: str) -> np.ndarray:
        ranking = Ranking([query_id], products, np.array([[3, 2, 1]], dtype=np.float32))
        return panel_of(catalogue, query_set._replace(queries=queries), ranking, queries=1, top=3)

    # The query is found by its id, whatever its row in the table.
    assert np.array_equal(
        panel(query_set.queries, asked[5]), panel(query_set.queries[::-1], asked[5])
    )
    assert not np.array_equal(
        panel(query_set.queries, asked[5]), panel(query_set.queries, asked[4])
    )
    mute = query_set.queries.assign(query="")
    said = query_set.queries.assign(query="(a picture)")
    assert np.array_equal(panel(mute, asked[0]), panel(said, asked[0]))


def test_kinds_without_judgments_and_products_without_pictures_do_not_stop_a_run(
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
    print_history(tmp_path / "run")
    human = [line for line in capsys.readouterr().out.splitlines() if "human" in line]
    assert len(human) == 2
    assert all(line.split().count("-") == 3 for line in human)


class Walk(pl.LightningModule):
    """Changes its weight and its moving mean with every batch; its integer buffer stays."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("places", torch.arange(1000), persistent=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight - self.norm(batch).max()).square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Record(pl.Callback):
    """Records the weights after each step, and the averaged ones at that moment."""

    def __init__(self) -> None:
        self.own: list[dict[str, Tensor]] = []
        self.average: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: object
    ) -> None:
        with averaged(trainer, module):
            self.average.append({k: v.clone() for k, v in module.state_dict().items()})
        self.own.append({k: v.clone() for k, v in module.state_dict().items()})


def test_the_average_lies_where_the_model_will_lie() -> None:
    averaging, there = Averaging(0.3), torch.device("meta")
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=there))
    averaging.setup(trainer, Walk(), "fit")
    assert averaging._average_model is not None
    assert {value.device for value in averaging._average_model.state_dict().values()} == {there}


def test_a_run_ends_with_the_moving_average_of_weights_and_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    averaging, module = Averaging(0.3), Walk()
    record = Record()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=30, callbacks=[averaging, record], default_root_dir=tmp_path,
        enable_model_summary=False, **quiet,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.randn(120, 1), batch_size=4))
    expected = record.own[0]
    for steps, own in enumerate(record.own):
        share = 1 / (1 + 0.3 * steps)
        expected = {
            key: (1 - share) * expected[key] + share * value if value.is_floating_point() else value
            for key, value in own.items()
        }
        torch.testing.assert_close(record.average[steps], expected)
    torch.testing.assert_close(dict(module.state_dict()), expected)
    assert not torch.equal(record.own[-1]["weight"], expected["weight"])
    assert averaging._frozen == {module.frozen.data_ptr()}
    # Integers are copied: an average of them, rounded down, could be off by one.
    assert torch.equal(module.places, torch.arange(1000))


def test_the_average_of_frozen_weights_is_not_computed() -> None:
    frozen, learned = torch.tensor([1.0]), torch.tensor([1.0])
    averages = [torch.tensor([5.0]), torch.tensor([5.0])]
    _update(1, {frozen.data_ptr()}, averages, [frozen, learned], 1)
    assert [average.item() for average in averages] == [5.0, 3.0]


def test_a_run_saves_its_average(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, Tensor]] = []
    measured: list[dict[str, Tensor]] = []
    measure = Retrieval.measure

    def watched(self: Retrieval, module: Any) -> Any:
        measured.append({k: v.clone() for k, v in module.model.state_dict().items()})
        return measure(self, module)

    monkeypatch.setattr(Retrieval, "measure", watched)

    class Watch(pl.Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, module: pl.LightningModule, *_: object
        ) -> None:
            steps.append({k: v.clone() for k, v in module.model.state_dict().items()})

    made = trainers.make_trainer
    monkeypatch.setattr(trainers, "make_trainer", lambda c, others: made(c, [*others, Watch()]))
    settings = [*tiny_overrides, "losses.query_product=1", "lr.text_encoder=0.01"]
    words = ["average_span=1", "steps=3", "evaluate_every=2"]
    train(load_config([], [*settings, *words]))
    # With span 1 the average is the mean of all steps, also when it is measured on the way.
    saved = load_model(tmp_path / "run")[0].state_dict()
    _, after_two, _ = measured
    for of, found in ((steps, saved), (steps[:2], after_two)):
        for name, weights in found.items():
            if weights.is_floating_point():
                expected = torch.stack([step[name] for step in of]).mean(dim=0)
                torch.testing.assert_close(weights, expected, msg=name)
    assert not torch.equal(steps[-1]["query_projection.weight"], saved["query_projection.weight"])
