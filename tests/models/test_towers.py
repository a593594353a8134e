"""Tests the towers on a tiny random encoder of every supported class."""

from __future__ import annotations

import copy
import json
import logging
from functools import partialmethod
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.profiler import profile

from beyond_text.config.settings import ConfigError, Lora
from beyond_text.models.attention import fast_attention
from beyond_text.models.encoders import load_encoder
from beyond_text.models.image_tower import ImageTower
from beyond_text.models.pictures import (
    HALF,
    IMAGENET,
    encoder_picture_size,
    picture_statistics,
)
from beyond_text.models.towers import TextTower
from tests.tiny import (
    IMAGE_MODELS,
    LENGTH,
    SIZE,
    TEXT_MODELS,
    WIDTH,
    save_tiny,
    some_pictures,
    some_tokens,
)


def _reference(path: str) -> nn.Module:
    return hf.AutoModel.from_pretrained(path).eval()


def _text(folder: Path, name: str, pooling: str = "auto", buckets: int = 1) -> TextTower:
    return TextTower(load_encoder(str(folder / name), pretrained=True), pooling, buckets).eval()


def _image(folder: Path, name: str) -> ImageTower:
    encoder = load_encoder(str(folder / name), pretrained=True)
    return ImageTower(encoder, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)).eval()


def _pixels(pictures: Tensor) -> Tensor:
    """Normalises uint8 pictures as the tower of `_image` does."""
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    return ((pictures.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    rows = [row[:length].mean(dim=0) for row, length in zip(tokens, mask.sum(dim=1), strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize("name", TEXT_MODELS)
@torch.no_grad()
def test_the_text_vector_is_the_models_own_feature_or_the_mean_over_real_tokens(
    folder: Path, name: str
) -> None:
    ids, mask = some_tokens(5)
    model = _reference(str(folder / name))
    if "bert" in name:
        expected = _mean(model(ids, mask).last_hidden_state, mask)
    elif name == "clip":
        expected = model.text_projection(model.text_model(ids, mask).pooler_output)
    else:  # SigLIP was trained without a mask.
        expected = model.text_model(ids).pooler_output
    assert expected.std(dim=0).min() > 1e-4  # The texts differ.
    torch.testing.assert_close(_text(folder, name)(ids, mask), expected)


@torch.no_grad()
def test_each_pooling_is_what_it_says(folder: Path) -> None:
    ids, mask = some_tokens(5)
    output = _reference(str(folder / "bert"))(ids, mask)
    tokens = output.last_hidden_state
    expected = {
        "auto": _mean(tokens, mask),
        "mean": _mean(tokens, mask),
        "cls": tokens[:, 0],
        "pooler": output.pooler_output,
    }
    for pooling, vectors in expected.items():
        torch.testing.assert_close(_text(folder, "bert", pooling)(ids, mask), vectors)


@pytest.mark.parametrize("name", IMAGE_MODELS)
@torch.no_grad()
def test_the_image_vector_is_the_models_own_feature_of_the_normalised_picture(
    folder: Path, name: str
) -> None:
    pictures = some_pictures()
    pixels = _pixels(pictures)
    model = _reference(str(folder / name))
    if name == "clip":
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    elif name == "siglip":
        expected = model.vision_model(pixels).pooler_output
    elif name.startswith("timm"):
        expected = model.timm_model(pixels)
    else:
        expected = model(pixels).pooler_output
    assert expected.std(dim=0).max() > 1e-4  # The pictures differ.
    torch.testing.assert_close(_image(folder, name)(pictures), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TEXT_MODELS)
@torch.no_grad()
def test_text_tokens_are_the_last_hidden_states_and_the_real_ones_are_named(
    folder: Path, name: str
) -> None:
    ids, mask = some_tokens(5)
    model = _reference(str(folder / name))
    text_model = model if "bert" in name else model.text_model
    # SigLIP's padding tokens count as real.
    padded = name.startswith("siglip")
    expected = text_model(ids) if padded else text_model(ids, mask)
    tokens, real = _text(folder, name).tokens(ids, mask)
    torch.testing.assert_close(tokens[real], expected.last_hidden_state[real])
    assert real.equal(torch.ones_like(mask).bool() if padded else mask.bool())


@pytest.mark.parametrize("name", IMAGE_MODELS)
@torch.no_grad()
def test_image_tokens_are_the_last_hidden_states_and_all_are_real(folder: Path, name: str) -> None:
    pixels = _pixels(some_pictures())
    model = _reference(str(folder / name))
    if name in ("clip", "siglip"):
        expected = model.vision_model(pixels).last_hidden_state
    elif name == "timm_resnet":
        places = model.timm_model.forward_features(pixels)
        height, width = places.shape[2:]
        expected = torch.stack(
            [places[:, :, row, column] for row in range(height) for column in range(width)], dim=1
        )
    elif name == "timm_vit":
        expected = model.timm_model.forward_features(pixels)
    else:
        expected = model(pixels).last_hidden_state
    tokens, real = _image(folder, name).tokens(some_pictures())
    assert tokens.std(dim=0).max() > 1e-4  # The pictures differ.
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
    assert real.shape == tokens.shape[:2]
    assert real.all()


@torch.no_grad()
def test_a_map_with_its_channels_last_becomes_a_token_a_place() -> None:
    settings = hf.TimmWrapperConfig(architecture="swin_tiny_patch4_window7_224", num_labels=0)
    settings.model_args = {
        "img_size": SIZE,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 1],
    }
    tower = ImageTower(hf.TimmWrapperModel(settings), (0.5,) * 3, (0.5,) * 3).eval()
    tokens, _ = tower.tokens(some_pictures())
    assert tokens.shape == (3, 16, 16)
    torch.testing.assert_close(tokens.mean(dim=1), tower(some_pictures()))


@pytest.mark.parametrize("name", ["bert", "clip", "vit"])
@torch.no_grad()
def test_adapted_towers_give_tokens_too(folder: Path, name: str) -> None:
    plain = (_text if name in TEXT_MODELS else _image)(folder, name)
    tower, inputs = _adapted(folder, name, [])
    torch.testing.assert_close(tower.tokens(*inputs), plain.tokens(*inputs))


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_tower_keeps_only_its_half_of_a_two_headed_model(folder: Path, name: str) -> None:
    projected = name == "clip"
    text = {key.split(".")[1] for key in _text(folder, name).state_dict()}
    image = {key.split(".")[1] for key in _image(folder, name).state_dict()}
    assert text == ({"text_model", "text_projection"} if projected else {"text_model"})
    assert image == ({"vision_model", "visual_projection"} if projected else {"vision_model"})


def test_a_naflex_siglip2_serves_as_text_tower_and_is_refused_as_image_tower(folder: Path) -> None:
    with pytest.raises(ConfigError, match="siglip2_naflex is a NaFlex SigLIP2; expected one of"):
        _image(folder, "siglip2_naflex")


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "clip", "siglip"])
def test_length_buckets_change_neither_vectors_nor_gradients(folder: Path, name: str) -> None:
    ids, mask = some_tokens()
    weights = torch.randn(len(ids), WIDTH, dtype=torch.float64)
    found = []
    for buckets in (1, 4):
        tower = _text(folder, name, buckets=buckets).double()
        vectors = tower(ids, mask)
        (vectors * weights).sum().backward()
        found.append([vectors, *(p.grad for p in tower.parameters() if p.grad is not None)])
    for whole, bucketed in zip(*found, strict=True):
        torch.testing.assert_close(bucketed, whole)


def test_buckets_cut_texts_to_the_longest_of_each(folder: Path) -> None:
    tower = _text(folder, "clip", buckets=4)
    shapes: list[int] = []
    tower.encoder.text_model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    ids, mask = some_tokens()
    tower(ids, mask)
    longest = [int(part.max()) for part in mask.sum(dim=1).sort().values.tensor_split(4)]
    assert shapes == longest
    assert shapes[0] < LENGTH


def _padded(folder: Path, name: str) -> TextTower:
    """Loads a tower that reads padding too: without PyTorch's attention nothing is packed."""
    tower = _text(folder, name)
    tower.encoder.set_attn_implementation("eager")  # type: ignore[operator]
    return tower


@pytest.mark.parametrize("dropout", [0.0, 1.0])
@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
def test_packed_texts_have_the_vectors_and_gradients_of_padded_ones(
    folder: Path, name: str, dropout: float
) -> None:
    ids, mask = some_tokens()
    weights = torch.randn(len(ids), WIDTH, dtype=torch.float64)
    found, read = [], []
    for tower in (_text(folder, name, buckets=4), _padded(folder, name)):
        for module in tower.double().train().modules():
            if isinstance(module, nn.Dropout):
                # Rates are 0 or 1, so nothing is random; attention's rate is set below.
                module.p = 0.0
        for layer in tower.encoder.encoder.layer:
            layer.attention.self.dropout.p = dropout
        tower.encoder.embeddings.word_embeddings.register_forward_hook(
            lambda _, inputs, __: read.append(inputs[0].numel())
        )
        vectors = tower(ids, mask)
        (vectors * weights).sum().backward()
        found.append([vectors, *(p.grad for p in tower.parameters() if p.grad is not None)])
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded)
    assert read == [mask.sum(), mask.numel()]


def test_packed_texts_are_dropped_out_by_few_random_numbers(folder: Path) -> None:
    tower = _text(folder, "bert").train()
    with profile() as seen:
        tower(*some_tokens())
    names = {event.key for event in seen.key_averages()}
    assert "aten::random_" in names
    assert "aten::bernoulli_" not in names


def test_on_a_gpu_texts_are_not_given_to_cudnns_attention() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with fast_attention(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@torch.no_grad()
def test_padding_may_stand_on_either_side_of_packed_texts(folder: Path) -> None:
    tower = _text(folder, "bert", buckets=2)
    ids, mask = some_tokens()
    order = mask.argsort(dim=1, stable=True)
    left = ids.gather(1, order), mask.gather(1, order)
    assert not left[1].equal(mask)
    torch.testing.assert_close(tower(*left), tower(ids, mask))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "clip", "timm_resnet"])
def test_a_compiled_encoder_gives_the_same_vectors_by_the_same_weights(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traces as for any other backend, without the minutes that a compiler takes.
    counter = CompileCounter()
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=counter))
    make, inputs = (_text, some_tokens()) if name in TEXT_MODELS else (_image, (some_pictures(),))
    plain, compiled = make(folder, name), make(folder, name)
    compiled.compile_encoder()
    torch.testing.assert_close(compiled(*inputs), plain(*inputs))
    assert counter.op_count > 10
    compiled(*(tensor[:-1] for tensor in inputs))
    if name in TEXT_MODELS:
        # It is not compiled again for other sizes.
        assert counter.frame_count == 1
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def _adapted(folder: Path, name: str, targets: list[str]) -> tuple[TextTower | ImageTower, tuple]:
    tower: TextTower | ImageTower
    if name in TEXT_MODELS:
        tower, inputs = _text(folder, name), some_tokens(5)
    else:
        tower, inputs = _image(folder, name), (some_pictures(),)
    tower.add_lora(Lora(rank=4, alpha=8.0, targets=targets))
    return tower.eval(), inputs


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("bert", []),
        ("bert", ["query", "value"]),
        ("clip", []),
        ("clip", ["q_proj", "v_proj"]),
        ("siglip", ["q_proj", "v_proj"]),
        ("vit", []),
        ("dinov2", []),
        ("timm_vit", ["qkv"]),
    ],
)
def test_lora_trains_adapters_only_and_merges_to_the_same_vectors(
    folder: Path, name: str, targets: list[str]
) -> None:
    plain = (_text if name in TEXT_MODELS else _image)(folder, name)
    tower, inputs = _adapted(folder, name, targets)
    moving = {key for key, value in tower.named_parameters() if value.requires_grad}
    assert moving
    assert all("lora_" in key for key in moving)
    if targets:
        assert {key.split(".lora_")[0].split(".")[-1] for key in moving} == set(targets)
    with torch.no_grad():
        torch.testing.assert_close(tower(*inputs), plain(*inputs))  # Adapters start at zero.
        for key, value in tower.named_parameters():
            if "lora_B" in key:
                value.normal_(std=0.3)
        before = tower(*inputs)
        assert (before - plain(*inputs)).abs().max() > 1e-2
        merged = tower.merged_encoder()
        assert merged.state_dict().keys() == plain.encoder.state_dict().keys()
        # The tower itself still has its adapters.
        assert {key for key, value in tower.named_parameters() if value.requires_grad} == moving
        torch.testing.assert_close(tower(*inputs), before)
        plain.encoder.load_state_dict(merged.state_dict())
        torch.testing.assert_close(plain(*inputs), before, rtol=1e-4, atol=1e-5)


def test_rank_zero_adds_no_adapter(folder: Path) -> None:
    tower = _text(folder, "bert")
    tower.add_lora(Lora(rank=0))
    assert not isinstance(tower.encoder, peft.PeftModel)
    assert all(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(("name", "targets"), [("timm_resnet", []), ("bert", ["q_proj"])])
def test_lora_without_a_layer_to_adapt_names_encoder_and_setting(
    folder: Path, name: str, targets: list[str]
) -> None:
    expected = "q_proj" if targets else "any linear layer"
    with pytest.raises(ConfigError, match=f"lora.targets: .*{name} has no layer.*{expected}"):
        _adapted(folder, name, targets)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no encoder there: expected a folder"):
        load_encoder(str(tmp_path / "nowhere"), pretrained=True)


def test_weights_stored_in_half_precision_load_in_float32(tmp_path: Path) -> None:
    path = save_tiny("bert", tmp_path, torch.float16)
    for pretrained in (True, False):
        kinds = {p.dtype for p in load_encoder(path, pretrained).parameters()}
        assert kinds == {torch.float32}


def test_stochastic_depth_skips_blocks_of_some_pictures_while_training(tmp_path: Path) -> None:
    settings = hf.TimmWrapperConfig(architecture="test_convnext", num_labels=0)
    hf.TimmWrapperModel(settings).save_pretrained(tmp_path)
    hf.Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        image_size=SIZE, patch_size=SIZE, drop_path_rate=0.25,
    ).save_pretrained(tmp_path / "dinov2")  # fmt: skip
    same = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8).expand(16, -1, -1, -1)
    for rate, distinct in ((0.0, 1), (0.5, 2)):
        encoder = load_encoder(str(tmp_path), pretrained=True, drop_path=rate)
        tower = ImageTower(encoder, (0.0,) * 3, (1.0,) * 3)
        assert len(tower.train()(same).unique(dim=0)) >= distinct
        assert len(tower.eval()(same).unique(dim=0)) == 1
        other: Any = load_encoder(str(tmp_path / "dinov2"), pretrained=False, drop_path=rate)
        assert other.config.drop_path_rate == (rate or 0.25)


def test_an_encoder_without_stochastic_depth_is_named(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"image_encoder\.drop_path=0\.1 changes nothing: .*vit"):
        load_encoder(str(folder / "vit"), pretrained=True, drop_path=0.1)


def test_a_timm_model_that_takes_no_stochastic_depth_is_refused(tmp_path: Path) -> None:
    hf.TimmWrapperConfig(architecture="vgg11", num_labels=0).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"image_encoder\.drop_path=0\.1: .*expected 0"):
        load_encoder(str(tmp_path), pretrained=False, drop_path=0.1)


def test_loading_a_folder_prints_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    load_encoder(str(folder / "bert"), pretrained=True)
    picture_statistics(str(folder / "timm_resnet"))
    logger.removeHandler(caplog.handler)
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")
    assert hf.utils.logging.is_progress_bar_enabled()


def test_picture_statistics_are_those_the_encoder_was_trained_with(
    folder: Path, tmp_path: Path
) -> None:
    path = Path(save_tiny("clip", tmp_path))
    processor = {"image_processor_type": "CLIPImageProcessor"}
    statistics = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (path / "preprocessor_config.json").write_text(json.dumps({**processor, **statistics}))
    assert picture_statistics(str(path)) == ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    (path / "preprocessor_config.json").write_text(json.dumps({**processor, "do_normalize": False}))
    assert picture_statistics(str(path)) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert picture_statistics(str(folder / "timm_vit")) == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    with pytest.warns(UserWarning, match=r"vit: no image processor .* usual for vit, mean \[0\.5"):
        assert picture_statistics(str(folder / "vit")) == HALF
    with pytest.warns(UserWarning, match=r"dinov2: no image processor"):
        assert picture_statistics(str(folder / "dinov2")) == IMAGENET


def test_the_picture_size_is_the_encoders_own(folder: Path, tmp_path: Path) -> None:
    for name in IMAGE_MODELS:
        assert encoder_picture_size(str(folder / name)) == SIZE
    with pytest.raises(ConfigError, match=r"bert: names no picture size; set image_encoder\.image"):
        encoder_picture_size(str(folder / "bert"))


def test_depthwise_convolutions_of_an_image_tower_are_the_fast_ones_under_autocast() -> None:
    torch.manual_seed(0)
    settings = hf.TimmWrapperConfig(architecture="test_efficientnet", num_labels=0)
    plain = hf.TimmWrapperModel(settings).eval()
    tower = ImageTower(copy.deepcopy(plain), (0.0,) * 3, (1.0,) * 3).eval()
    image = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    exact = tower(image)
    torch.testing.assert_close(exact, plain(pixel_values=image / 255).pooler_output)
    with torch.autocast("cpu", torch.bfloat16), profile() as found:
        rounded = tower(image)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
    depthwise = [m for m in plain.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    taken = [event for event in found.events() if event.name == "_Convolution"]
    assert len(taken) == len(depthwise) > 0
