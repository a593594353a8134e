"""Tests that models are restored from their folders alone, and that damaged ones are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from beyond_text.config.settings import Lora
from beyond_text.config.views import View
from beyond_text.models.checkpoint import CheckpointError, load_model, save_model, warm_start
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards.batch import Embeddings
from tests.conftest import tiny_tokenizer
from tests.models.test_two_tower import SETTINGS, narrow_clip, some_batch, tiny_model
from tests.tiny import save_tiny

VIEWS: tuple[View, ...] = ("query", "text", "image", "product")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Saves encoders that a test may delete."""
    folder = tmp_path / "encoders"
    for name in ("bert", "clip", "siglip", "vit", "timm_resnet"):
        save_tiny(name, folder)
    return folder


def _moved(model: TwoTower) -> TwoTower:
    """Moves every weight and every running statistic of the model off its start."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and name.rsplit(".")[-1] != "running_var":
                value.add_(torch.randn_like(value) * 0.05)
    return model.eval()


@torch.no_grad()
def _vectors(model: TwoTower) -> Embeddings:
    return model.embed(some_batch(), VIEWS)


def assert_same(model: TwoTower, other: TwoTower, tolerance: float = 0.0) -> None:
    found, expected = _vectors(model), _vectors(other)
    for view in VIEWS:
        torch.testing.assert_close(
            found.vectors[view], expected.vectors[view], rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("text", "image", "fusion"),
    [
        ("bert", "timm_resnet", "concat"),
        ("clip", "clip", "concat"),
        ("siglip", "siglip", "concat"),
        ("bert", "vit", "uniecs"),
    ],
)
def test_a_model_comes_back_from_its_folder_alone(
    folder: Path, tmp_path: Path, text: str, image: str, fusion: str, share: bool
) -> None:
    model = _moved(tiny_model(folder, text, image, share_text_encoder=share, fusion=fusion))
    save_model(model, tiny_tokenizer(), tmp_path / "run")
    shutil.rmtree(folder)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    restored, tokenizer = load_model(tmp_path / "elsewhere")
    assert not restored.training
    assert restored.settings == model.settings
    assert_same(restored, model)
    phrase = "a red cushion"
    assert tokenizer(phrase)["input_ids"] == tiny_tokenizer()(phrase)["input_ids"]


@pytest.mark.parametrize(
    ("text", "image", "fusion"),
    [("bert", "vit", "bilinear"), ("clip", "clip", "bilinear"), ("bert", "vit", "uniecs")],
)
def test_adapters_are_merged_on_disk_and_give_the_vectors_they_gave(
    folder: Path, tmp_path: Path, text: str, image: str, fusion: str
) -> None:
    model = tiny_model(folder, text, image, share_text_encoder=False, fusion=fusion)
    names = set(model.state_dict())
    towers = (model.text_tower, model.image_tower, model.own_query_tower)
    for tower in towers:
        assert tower is not None
        tower.add_lora(Lora(rank=4))
    _moved(model)
    save_model(model, tiny_tokenizer(), tmp_path)
    shutil.rmtree(folder)
    assert set(load_file(tmp_path / "model" / "model.safetensors")) == names
    restored, _ = load_model(tmp_path)
    assert_same(restored, model, tolerance=1e-5)


def test_saving_again_replaces_and_a_failed_save_leaves_the_old_model(
    folder: Path, tmp_path: Path
) -> None:
    first, second = (_moved(tiny_model(folder, "bert", "vit")) for _ in range(2))
    with torch.no_grad():
        second.text_projection.weight.mul_(-1)
    save_model(first, tiny_tokenizer(), tmp_path)
    with pytest.raises(AttributeError):
        save_model(second, object(), tmp_path)  # type: ignore[arg-type]
    assert_same(load_model(tmp_path)[0], first)
    save_model(second, tiny_tokenizer(), tmp_path)
    assert_same(load_model(tmp_path)[0], second)
    assert [path.name for path in tmp_path.glob("model*")] == ["model"]


def test_a_folder_without_a_finished_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}: no finished model there"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_weights_cut_short_are_refused_by_name(folder: Path, tmp_path: Path, kept: float) -> None:
    model = tiny_model(folder, "bert", "vit")
    weights = save_model(model, tiny_tokenizer(), tmp_path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * kept)])
    for read in (lambda: load_model(tmp_path), lambda: warm_start(model, tmp_path)):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not whole"):
            read()


def test_weights_of_another_model_and_foreign_settings_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    saved = save_model(tiny_model(folder, "bert", "vit"), tiny_tokenizer(), tmp_path / "run")
    other = save_model(tiny_model(folder, "bert", "vit", dim=8), tiny_tokenizer(), tmp_path / "b")
    shutil.copy(other / "model.safetensors", saved)
    with pytest.raises(
        CheckpointError,
        match=r"run/model: .*projection\.weight: expected \[16, 16\], got \[8, 16\]",
    ):
        load_model(tmp_path / "run")
    with (saved / "settings.yaml").open("a") as settings:
        settings.write("layers: 3\n")
    with pytest.raises(CheckpointError, match=r"settings\.yaml: .*layers"):
        load_model(tmp_path / "run")


def test_a_warm_start_takes_every_weight_over(folder: Path, tmp_path: Path) -> None:
    before = _moved(tiny_model(folder, "bert", "timm_resnet"))
    save_model(before, tiny_tokenizer(), tmp_path)
    model = tiny_model(folder, "bert", "timm_resnet")
    assert warm_start(model, tmp_path) == ([], [])
    assert_same(model, before)


@pytest.mark.parametrize(
    "changes",
    [{"fusion": "gated"}, {"fusion_rank": 4}, {"fusion": "text"}, {"fusion": "uniecs"}],
)
def test_a_warm_start_begins_another_fusion_block_anew(
    folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    save_model(_moved(tiny_model(folder, "bert", "vit")), tiny_tokenizer(), tmp_path)
    model = tiny_model(folder, "bert", "vit", **changes)
    untouched = {name: value.clone() for name, value in model.fusion.state_dict().items()}
    assert warm_start(model, tmp_path).new == [f"fusion.{name}" for name in untouched]
    for name, value in model.fusion.state_dict().items():
        assert value.equal(untouched[name])
    restored, _ = load_model(tmp_path)
    assert model.text_projection.weight.equal(restored.text_projection.weight)


def test_uniecs_starts_from_a_two_tower_run_with_its_product_sides_projection(
    folder: Path, tmp_path: Path
) -> None:
    before = _moved(tiny_model(folder, "bert", "vit"))
    assert not before.query_projection.weight.equal(before.text_projection.weight)
    save_model(before, tiny_tokenizer(), tmp_path)
    model = tiny_model(folder, "bert", "vit", fusion="uniecs")
    untaken = warm_start(model, tmp_path)
    assert untaken.new == [f"fusion.{n}" for n in model.fusion.state_dict()]
    # One tensor has both names: what is lost is named.
    assert untaken.lost == ["query_projection.weight"]
    assert model.query_projection is model.text_projection
    for name, weight in model.state_dict().items():
        if not name.startswith(("fusion", "query_projection")):
            assert weight.equal(before.state_dict()[name])


def test_uniecs_does_not_start_from_vectors_of_another_width_than_its_tokens(
    tmp_path: Path,
) -> None:
    def narrow(fusion: str) -> TwoTower:
        return TwoTower(replace(SETTINGS, fusion=fusion), narrow_clip(), narrow_clip())

    save_model(narrow("bilinear"), tiny_tokenizer(), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"projection\.weight: expected \[16, 16\], got \[16, 12\]"
    ):
        warm_start(narrow("uniecs"), tmp_path)


@pytest.mark.parametrize(
    ("text", "image", "changes"),
    [
        ("clip", "vit", {}),
        ("bert", "timm_resnet", {}),
        ("bert", "vit", {"dim": 8}),
        ("bert", "vit", {"share_text_encoder": False}),
    ],
)
def test_a_warm_start_from_another_backbone_is_refused_by_name(
    folder: Path, tmp_path: Path, text: str, image: str, changes: dict[str, object]
) -> None:
    save_model(tiny_model(folder, "bert", "vit"), tiny_tokenizer(), tmp_path / "before")
    with pytest.raises(CheckpointError, match=r"before/model: does not fit this run's model"):
        warm_start(tiny_model(folder, text, image, **changes), tmp_path / "before")


def test_the_tokenizer_folder_is_one_that_transformers_reads(folder: Path, tmp_path: Path) -> None:
    saved = save_model(tiny_model(folder, "bert", "vit"), tiny_tokenizer(), tmp_path)
    assert AutoTokenizer.from_pretrained(saved / "text_encoder").pad_token == "[PAD]"
