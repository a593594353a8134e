"""Depthwise convolutions under autocast on a CPU, with gradients taken where oneDNN is fast.

In bfloat16 two gradients of a depthwise convolution are slow there: the input's, up to thirty
times slower than in float32 where the stride is above 1, and the weights', four times where the
kernel is larger than 3 x 3 (measured on the shapes of EfficientNet-Lite0, whose backward pass took
half of its time in them). These are taken in float32; all else stays in autocast's precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.utils import _pair

from beyond_text.models.cpu.replaced import Replaced

aten = torch.ops.aten


class _Convolution(torch.autograd.Function):
    """A depthwise convolution in the input's precision; its weights keep their own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "pictures channels height width"],
        weight: Float[Tensor, "filters 1 rows columns"],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Float[Tensor, "pictures filters _ _"]:
        ctx.save_for_backward(x, weight)
        ctx.how = (stride, padding, dilation)
        weight = weight.to(x.dtype)
        return functional.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Asked for once: a checkpoint (chunk_size) gives them out no second time.
        saved = x, weight = ctx.saved_tensors
        exact = (max(ctx.how[0]) > 1, weight[0, 0].numel() > 9)
        kinds = [torch.float32 if slow else x.dtype for slow in exact]
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        # Both in one call where they are of one precision.
        for kind in dict.fromkeys(kinds):
            wanted = [n for n in (0, 1) if ctx.needs_input_grad[n] and kinds[n] == kind]
            if wanted:
                gradients = aten.convolution_backward(
                    gradient.to(kind),
                    x.to(kind),
                    weight.to(kind),
                    None,
                    *ctx.how,
                    False,
                    [0, 0],
                    x.shape[1],
                    [n in wanted for n in range(3)],
                )
                for n in wanted:
                    found[n] = gradients[n].to(saved[n].dtype)
        return tuple(found)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Computes `torch.conv2d`, with the same arguments."""
    depthwise = 1 < groups == x.shape[1] and not isinstance(padding, str)
    if not (depthwise and torch.is_autocast_enabled("cpu")):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    x = x.to(torch.get_autocast_dtype("cpu"))
    found = _Convolution.apply(x, weight, _pair(stride), _pair(padding), _pair(dilation))
    return found if bias is None else found + bias.to(found.dtype).view(-1, 1, 1)


class FastDepthwise(Replaced):
    """Within, every depthwise convolution of a CPU under autocast is one of the above."""

    def __init__(self) -> None:
        super().__init__({torch.conv2d: _conv2d})
