"""Tests the share, scale, gradient and seed of dropout by few random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from beyond_text.models.cpu.dropout import FastDropout, dropout


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_a_share_of_p_is_dropped_and_the_rest_scaled(p: float, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 333, dtype=kind, requires_grad=True)
    y = dropout(x, p)
    least, kept = y.unique().tolist()
    assert least == 0
    # bfloat16 has three digits.
    assert kept == pytest.approx(1 / (1 - p), rel=1e-4 if kind == torch.float32 else 5e-3)
    # Four standard deviations of the share in n draws.
    error = 4 * (p * (1 - p) / x.numel()) ** 0.5
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=error)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.equal(y.detach())


def test_neighbours_that_share_a_random_number_are_dropped_independently() -> None:
    torch.manual_seed(0)
    gone = (dropout(torch.ones(100_000, 4), 0.5) == 0).float()
    shared = (gone.T @ gone) / len(gone)
    expected = torch.full((4, 4), 0.25).fill_diagonal_(0.5)
    torch.testing.assert_close(shared, expected, atol=0.007, rtol=0)


def test_the_seed_decides_and_evaluation_and_other_rates_are_pytorchs() -> None:
    x = torch.randn(7, 5)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = dropout(x, 0.3)
        torch.manual_seed(3)
        assert dropout(x, 0.3).equal(first)
    assert dropout(x, 0.3, training=False).equal(x)
    assert dropout(x, 0.0).equal(x)
    assert not dropout(x, 1.0).any()


def test_within_the_mode_layers_use_it() -> None:
    layer, x = nn.Dropout(0.25), torch.ones(50, 50)
    with FastDropout():
        torch.manual_seed(1)
        found = layer(x)
        assert layer.eval()(x).equal(x)
    torch.manual_seed(1)
    assert found.equal(dropout(x, 0.25))
    y = x.clone()
    nn.Dropout(0.25, inplace=True)(y)
    assert 0 < (y == 0).float().mean() < 0.5
