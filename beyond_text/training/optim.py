"""Turns the learning-rate table into frozen groups, AdamW's groups and one schedule.

A rate of 0 freezes a parameter group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from beyond_text.config.settings import ConfigError, LearningRates
from beyond_text.models.two_tower import TwoTower


def freeze(model: TwoTower, rates: LearningRates) -> None:
    """Freezes every group of rate 0. LoRA has already frozen the encoders that it wraps."""
    for name, members in model.groups().items():
        if getattr(rates, name) == 0:
            for _, parameter in members:
                parameter.requires_grad_(False)


def frozen_towers(model: TwoTower) -> list[str]:
    """Returns the names of the towers without a trainable parameter; they stay in eval mode."""
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
    """Returns AdamW with the groups of the table; vectors, scalars and temperatures do not decay.

    Learned weights of the losses are no part of the model and get the rate of the temperatures.
    `fused` updates all of a group at once. It also unscales float16's gradients by itself, which
    would be after they were clipped.

    Raises:
        ConfigError: every group is frozen.
    """
    groups: list[dict[str, Any]] = []
    for name, members in model.groups().items():
        trainable = [parameter for _, parameter in members if parameter.requires_grad]
        matrices = [p for p in trainable if p.ndim > 1]
        others = [p for p in trainable if p.ndim <= 1]
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
    if learned := list(loss_weights):
        rate = rates.temperature
        groups.append({"params": learned, "lr": rate, "weight_decay": 0.0, "name": "loss_weights"})
    return AdamW(groups, fused=fused)


class StartPenalty:
    """Pulls trained encoder weights towards those that a run starts with; made at its start.

    After each step of AdamW, w <- w - rate penalty (w - w0): the gradient penalty (w - w0) of half
    the squared distance (L2-SP, Li et al. 2018, arXiv 1802.01483), decoupled from AdamW's scaling
    as its weight decay is (Loshchilov and Hutter 2019, arXiv 1711.05101). A step of AdamW moves a
    weight by about its rate, so a weight ends within about 1 / penalty of its start, whatever the
    size of its gradients. Of an encoder with adapters, these alone are trained and pulled.

    It holds a copy of the pulled weights (4 bytes each), which is no part of a checkpoint: a
    resumed run is built from its start again. Every process computes the same.
    """

    def __init__(self, model: TwoTower, penalty: float) -> None:
        self.penalty = penalty
        self._starts = {
            parameter: parameter.detach().clone()
            for name, members in model.groups().items()
            if penalty and name.endswith("_encoder")
            for _, parameter in members
            if parameter.requires_grad
        }

    def __deepcopy__(self, _: Any) -> StartPenalty:
        """Returns itself: the averaged copy of a module takes no steps."""
        return self

    def attach(self, optimizer: AdamW) -> None:
        """Makes every step of the optimizer pull; one that is skipped (float16) does not."""
        if self._starts:
            optimizer.register_step_post_hook(lambda *_: self._pull(optimizer))

    @torch.no_grad()
    def _pull(self, optimizer: AdamW) -> None:
        for group in optimizer.param_groups:
            pulled = [p for p in group["params"] if p in self._starts]
            if not pulled:
                continue
            starts = [self._starts[p].to(p.device) for p in pulled]
            # Moved once.
            self._starts.update(zip(pulled, starts, strict=True))
            torch._foreach_lerp_(pulled, starts, group["lr"] * self.penalty)


def warmup_cosine(optimizer: AdamW, steps: int, warmup: float, floor: float = 0.0) -> LambdaLR:
    """Returns a schedule: linear warm-up over the share `warmup` of the steps, then a cosine.

    The cosine ends at the share `floor` of the peak rate.
    """
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, round(warmup * steps), steps, min_lr_rate=floor
    )
