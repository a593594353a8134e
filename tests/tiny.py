"""Makes tiny random encoders of every supported class, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf
from torch import Tensor, nn

from beyond_text.config.views import OBJECTIVE_VIEWS, TEACHER

SIZE, LENGTH, WIDTH = 32, 16, 16
# The objectives that need no teacher.
UNTAUGHT = {name: views for name, views in OBJECTIVE_VIEWS.items() if name != TEACHER}
BODY = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {**BODY, "vocab_size": 32, "max_position_embeddings": LENGTH}
PICTURE = {**BODY, "image_size": SIZE, "patch_size": 8}


def _bert() -> nn.Module:
    return hf.BertModel(hf.BertConfig(**TEXT))


def _roberta() -> nn.Module:
    # Positions begin after that of padding.
    return hf.XLMRobertaModel(
        hf.XLMRobertaConfig(
            **{**TEXT, "max_position_embeddings": LENGTH + 2},
            pad_token_id=1,
            bos_token_id=2,
            eos_token_id=3,
        )
    )


def _clip() -> nn.Module:
    text = {**TEXT, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    return hf.CLIPModel(
        hf.CLIPConfig(text_config=text, vision_config=PICTURE, projection_dim=WIDTH)
    )


def _siglip() -> nn.Module:
    # SigLIP2's checkpoints of fixed resolution have this class too.
    return hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=PICTURE))


def _siglip2_naflex() -> nn.Module:
    picture = {**BODY, "patch_size": 8, "num_patches": 16}
    return hf.Siglip2Model(hf.Siglip2Config(text_config=TEXT, vision_config=picture))


def _dinov2() -> nn.Module:
    return hf.Dinov2Model(hf.Dinov2Config(**{**PICTURE, "mlp_ratio": 2}))


def _vit() -> nn.Module:
    return hf.ViTModel(hf.ViTConfig(**PICTURE))


def _timm(architecture: str) -> nn.Module:
    settings = hf.TimmWrapperConfig(architecture=architecture, num_labels=0)
    if architecture == "test_vit":
        settings.model_args = {"img_size": SIZE}
    settings.pretrained_cfg = {"mean": [0.4] * 3, "std": [0.2] * 3, "input_size": [3, SIZE, SIZE]}
    return hf.TimmWrapperModel(settings)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": _bert,
    "xlm-roberta": _roberta,
    "clip": _clip,
    "siglip": _siglip,
    "siglip2_naflex": _siglip2_naflex,
    "dinov2": _dinov2,
    "vit": _vit,
    "timm_resnet": lambda: _timm("test_resnet"),
    "timm_vit": lambda: _timm("test_vit"),
}
TEXT_MODELS = ("bert", "xlm-roberta", "clip", "siglip", "siglip2_naflex")
IMAGE_MODELS = ("clip", "siglip", "dinov2", "vit", "timm_resnet", "timm_vit")


def save_tiny(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> str:
    """Saves a random model in FOLDER/name, with weights large enough to tell inputs apart."""
    torch.manual_seed(len(name))
    model = MODELS[name]().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder / name)
    return str(folder / name)


def some_tokens(rows: int = 40) -> tuple[Tensor, Tensor]:
    """Returns ids [rows, 16], ending in a special token, and the mask; lengths are 2 to 16."""
    random = torch.Generator().manual_seed(1)
    length = torch.randint(2, LENGTH + 1, (rows, 1), generator=random)
    ids = torch.randint(4, 32, (rows, LENGTH), generator=random)
    place = torch.arange(LENGTH)
    ids = ids.where(place != length - 1, 3).where(place < length, 0)
    return ids, (place < length).long()


def some_pictures(count: int = 3) -> Tensor:
    """Returns random uint8 pictures [count, 3, 32, 32]."""
    random = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=random, dtype=torch.uint8)


def as_bytes(picture: Tensor | None) -> bytes | None:
    """Returns the bytes of a picture, or None without one: equal for equal pictures."""
    return None if picture is None else picture.numpy().tobytes()
