"""The loss that balances a mixture's experts: its value, its gradient, and several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError, Losses
from beyond_text.models.moe import MoeFusion, Routing
from beyond_text.training.balance import load_balance
from beyond_text.training.blocks import losses_of
from tests.training.test_module import some_batch, some_module

ROWS, EXPERTS = 10, 4


def routing(rows: int = ROWS) -> Routing:
    scores = torch.randn(rows, EXPERTS, generator=torch.Generator().manual_seed(1))
    return Routing(scores.softmax(dim=1).requires_grad_(), torch.arange(rows) % 3 > 0)


def value_of(
    given: Routing, over_all: Callable[[Tensor], Tensor] = lambda sums: sums, processes: int = 1
) -> Tensor:
    return losses_of({"balance": [load_balance(given)]}, over_all, processes)["balance"]


def test_it_is_the_formula_of_switch_transformers_over_the_rows_that_hold_a_product() -> None:
    given = routing()
    rows = [row for row in range(ROWS) if row % 3]
    expected = 0.0
    for expert in range(EXPERTS):
        chosen = [max(range(EXPERTS), key=lambda e: given.shares[row, e].item()) for row in rows]
        load = sum(e == expert for e in chosen) / len(rows)
        mean = sum(given.shares[row, expert].item() for row in rows) / len(rows)
        expected += EXPERTS * load * mean
    assert value_of(given).item() == pytest.approx(expected)


def test_its_gradient_is_each_experts_load() -> None:
    given = routing()
    value_of(given).backward()
    rows = given.counted.nonzero().flatten()
    chosen = given.shares[rows].argmax(dim=1)
    load = torch.bincount(chosen, minlength=EXPERTS) / len(rows)
    expected = torch.zeros(ROWS, EXPERTS)
    expected[rows] = EXPERTS * load / len(rows)
    torch.testing.assert_close(given.shares.grad, expected)


@pytest.mark.parametrize(("favoured", "expected"), [(False, 1.0), (True, float(EXPERTS))])
def test_it_is_one_for_equal_loads_and_the_number_of_experts_for_one(
    favoured: bool, expected: float
) -> None:
    shares = torch.eye(EXPERTS)
    if favoured:
        shares = shares[:1].expand(EXPERTS, -1)
    every = torch.ones(EXPERTS, dtype=torch.bool)
    assert value_of(Routing(shares, every)).item() == expected
    assert value_of(Routing(shares, ~every)).item() == 0


def test_two_processes_have_the_value_and_together_the_gradient_of_one() -> None:
    whole = routing()
    value_of(whole).backward()
    halves = [Routing(*(part[rank::2].detach() for part in whole)) for rank in (0, 1)]
    given: list[Tensor] = []
    for half in halves:
        value_of(half, lambda sums: given.append(sums) or sums)  # type: ignore[func-returns-value]
    total = given[0] + given[1]
    for rank, half in enumerate(halves):
        half.shares.requires_grad_()
        loss = value_of(half, lambda _: total, processes=2)
        torch.testing.assert_close(loss, value_of(whole))
        loss.backward()
        assert half.shares.grad is not None
        assert whole.shares.grad is not None
        # The gradients of the processes are averaged afterwards.
        torch.testing.assert_close(half.shares.grad / 2, whole.shares.grad[rank::2])


def step(folder: Path, **settings: object) -> tuple[float, dict[str, float], MoeFusion]:
    """Returns the loss of a training step, what it logs, and the block with its gradients."""
    module = some_module(folder, fusion="moe", losses=Losses(query_product=1.0), **settings)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore
    module.train()
    torch.manual_seed(0)
    loss = module.training_step(some_batch()._replace(losses=("query_product",)), 0)
    loss.backward()
    assert isinstance(module.model.fusion, MoeFusion)
    return loss.item(), logged, module.model.fusion


def test_a_step_adds_it_by_its_weight_and_logs_it_with_entropy_and_shares(folder: Path) -> None:
    without, logged, block = step(folder, fusion_balance=0.0)
    weighted, again, balanced = step(folder, fusion_balance=0.5)
    assert logged == pytest.approx(again)
    assert weighted - without == pytest.approx(0.5 * logged["fusion/balance"], rel=1e-4)
    shares = [logged[f"fusion/expert_share/{number}"] for number in range(4)]
    assert sum(shares) == pytest.approx(1)
    assert 0 < logged["fusion/router_entropy"] < 1
    assert logged["fusion/term_share"] > 0
    for other, one in zip(balanced.router.parameters(), block.router.parameters(), strict=True):
        assert other.grad is not None
        assert one.grad is not None
        assert (other.grad - one.grad).abs().max() > 1e-5
    # A step leaves no graph behind.
    assert block.routing is None


@pytest.mark.parametrize("query_pictures", [True, False])
def test_without_products_there_is_no_term_whatever_a_batch_has(
    folder: Path, query_pictures: bool
) -> None:
    """Else one process would send a message that another does not: queries alone are no load."""
    module = some_module(folder, fusion="moe", losses=Losses(query_image=1.0))
    logged: set[str] = set()
    module.log = lambda name, *_, **__: logged.add(name)  # type: ignore[method-assign]
    module.train()
    batch = some_batch(query_pictures)._replace(losses=("query_image",))
    module.training_step(batch, 0).backward()
    assert "loss/query_image" in logged
    assert "fusion/balance" not in logged
    assert isinstance(module.model.fusion, MoeFusion)
    assert module.model.fusion.routing is None


def test_a_weight_for_a_fusion_without_experts_is_refused() -> None:
    words = ["losses.query_product=1", "fusion_balance=0.1"]
    assert load_config([], [*words, "fusion=moe"]).fusion_balance == 0.1
    with pytest.raises(ConfigError, match="fusion_balance: only fusion=moe has experts"):
        load_config([], words)
