"""Computes slow gradients of depthwise convolutions in float32, under autocast on a CPU.

In bfloat16 oneDNN is slow at two gradients of a depthwise convolution: the input's, up to thirty
times slower than in float32 where the stride is above 1, and the weights', four times slower where
the kernel is larger than 3 x 3 (measured on the shapes of EfficientNet-Lite0, whose backward pass
spent half of its time in them). All else stays in autocast's precision.
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
    """Computes a depthwise convolution in the input's precision; the weights keep their own."""

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
        ctx.geometry = (stride, padding, dilation)
        weight = weight.to(x.dtype)
        return functional.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Read only once: under a checkpoint (chunk_size) a second read fails.
        saved = x, weight = ctx.saved_tensors
        is_slow = (max(ctx.geometry[0]) > 1, weight[0, 0].numel() > 9)
        dtypes = [torch.float32 if slow else x.dtype for slow in is_slow]
        result: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        # One call computes both gradients where they have one precision.
        for dtype in dict.fromkeys(dtypes):
            wanted = [n for n in (0, 1) if ctx.needs_input_grad[n] and dtypes[n] == dtype]
            if wanted:
                gradients = aten.convolution_backward(
                    gradient.to(dtype),
                    x.to(dtype),
                    weight.to(dtype),
                    None,
                    *ctx.geometry,
                    False,
                    [0, 0],
                    x.shape[1],
                    [n in wanted for n in range(3)],
                )
                for n in wanted:
                    result[n] = gradients[n].to(saved[n].dtype)
        return tuple(result)


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
    y = _Convolution.apply(x, weight, _pair(stride), _pair(padding), _pair(dilation))
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)


class FastDepthwise(Replaced):
    """Replaces depthwise convolutions under CPU autocast by the one above, while it is entered."""

    def __init__(self) -> None:
        super().__init__({torch.conv2d: _conv2d})
