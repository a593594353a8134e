"""Every setting, flipped, changes a run or stops it: what a user sets takes effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file
from torch import Tensor

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, LearningRates
from beyond_text.train import train
from data_prep.shards import build_shards
from tests.conftest import write_tiny_tables

pytestmark = pytest.mark.slow

# A run in which every setting has something to do.
BASE = {
    "steps": "3",
    "batch_size": "6",
    "memory_size": "12",
    "losses.query_product": "1",
    "losses.text_image": "0.5",
    "losses.cmal": "0.2",
    "warmup": "0.3",
    "temperature_min": "0.01",
    "clip_norm": "1.0",
    "text_encoder.max_length": "6",
    "image_encoder.path": "{folder}/timm_resnet",
    "image_encoder.image_size": "32",
    "data.modality_dropout": "0.2",
}

# Another value of each setting, and settings beside it that give it something to do.
FLIPPED: dict[str, list[str]] = {
    "start": ["start={start}"],
    "seed": ["seed=1"],
    "align_pairs": ["align_pairs=0"],
    "steps": ["steps=2"],
    "budget": ["budget=0.7"],
    "batch_size": ["batch_size=7"],
    "memory_size": ["memory_size=0"],
    "accumulate": ["accumulate=2"],
    "dim": ["dim=12"],
    "matryoshka": ["matryoshka=[4,8]"],
    "matryoshka_weights": ["matryoshka=[4,8]", "matryoshka_weights=[1,0.2]"],
    "fusion": ["fusion=gated"],
    "fusion_rank": ["fusion_rank=4"],
    "fusion_balance": ["fusion=moe", "fusion_balance=0.5"],
    "share_text_encoder": ["share_text_encoder=false"],
    "loss": ["loss=ranked_nce"],
    "negative_weight": ["negative_weight=9"],
    "loss_weighting": ["loss_weighting=learned"],
    "temperature": ["temperature=0.5"],
    "temperature_min": ["temperature_min=0.6", "temperature=0.7"],
    "weight_decay": ["weight_decay=0.9"],
    "warmup": ["warmup=0.0"],
    "lr_floor": ["lr_floor=0.9"],
    "clip_norm": ["clip_norm=0.001"],
    "average_span": ["average_span=1.0"],
    "start_penalty": ["start_penalty=3000"],
    "teacher": ["teacher={start}", "losses.teacher=1"],
    "teacher_temperature": ["teacher={start}", "losses.teacher=1", "teacher_temperature=0.7"],
    "losses.teacher": ["teacher={start}", "losses.teacher=0.7"],
    "text_encoder.path": ["text_encoder.path={folder}/roberta"],
    "text_encoder.max_length": ["text_encoder.max_length=4"],
    "text_encoder.pooling": ["text_encoder.pooling=cls"],
    "text_encoder.query_prefix": ["text_encoder.query_prefix=red "],
    "text_encoder.text_prefix": ["text_encoder.text_prefix=red "],
    "text_encoder.dropout": ["text_encoder.dropout=false"],
    "text_encoder.lora.rank": ["text_encoder.lora.rank=2"],
    "image_encoder.path": ["image_encoder.path={folder}/vit"],
    "image_encoder.image_size": ["image_encoder.image_size=48"],
    "image_encoder.pooling": ["image_encoder.pooling=cls"],
    "image_encoder.drop_path": ["image_encoder.drop_path=0.9"],
    "image_encoder.lora.rank": ["image_encoder.path={folder}/vit", "image_encoder.lora.rank=2"],
    "data.sources": ["data.sources.tables.weight=0"],
    "data.dev": ["data.dev=''"],
    "data.dev_split": ["data.dev_split=nowhere"],
    "data.text_fields": ["data.text_fields=[title]"],
    "data.queries_per_product": ["data.queries_per_product=3"],
    "data.labels": ["data.labels=2"],
    "data.grades": ["data.grades={{desirability: 1}}"],
    "data.negatives": ["data.negatives=0.5"],
    "data.hard_negatives": ["data.hard_negatives=2"],
    "data.same_category": ["data.same_category=3"],
    "data.augment": ["data.augment=false"],
    "data.smallest_crop": ["data.smallest_crop=0.3"],
    "data.modality_dropout": ["data.modality_dropout=0.9"],
    "trainer": ["trainer.gradient_clip_val=1"],
} | {
    f"losses.{name}": [f"losses.{name}=0.7"]
    for name in ("text_image", "query_text", "query_image", "query_product", "cmal", "imcl")
}  # fmt: skip

# Settings that must not change the weights, and where it is tested that they do what they say.
ELSEWHERE = {
    "losses.clal",  # test_uniecs_losses: tiny models lie within its slack
    "run", "resume",  # test_exact
    "auto_steps.passes", "auto_steps.least", "auto_steps.most",  # test_steps
    "auto_steps.few_queries", "auto_steps.few_steps", "auto_steps.text_share",
    "auto_steps.many_queries", "auto_steps.many_steps",
    "chunk_size",  # models/test_chunks: the gradients of the whole
    "cache",  # test_embedding_cache
    "compile",  # models/test_towers
    "precision",  # models/test_precision; equal bits on a CPU without bfloat16
    "evaluate_every", "checkpoint_every",  # test_callbacks, test_checkpoints
    "data.workers", "data.max_skipped",  # test_exact, test_datamodule
    "data.cache_dir", "data.cache_gb",  # test_cloud, shards/test_store
    "text_encoder.lora.alpha", "text_encoder.lora.dropout", "text_encoder.lora.targets",
    "image_encoder.lora.alpha", "image_encoder.lora.dropout", "image_encoder.lora.targets",
}  # fmt: skip
RATES = {
    f"{table}.{field.name}"
    for table in ("lr", "lr_scale")
    for field in dataclasses.fields(LearningRates)
}


def names(settings: dict[str, Any], prefix: str = "") -> set[str]:
    """Lists the dotted names of all settings."""
    found: set[str] = set()
    for name, value in settings.items():
        key = f"{prefix}{name}"
        found |= names(value, f"{key}.") if isinstance(value, dict) and value else {key}
    return found


def test_every_setting_is_flipped_here_or_tested_elsewhere() -> None:
    assert names(dataclasses.asdict(Config())) == FLIPPED.keys() | ELSEWHERE | RATES


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two grades, with judged zeros, and a query that has a picture of its own."""
    tables = write_tiny_tables(tmp_path_factory.mktemp("shop"))
    qrels = pd.read_csv(tables / "qrels.csv")
    qrels["desirability"] = (qrels.index % 3) + 1
    qrels.loc[qrels.index % 5 == 0, "relevance"] = 0
    qrels.to_csv(tables / "qrels.csv", index=False)
    (tables / "products.csv").write_text(
        (tables / "products.csv").read_text().replace("home decor", "decor of a home and its yard")
    )
    build_shards(tables, tables / "shards", picture_size=60, workers=1)
    return tables / "shards"


class Run:
    """Trains runs of three steps over one shop."""

    def __init__(self, tmp_path: Path, settings: list[str], shop: Path, folder: Path) -> None:
        self.tmp_path = tmp_path
        self.folder = folder
        self.settings = [
            *settings,
            f"data.sources.tables.path={shop}",
            f"data.dev={shop}",
            *(f"{key}={value}".format(folder=folder) for key, value in BASE.items()),
        ]

    def __call__(self, name: str, *overrides: str) -> dict[str, Tensor] | str:
        """Returns the weights that a run ends with, or the error that stops it."""
        run = self.tmp_path / name
        start = self.tmp_path / "base"
        more = [text.format(folder=self.folder, start=start) for text in overrides]
        try:
            train(load_config([], [*self.settings, f"run={run}", *more]))
        except (ValueError, OSError) as error:
            return str(error)
        return load_file(run / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_settings: list[str], shop: Path, folder: Path
) -> Iterator[tuple[Run, dict[str, Tensor]]]:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("beyond_text.training.alignment.FEWEST", 8)
    run = Run(tmp_path_factory.mktemp("flipped"), tiny_settings, shop, folder)
    base = run("base")
    assert not isinstance(base, str), base
    yield run, base
    monkeypatch.undo()


def same(one: dict[str, Tensor] | str, other: dict[str, Tensor]) -> bool:
    return (
        not isinstance(one, str)
        and one.keys() == other.keys()
        and all(one[name].equal(other[name]) for name in one)
    )


def test_the_same_settings_end_with_the_same_weights(
    trained: tuple[Run, dict[str, Tensor]],
) -> None:
    run, base = trained
    assert same(run("again"), base)


@pytest.mark.parametrize("setting", [*FLIPPED, *sorted(RATES)])
def test_a_flipped_setting_changes_the_weights_or_stops_the_run(
    trained: tuple[Run, dict[str, Tensor]], setting: str
) -> None:
    run, base = trained
    if setting in RATES:
        more = ["share_text_encoder=false"] if setting.endswith("query_encoder") else []
        if more:
            base = run(f"{setting}-own", *more)
        flipped = run(setting, *more, f"{setting}=0")
    else:
        flipped = run(setting, *FLIPPED[setting])
    assert not same(flipped, base)
