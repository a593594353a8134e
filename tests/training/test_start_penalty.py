"""The pull towards the weights that a run starts with: its size, what it pulls, and when."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError, LearningRates, Lora
from beyond_text.models.two_tower import TwoTower
from beyond_text.train import train
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.optim import StartPenalty, adamw, freeze
from tests.models.test_two_tower import tiny_model

RATES = LearningRates(1e-2, 2e-2, 4e-2, 1e-2, 1e-2, 1e-2)
ENCODERS = ("text_encoder", "query_encoder", "image_encoder")
PENALTY = 5.0


def state(model: TwoTower) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def some_model(folder: Path) -> TwoTower:
    return tiny_model(folder, "bert", "vit", share_text_encoder=False)


def stepped(model: TwoTower, penalty: StartPenalty, rates: LearningRates, steps: int = 1) -> None:
    """Takes steps whose gradients are 0, so that AdamW itself changes nothing."""
    optimizer = adamw(model, rates, weight_decay=0.0)
    penalty.attach(optimizer)
    for _ in range(steps):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def test_a_step_moves_encoders_by_rate_times_penalty_times_distance(folder: Path) -> None:
    model = some_model(folder)
    freeze(model, RATES)
    start = state(model)
    penalty = StartPenalty(model, PENALTY)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = state(model)
    stepped(model, penalty, RATES)
    for group, members in model.groups().items():
        rate = getattr(RATES, group)
        for name, parameter in members:
            moved = rate * PENALTY * (before[name] - start[name]) if group in ENCODERS else 0
            torch.testing.assert_close(parameter.detach(), before[name] - moved, msg=name)
    # Each step takes the same share of what is left.
    stepped(model, penalty, RATES, steps=3)
    name, parameter = model.groups()["image_encoder"][0]
    left = (1 - RATES.image_encoder * PENALTY) ** 4
    torch.testing.assert_close(parameter - start[name], left * (before[name] - start[name]))


def test_a_steady_gradient_gets_no_further_than_one_over_the_penalty(folder: Path) -> None:
    model = some_model(folder)
    freeze(model, RATES)
    start = state(model)
    optimizer = adamw(model, RATES, weight_decay=0.0)
    StartPenalty(model, PENALTY).attach(optimizer)
    for _ in range(400):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-5)
        optimizer.step()
    for group in ENCODERS:
        for name, parameter in model.groups()[group]:
            rate = getattr(RATES, group)
            # After the step itself, which the pull follows.
            expected = torch.full_like(parameter, (1 - rate * PENALTY) / PENALTY)
            torch.testing.assert_close(start[name] - parameter, expected, rtol=0.01, atol=1e-3)


def test_frozen_groups_and_encoders_under_adapters_have_no_start_to_keep(folder: Path) -> None:
    model = some_model(folder)
    model.text_tower.add_lora(Lora(rank=2))
    freeze(model, LearningRates(1e-2, 0.0, 0.0, 1e-2, 1e-2, 1e-2))
    pulled = {id(p) for p in StartPenalty(model, PENALTY)._starts}
    names = {name for name, p in model.named_parameters() if id(p) in pulled}
    adapters = {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert names == adapters != set()
    assert not StartPenalty(model, 0.0)._starts


def test_a_copy_of_a_module_has_no_copy_of_the_start(folder: Path) -> None:
    config = load_config([], ["losses.query_product=1", "start_penalty=1"])
    module = ContrastiveModule(some_model(folder), config)
    assert module.start_penalty._starts
    assert copy.deepcopy(module).start_penalty is module.start_penalty
    assert not any("start" in name for name in module.state_dict())


@pytest.mark.slow
def test_a_run_ends_nearer_to_its_start_and_a_resumed_one_with_the_same_bits(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        *tiny_settings, "losses.query_product=1", "steps=6", "checkpoint_every=2", "warmup=0",
        "lr.text_encoder=0.01", "lr.image_encoder=0.01", "weight_decay=0",
    ]  # fmt: skip
    first = tmp_path / "first"
    train(load_config([], [*settings, f"run={first}", "steps=3"]))
    settings.append(f"start={first}")

    def run(name: str, penalty: float) -> dict[str, Tensor]:
        words = [f"run={tmp_path / name}", f"start_penalty={penalty}"]
        train(load_config([], [*settings, *words]))
        return load_file(tmp_path / name / "model" / "model.safetensors")

    free, held = run("free", 0.0), run("held", 60.0)
    start = load_file(first / "model" / "model.safetensors")

    def distance(state: dict[str, Tensor], part: str) -> float:
        names = [n for n in state if n.startswith(part) and n.endswith("weight")]
        return sum(float((state[n] - start[n]).square().sum()) for n in names) ** 0.5

    for part in ("text_tower", "image_tower"):
        assert distance(held, part) < 0.8 * distance(free, part)
    assert distance(held, "query_projection") > 0.8 * distance(free, "query_projection")

    with monkeypatch.context() as patch:
        step = ContrastiveModule.training_step

        def stop(module: ContrastiveModule, batch: object, number: int) -> Tensor:
            if module.global_step == 4:
                raise RuntimeError("stopped here")
            return step(module, batch, number)  # type: ignore[arg-type]

        patch.setattr(ContrastiveModule, "training_step", stop)
        with pytest.raises(RuntimeError, match="stopped here"):
            run("resumed", 60.0)
    assert (tmp_path / "resumed" / "checkpoints" / "last.ckpt").is_file()
    again = run("resumed", 60.0)
    assert all(again[name].equal(held[name]) for name in held)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start_penalty=-1"], "start_penalty: expected a value from 0 to inf, got -1"),
        (["start_penalty=nan"], "start_penalty: expected a value from 0 to inf, got nan"),
        (["start_penalty=1", "lr.text_encoder=0", "lr.image_encoder=0"], "the rate of each is 0"),
        (["start_penalty=4000"], r"expected at most 3333.33, 1 / the largest .*got 4000"),
        (["start_penalty=3000", "lr.query_encoder=0.01", "share_text_encoder=false"], "most 100"),
    ],
)
def test_a_penalty_that_does_nothing_or_leaps_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config([], words)
    assert load_config([], ["start_penalty=3000", "lr.query_encoder=0.01"]).start_penalty == 3000
