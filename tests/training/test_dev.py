"""What a run measures where its shop has no queries: texts find pictures, pictures texts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.metrics.history import print_history
from beyond_text.models.checkpoint import load_model
from beyond_text.retrieval.encode import Encoder, encode_products
from beyond_text.train import train
from beyond_text.training.build import build
from beyond_text.training.dev import PairRetrieval, read_dev
from data_prep.shards import build_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def products_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of products with pictures and nothing else; some have equal texts or no picture."""
    tables = tmp_path_factory.mktemp("alone")
    random = np.random.default_rng(0)
    with (tables / "products.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["product_id", "title", "image", "split"])
        for number in range(36):
            if number % 6 != 5:
                pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tables / f"{number}.png")
            picture = "" if number % 6 == 5 else f"{number}.png"
            split = "dev" if number >= 24 else "train"
            writer.writerow([number, f"thing {number // 2}", picture, split])
    build_shards(tables, tables / "shards", picture_size=40, workers=1)
    return tables / "shards"


@pytest.fixture
def alone(tiny_settings: list[str], products_alone: Path) -> list[str]:
    return [
        *tiny_settings, f"data.sources.tables.path={products_alone}", f"data.dev={products_alone}",
    ]  # fmt: skip


def test_products_alone_train_and_are_measured_in_both_directions(
    alone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    more = [f"run={run}", "steps=2", "losses.text_image=1", "evaluate_every=1"]
    metrics = train(load_config([], [*alone, *more]))
    assert metrics["text_to_image"]["queries"] == metrics["image_to_text"]["queries"] == 10
    assert json.loads((run / "metrics.json").read_text()) == metrics
    history = json.loads((run / "history.json").read_text())
    assert history["run"]["image"]["text_to_image"] == metrics["text_to_image"]
    assert history["step 0"]["text"].keys() == {"image_to_text"}
    assert (run / "run.trec").read_text().startswith("text/")
    print_history(run)
    assert "text_to_image" in capsys.readouterr().out


def test_equal_texts_are_relevant_for_each_others_pictures(alone: list[str]) -> None:
    config = load_config([], [*alone, "losses.text_image=1"])
    model, tokenizer = build(config)
    dev = read_dev(config, model.settings)
    assert isinstance(dev, PairRetrieval)
    encoder = Encoder(model, tokenizer)
    found = encode_products(encoder, dev.catalogue, ("text", "image"))
    texts = dict(zip(*found["text"], strict=True))
    pictures = dict(zip(*found["image"], strict=True))
    expected = []
    for product_id in pictures:
        # Products 2n and 2n + 1 have one text.
        relevant = {twin for twin in pictures if int(twin) // 2 == int(product_id) // 2}
        order = sorted(
            pictures, key=lambda other: (-float(texts[product_id] @ pictures[other]), other)
        )
        expected.append(1 / (1 + min(order.index(twin) for twin in relevant)))
    measured = dev.measure(encoder).metrics["text_to_image"]
    assert measured["mrr"] == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("loss", ["query_text", "query_product"])
def test_later_stages_say_in_one_sentence_what_products_alone_lack(
    alone: list[str], tmp_path: Path, loss: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(load_config([], [*alone, f"run={tmp_path / 'run'}", f"losses.{loss}=1"]))
    needs = {"query_text": "queries with judgments and texts"}.get(loss, "queries with judgments")
    assert str(caught.value) == (
        f"data.sources: no source can feed the loss {loss}, which needs {needs} "
        "(tables: no query in it)"
    )


def test_a_run_reports_each_width_of_its_vectors(
    tiny_settings: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = [f"run={run}", "steps=2", "losses.query_product=1", "dim=16", "matryoshka=[2,16]"]
    metrics = train(load_config([], [*tiny_settings, *more]))
    widths = json.loads((run / "metrics.json").read_text())["training"]["widths"]
    assert widths.keys() == {"2", "16"}
    # The whole vectors are those that the run is measured by.
    assert widths["16"]["ndcg@10"] == metrics["all"]["ndcg@10"] != widths["2"]["ndcg@10"]
    model, _ = load_model(run)
    assert model.settings.matryoshka == [2, 16]
