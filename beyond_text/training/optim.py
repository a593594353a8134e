"""The learning-rate table: rate 0 freezes a group, the rest become AdamW groups on one schedule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from beyond_text.config.settings import ConfigError, LearningRates
from beyond_text.models.two_tower import TwoTower


def freeze(model: TwoTower, rates: LearningRates) -> None:
    """Switches gradients off in every group of rate 0; LoRA has done so for wrapped encoders."""
    for name, members in model.groups().items():
        if getattr(rates, name) == 0:
            for _, parameter in members:
                parameter.requires_grad_(False)


def frozen_towers(model: TwoTower) -> list[str]:
    """Names of the towers that nothing moves: these stay in evaluation mode."""
    return [
        name
        for name, tower in model.towers.items()
        if not any(parameter.requires_grad for parameter in tower.parameters())
    ]


def adamw(
    model: TwoTower,
    rates: LearningRates,
    weight_decay: float,
    loss_weights: Iterable[nn.Parameter] = (),
    fused: bool = True,
) -> AdamW:
    """AdamW with a group per row of the table; vectors, scalars and temperatures do not decay.

    Learned weights of the losses go at the rate of the temperatures, as no part of the model.
    `fused` steps all of a group at once; it takes the scale off float16's gradients by itself, and
    so after they were clipped.

    Raises:
        ConfigError: nothing moves.
    """
    groups: list[dict[str, Any]] = []
    for name, members in model.groups().items():
        moving = [parameter for _, parameter in members if parameter.requires_grad]
        matrices = [p for p in moving if p.ndim > 1]
        others = [p for p in moving if p.ndim <= 1]
        rate = asdict(rates)[name]
        if matrices:
            groups.append(
                {"params": matrices, "lr": rate, "weight_decay": weight_decay, "name": name}
            )
        if others:
            groups.append(
                {"params": others, "lr": rate, "weight_decay": 0.0, "name": f"{name} (no decay)"}
            )
    if not groups:
        raise ConfigError("lr: every group is frozen; give one of them a rate above 0")
    if moving := list(loss_weights):
        groups.append(
            {"params": moving, "lr": rates.temperature, "weight_decay": 0.0, "name": "loss_weights"}
        )
    return AdamW(groups, fused=fused)


def warmup_cosine(optimizer: AdamW, steps: int, warmup: float, floor: float = 0.0) -> LambdaLR:
    """Linear warm-up over the share `warmup` of the steps, then a cosine to `floor` of the peak."""
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, round(warmup * steps), steps, min_lr_rate=floor
    )
