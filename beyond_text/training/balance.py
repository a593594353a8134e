"""Keeps a mixture's router from sending every product to one expert."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from beyond_text.models.moe import Routing
from beyond_text.training.blocks import Sums, Term


def load_balance(routing: Routing) -> Term:
    """Returns N sum_i f_i P_i over the products of all processes; 0 without any.

    Of N experts, f_i is the share of the products whose largest weight is that of expert i, and P_i
    the mean of its weights (Switch Transformer, Fedus et al. 2021, arXiv 2101.03961, eq. 4 to 6).
    It is 1 where all experts have the same load, N where one has all, and only P has a gradient.
    It is summed over the processes with the losses, in their message.
    """

    def sums() -> Sums:
        shares, counted = routing.shares.float(), routing.counted.unsqueeze(1)
        experts = torch.arange(shares.shape[1], device=shares.device)
        chosen = shares.detach().argmax(dim=1, keepdim=True) == experts
        totals = torch.cat([(part * counted).sum(dim=0) for part in (shares, chosen.float())])
        return totals, counted.sum().float().expand(len(totals))

    return Term(1.0, None, sums, _balance_of)


def _balance_of(means: Float[Tensor, " both"]) -> Float[Tensor, ""]:
    """Returns the loss of the experts' mean weights, then their shares of the products."""
    mean, load = means.chunk(2)
    return len(mean) * (load * mean).sum()
