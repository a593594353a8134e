"""Weighs the objectives of a stage: fixed weights, or learned ones on top of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LossWeights(nn.Module):
    """Adds up the losses of the objectives, by fixed weights or by learned uncertainty.

    Fixed: sum_i w_i L_i. Learned: sum_i w_i (L_i exp(-s_i) / 2 + s_i / 2) with s_i = 0 at first,
    the homoscedastic weighting of Kendall et al. 2018 (arXiv 1705.07115); s is the log-variance. It
    is our choice for what UniECS calls adaptive without giving an equation.
    """

    def __init__(self, weights: Mapping[str, float], learned: bool) -> None:
        super().__init__()
        self.fixed = dict(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if learned else None

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Returns the weighted sum of the losses."""
        if self.log_variance is None:
            return torch.stack([w * losses[name] for name, w in self.fixed.items()]).sum()
        terms = []
        for (name, weight), s in zip(self.fixed.items(), self.log_variance, strict=True):
            term = weight * (losses[name] * (-s).exp() / 2 + s / 2)
            # A loss of 0 means that the batch had nothing to compare, not that the model is
            # certain: without this, s would fall without end.
            terms.append(torch.where(losses[name] == 0, 0.0, term))
        return torch.stack(terms).sum()

    def learned(self) -> dict[str, Float[Tensor, ""]]:
        """Returns the factor that multiplies each loss now; empty with fixed weights."""
        if self.log_variance is None:
            return {}
        scales = (-self.log_variance.detach()).exp() / 2
        return {
            name: w * scale for (name, w), scale in zip(self.fixed.items(), scales, strict=True)
        }
