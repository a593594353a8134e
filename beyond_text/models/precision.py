"""TODO models.precision."""

from __future__ import annotations

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def precision_of(asked: str) -> str:
    """Lightning's precision; `auto` is bfloat16 autocast where the device computes it natively."""
    if asked != "auto":
        return asked
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if bf16_is_fast(device) else "32-true"
