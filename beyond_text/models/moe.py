"""A mixture of experts beside the bilinear product, and how evenly its router loads them."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.models.bilinear import BilinearFusion
from beyond_text.models.fusing import Column, Vectors
from beyond_text.models.layers import Chunkwise

Shares = Float[Tensor, "rows experts"]


class Routing(NamedTuple):
    """The weight of each expert for each row of a training step, and which rows hold a product."""

    shares: Shares
    counted: Bool[Tensor, " rows"]


class MoeFusion(BilinearFusion):
    """Computes z = normalise(W_t x + W_v y + W_o gelu(W_h [mix; tanh(U x) o tanh(V y)])).

    mix = sum_m p_m E_m(x, y), E_m = B_m gelu(A_m [x; y; flags] + a_m) + b_m, and p =
    softmax(W [x; y; x o y; flags]): a mixture of MLPs beside the bilinear product. It follows what
    a secondary source says of the paper's second version (MLP experts, a load-balancing loss),
    whose equations are not public. Ours: the residual, W_o = 0 at the start, the flags for router
    and experts, that every expert answers every row, and the sizes: four experts together as wide
    as `rank`, product and hidden layer half as wide. With one modality the product is zero, but the
    mixture stays. 1.2M parameters.

    Attributes:
        routing: of the last training step, which `training/balance.py` balances.
    """

    experts: ClassVar[int] = 4

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, max(1, rank // 2))
        width = max(1, rank // self.experts)
        self.router = nn.Linear(3 * dim + 2, self.experts)
        self.expert_hidden = nn.Linear(2 * dim + 2, self.experts * width)
        self.expert_out = Chunkwise(self.experts, width, terms=1)
        self.hidden = nn.Linear(width + self.rank, self.rank)
        self.routing: Routing | None = None

    def shares(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Shares:
        """Returns the weight of each expert for each sample; the weights sum to one."""
        return self.router(torch.cat([x, y, x * y, has_text, has_image], dim=1)).softmax(dim=1)

    def term(self, x: Vectors, y: Vectors, has_text: Column, has_image: Column) -> Vectors:
        """Applies the hidden layer to the mixture and the product, which is zero without both."""
        joined = torch.cat([x, y, has_text, has_image], dim=1)
        answers = self.expert_out(F.gelu(self.expert_hidden(joined)))
        shares = self.shares(x, y, has_text, has_image)
        if self.training:
            self._note(Routing(shares, (has_text + has_image).squeeze(1) > 0))
        mix = (shares.unsqueeze(2) * answers.unflatten(1, (self.experts, -1))).sum(1)
        product = has_text * has_image * self.product(x, y)
        return self.out(F.gelu(self.hidden(torch.cat([mix, product], dim=1))))

    def _note(self, routing: Routing) -> None:
        """Keeps the routing of a training step, and logs what it tells.

        `router_entropy` is 1 where every expert has the same weight for every product, and 0 where
        each product has one expert; `expert_share` is an expert's mean weight.
        """
        self.routing = routing
        shares = routing.shares.detach()
        weight = routing.counted.unsqueeze(1) / routing.counted.sum().clamp(min=1)
        entropy = -(torch.xlogy(shares, shares) * weight).sum() / math.log(self.experts)
        self.logged["router_entropy"] = entropy
        for number, share in enumerate((shares * weight).sum(0)):
            self.logged[f"expert_share/{number}"] = share
