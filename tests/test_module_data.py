"""Which sources can feed a stage, and whether it has to look at pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from beyond_text.config import Config, ConfigError, load_config
from beyond_text.datamodule import ShardData, usable_sources
from beyond_text.model import settings_of
from data_prep.shards import build_shards


@pytest.fixture(scope="module")
def sources(
    tiny_tables: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Shards with queries of text, of text and picture, and without any query."""
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
    assert list(usable_sources(config)) == ["shop", "pairs"]
    assert "bare sits this stage out: no query in it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"losses {name} .* each needs image and query and text"):
        usable_sources(settings(sources, "bare", f"losses.{name}=1"))


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


def test_a_source_meant_for_some_losses_sits_out_a_stage_that_has_others(
    sources: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    meant = "data.sources.shop.losses=[text_image,query_text]"
    for losses, names in (
        ("text_image", ["shop", "pairs"]),
        ("text_image query_text", ["shop", "pairs"]),
        ("text_image query_image", ["pairs"]),
    ):
        given = [f"losses.{name}=1" for name in losses.split()]
        config = settings(sources, "shop pairs", meant, *given)
        assert list(usable_sources(config)) == names
    assert "shop sits this stage out: not meant for query_image" in capsys.readouterr().err


def test_a_source_meant_for_an_unknown_loss_is_refused(sources: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.shop\.losses: .* got 'text_imago'"):
        settings(sources, "shop", "data.sources.shop.losses=[text_imago]")
