"""Fixtures made once a session: tiny random encoders, tables and shards. Checks tensor shapes.

Under pytest, beartype checks the shape annotations of the modules that are listed here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gc
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

with install_import_hook(
    [
        f"beyond_text.{name}"
        for name in (
            "metrics.ranking",
            "models.attended",
            "models.bilinear",
            "models.fusing",
            "models.fusion",
            "models.image_tower",
            "models.layout",
            "models.moe",
            "models.layers",
            "models.towers",
            "models.two_tower",
            "models.uniecs",
            "training.blocks",
            "training.everyone",
            "training.loss_weights",
            "training.losses",
            "training.modality_dropout",
            "training.relevance",
            "training.uniecs_losses",
        )
    ],
    "beartype.beartype",
):
    import beyond_text.metrics.ranking
    import beyond_text.models.two_tower
    import beyond_text.training.loss_weights
    import beyond_text.training.modality_dropout
    import beyond_text.training.uniecs_losses

from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    TimmWrapperConfig,
    TimmWrapperModel,
)

import beyond_text.train
from beyond_text.config.load import load_config
from beyond_text.shards.split import Split
from beyond_text.train import train
from data_prep.mbeer import read_designs, write_pairs
from data_prep.shards import build_shards
from tests.hostile import sign
from tests.tiny import MODELS, save_tiny

torch.set_num_threads(1)
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30)}
KINDS = ("cushion", "vase", "rug", "lamp")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a word-level tokenizer of the words of `tiny_tables`; others share one token."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *COLOURS, *KINDS, "a", "the", "home", "decor"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the cache folder of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def frozen_once() -> Iterator[None]:
    """Keeps every training but the first of a process from visiting all that is imported: 1 s."""
    once = SimpleNamespace(collect=gc.collect, freeze=cache(gc.freeze), unfreeze=lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beyond_text.train, "gc", once)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of every supported class, under its name."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        save_tiny(name, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and width 16, with its tokenizer."""
    folder = tmp_path_factory.mktemp("encoders") / "text"
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Timm's tiny test ResNet for 32-pixel pictures, as transformers wraps it."""
    folder = tmp_path_factory.mktemp("encoders") / "image"
    torch.manual_seed(0)
    settings = TimmWrapperConfig(architecture="test_resnet", num_labels=0)
    settings.pretrained_cfg = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "input_size": [3, 32, 32],
    }
    TimmWrapperModel(settings).save_pretrained(folder)
    return folder


def write_tiny_tables(folder: Path, designs: bool = False) -> Path:
    """Writes a shop of coloured squares: the text names the kind, only the picture the colour.

    24 products a split; two lack a picture, one has no description. Each query asks for a kind in
    a colour; the right product has grade 2, one of the same kind in another colour grade 1.
    With `designs`, eight a split, each a kind in three colours; else each product is its own.
    """
    random = np.random.default_rng(0)
    products, queries, qrels = [], [], []
    (folder / "images").mkdir(parents=True)
    for split in ("train", "dev"):
        for number in range(24):
            kind, colour = KINDS[number % 4], list(COLOURS)[number // 4 % 3]
            name = f"{split}.{number}"
            picture = "" if number in (5, 11) else f"images/{name}.jpg"
            if picture:
                noise = random.integers(-20, 20, (40, 30, 3))
                pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / picture)
            description = "" if number == 3 else f"a {kind} home decor"
            group = f"{split}-{kind}-{number // 12}" if designs else name
            products.append((name, kind, description, "decor", picture, group, split))
        for kind in KINDS:
            for colour in COLOURS:
                query_id = f"{split}-{colour}-{kind}"
                queries.append((query_id, f"{colour} {kind}", split, "attribute"))
                for number in range(24):
                    if KINDS[number % 4] != kind:
                        continue
                    same = list(COLOURS)[number // 4 % 3] == colour
                    qrels.append((query_id, f"{split}.{number}", 2 if same else 1))

    def write(name: str, header: str, rows: list[tuple]) -> None:
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (folder / name).write_text("\n".join(lines) + "\n")

    write("products.csv", "product_id,title,description,category,image,group_id,split", products)
    write("queries.csv", "query_id,query,split,kind", queries)
    write("qrels.csv", "query_id,product_id,relevance", qrels)
    return folder


@pytest.fixture(scope="session")
def tiny_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def tiny_shards(tiny_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `tiny_tables`, with seven samples each."""
    out = tmp_path_factory.mktemp("shards") / "tiny"
    build_shards(tiny_tables, out, picture_size=40, samples_per_shard=7, workers=1)
    return out


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of pairs of products of one design in two colours, in the folder of their tables."""
    tables = write_tiny_tables(tmp_path_factory.mktemp("designs"), designs=True)
    designs, _ = read_designs(tables)
    write_pairs(designs, tables / "pairs.jsonl")
    return tables / "pairs.jsonl"


@pytest.fixture(scope="session")
def tiny_settings(
    tiny_text_encoder: Path, tiny_image_encoder: Path, tiny_shards: Path
) -> list[str]:
    """Settings of a run of a few steps over the tiny encoders and shards."""
    return [
        f"text_encoder.path={tiny_text_encoder}",
        "text_encoder.max_length=16",
        f"image_encoder.path={tiny_image_encoder}",
        "image_encoder.image_size=32",
        f"data.sources.tables.path={tiny_shards}",
        f"data.dev={tiny_shards}",
        "data.workers=0",
        "dim=16",
        "fusion_rank=8",
        "batch_size=8",
        "steps=4",
        "budget=1",
        "evaluate_every=0",
        "precision=32-true",
        "trainer.enable_progress_bar=false",
    ]


@pytest.fixture
def tiny_overrides(tiny_settings: list[str], tmp_path: Path) -> list[str]:
    """Settings of a run in tmp_path/run."""
    return [*tiny_settings, f"run={tmp_path / 'run'}"]


@pytest.fixture(scope="session")
def tiny_run(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train(load_config([], [*tiny_settings, f"run={run}", "steps=2", "losses.query_product=1"]))
    return run


@pytest.fixture
def damaged_shards(tiny_shards: Path, tmp_path: Path) -> Path:
    """Shards in which one training picture is overwritten with zeros."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_shards, folder)
    path = folder / "train-00001.tar"
    products = Split(folder, "train", []).products
    # The first of the second shard that has a picture.
    places = (products.place(number, "jpg") for number in range(7, 14))
    name, picture = next(filter(None, places))
    assert name == path.name
    content = bytearray(path.read_bytes())
    content[picture.offset : picture.offset + picture.size] = bytes(picture.size)
    path.write_bytes(content)
    sign(folder)
    return folder
