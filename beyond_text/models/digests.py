"""A digest of weights, by which what was made with them is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_of(state: Mapping[str, Tensor], *words: str) -> str:
    """Returns the SHA-256 of words, and of tensors with their names, types and shapes."""
    digest = hashlib.sha256("".join(words).encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
