"""TODO models.temperature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Temperature(nn.Module):
    """A learned temperature and SigLIP's bias, of one pair of views; clamped after each step."""

    def __init__(self, start: float, smallest: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(start).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))
        self.smallest = smallest

    @property
    def value(self) -> Float[Tensor, ""]:
        """The temperature that cosines are divided by."""
        return self.log_temperature.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keeps the temperature between its smallest value and 1."""
        low = torch.tensor(self.smallest).log().item()
        self.log_temperature.clamp_(low, 0.0)
