"""Which sources can feed a stage, when pictures are read, and what the batches hold."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, ConfigError
from beyond_text.evaluation.ladder import with_batches
from beyond_text.models.settings import settings_of
from beyond_text.shards.batch import Judgment, Sample, SampleIndex
from beyond_text.shards.collate import Collate
from beyond_text.shards.dataset import Products
from beyond_text.shards.records import category_key
from beyond_text.shards.sources import expected_batches, supplies_of
from beyond_text.shards.split import Split
from beyond_text.train import train
from beyond_text.training.build import warn_of_small_pictures
from beyond_text.training.datamodule import ShardData, _batches_ahead
from beyond_text.training.trainer import make_trainer
from data_prep.shards import build_shards
from tests.conftest import tiny_tokenizer


@pytest.fixture(scope="module")
def sources(
    tiny_tables: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Shards with queries of text, with queries of text and picture, and without queries."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(tiny_tables, folder / "bare")
    for name in ("queries.csv", "qrels.csv"):
        (folder / "bare" / name).unlink()
    found = {}
    for name, tables in (("shop", tiny_tables), ("pairs", tiny_pairs), ("bare", folder / "bare")):
        found[name] = folder / f"{name}-shards"
        build_shards(tables, found[name], picture_size=40, workers=1)
    return found


def settings(sources: dict[str, Path], names: str, *overrides: str) -> Config:
    paths = [f"data.sources.{name}.path={sources[name]}" for name in names.split()]
    return load_config([], [*paths, *overrides])


@pytest.mark.parametrize("name", ["cmal", "clal", "imcl"])
def test_queries_of_text_alone_feed_the_objectives_of_triggers(
    sources: dict[str, Path], name: str, capsys: pytest.CaptureFixture
) -> None:
    config = settings(sources, "shop pairs bare", f"losses.{name}=1")
    assert list(supplies_of(config)) == ["shop", "pairs"]
    assert "bare sits this stage out: no query in it" in capsys.readouterr().err
    with pytest.raises(
        ConfigError, match=f"loss {name}, which needs pictures and queries .* and texts"
    ):
        supplies_of(settings(sources, "bare", f"losses.{name}=1"))


@pytest.mark.parametrize(
    ("names", "loss", "sees"),
    [
        ("shop", "query_text", False),
        ("shop pairs", "query_text", True),
        ("shop", "query_image", True),
        ("shop", "query_product", True),
        ("shop", "imcl", True),
        ("bare", "text_image", True),
    ],
)
def test_pictures_are_read_where_a_view_or_a_query_has_them(
    sources: dict[str, Path],
    tiny_text_encoder: Path,
    tiny_image_encoder: Path,
    names: str,
    loss: str,
    sees: bool,
) -> None:
    encoders = f"text_encoder.path={tiny_text_encoder}", f"image_encoder.path={tiny_image_encoder}"
    config = settings(sources, names, f"losses.{loss}=1", *encoders)
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_encoder)
    assert ShardData(config, settings_of(config, 40), tokenizer, False).sees_pictures is sees


def test_a_source_meant_for_some_losses_feeds_these_and_no_others(
    sources: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    meant = ["data.sources.bare.losses=[text_image]", "data.sources.pairs.losses=[query_text]"]
    every = "text_image query_text query_image"
    for losses, expected in (
        ("text_image", {"shop": "text_image", "bare": "text_image"}),
        ("query_text", {"shop": "query_text", "pairs": "query_text"}),
        (every, {"shop": every, "pairs": "query_text", "bare": "text_image"}),
        ("query_image", {"shop": "query_image"}),
    ):
        given = [f"losses.{name}=1" for name in losses.split()]
        found = supplies_of(settings(sources, "shop pairs bare", *meant, *given))
        assert {name: " ".join(feed.losses) for name, feed in found.items()} == expected
    written = capsys.readouterr().err
    assert "bare sits this stage out: not meant for query_image" in written
    assert "weight 1, for text_image\n" in written


def test_a_loss_that_no_source_is_meant_for_is_an_error(sources: dict[str, Path]) -> None:
    config = settings(
        sources, "shop", "data.sources.shop.losses=[text_image]",
        "losses.text_image=1", "losses.query_text=1",
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"loss query_text, .* \(shop: not meant for query_text\)"
    ):
        supplies_of(config)


def test_a_batch_names_the_losses_that_its_source_feeds(sources: dict[str, Path]) -> None:
    splits = [Split(sources[name], "train", ["title"]) for name in ("shop", "bare")]
    products = Products(splits, 0, None, [("text_image", "query_text"), ("text_image",)])
    collate = Collate(tiny_tokenizer(), 16, fixed_length=False, picture_size=32)
    shop, bare = products[SampleIndex(0, 3, 0)], products[SampleIndex(1, 3, 0)]
    assert collate([shop, shop]).losses == ("text_image", "query_text")
    assert collate(["unreadable", bare]).losses == ("text_image",)
    assert collate(["unreadable"]).losses == ()


def test_a_source_meant_for_an_unknown_loss_is_refused(sources: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.shop\.losses: .* got 'text_imago'"):
        settings(sources, "shop", "data.sources.shop.losses=[text_imago]")


def test_a_batch_that_processes_cannot_share_or_a_source_cannot_fill_is_named(
    sources: dict[str, Path], tiny_overrides: list[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_overrides[0].partition("=")[2])

    def data(batch_size: int) -> ShardData:
        words = [*tiny_overrides, "losses.query_text=1", f"batch_size={batch_size}"]
        config = settings(sources, "shop", *words)
        return ShardData(config, settings_of(config, 40), tokenizer, False)

    data(24).check_shares(processes=3)
    with pytest.raises(ConfigError, match="multiple of the 3 processes that share it, got 20"):
        data(20).check_shares(processes=3)
    with pytest.raises(ConfigError, match=r"shop: 24 products in 1 shards .* a batch_size of 36;"):
        data(36).check_shares(processes=3)


def test_workers_read_a_few_batches_ahead_and_of_large_ones_a_single_one(
    sources: dict[str, Path], tiny_overrides: list[str]
) -> None:
    config = settings(sources, "shop", *tiny_overrides, "losses.query_text=1", "data.workers=1")
    tokenizer = AutoTokenizer.from_pretrained(config.text_encoder.path)
    data = ShardData(config, settings_of(config, 40), tokenizer, False)
    data.trainer = make_trainer(config, [])
    assert data.train_dataloader().prefetch_factor == 4
    assert [_batches_ahead(rows) for rows in (8, 256, 512, 4096)] == [4, 4, 2, 1]


def test_a_command_for_more_processes_than_share_a_batch_ends_before_it_starts_them(
    tiny_overrides: list[str],
) -> None:
    asked = ["losses.query_text=1", "trainer.devices=3", "trainer.accelerator=cpu"]
    with pytest.raises(ConfigError, match="a multiple of the 3 processes that share it, got 8"):
        train(load_config([], [*tiny_overrides, *asked]))


def test_a_product_stands_several_times_where_queries_ask_for_it_alone(
    sources: dict[str, Path], tiny_overrides: list[str]
) -> None:
    words = ["data.queries_per_product=3", "losses.query_text=1", "losses.text_image=1"]
    words += [f"data.sources.bare.path={sources['shop']}", "data.sources.bare.losses=[text_image]"]
    words += [f"data.sources.own.path={sources['shop']}", "data.sources.own.queries_per_product=2"]
    words += ["data.sources.own.losses=[query_text]", "steps=20"]
    config = load_config([], [*tiny_overrides, *words])
    tokenizer = AutoTokenizer.from_pretrained(config.text_encoder.path)
    data = ShardData(config, settings_of(config, 40), tokenizer, False)
    data.trainer = make_trainer(config, [])
    rows = {(len(batch.product_ids), batch.losses) for batch in data.train_dataloader()}
    assert rows == {(24, ("text_image", "query_text")), (8, ("text_image",)), (16, ("query_text",))}


def test_the_batches_of_a_chain_are_those_of_the_sources_that_feed_each_stage(
    sources: dict[str, Path],
) -> None:
    weights = ["data.sources.shop.weight=3", "data.sources.bare.losses=[text_image]"]
    chain = [
        settings(sources, "shop bare", *weights, "losses.text_image=1", "steps=20", "budget=2"),
        settings(sources, "shop bare", *weights, "losses.query_text=1", "steps=5", "accumulate=2"),
    ]
    assert expected_batches(chain) == {"shop": 0.75 * 40 + 10, "bare": 0.25 * 40}
    together = with_batches(chain[0], expected_batches(chain[1:]))
    assert {n: s.weight for n, s in together.data.sources.items()} == {"shop": 10, "bare": 0}
    assert together.data.sources["bare"].losses == ["text_image"]


def test_products_of_a_category_stand_together_in_a_batch(
    tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config([], [*tiny_overrides, "losses.query_text=1", "data.same_category=2"])
    tokenizer = AutoTokenizer.from_pretrained(config.text_encoder.path)
    data = ShardData(config, settings_of(config, 40), tokenizer, False)
    data.trainer = make_trainer(config, [])
    split = data.sources["tables"].split
    assert set(split.categories().tolist()) == {category_key("decor")}
    assert split.sizes == [7, 7, 7, 3]
    kinds_of = 1 + np.arange(24, dtype=np.uint32) // 4
    monkeypatch.setattr(Split, "categories", lambda self: kinds_of)
    identities = [split.read(number, None)[0]["product_id"] for number in range(len(split))]
    kind = dict(zip(identities, kinds_of.tolist(), strict=True))
    batches = [batch.product_ids for batch in data.train_dataloader()]
    assert batches
    for names in batches:
        kinds = [kind[name] for name in names]
        assert kinds[::2] == kinds[1::2]


def test_a_source_of_smaller_pictures_than_the_encoder_takes_is_named(
    tiny_overrides: list[str],
) -> None:
    config = load_config([], [*tiny_overrides, "image_encoder.image_size=64"])
    with pytest.warns(
        UserWarning, match="have at most 40 pixels a side and are enlarged to the 64"
    ):
        warn_of_small_pictures(config, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_small_pictures(config, 40)


def test_prefixes_stand_before_texts_and_queries(
    sources: dict[str, Path], tiny_text_encoder: Path, tiny_image_encoder: Path
) -> None:
    encoders = f"text_encoder.path={tiny_text_encoder}", f"image_encoder.path={tiny_image_encoder}"
    prefixes = "text_encoder.query_prefix=red ", "text_encoder.text_prefix=home "
    config = settings(sources, "shop", "losses.query_text=1", *encoders, *prefixes)
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_encoder)
    collate = ShardData(config, settings_of(config, 40), tokenizer, False).collate
    judgment = Judgment("1", "rug", "", 1.0)
    batch = collate([Sample("1", "rug", None, [judgment], judgment)])
    for tokens, prefix in ((batch.query, "red"), (batch.text, "home")):
        assert tokens.input_ids[0, 1:-1].tolist() == tokenizer.convert_tokens_to_ids(
            [prefix, "rug"]
        )


def test_a_grade_may_be_of_a_source_that_sits_the_stage_out(sources: dict[str, Path]) -> None:
    words = ["losses.text_image=1", "data.sources.shop.losses=[query_text]"]
    config = settings(sources, "bare shop", *words, "data.grades={relevance: 1}")
    assert list(supplies_of(config)) == ["bare"]
    with pytest.raises(ConfigError, match=r"data\.grades: no source has 'taste'"):
        supplies_of(settings(sources, "bare shop", *words, "data.grades={relevance: 1, taste: 1}"))
