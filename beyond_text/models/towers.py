"""A Hugging Face encoder as a tower: inputs in, one pooled vector a row out, or all its tokens.

Any class that AutoModel loads serves: BERT-like encoders, both halves of CLIP, SigLIP and SigLIP2,
DINOv2, ViT, and timm's through TimmWrapper. A two-headed model keeps only the half that is used.
LoRA goes in through peft and is merged on export, so weights on disk are always plain ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import peft
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import PretrainedConfig

from beyond_text.config.settings import ConfigError, Lora
from beyond_text.models.attention import fast_attention
from beyond_text.models.cpu.depthwise import FastDepthwise
from beyond_text.models.cpu.dropout import FastDropout
from beyond_text.models.cpu.packed import PackedAttention, Packing

# Encoders that are told each token's position; a text's first is 0, or stands after the padding's.
POSITIONS_FROM_ZERO = ("bert",)
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta")


class Tower(nn.Module):
    """What both towers share: the half of a two-headed model that is used, LoRA and its merge."""

    # Parts of a two-headed model.
    used = ""
    unused: tuple[str, ...] = ()
    # Whether what is compiled is for inputs of any size; None finds out.
    dynamic: bool | None = None
    compiled = False
    # Where a tower is frozen: what gives its outputs for inputs, of which it knows some.
    known: Callable[[Tower, Sequence[Tensor]], Tensor] | None = None

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        for name in (*self.unused, "logit_scale", "logit_bias"):
            if hasattr(encoder, name):
                delattr(encoder, name)
        self.encoder = encoder

    def add_lora(self, lora: Lora) -> None:
        """Wraps the encoder in adapters; its own weights freeze. Rank 0 changes nothing.

        Raises:
            ConfigError: the encoder has no layer of the names asked for, or no linear one.
        """
        if lora.rank == 0:
            return
        settings = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=lora.targets or "all-linear",
        )
        try:
            self.encoder = peft.get_peft_model(self.encoder, settings)  # type: ignore[arg-type]
        except ValueError as error:
            targets = ", ".join(lora.targets) or "any linear layer"
            raise ConfigError(
                f"lora.targets: {self.settings.name_or_path} has no layer to adapt, expected "
                f"{targets}; set lora.rank to 0 to train the encoder itself"
            ) from error

    def compile_encoder(self) -> None:
        """Compiles the encoder where it is, so that its weights keep their names."""
        getattr(self.encoder, self.used, self.encoder).compile(dynamic=self.dynamic)
        self.compiled = True

    def pooled(self, *inputs: Tensor) -> Float[Tensor, "inputs features"]:
        """Pooled vectors of inputs as `forward` takes them, some of which may be known already."""
        return self(*inputs) if self.known is None else self.known(self, inputs)

    def plain(self) -> nn.Module:
        """The encoder with adapters merged in, under the names of an encoder without them."""
        if not isinstance(self.encoder, peft.PeftModel):
            return self.encoder
        return copy.deepcopy(self.encoder).merge_and_unload()  # type: ignore[operator]

    @property
    def settings(self) -> PretrainedConfig:
        """The encoder's Hugging Face configuration."""
        return self.encoder.config  # type: ignore[return-value]


class TextTower(Tower):
    """Tokens to one pooled vector: the model's own text features, mean, first token or pooler.

    `auto` takes the model's text features where it has them (CLIP, SigLIP), else the mean over
    real tokens. `buckets` splits a batch by length so that short texts are not padded to the
    longest, and on a CPU texts are packed (`beyond_text/packed.py`) where the encoder allows it:
    both change speed only.
    """

    used = "text_model"
    dynamic = True
    unused = ("vision_model", "visual_projection")

    def __init__(self, encoder: nn.Module, pooling: str = "auto", buckets: int = 4) -> None:
        super().__init__(encoder)
        self.pooling = pooling
        self.buckets = buckets

    def _packs(self, ids: Tensor) -> bool:
        """Whether padding can be left out, on a device where that was measured to pay.

        What is compiled would be compiled again for every number of tokens.
        """
        settings = self.settings
        return (
            ids.device.type == "cpu"
            and not self.compiled
            and settings.model_type in (*POSITIONS_FROM_ZERO, *POSITIONS_AFTER_PADDING)
            and settings._attn_implementation == "sdpa"
            and not getattr(settings, "is_decoder", False)
            and self.pooling != "pooler"
        )

    def _packed(self, ids: Tensor, mask: Tensor) -> Any:
        """The encoder's output, zeros where there is padding."""
        packing = Packing(mask, self.buckets)
        positions = packing.positions
        if self.settings.model_type in POSITIONS_AFTER_PADDING:
            positions = positions + self.settings.pad_token_id + 1
        with FastDropout(), PackedAttention(packing):
            output = self.encoder(input_ids=packing.pack(ids), position_ids=positions)
        output.last_hidden_state = packing.unpack(output.last_hidden_state)
        return output

    def _output(self, ids: Tensor, mask: Tensor) -> Any:
        if self._packs(ids):
            return self._packed(ids, mask)
        # SigLIP was trained with padding in sight.
        seen = None if self.fixed_length else mask
        run = getattr(self.encoder, "get_text_features", self.encoder)
        with fast_attention(ids.device):
            return run(input_ids=ids, attention_mask=seen)

    def _pool(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "texts features"]:
        output = self._output(ids, mask)
        own = self.pooling == "auto" and hasattr(self.encoder, "get_text_features")
        if own or self.pooling == "pooler":
            return output.pooler_output
        tokens = output.last_hidden_state
        if self.pooling == "cls":
            return tokens[:, 0]
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)

    def forward(
        self, input_ids: Int[Tensor, "texts length"], attention_mask: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts features"]:
        """Pooled vectors [texts, features]."""
        length = attention_mask.sum(dim=1)
        one = self.buckets == 1 or len(length) < 8 * self.buckets
        if one or self.fixed_length or self._packs(input_ids):
            return self._pool(input_ids, attention_mask)
        order = length.argsort(stable=True)
        pooled = []
        for part in order.tensor_split(self.buckets):
            longest = int(length[part].max())
            pooled.append(self._pool(input_ids[part, :longest], attention_mask[part, :longest]))
        return torch.cat(pooled)[order.argsort()]

    def tokens(
        self, input_ids: Int[Tensor, "texts length"], attention_mask: Int[Tensor, "texts length"]
    ) -> tuple[Float[Tensor, "texts length features"], Bool[Tensor, "texts length"]]:
        """The encoder's last hidden states [texts, length, features], and which of them are real.

        All of SigLIP's are: its padding counts as it did in its training.
        """
        hidden = self._output(input_ids, attention_mask).last_hidden_state
        real = torch.ones_like(attention_mask) if self.fixed_length else attention_mask
        return hidden, real.bool()

    @property
    def fixed_length(self) -> bool:
        """SigLIP reads its last position, padding included: it must be padded as it was trained."""
        return "siglip" in self.settings.model_type


class ImageTower(Tower):
    """uint8 pictures to one pooled vector; scaling and normalisation happen here, on the device.

    Raises:
        ConfigError: SigLIP2's NaFlex variant, which takes patches of many shapes, not pictures.
    """

    mean: Tensor
    std: Tensor

    used = "vision_model"
    unused = ("text_model", "text_projection")

    def __init__(self, encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(encoder)
        if self.settings.model_type.startswith("siglip2"):
            raise ConfigError(
                f"image_encoder.path: {self.settings.name_or_path} is a NaFlex SigLIP2; expected "
                "one of fixed resolution, such as google/siglip2-base-patch16-224"
            )
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _output(self, image: Tensor) -> Any:
        scale = 1 / (255 * self.std)
        # (image / 255 - mean) / std, in one pass.
        pixels = torch.addcmul(
            -self.mean / self.std,
            image.float().contiguous(memory_format=torch.channels_last),
            scale,
        )
        run = getattr(self.encoder, "get_image_features", self.encoder)
        with FastDepthwise() if image.device.type == "cpu" else nullcontext():
            return run(pixel_values=pixels)

    def forward(
        self, image: UInt8[Tensor, "pictures 3 height width"]
    ) -> Float[Tensor, "pictures features"]:
        """Pooled vectors [pictures, features]."""
        output = self._output(image)
        if output.pooler_output is not None:
            return output.pooler_output.flatten(1)
        return output.last_hidden_state[:, 0]

    def tokens(
        self, image: UInt8[Tensor, "pictures 3 height width"]
    ) -> tuple[Float[Tensor, "pictures tokens features"], Bool[Tensor, "pictures tokens"]]:
        """The encoder's last hidden states [pictures, tokens, features], and that all are real.

        The map of a convolutional network becomes a token a place, row by row.
        """
        hidden = self._output(image).last_hidden_state
        if hidden.ndim == 4:
            # Some of timm's, Swin among them, put the channels last.
            layout = getattr(getattr(self.encoder, "timm_model", None), "output_fmt", "NCHW")
            hidden = hidden if layout == "NHWC" else hidden.permute(0, 2, 3, 1)
            hidden = hidden.flatten(1, 2)
        return hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
