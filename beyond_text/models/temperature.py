"""The learned temperature that a contrastive loss divides cosines by."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Temperature(nn.Module):
    """Learns the temperature of one pair of views, and the bias that SigLIP's loss adds.

    The logarithm is what is learned. It is clamped after each step.
    """

    def __init__(self, start: float, smallest: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(start).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))
        self.smallest = smallest

    @property
    def value(self) -> Float[Tensor, ""]:
        """The temperature."""
        return self.log_temperature.exp()

    @torch.no_grad()
    def restart(self, value: float) -> None:
        """Goes on from another temperature."""
        self.log_temperature.copy_(torch.tensor(value).log())

    @torch.no_grad()
    def clamp(self) -> None:
        """Keeps the temperature between its smallest value and 1."""
        self.log_temperature.clamp_(math.log(self.smallest), 0.0)
