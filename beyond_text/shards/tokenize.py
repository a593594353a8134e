"""Turns texts into the tokens of an encoder; imports nothing that reads pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from beyond_text.shards.batch import Tokens

# A Hugging Face tokenizer, as far as it is used here.
Tokenizer = Callable[..., Mapping[str, Tensor]]


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_length: int, fixed: bool) -> Tokens:
    """Tokenizes distinct texts, padded to the longest, or to max_length where `fixed`."""
    if not texts:
        empty = torch.zeros(0, 1, dtype=torch.long)
        return Tokens(empty, empty)
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        padding="max_length" if fixed else "longest",
        return_token_type_ids=False,
        return_tensors="pt",
    )
    # Some tokenizers, SigLIP's among them, give no mask: every position counts.
    mask = encoded.get("attention_mask", torch.ones_like(encoded["input_ids"]))
    return Tokens(encoded["input_ids"], mask)
