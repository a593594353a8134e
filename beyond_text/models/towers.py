"""Wraps a Hugging Face encoder as a tower: it returns the pooled vector or all tokens of an input.

Any class that AutoModel loads will do: BERT-like encoders, decoders such as Qwen3, both halves of
CLIP, SigLIP and SigLIP2, DINOv2, DINOv3, ViT, Swin, ConvNeXt, and timm's through TimmWrapper. A
two-headed model keeps only the half that is used. LoRA is added by peft and merged at the end.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig

from beyond_text.config.settings import ConfigError, Lora
from beyond_text.models.attention import (
    POSITIONS_AFTER_PADDING,
    attends_both_ways,
    fast_attention,
    token_pairs,
)
from beyond_text.models.cpu.dropout import FastDropout
from beyond_text.models.cpu.packed import PackedAttention, Packing
from beyond_text.models.digests import digest_of
from beyond_text.models.layout import Gives, Layout
from beyond_text.models.pooling import first_on_the_left, pool

Texts = Int[Tensor, "texts length"]


class Tower(nn.Module):
    """Holds an encoder, or the used half of a two-headed one; adds LoRA, merges it, compiles."""

    # Of a two-headed model: the attribute that is the tower's half, and those that it drops.
    used = ""
    unused: tuple[str, ...] = ()
    # Whether the encoder is compiled for inputs of any size; None lets the compiler decide.
    dynamic: bool | None = None
    compiled = False
    # Returns what the model reads of a frozen tower, a row of numbers for each input (`layout`):
    # from a cache if it is there, else computed.
    cached: Callable[[Tower, Sequence[Tensor]], Tensor] | None = None
    # What the model reads of this tower, and its sizes.
    gives: Gives = "vector"
    layout = Layout()
    # Whether the encoder runs as it is, to be exported; texts are then padded on the right.
    as_it_is = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        for name in (*self.unused, "logit_scale", "logit_bias"):
            if hasattr(encoder, name):
                delattr(encoder, name)
        self.encoder = encoder

    def add_lora(self, lora: Lora) -> None:
        """Adds adapters to the encoder and freezes its own weights; rank 0 changes nothing.

        Raises:
            ConfigError: the encoder has no layer of a wanted name, or no linear one, whose adapter
                would get a gradient.
        """
        if lora.rank > 0:
            # Imported here, since a search has no use for peft.
            from beyond_text.models.lora import with_adapters

            name = str(self.settings.name_or_path)
            self.encoder = with_adapters(self, self.encoder, lora, self._probe, name)

    def digest(self) -> str:
        """Returns the SHA-256 of the encoder's settings and weights."""
        return digest_of(self.state_dict(), self.settings.to_json_string())

    def _probe(self) -> Tensor:
        """Returns what the model reads of this tower, for a small input."""
        inputs = self.probe_inputs(next(self.encoder.parameters()).device)
        return self.flat(*inputs)

    def probe_inputs(self, device: torch.device) -> tuple[Tensor, ...]:
        """Returns an input that the encoder takes."""
        raise NotImplementedError

    def compile_encoder(self) -> None:
        """Compiles the encoder in place, so that its weights keep their names."""
        getattr(self.encoder, self.used, self.encoder).compile(dynamic=self.dynamic)
        self.compiled = True

    def read(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns what the model reads of the inputs, where possible from the cache.

        That is (vectors,), or (tokens, mask), or (vectors, patches, mask).
        """
        if self.cached is None:
            return self.run(*inputs)
        rows = self.cached(self, inputs[:2])
        if self.gives == "vector":
            return (rows,)
        vectors, tokens = self.layout.parted(rows)
        mask = self.real(*inputs[:2])
        tokens = tokens[:, : mask.shape[1]]
        return (vectors, tokens, mask) if self.gives == "both" else (tokens, mask)

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns what `read` does, computed."""
        # Of texts, without their lengths.
        return self.tokens(*inputs[:2]) if self.gives == "tokens" else (self(*inputs),)  # type: ignore

    def measured(self, setting: str, *inputs: Tensor) -> Layout:
        """Returns the sizes of what the model reads of the largest inputs.

        Raises:
            ConfigError: the encoder cannot take them; names `setting`, which makes them so large.
        """
        try:
            first, *further = self.run(*inputs)
        except ConfigError:
            raise
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            name = self.settings.name_or_path
            raise ConfigError(f"{setting}: not for {name}: {error}") from error
        if self.gives == "tokens":
            return Layout(0, *first.shape[1:])
        return Layout(first.shape[1], *(further[0].shape[1:] if further else ()))

    def flat(self, *inputs: Tensor) -> Float[Tensor, "inputs size"]:
        """Returns what the model reads, computed, as a row of numbers for each input."""
        first, *further = self.run(*inputs)
        if self.gives == "vector":
            return first
        parts = (first, further[0]) if self.gives == "both" else (first[:, 0, :0], first)
        return self.layout.joined(*parts)

    def real(self, *inputs: Tensor) -> Bool[Tensor, "inputs length"]:
        """Returns which tokens of the inputs are real: all, unless a tower knows better."""
        return torch.ones(
            len(inputs[0]), self.layout.tokens, dtype=torch.bool, device=inputs[0].device
        )

    def merged_encoder(self) -> nn.Module:
        """Returns the encoder with adapters merged in; its weights have their names from before."""
        if not hasattr(self.encoder, "merge_and_unload"):
            return self.encoder
        return copy.deepcopy(self.encoder).merge_and_unload()  # type: ignore[operator]

    @property
    def settings(self) -> PretrainedConfig:
        """The encoder's Hugging Face configuration."""
        return self.encoder.config  # type: ignore[return-value]


class TextTower(Tower):
    """Encodes texts; `pooling` is the model's text features, its pooler, or one of `POOLINGS`.

    `auto` takes the model's text features where it has them (CLIP, SigLIP), else the mean over
    real tokens. `head` maps what is pooled. Texts may be padded on either side. `buckets` splits a
    batch by length, so that short texts are not padded to the longest. On a CPU, texts are packed
    (`cpu/packed.py`) where the encoder allows it. Both change the speed only.
    """

    used = "text_model"
    dynamic = True
    unused = ("vision_model", "visual_projection")

    def __init__(
        self,
        encoder: nn.Module,
        pooling: str = "auto",
        buckets: int = 4,
        head: nn.Sequential | None = None,
    ) -> None:
        super().__init__(encoder)
        self.head = head if head is not None else nn.Sequential()
        self.packing_fails = False
        self.pooling = pooling
        self.buckets = buckets

    def _packs(self, ids: Tensor) -> bool:
        """Returns whether to run without padding: if the encoder allows it, where it is faster.

        A compiled encoder would be compiled again for every number of tokens.
        """
        return (
            ids.device.type == "cpu"
            and not self.as_it_is
            and not self.compiled
            and attends_both_ways(self.settings)
            and self.pooling != "pooler"
            and not self.packing_fails
        )

    def _packed(self, ids: Tensor, mask: Tensor) -> Any:
        """Runs the encoder without padding; its output is zero at the padding.

        Returns None where not every layer attended by the packed attention, so that texts have
        read each other.
        """
        packing = Packing(mask, self.buckets)
        positions = packing.positions
        if self.settings.model_type in POSITIONS_AFTER_PADDING:
            positions = positions + self.settings.pad_token_id + 1
        with FastDropout(), PackedAttention(packing) as attention:
            output = self.encoder(input_ids=packing.pack(ids), position_ids=positions)
        if attention.calls != self.settings.num_hidden_layers:
            return None
        output.last_hidden_state = packing.unpack(output.last_hidden_state)
        return output

    def _output(self, ids: Tensor, mask: Tensor) -> Any:
        if self._packs(ids):
            output = self._packed(ids, mask)
            if output is not None:
                return output
            self.packing_fails = True
            warnings.warn(
                f"{self.settings.name_or_path}: does not attend by PyTorch's "
                "scaled_dot_product_attention in every layer; its texts are padded, not packed",
                stacklevel=2,
            )
        # SigLIP was trained without a mask: it attends to padding.
        attention_mask = None if self.fixed_length else mask
        if attends_both_ways(self.settings) and not self.as_it_is:
            attention_mask = token_pairs(mask)
        run = getattr(self.encoder, "get_text_features", self.encoder)
        with fast_attention(ids.device):
            return run(input_ids=ids, attention_mask=attention_mask)

    def _pool(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "texts features"]:
        output = self._output(ids, mask)
        has_features = self.pooling == "auto" and hasattr(self.encoder, "get_text_features")
        if has_features or self.pooling == "pooler":
            return self.head(pooler_output(output, self.settings))
        name = "mean" if self.pooling == "auto" else self.pooling
        return self.head(pool(name, output.last_hidden_state, mask))

    def forward(
        self, input_ids: Texts, attention_mask: Texts, lengths: Int[Tensor, " texts"] | None = None
    ) -> Float[Tensor, "texts features"]:
        """Returns pooled vectors [texts, features]; given `lengths` on the host are not counted."""
        input_ids, attention_mask = self._aligned(input_ids, attention_mask)
        if self.as_it_is:
            return self._pool(input_ids, attention_mask)
        one_bucket = self.buckets == 1 or len(input_ids) < 8 * self.buckets
        if one_bucket or self.fixed_length or self._packs(input_ids):
            return self._pool(input_ids, attention_mask)
        known, pooled = attention_mask.sum(dim=1).cpu() if lengths is None else lengths, []
        length, device = known.numpy(), input_ids.device
        order = length.argsort(kind="stable")
        for part in np.array_split(order, self.buckets):
            longest, rows = int(length[part[-1]]), torch.from_numpy(part).to(device)
            pooled.append(self._pool(input_ids[rows, :longest], attention_mask[rows, :longest]))
        return torch.cat(pooled)[torch.from_numpy(order.argsort()).to(device)]

    def tokens(
        self, input_ids: Texts, attention_mask: Texts
    ) -> tuple[Float[Tensor, "texts length features"], Bool[Tensor, "texts length"]]:
        """Returns the last hidden states [texts, length, features], and which tokens are real.

        SigLIP's padding counts as real, as it did in its training. The tokens of a text that was
        padded on the left are moved to the first columns.
        """
        mask = self.real(input_ids, attention_mask)
        input_ids, attention_mask = self._aligned(input_ids, attention_mask)
        return self._output(input_ids, attention_mask).last_hidden_state, mask

    def real(self, *inputs: Tensor) -> Bool[Tensor, "texts length"]:
        """Returns which tokens of texts `tokens` calls real."""
        _, mask = self._aligned(*inputs)
        return torch.ones_like(mask).bool() if self.fixed_length else mask.bool()

    def _aligned(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        as_given = self.fixed_length or self.as_it_is
        return (ids, mask) if as_given else first_on_the_left(ids, mask)

    def probe_inputs(self, device: torch.device) -> tuple[Tensor, ...]:
        """Returns two short texts."""
        ids = torch.ones(2, 4, dtype=torch.long, device=device)
        return ids, ids

    @property
    def fixed_length(self) -> bool:
        """Whether all texts are padded to `max_length`, as SigLIP was trained.

        It pools the last position, also where that is padding.
        """
        return "siglip" in self.settings.model_type


def pooler_output(output: Any, settings: PretrainedConfig) -> Tensor:
    """Returns what the encoder's own pooler gives; refuses an encoder without one."""
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        raise ConfigError(
            f"pooling=pooler: {settings.name_or_path} has no pooler; expected mean, cls or auto"
        )
    return pooled
