"""The learning-rate table: frozen groups stay, others move at their rate, on one schedule."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
from torch import nn

from beyond_text.config.load import load_config
from beyond_text.config.settings import (
    Config,
    ConfigError,
    LearningRates,
    Lora,
    Losses,
    TextEncoder,
)
from beyond_text.models.two_tower import TwoTower
from beyond_text.training.loss_weights import LossWeights
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.optim import adamw, freeze, frozen_towers, warmup_cosine
from tests import RECIPES
from tests.models.test_two_tower import some_batch, tiny_model

GROUPS = [item.name for item in fields(LearningRates)]
RATES = LearningRates(1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4)


def _rates(**moving: float) -> LearningRates:
    return LearningRates(**{name: moving.get(name, 0.0) for name in GROUPS})


def _loss(model: TwoTower) -> torch.Tensor:
    """Returns a loss that depends on every parameter group."""
    vectors = model.embed(some_batch(), ("query", "text", "image", "product")).vectors
    temperature = model.temperatures["query_product"]
    pairs = (vectors["query"] * (vectors["product"] + vectors["text"] * vectors["image"])).sum()
    return pairs / temperature.value + (vectors["text"] * vectors["image"]).sum()


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_with_a_rate_is_the_only_one_that_moves(folder: Path, group: str) -> None:
    model = tiny_model(folder, "bert", "timm_resnet", share_text_encoder=False).train()
    rates = _rates(**{group: 1e-2})
    freeze(model, rates)
    own = {name for name, _ in model.groups()[group]}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == own
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = adamw(model, rates, weight_decay=0.05)
    _loss(model).backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not value.equal(before[name])}
    assert moved
    assert moved <= own


def test_frozen_towers_are_those_that_nothing_moves(folder: Path) -> None:
    model = tiny_model(folder, "bert", "vit", share_text_encoder=False)
    assert frozen_towers(model) == []
    freeze(model, _rates(text_encoder=1e-4, projections=1e-3))
    assert frozen_towers(model) == ["image_tower", "own_query_tower"]


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_batch_norm_statistics_move_only_in_a_tower_that_trains(folder: Path, rate: float) -> None:
    model = tiny_model(folder, "bert", "timm_resnet")
    config = Config(losses=Losses(text_image=1.0), lr=LearningRates(image_encoder=rate))
    module = ContrastiveModule(model, config).train()
    before = {name: value.clone() for name, value in model.image_tower.named_buffers()}
    first = model.embed(some_batch(), ["image"]).vectors["image"]
    moved = {
        name
        for name, value in model.image_tower.named_buffers()
        if not value.equal(before[name]) and name.endswith(("running_mean", "running_var"))
    }
    assert bool(moved) == (rate > 0)
    assert module.training
    assert model.fusion.training
    if rate == 0:
        # A second pass of a frozen tower gives the same vectors, as it has no dropout.
        assert model.embed(some_batch(), ["image"]).vectors["image"].equal(first)


def test_every_moving_parameter_is_in_one_group_at_the_rate_of_its_row(folder: Path) -> None:
    model = tiny_model(folder, "bert", "timm_resnet", share_text_encoder=False)
    optimizer = adamw(model, RATES, weight_decay=0.05)
    rate_of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rate_of)
    assert len(rate_of) == len(list(model.parameters()))
    for name, members in model.groups().items():
        for _, parameter in members:
            decay = 0.05 if parameter.ndim > 1 else 0.0
            assert rate_of[id(parameter)] == (asdict(RATES)[name], decay)


def test_vectors_biases_norms_and_temperatures_do_not_decay(folder: Path) -> None:
    model = tiny_model(folder, "bert", "timm_resnet")
    optimizer = adamw(model, RATES, weight_decay=0.05)
    decaying = {
        id(parameter)
        for group in optimizer.param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    }
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert not decaying & {id(parameter) for parameter in module.parameters()}
        if isinstance(module, nn.Linear):
            assert id(module.weight) in decaying
            assert id(module.bias) not in decaying
    assert not decaying & {id(parameter) for parameter in model.temperatures.parameters()}
    assert {group["name"] for group in optimizer.param_groups} >= {
        "text_encoder",
        "text_encoder (no decay)",
        "temperature (no decay)",
    }


def test_with_lora_only_adapters_get_the_encoders_rate(folder: Path) -> None:
    model = tiny_model(folder, "bert", "vit")
    model.text_tower.add_lora(Lora(rank=2))
    optimizer = adamw(model, _rates(text_encoder=1e-4), weight_decay=0.05)
    adapters = {id(p) for n, p in model.text_tower.named_parameters() if "lora_" in n}
    groups = [g for g in optimizer.param_groups if g["name"].startswith("text_encoder")]
    assert {id(p) for group in groups for p in group["params"]} == adapters


def test_learned_weights_of_losses_go_at_the_rate_of_the_temperatures_and_do_not_decay(
    folder: Path,
) -> None:
    model = tiny_model(folder, "bert", "vit")
    weights = LossWeights({"query_text": 1.0, "cmal": 0.5}, learned=True)
    plain = adamw(model, RATES, weight_decay=0.05)
    fixed = LossWeights({"query_text": 1.0}, learned=False)
    assert len(adamw(model, RATES, 0.05, fixed.parameters()).param_groups) == len(
        plain.param_groups
    )
    *groups, last = adamw(model, RATES, 0.05, weights.parameters()).param_groups
    assert [g["name"] for g in groups] == [g["name"] for g in plain.param_groups]
    assert (last["name"], last["lr"], last["weight_decay"]) == ("loss_weights", 6e-4, 0.0)
    assert last["params"][0] is weights.log_variance


def test_a_table_that_moves_nothing_is_refused(folder: Path) -> None:
    model = tiny_model(folder, "bert", "vit")
    freeze(model, _rates())
    weights = LossWeights({"query_text": 1.0}, learned=True)
    with pytest.raises(ConfigError, match="lr: every group is frozen"):
        adamw(model, _rates(), 0.05, weights.parameters())


def test_the_schedule_is_a_linear_warm_up_and_a_cosine_to_zero(folder: Path) -> None:
    model = tiny_model(folder, "bert", "vit")
    optimizer = adamw(model, RATES, weight_decay=0.05)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = warmup_cosine(optimizer, steps=100, warmup=0.1)
    for step in range(101):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        factor = step / 10 if step < 10 else cosine
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([peak * factor for peak in peaks], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_without_warm_up_the_first_step_is_at_the_peak(folder: Path) -> None:
    optimizer = adamw(tiny_model(folder, "bert", "vit"), RATES, weight_decay=0.05)
    warmup_cosine(optimizer, steps=10, warmup=0.0)
    assert optimizer.param_groups[0]["lr"] == RATES.text_encoder


def test_a_backbones_factors_scale_the_rates_and_never_thaw_what_a_stage_froze() -> None:
    lr, factors = LearningRates(1e-4, 1e-4, 0.0, 1e-3, 1e-3, 1e-2), LearningRates(*[0.5] * 6)
    rates = Config(lr=lr, lr_scale=factors).rates
    assert rates == LearningRates(5e-5, 5e-5, 0.0, 5e-4, 5e-4, 5e-3)
    assert Config(lr=lr).rates == lr


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
@pytest.mark.parametrize("overlay", sorted((RECIPES / "backbone").glob("*.yaml")), ids=str)
def test_every_backbone_overlay_fits_every_stage(overlay: Path, stage: str) -> None:
    files = [RECIPES / "base.yaml", RECIPES / f"{stage}.yaml"]
    plain, over = load_config(files), load_config([*files, overlay])
    assert over.lr == plain.lr
    for name in GROUPS:
        assert (getattr(over.rates, name) == 0) == (getattr(plain.lr, name) == 0)
    assert over.losses == plain.losses
    assert over.temperature is None or over.temperature >= over.temperature_min


def test_the_overlay_of_the_default_backbone_changes_nothing() -> None:
    files = [RECIPES / "base.yaml", RECIPES / "stage1.yaml"]
    default = RECIPES / "backbone" / "minilm-effnet.yaml"
    assert load_config([*files, default]) == load_config(files)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dropout", [True, False])
def test_a_text_encoder_trains_with_its_own_dropout_or_without(
    folder: Path, dropout: bool, shared: bool
) -> None:
    model = tiny_model(folder, "bert", "vit", share_text_encoder=shared)
    config = Config(text_encoder=TextEncoder(dropout=dropout), losses=Losses(query_text=1.0))
    module = ContrastiveModule(model, config).train()
    for view in ("query", "text"):
        first, second = (module.model.embed(some_batch(), [view]).vectors[view] for _ in range(2))
        assert first.requires_grad
        assert first.equal(second) != dropout


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_adapters_keep_their_own_dropout_where_the_encoder_has_none(
    folder: Path, share: float
) -> None:
    model = tiny_model(folder, "bert", "vit")
    model.text_tower.add_lora(Lora(rank=2, dropout=share))
    for name, weight in model.text_tower.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    config = Config(text_encoder=TextEncoder(dropout=False), losses=Losses(query_text=1.0))
    for mode in (True, False):
        module = ContrastiveModule(model, config).train(mode)
        first, second = (module.model.embed(some_batch(), ["text"]).vectors["text"] for _ in "12")
        assert first.equal(second) == (share == 0 or not mode)
    config.lr.text_encoder = 0.0
    assert not any(
        part.training for part in ContrastiveModule(model, config).model.text_tower.modules()
    )
