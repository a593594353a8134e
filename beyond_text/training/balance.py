"""Keeps a mixture's router from sending every product to one expert."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from beyond_text.models.moe import Routing


def load_balance(
    routing: Routing,
    over_all: Callable[[Tensor], Tensor] = lambda sums: sums,
    processes: int = 1,
) -> Float[Tensor, ""]:
    """Returns N sum_i f_i P_i over the products of all processes; 0 without any.

    Of N experts, f_i is the share of the products whose largest weight is that of expert i, and P_i
    the mean of its weights (Switch Transformer, Fedus et al. 2021, arXiv 2101.03961, eq. 4 to 6).
    It is 1 where all experts have the same load, N where one has all, and only P has a gradient.
    `over_all` adds up a tensor over the processes. Each process has the gradient of its own
    products alone, times the number of processes, as the gradients of all are averaged afterwards.
    """
    shares, counted = routing.shares, routing.counted.unsqueeze(1)
    number = shares.shape[1]
    experts = torch.arange(number, device=shares.device)
    chosen = shares.detach().argmax(dim=1, keepdim=True) == experts
    own = (shares * counted).sum(dim=0)
    sums = over_all(
        torch.stack([own.detach(), (chosen * counted).sum(dim=0), counted.sum().expand(number)])
    )
    products = sums[2, 0].clamp(min=1)
    load = sums[1] / products
    mean = own / products
    if processes > 1:
        mean = mean * processes
        mean = mean + (sums[0] / products - mean).detach()
    return number * (load * mean).sum()
