"""Tests that depthwise convolutions under autocast have PyTorch's values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from beyond_text.models.chunks import in_chunks
from beyond_text.models.cpu import depthwise
from beyond_text.models.cpu.depthwise import FastDepthwise

CHANNELS = 8
# Kernel, stride, padding, dilation, filters per channel, bias.
SHAPES = [
    (3, 1, 1, 1, 1, False),
    (5, 1, 2, 1, 1, True),
    (3, 2, 1, 1, 1, False),
    (5, 2, 0, 1, 2, True),
    (3, 1, 2, 2, 1, True),
]


def _convolution(kernel: int, *how: Any, groups: int = CHANNELS) -> nn.Conv2d:
    stride, padding, dilation, filters, bias = how
    torch.manual_seed(0)
    wide = CHANNELS * filters
    return nn.Conv2d(CHANNELS, wide, kernel, stride, padding, dilation, groups=groups, bias=bias)


def _found(convolution: nn.Conv2d, fast: bool, autocast: bool = True) -> list[Tensor]:
    """Returns the output, the gradient of the input and those of the weights."""
    torch.manual_seed(1)
    x = torch.randn(4, CHANNELS, 12, 12, requires_grad=True)
    convolution.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if fast:
            with FastDepthwise():
                y = convolution(x)
        else:
            y = convolution(x)
    weights = torch.randn(y.shape)
    (y.float() * weights).sum().backward()
    assert x.grad is not None
    return [y, x.grad, *(p.grad.clone() for p in convolution.parameters() if p.grad is not None)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_depthwise_convolution_is_pytorchs_to_within_bfloat16(shape: tuple) -> None:
    convolution = _convolution(*shape)
    found, own = _found(convolution, fast=True), _found(convolution, fast=False)
    exact = _found(convolution, fast=False, autocast=False)
    assert found[0].dtype == own[0].dtype == torch.bfloat16
    assert [f.dtype for f in found[1:]] == [torch.float32] * len(found[1:])
    for fast, plain, true in zip(found, own, exact, strict=True):
        # As close to float32's as PyTorch's values are, apart from chance in rounding.
        assert (fast - true).norm() < 1.5 * (plain - true).norm() < 0.01 * true.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_autocast_nothing_changes(shape: tuple) -> None:
    convolution = _convolution(*shape)
    found = _found(convolution, fast=True, autocast=False)
    own = _found(convolution, fast=False, autocast=False)
    torch.testing.assert_close(found, own, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "of"), [((3, 2, 1, 1, 1, False), 0), ((5, 1, 2, 1, 1, False), 1)], ids=str
)
def test_the_slow_gradients_are_taken_in_float32(
    monkeypatch: pytest.MonkeyPatch, shape: tuple, of: int
) -> None:
    """The input's gradient is slow with a stride, the weights' with a large kernel."""
    kinds: dict[int, torch.dtype] = {}
    plain = torch.ops.aten.convolution_backward

    class Spy:
        @staticmethod
        def convolution_backward(gradient: Tensor, *rest: Any) -> Any:
            kinds[rest[-1].index(True)] = gradient.dtype
            return plain(gradient, *rest)

    monkeypatch.setattr(depthwise, "aten", Spy)
    _found(_convolution(*shape), fast=True)
    assert kinds == {of: torch.float32, 1 - of: torch.bfloat16}


def test_activations_may_be_computed_anew_for_the_gradients() -> None:
    network = nn.Sequential(_convolution(3, 2, 1, 1, 1, False), _convolution(5, 1, 2, 1, 1, True))
    pictures = torch.randn(4, CHANNELS, 12, 12)

    def vectors(rows: Tensor) -> Tensor:
        with FastDepthwise():
            return network(rows)

    found = []
    for size in (0, 2):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            in_chunks(vectors, network, (pictures,), size).float().square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    whole, chunked = found
    assert 0 < (chunked - whole).norm() < 0.01 * whole.norm()


def test_a_frozen_convolution_has_the_inputs_gradient_alone() -> None:
    convolution = _convolution(5, 1, 2, 1, 1, True).requires_grad_(False)
    found = _found(convolution, fast=True)
    assert len(found) == 2
    assert found[1].any()


@pytest.mark.parametrize(("groups", "padding"), [(1, 2), (2, 2), (CHANNELS, "same")], ids=str)
def test_other_convolutions_are_left_to_pytorch(groups: int, padding: Any) -> None:
    convolution = _convolution(5, 1, padding, 1, 1, True, groups=groups)
    found, own = _found(convolution, fast=True), _found(convolution, fast=False)
    torch.testing.assert_close(found, own, rtol=0, atol=0)


def test_the_functional_form_is_reached_as_well() -> None:
    x, weight = torch.randn(1, 4, 6, 6), torch.randn(4, 1, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), FastDepthwise():
        y = functional.conv2d(x, weight, stride=2, groups=4)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "_ConvolutionBackward"
