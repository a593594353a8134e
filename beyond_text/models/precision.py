"""Chooses the floating-point precision that a run computes in."""

from __future__ import annotations

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """Returns whether the device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def precision_of(setting: str) -> str:
    """Returns Lightning's precision; `auto` is bfloat16 autocast where the device has it natively.

    Elsewhere `auto` is float32.
    """
    if setting != "auto":
        return setting
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if bf16_is_fast(device) else "32-true"


def uses_bf16(setting: str) -> bool:
    """Returns whether a precision setting means bfloat16 autocast on this machine."""
    return precision_of(setting) == "bf16-mixed"
