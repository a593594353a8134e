"""Tests that an encoder gives the vectors that it was made to give, whatever its class."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, ConfigError, ImageEncoder, Lora, TextEncoder
from beyond_text.models.checkpoint import load_model, save_model
from beyond_text.models.encoders import load_encoder
from beyond_text.models.image_tower import ImageTower
from beyond_text.models.pictures import encoder_picture_size, picture_statistics
from beyond_text.models.sentence import read_sentence_settings
from beyond_text.models.settings import settings_of
from beyond_text.models.tokenizer import load_tokenizer
from beyond_text.models.towers import TextTower
from beyond_text.models.two_tower import build_model
from beyond_text.shards.collate import tokenize
from tests import RECIPES
from tests.conftest import tiny_tokenizer
from tests.tiny import BODY, LENGTH, PICTURE, SIZE, TEXT, save_tiny, some_pictures, some_tokens

LONGER = {**TEXT, "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
TEXTS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**TEXT)),
    "distilbert": lambda: hf.DistilBertModel(
        hf.DistilBertConfig(vocab_size=32, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    ),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**LONGER)),
    "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**LONGER)),
    "mpnet": lambda: hf.MPNetModel(hf.MPNetConfig(**LONGER)),
    "qwen3": lambda: hf.Qwen3Model(hf.Qwen3Config(**TEXT, num_key_value_heads=1, head_dim=8)),
    "clip": lambda: hf.CLIPModel(
        hf.CLIPConfig(
            text_config={**TEXT, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
            vision_config=PICTURE,
            projection_dim=16,
        )
    ),
}
PICTURES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**PICTURE)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**{**PICTURE, "mlp_ratio": 2})),
    "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**PICTURE, num_register_tokens=2)),
    "swin": lambda: hf.SwinModel(
        hf.SwinConfig(
            image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
            window_size=4,
        )
    ),
    "convnext": lambda: hf.ConvNextModel(
        hf.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, image_size=SIZE)
    ),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=PICTURE)),
}  # fmt: skip


def _save(model: nn.Module, folder: Path) -> Path:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def _text_tower(folder: Path, pooling: str) -> TextTower:
    return TextTower(load_encoder(str(folder), True, unused=TextTower.unused), pooling).eval()


def _image_tower(folder: Path, pooling: str = "auto") -> ImageTower:
    encoder = load_encoder(str(folder), True, unused=ImageTower.unused)
    return ImageTower(encoder, (0.5,) * 3, (0.5,) * 3, pooling).eval()


@pytest.mark.parametrize("pooling", ["auto", "cls", "last", "max", "mean_sqrt", "weighted_mean"])
@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_a_texts_vector_depends_on_neither_batch_nor_padding(
    name: str, pooling: str, tmp_path: Path
) -> None:
    tower = _text_tower(_save(TEXTS[name](), tmp_path), pooling)
    padding = getattr(tower.settings, "pad_token_id", 0) or 0
    ids, mask = some_tokens(40)
    ids = ids.masked_fill(mask == 0, padding)
    alone = [tower(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(mask.sum(dim=1))]
    order = mask.argsort(dim=1, stable=True)
    left = ids.gather(1, order), mask.gather(1, order)
    for inputs in ((ids, mask), left):
        torch.testing.assert_close(tower(*inputs), torch.cat(alone), rtol=1e-4, atol=1e-5)
    hidden, real = tower.tokens(*left)
    expected, _ = tower.tokens(ids, mask)
    torch.testing.assert_close(hidden[real], expected[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["auto", "mean"])
@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_a_pictures_vector_does_not_depend_on_its_batch(
    name: str, pooling: str, tmp_path: Path
) -> None:
    tower = _image_tower(_save(PICTURES[name](), tmp_path), pooling)
    pictures = some_pictures(3)
    alone = torch.cat([tower(picture.unsqueeze(0)) for picture in pictures])
    torch.testing.assert_close(tower(pictures), alone, rtol=1e-4, atol=1e-5)
    assert alone.ndim == 2
    assert alone.std(dim=0).max() > 1e-5


@torch.no_grad()
def test_the_mean_of_a_picture_is_that_of_its_patches(tmp_path: Path) -> None:
    tower = _image_tower(_save(PICTURES["dinov3"](), tmp_path), "mean")
    hidden, _ = tower.tokens(some_pictures())
    torch.testing.assert_close(tower(some_pictures()), hidden[:, 3:].mean(dim=1))


def test_the_pooler_that_a_classifier_lacks_is_dropped_and_stays_dropped(tmp_path: Path) -> None:
    text = _save(hf.BertForMaskedLM(hf.BertConfig(**TEXT)), tmp_path / "text")
    tiny_tokenizer().save_pretrained(text)
    image = _save(hf.ViTForImageClassification(hf.ViTConfig(**PICTURE)), tmp_path / "image")
    tower = _image_tower(image)
    assert tower.encoder.pooler is None
    hidden, _ = tower.tokens(some_pictures())
    assert tower(some_pictures()).equal(hidden[:, 0])
    with pytest.raises(ConfigError, match=r"pooling=pooler: .*image has no pooler"):
        _image_tower(image, "pooler")(some_pictures())
    with pytest.raises(ConfigError, match=r"pooling=pooler: .*text has no pooler"):
        _text_tower(text, "pooler")(*some_tokens(2))
    settings = settings_of(_config(text, image), picture_size=SIZE)
    model = build_model(settings, str(text), str(image), pretrained=True).eval()
    save_model(model, tiny_tokenizer(), tmp_path / "run")
    restored, _ = load_model(tmp_path / "run")
    assert restored.encode_image(some_pictures()).equal(model.encode_image(some_pictures()))


def _config(text: Path, image: Path, **settings: Any) -> Config:
    return Config(
        dim=16,
        text_encoder=TextEncoder(path=str(text), **{"max_length": 12, **settings}),
        image_encoder=ImageEncoder(path=str(image)),
    )


def _rename_all(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"visual.{key}": value for key, value in state.items()}


def _lose_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if "layernorm.weight" not in k}


@pytest.mark.parametrize("spoil", [_rename_all, _lose_one])
@pytest.mark.parametrize("name", ["vit", "dinov2", "siglip"])
def test_weights_that_are_missing_are_refused_by_name(
    name: str, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], tmp_path: Path
) -> None:
    folder = _save(PICTURES[name](), tmp_path)
    file = folder / "model.safetensors"
    state = load_file(file)
    if name == "siglip" and spoil is _lose_one:
        state = {k: v for k, v in state.items() if "post_layernorm" not in k}
    save_file(spoil(state), file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights of \w+ are missing, the first is \w+\."):
        _image_tower(folder)


def test_a_half_of_clip_that_is_not_used_may_be_missing(tmp_path: Path) -> None:
    folder = _save(TEXTS["clip"](), tmp_path)
    state = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in state.items() if k.startswith("text_")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert _text_tower(folder, "auto")(*some_tokens(2)).shape == (2, 16)
    with pytest.raises(ConfigError, match="are missing, the first is vis"):
        _image_tower(folder)


def test_code_of_a_models_own_is_never_run(tmp_path: Path) -> None:
    own = {"model_type": "fancy", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "code.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*supported are BERT"):
        load_encoder(str(tmp_path), pretrained=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_args": {"pretrained_cfg": "x"}},
        {"model_args": {"checkpoint_path": "/etc/passwd"}},
        {"model_args": {"pretrained": True}},
        {"model_args": {"img_size": "hf-hub:x/y"}},
        {"architecture": "hf-hub:someone/model"},
        {"architecture": "local-dir:/tmp/x"},
        {"architecture": "no_such_model"},
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_configuration_cannot_make_timm_read_files(
    wrong: dict[str, Any], pretrained: bool, tmp_path: Path
) -> None:
    path = Path(save_tiny("timm_vit", tmp_path))
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**settings, **wrong}))
    with pytest.raises(ConfigError, match=r"config\.json: (model_args|architecture): expected"):
        load_encoder(str(path), pretrained)


@pytest.mark.parametrize("targets", [[], ["out_proj"]])
@pytest.mark.parametrize("name", ["siglip", "vit", "dinov3", "bert", "clip"])
def test_every_adapter_gets_a_gradient(name: str, targets: list[str], tmp_path: Path) -> None:
    if targets and name not in ("siglip", "clip"):
        pytest.skip("has no layer of this name")
    folder = _save((PICTURES | TEXTS)[name](), tmp_path)
    tower: TextTower | ImageTower
    if name in PICTURES:
        tower, inputs = _image_tower(folder), (some_pictures(),)
    else:
        tower, inputs = _text_tower(folder, "auto"), some_tokens(5)
    tower.add_lora(Lora(rank=2, targets=targets))
    tower.train()
    tower(*inputs).square().sum().backward()
    adapters = {k: p.grad for k, p in tower.named_parameters() if p.requires_grad}
    assert adapters
    assert [k for k, grad in adapters.items() if grad is None] == []
    assert all(grad.abs().max() > 0 for k, grad in adapters.items() if "lora_B" in k)


@pytest.mark.parametrize("targets", [["head.attention.out_proj"], ["q_proj", "nothing"]])
def test_a_target_without_gradient_is_refused(targets: list[str], tmp_path: Path) -> None:
    tower = _image_tower(_save(PICTURES["siglip"](), tmp_path))
    with pytest.raises(ConfigError, match=rf"lora.targets: .*{targets[-1]}"):
        tower.add_lora(Lora(rank=2, targets=targets))


@torch.no_grad()
def test_texts_never_read_each_other_where_attention_has_another_name(tmp_path: Path) -> None:
    folder = _save(TEXTS["bert"](), tmp_path)
    expected = _text_tower(folder, "auto")(*some_tokens())
    tower = _text_tower(folder, "auto")

    def renamed(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **_: Any) -> Any:
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        scores = scores if mask is None else scores + torch.where(mask, 0.0, float("-inf"))
        return (scores.softmax(dim=-1) @ v).transpose(1, 2), None

    registry = hf.AttentionInterface()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._global_mapping, "sdpa", renamed)
        with pytest.warns(UserWarning, match="its texts are padded, not packed"):
            found = tower(*some_tokens())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    for name in ("bert", "qwen3", "clip", "roberta"):
        folder = _save(TEXTS[name](), tmp_path / name)
        with pytest.raises(ConfigError, match=f"{name}: no tokenizer there"):
            load_tokenizer(str(folder))
    shutil.copytree(tmp_path / "bert", tmp_path / "unknown")
    blind = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, "[UNK]"))
    blind.pre_tokenizer = pre_tokenizers.Sequence([])
    hf.PreTrainedTokenizerFast(
        tokenizer_object=blind, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(tmp_path / "unknown")
    with pytest.raises(ConfigError, match="makes the same input of every text"):
        load_tokenizer(str(tmp_path / "unknown"))


def _cased_tokenizer() -> hf.PreTrainedTokenizerFast:
    words = ["<pad>", "<unk>", "red", "Red", "cushion", "Cushion", "rug"]
    cased = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    cased.normalizer = normalizers.Replace("  ", " ")
    cased.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=cased, unk_token="<unk>", pad_token="<pad>", padding_side="left"
    )


def test_siglip_reads_lower_case_and_so_does_what_is_saved(tmp_path: Path) -> None:
    folder = _save(PICTURES["siglip"](), tmp_path / "siglip")
    _cased_tokenizer().save_pretrained(folder)
    settings = settings_of(_config(folder, folder), picture_size=SIZE)
    assert settings.lower_case
    tokenizer = load_tokenizer(str(folder), settings.lower_case)
    model = build_model(settings, str(folder), str(folder), pretrained=True)
    save_model(model, tokenizer, tmp_path / "run")
    for found in (tokenizer, load_model(tmp_path / "run")[1]):
        ids = tokenize(found, ["Red Cushion", "red cushion"], 12, fixed=True).input_ids
        assert ids.tolist() == [[2, 4, *[0] * 10]] * 2
    bert = _save(TEXTS["bert"](), tmp_path / "bert")
    assert not settings_of(_config(bert, folder), picture_size=SIZE).lower_case


def _processor(folder: Path, **settings: Any) -> str:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_one_number_is_that_of_all_channels_and_others_are_refused(tmp_path: Path) -> None:
    folder = _save(PICTURES["siglip"](), tmp_path)
    kind = {"image_processor_type": "SiglipImageProcessor", "image_std": 0.25}
    for one in (0.4, [0.4]):
        path = _processor(folder, **kind, image_mean=one)
        assert picture_statistics(path) == ((0.4,) * 3, (0.25,) * 3)
    for wrong in ([0.4, 0.4], "half", ["a", "b", "c"]):
        with pytest.raises(ConfigError, match=r"siglip|preprocessor_config\.json"):
            picture_statistics(_processor(folder, **kind, image_mean=wrong))
    with pytest.raises(ConfigError, match="image_std"):
        picture_statistics(_processor(folder, **{**kind, "image_std": 0.0}, image_mean=0.5))
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        picture_statistics(str(folder))


def test_a_mean_of_null_is_refused(tmp_path: Path) -> None:
    folder = _save(PICTURES["siglip"](), tmp_path)
    path = _processor(folder, image_processor_type="SiglipImageProcessor", image_mean=None)
    with pytest.raises(ConfigError, match=r"image_mean: expected a number, .*got None"):
        picture_statistics(path)


def test_pixels_that_are_not_rescaled_keep_their_statistics(tmp_path: Path) -> None:
    folder = _save(PICTURES["siglip"](), tmp_path)
    kind = {"image_processor_type": "SiglipImageProcessor", "image_mean": 127.5, "image_std": 51.0}
    assert picture_statistics(_processor(folder, **kind, do_rescale=False)) == (
        (0.5,) * 3,
        (0.2,) * 3,
    )


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_statistics_that_nobody_names_are_said(name: str, folder: Path) -> None:
    with pytest.warns(UserWarning, match=f"{name}: no image processor .*mean"):
        mean, _ = picture_statistics(str(folder / name))
    assert mean[0] == (0.5 if name == "siglip" else 0.48145466)


def test_the_processors_size_goes_before_the_configurations(tmp_path: Path) -> None:
    settings = hf.Dinov2Config(**{**BODY, "image_size": 56, "patch_size": 8, "mlp_ratio": 2})
    folder = _save(hf.Dinov2Model(settings), tmp_path)
    assert encoder_picture_size(str(folder)) == 56
    kind = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}}
    crop = {"crop_size": {"height": 24, "width": 24}}
    assert encoder_picture_size(_processor(folder, **kind, **crop, do_center_crop=True)) == 24
    assert encoder_picture_size(_processor(folder, **kind, **crop, do_center_crop=False)) == 40
    crop["crop_size"]["width"] = 32
    with pytest.raises(ConfigError, match="pictures of 24 x 32, expected a square"):
        encoder_picture_size(_processor(folder, **kind, **crop, do_center_crop=True))


POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
SENTENCES = ["red rug", "a blue cushion home", "decor", "the home decor a red"]


@pytest.mark.parametrize("pooling", [*POOLINGS, ["cls", "mean"]])
@pytest.mark.parametrize("dense", [False, True])
@torch.no_grad()
def test_a_sentence_transformers_folder_gives_its_own_vectors(
    pooling: Any, dense: bool, tmp_path: Path
) -> None:
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    text = _save(TEXTS["bert"](), tmp_path / "bert")
    tiny_tokenizer().save_pretrained(text)
    width = 32 if isinstance(pooling, list) else 16
    parts = [modules.Transformer(str(text)), modules.Pooling(16, pooling)]
    parts += [modules.Dense(width, 16)] if dense else []
    prompts = {"query": "red: ", "document": "the home "}
    own = st.SentenceTransformer(modules=[*parts, modules.Normalize()], prompts=prompts)
    own.max_seq_length = 6
    own.save(str(tmp_path / "own"))
    folder, image = tmp_path / "own", _save(PICTURES["vit"](), tmp_path / "image")
    config = _config(folder, image, max_length=6)
    settings = settings_of(config, picture_size=SIZE)
    assert (settings.query_prefix, settings.text_prefix) == ("red: ", "the home ")
    model = build_model(settings, str(folder), str(image), pretrained=True).eval()
    save_model(model, load_tokenizer(str(folder)), tmp_path / "run")
    for found, tokenizer in ((model, load_tokenizer(str(folder))), load_model(tmp_path / "run")):
        for prefix, encode in (
            (settings.query_prefix, own.encode_query),
            (settings.text_prefix, own.encode_document),
        ):
            tokens = tokenize(tokenizer, [prefix + s for s in SENTENCES], 6, fixed=False)
            expected = torch.tensor(encode(SENTENCES))
            torch.testing.assert_close(found.text_tower(*tokens), expected, rtol=1e-5, atol=1e-5)
    config.text_encoder.pooling, config.text_encoder.query_prefix = "pooler", ""
    other = settings_of(config, picture_size=SIZE)
    assert (other.pooling, other.text_head, other.query_prefix) == ("pooler", [], "")


def test_an_older_folder_names_its_pooling_by_flags(tmp_path: Path) -> None:
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    reading = {"max_seq_length": 48, "do_lower_case": True}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(reading))
    found = read_sentence_settings(str(tmp_path))
    assert (found.pooling, found.max_length, found.lower_case) == ("cls", 48, True)
    modules[1]["type"] = "sentence_transformers.models.LSTM"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"modules\.json: expected .*got Transformer, LSTM"):
        read_sentence_settings(str(tmp_path))


def test_vit_and_roberta_have_the_size_of_uniecs() -> None:
    text = hf.RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1
    )
    with torch.device("meta"):
        towers = hf.RobertaModel(text), hf.ViTModel(hf.ViTConfig(), add_pooling_layer=False)
    count = sum(p.numel() for tower in towers for p in tower.parameters())
    assert count == pytest.approx(0.2e9, rel=0.1)


@pytest.mark.parametrize("overlay", sorted((RECIPES / "backbone").glob("*.yaml")), ids=str)
def test_every_overlay_says_what_it_was_tried_on(overlay: Path) -> None:
    text = overlay.read_text()
    if "offline default" not in text:
        for heading in ("# Licence: ", "# Picture: ", "tried only on tiny random models"):
            assert heading in text
    taken = load_config([RECIPES / "base.yaml", overlay])
    assert taken.image_encoder.image_size > 0
