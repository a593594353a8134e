"""Losses are weighted as they are set, or by weights that are learned."""

from __future__ import annotations

import math

import pytest
import torch

from beyond_text.training.loss_weights import LossWeights


def test_fixed_weights_are_the_weighted_sum_and_no_parameters() -> None:
    weights = LossWeights({"a": 1.0, "b": 0.25}, learned=False)
    total = weights({"b": torch.tensor(4.0), "a": torch.tensor(3.0)})
    assert total.item() == 4.0
    assert weights.state_dict() == {}
    assert weights.learned() == {}


def test_learned_weights_and_their_gradients_are_those_of_the_formula() -> None:
    weights = LossWeights({"a": 1.0, "b": 0.25}, learned=True)
    losses = {
        name: torch.tensor(value, requires_grad=True) for name, value in (("a", 3.0), ("b", 0.5))
    }
    assert weights(losses).item() == pytest.approx((3.0 + 0.25 * 0.5) / 2)
    assert weights.log_variance is not None
    with torch.no_grad():
        weights.log_variance.copy_(torch.tensor([0.7, -0.4]))
    total = weights(losses)
    total.backward()
    s, w, value = (0.7, -0.4), (1.0, 0.25), (3.0, 0.5)
    terms = [w[i] * (value[i] * math.exp(-s[i]) / 2 + s[i] / 2) for i in (0, 1)]
    assert total.item() == pytest.approx(sum(terms))
    slopes = [w[i] / 2 * (1 - value[i] * math.exp(-s[i])) for i in (0, 1)]
    assert weights.log_variance.grad is not None
    assert weights.log_variance.grad.tolist() == pytest.approx(slopes)
    effective = {name: weight.item() for name, weight in weights.learned().items()}
    assert effective == pytest.approx({n: w[i] * math.exp(-s[i]) / 2 for i, n in enumerate("ab")})
    for name, leaf in losses.items():
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(effective[name])


def test_an_objective_with_nothing_to_compare_teaches_its_weight_nothing() -> None:
    weights = LossWeights({"a": 1.0, "b": 1.0}, learned=True)
    weights({"a": torch.tensor(2.0), "b": torch.tensor(0.0)}).backward()
    assert weights.log_variance is not None
    assert weights.log_variance.grad is not None
    assert weights.log_variance.grad.tolist() == [-0.5, 0.0]
