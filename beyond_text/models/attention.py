"""Chooses the attention kernel that is fastest for texts of many lengths on each device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# All but cuDNN's: it plans each new shape for a tenth of a second, and texts have many lengths.
ATTENTION_OF_ANY_LENGTH = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context: no cuDNN attention on a GPU, unfused attention where a CPU trains.

    On a CPU the backward pass of fused attention is slower than that of its separate steps.
    """
    if device.type == "cuda":
        return sdpa_kernel(ATTENTION_OF_ANY_LENGTH)
    trains_on_cpu = device.type == "cpu" and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if trains_on_cpu else nullcontext()
