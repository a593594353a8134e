"""TODO models.attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# All but cuDNN's, which plans each new shape for a tenth of a second, and texts come in many.
ATTENTION_OF_ANY_LENGTH = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """What is fast for texts of all lengths: in parts where a CPU trains, without cuDNN's on a GPU.

    On a CPU the backward pass of the fused one is slower than that of its parts.
    """
    if device.type == "cuda":
        return sdpa_kernel(ATTENTION_OF_ANY_LENGTH)
    slow = device.type == "cpu" and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()
