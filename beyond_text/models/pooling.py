"""Makes one vector of a text's tokens; the first token of a text stands in the first column."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the real tokens."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _mean_sqrt(tokens: Tensor, mask: Tensor) -> Tensor:
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1).sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    weight = (mask * places).unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _maximum(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    last = (mask.sum(dim=1) - 1).clamp(min=0)
    return tokens[torch.arange(len(tokens), device=tokens.device), last]


# From tokens [texts, length, features] and their mask [texts, length] to [texts, features].
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "cls": lambda tokens, _: tokens[:, 0],
    "last": _last,
    "max": _maximum,
    "mean_sqrt": _mean_sqrt,
    "weighted_mean": _weighted_mean,
}


def pool(name: str, tokens: Tensor, mask: Tensor) -> Tensor:
    """Pools by a name of `POOLINGS`, or by several joined by `+`, whose vectors are joined."""
    return torch.cat([POOLINGS[part](tokens, mask) for part in name.split("+")], dim=1)


def first_on_the_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Moves padding behind the tokens, wherever it stood."""
    order = mask.argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), mask.gather(1, order)
