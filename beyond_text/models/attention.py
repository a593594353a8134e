"""Chooses what is fastest for texts of many lengths on each device: kernels and masks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PretrainedConfig

# All but cuDNN's: it plans each new shape for a tenth of a second, and texts have many lengths.
ATTENTION_OF_ANY_LENGTH = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# Encoders that take positions: a text's first one is 0, or the one after that of padding.
POSITIONS_FROM_ZERO = ("bert",)
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta")


def fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context: no cuDNN attention on a GPU, unfused attention where a CPU trains.

    On a CPU the backward pass of fused attention is slower than that of its separate steps.
    """
    if device.type == "cuda":
        return sdpa_kernel(ATTENTION_OF_ANY_LENGTH)
    trains_on_cpu = device.type == "cpu" and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if trains_on_cpu else nullcontext()


def attends_both_ways(settings: PretrainedConfig) -> bool:
    """Returns whether an encoder's tokens all attend to each other, by PyTorch's own attention."""
    return (
        settings.model_type in (*POSITIONS_FROM_ZERO, *POSITIONS_AFTER_PADDING)
        and settings._attn_implementation == "sdpa"
        and not getattr(settings, "is_decoder", False)
    )


def token_pairs(mask: Int[Tensor, "texts length"]) -> Bool[Tensor, "texts 1 length length"]:
    """Returns which token attends to which, where all attend to those that a mask marks.

    Of a mask by token, transformers would ask the device whether all are real, and wait for it.
    """
    return mask.bool()[:, None, None, :].expand(-1, -1, mask.shape[1], -1)
