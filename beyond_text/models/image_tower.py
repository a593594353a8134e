"""Wraps a Hugging Face image encoder as a tower: it returns the pooled vector or the patches."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from beyond_text.config.settings import ConfigError
from beyond_text.models.cpu.depthwise import FastDepthwise
from beyond_text.models.towers import Tower, pooler_output

# What image encoders name the token that stands for the whole picture.
CLASS_TOKENS = ("cls_token", "class_embedding")


class ImageTower(Tower):
    """Encodes uint8 pictures, which it scales and normalises itself, on the device.

    `pooling` is `pooler`, `cls` or `mean` (of the patches); `auto` is the model's own image feature
    or pooler, else the first token where that is a class token, else the mean.

    Raises:
        ConfigError: the encoder is a NaFlex SigLIP2, which takes patches of many shapes.
    """

    mean: Tensor
    std: Tensor

    used = "vision_model"
    unused = ("text_model", "text_projection")

    # Pixels a side of the pictures that the encoder is run on, where known.
    size = 0

    def __init__(
        self,
        encoder: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        pooling: str = "auto",
    ) -> None:
        super().__init__(encoder)
        self.pooling = pooling
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
        slow = self.as_it_is or image.device.type != "cpu"
        with nullcontext() if slow else FastDepthwise():
            return run(pixel_values=pixels)

    def forward(
        self, image: UInt8[Tensor, "pictures 3 height width"]
    ) -> Float[Tensor, "pictures features"]:
        """Returns pooled vectors [pictures, features]."""
        return self._pool(self._output(image))

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns what `read` does, computed; vectors and patches by one run of the encoder."""
        if self.gives != "both":
            return super().run(*inputs)
        output = self._output(*inputs)
        patches = self._as_sequence(output.last_hidden_state)[:, self._first_patch :]
        mask = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        return self._pool(output), patches, mask

    def _pool(self, output: Any) -> Float[Tensor, "pictures features"]:
        has_pooler = getattr(output, "pooler_output", None) is not None
        if self.pooling == "pooler" or (self.pooling == "auto" and has_pooler):
            return pooler_output(output, self.settings).flatten(1)
        tokens = self._as_sequence(output.last_hidden_state)
        first = self._first_patch
        if self.pooling == "cls" or (self.pooling == "auto" and first):
            if not first:
                raise ConfigError(
                    f"image_encoder.pooling=cls: {self.settings.name_or_path} has no class token"
                )
            return tokens[:, 0]
        return tokens[:, first:].mean(dim=1)

    @property
    def _first_patch(self) -> int:
        """The index of the first token that is a patch: class token and registers stand before."""
        wrapped = getattr(self.encoder, "timm_model", None)
        if wrapped is not None:
            return int(getattr(wrapped, "num_prefix_tokens", 0) or 0)
        names = {name.split(".")[-1] for name, _ in self.encoder.named_parameters()}
        if names.isdisjoint(CLASS_TOKENS):
            return 0
        return 1 + int(getattr(self.settings, "num_register_tokens", 0) or 0)

    def probe_inputs(self, device: torch.device) -> tuple[Tensor, ...]:
        """Returns a grey picture."""
        settings = getattr(self.settings, "vision_config", self.settings)
        timm_settings = getattr(self.settings, "pretrained_cfg", None) or {}
        size = self.size or getattr(settings, "image_size", None)
        size = size or timm_settings.get("input_size", (64,))[-1]
        return (torch.full((1, 3, size, size), 128, dtype=torch.uint8, device=device),)

    def tokens(
        self, image: UInt8[Tensor, "pictures 3 height width"]
    ) -> tuple[Float[Tensor, "pictures tokens features"], Bool[Tensor, "pictures tokens"]]:
        """Returns the last hidden states [pictures, tokens, features], and a mask of ones.

        A convolutional network's feature map becomes one token per position, row by row.
        """
        hidden = self._as_sequence(self._output(image).last_hidden_state)
        return hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)

    def _as_sequence(self, hidden: Tensor) -> Tensor:
        """Returns tokens [pictures, tokens, features], also of a feature map."""
        if hidden.ndim == 4:
            # Some of timm's models, Swin among them, put the channels last.
            layout = getattr(getattr(self.encoder, "timm_model", None), "output_fmt", "NCHW")
            hidden = hidden if layout == "NHWC" else hidden.permute(0, 2, 3, 1)
            hidden = hidden.flatten(1, 2)
        return hidden
