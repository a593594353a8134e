"""Two processes with half the batch each compute the gradients of one with the full batch.

Two thirds of the products and of the queries lack a picture, so one process often has a slice
without any while the other has some. If the processes then took part in different collectives, this
test would hang or fail.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import ViTConfig, ViTModel

from data_prep.shards import build_shards
from tests import RECIPES

pytestmark = pytest.mark.slow

RECIPE = RECIPES / "base.yaml"
STEPS = 6
RECORDER = """
import sys
import torch
from beyond_text.config.load import load_config
from beyond_text.training.build import build
from beyond_text.training.datamodule import ShardData
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.trainer import make_trainer
from beyond_text.training.unused import tell_unused

class Recorder(ContrastiveModule):
    def training_step(self, batch, batch_idx):
        self.ids = batch.product_ids
        self.pictures = int((batch.image_row >= 0).sum())
        self.asked = int((batch.query_image_row >= 0).sum())
        return super().training_step(batch, batch_idx)

    def configure_gradient_clipping(self, *args, **kwargs):
        super().configure_gradient_clipping(*args, **kwargs)
        found = {n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None}
        seen = {"ids": self.ids, "pictures": self.pictures, "asked": self.asked}
        steps.append({"gradients": found, **seen})

steps = []
config = load_config([], sys.argv[1:])
model, tokenizer = build(config)
module = Recorder(model, config)
trainer = make_trainer(config, [])
data = ShardData(config, model.settings, tokenizer, False)
tell_unused(trainer, module, data)
trainer.fit(module, data)
torch.save(steps, f"{config.run}/process{module.global_rank}.pt")
"""


class Launched:
    """A command in a process group of its own, which is killed when the test ends or times out."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def output(self) -> str:
        printed, errors = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, errors
        return printed

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def settings(
    tiny_tables: Path, tiny_text_encoder: Path, tiny_overrides: list[str], tmp_path: Path
) -> list[str]:
    """Encoders without dropout and batch norm, which differ between processes; few pictures."""
    text, image, tables = (tmp_path / name for name in ("text", "image", "tables"))
    shutil.copytree(tiny_text_encoder, text)
    configuration = json.loads((text / "config.json").read_text())
    configuration |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (text / "config.json").write_text(json.dumps(configuration))
    torch.manual_seed(0)
    ViTModel(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=16,
        )
    ).save_pretrained(image)  # fmt: skip
    shutil.copytree(tiny_tables, tables)
    products = pd.read_csv(tables / "products.csv", keep_default_na=False)
    products.loc[products.index % 3 > 0, "image"] = ""
    products.to_csv(tables / "products.csv", index=False)
    queries = pd.read_csv(tables / "queries.csv")
    pictures = "images/" + queries["split"] + ".0.jpg"
    queries["image"] = pictures.where(queries["query"].str.startswith("green"), "")
    # One query is itself a product, which is of another kind than the query asks for.
    queries["product_id"] = [
        "train.1" if i == "train-green-lamp" else "" for i in queries["query_id"]
    ]
    queries.to_csv(tables / "queries.csv", index=False)
    build_shards(tables, tmp_path / "shards", picture_size=40, samples_per_shard=7, workers=1)
    return [
        *tiny_overrides, f"text_encoder.path={text}", f"image_encoder.path={image}",
        f"data.sources.tables.path={tmp_path / 'shards'}", f"data.dev={tmp_path / 'shards'}",
        "data.queries_per_product=2", "losses.query_product=1", "losses.query_image=0.5",
        "losses.text_image=0.5", "losses.cmal=0.5", "losses.clal=0.5", "losses.imcl=0.5",
        "loss_weighting=learned",
        f"steps={STEPS}", "clip_norm=0", "trainer.accelerator=cpu",
        # Low rates: the weights stay close, so gradients of later steps can be compared too.
        *(f"lr.{group}=1e-7" for group in (
            "text_encoder", "image_encoder", "projections", "fusion", "temperature",
        )),
    ]  # fmt: skip


def test_two_processes_give_the_gradients_of_one_over_disjoint_samples(
    settings: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "recorder.py"
    script.write_text(RECORDER)
    settings = [*settings, "batch_size=4", "memory_size=8"]
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    runs = {name: tmp_path / name for name in ("one", "two", "chunked", "command")}
    for run in runs.values():
        run.mkdir()
    launched = [
        Launched(str(script), *settings, f"run={runs['one']}"),
        Launched(str(script), *settings, f"run={runs['two']}", *two),
        Launched(str(script), *settings, f"run={runs['chunked']}", *two, "chunk_size=1"),
        Launched(
            "-m", "beyond_text.train", str(RECIPE), *settings, *two, f"run={runs['command']}",
            "evaluate_every=2", "data.workers=1",
        ),
    ]  # fmt: skip
    try:
        printed = [process.output() for process in launched]
    finally:
        for process in launched:
            process.end()

    def recorded(path: Path) -> list[dict[str, Any]]:
        return torch.load(path, weights_only=True)

    one = recorded(runs["one"] / "process0.pt")
    left, right = (recorded(runs["two"] / f"process{rank}.pt") for rank in (0, 1))
    chunked = recorded(runs["chunked"] / "process0.pt")
    assert len(one) == len(left) == len(right) == STEPS
    alone = [(a["pictures"] == 0) != (b["pictures"] == 0) for a, b in zip(left, right, strict=True)]
    assert any(alone)
    assert any((a["asked"] == 0) != (b["asked"] == 0) for a, b in zip(left, right, strict=True))
    largest = 0.0
    for whole, first, second, parts in zip(one, left, right, chunked, strict=True):
        assert not set(first["ids"]) & set(second["ids"])
        assert sorted(first["ids"] + second["ids"]) == sorted(whole["ids"])
        for name, gradient in whole["gradients"].items():
            for half in (first, second, parts):
                got = half["gradients"].get(name, torch.zeros_like(gradient))
                assert torch.allclose(got, gradient, atol=1e-5, rtol=1e-4), name
            largest = max(largest, gradient.abs().max().item())
        assert whole["gradients"]["weights.log_variance"].any()
    assert largest > 0.01

    # Of the processes of the command itself, only the first measures, writes and prints.
    assert " ".join(printed[-1].split()).count("dev nDCG@10") == 1
    metrics = json.loads((runs["command"] / "metrics.json").read_text())
    assert metrics["training"]["steps"] == STEPS
    history = json.loads((runs["command"] / "history.json").read_text())
    assert list(history) == ["step 0", "command"]


@pytest.mark.parametrize("more", [["fusion=attended"], ["fusion=moe", "fusion_balance=1"]])
def test_two_processes_give_the_gradients_of_one_whatever_the_fusion(
    settings: list[str], tmp_path: Path, more: list[str]
) -> None:
    script = tmp_path / "recorder.py"
    script.write_text(RECORDER)
    settings = [*settings, "batch_size=4", *more]
    launched = []
    for name, words in (("one", []), ("two", ["trainer.devices=2", "trainer.strategy=ddp"])):
        (tmp_path / name).mkdir()
        launched.append(Launched(str(script), *settings, f"run={tmp_path / name}", *words))
    try:
        for process in launched:
            process.output()
    finally:
        for process in launched:
            process.end()
    one, two = (
        torch.load(tmp_path / name / "process0.pt", weights_only=True) for name in ("one", "two")
    )
    largest = 0.0
    for whole, half in zip(one, two, strict=True):
        for name, gradient in whole["gradients"].items():
            got = half["gradients"].get(name, torch.zeros_like(gradient))
            assert torch.allclose(got, gradient, atol=1e-5, rtol=1e-4), name
            if "fusion" in name:
                largest = max(largest, gradient.abs().max().item())
    assert largest > 0.001
