"""Adds low-rank adapters to an encoder, where they get a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import peft
import torch
from torch import Tensor, nn

from beyond_text.config.settings import ConfigError, Lora


def with_adapters(
    tower: nn.Module, encoder: nn.Module, lora: Lora, run: Callable[[], Tensor], name: str
) -> nn.Module:
    """Returns the encoder with adapters in every wanted layer that shapes what `run` returns.

    `run` runs `tower`, which holds `encoder`. Layers that it does not read, such as a pooler where
    tokens are averaged, get no adapter; neither do those inside `nn.MultiheadAttention`, which
    reads their weights past an adapter.

    Raises:
        ConfigError: no layer is left, of all or of one of the wanted names.
    """
    excluded = _inside_attention(encoder)
    found = _add(encoder, lora, excluded, name)
    tower.encoder = found
    idle = _without_gradient(tower, _adapters(found), run)
    if idle:
        found = _add(cast(Any, found).unload(), lora, excluded + idle, name)
    names = list(_adapters(found))
    for target in lora.targets:
        if not any(n == target or n.endswith(f".{target}") for n in names):
            raise ConfigError(
                f"lora.targets: {name} has no layer {target} whose adapter would get a gradient"
            )
    return found


def _add(encoder: nn.Module, lora: Lora, excluded: list[str], name: str) -> nn.Module:
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets or "all-linear",
        exclude_modules=excluded or None,
    )
    try:
        return peft.get_peft_model(encoder, settings)  # type: ignore[arg-type]
    except ValueError as error:
        targets = ", ".join(lora.targets) or "any linear layer"
        raise ConfigError(
            f"lora.targets: {name} has no layer to adapt that would get a gradient, expected "
            f"{targets}; set lora.rank to 0 to train the encoder itself"
        ) from error


def _inside_attention(encoder: nn.Module) -> list[str]:
    return [
        f"{outer}.{inner}"
        for outer, module in encoder.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner, _ in module.named_modules()
        if inner
    ]


def _adapters(encoder: nn.Module) -> dict[str, Tensor]:
    """Returns a weight of each adapter, by its layer's name in the encoder as it was."""
    return {
        name.split(".lora_B.")[0].removeprefix("base_model.model."): weight
        for name, weight in encoder.named_parameters()
        if ".lora_B." in name
    }


def _without_gradient(
    tower: nn.Module, adapters: dict[str, Tensor], run: Callable[[], Tensor]
) -> list[str]:
    training = tower.training
    tower.eval()
    with torch.enable_grad():
        gradients = torch.autograd.grad(run().sum(), list(adapters.values()), allow_unused=True)
    tower.train(training)
    return [name for name, value in zip(adapters, gradients, strict=True) if value is None]
