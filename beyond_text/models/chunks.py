"""Large batches in small memory: rows are encoded chunk by chunk, and again when gradients need it.

Notable: this is gradient caching (Gao et al. 2021, arXiv 2101.06983) as activation checkpointing.
Autograd itself holds the vectors' gradients, so every loss, temperature and mask has them exactly
as without chunks, DDP reduces once a step, and PyTorch replays dropout and autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from beyond_text.models.cpu.memory import give_back_freed_memory

# Chunks leave a CPU's memory in pieces that the next ones do not fit into: after so many of them,
# what is free goes back to the system, which costs the page faults of one chunk.
CHUNKS_BETWEEN = 8


@contextmanager
def _statistics_kept(modules: nn.Module) -> Iterator[None]:
    """Moving statistics stay: the forward pass has counted these rows already."""
    norms = [m for m in modules.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum = momentum
            norm.num_batches_tracked = count


@contextmanager
def _weights_cast_anew() -> Iterator[None]:
    """Gradients of chunks add up in the weights' own precision, not in that of a shared cast."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def _contexts(
    modules: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the forward pass, and around its repetition during the backward pass."""
    return nullcontext(), _statistics_kept(modules)


def in_chunks(
    function: Callable[..., Any], modules: nn.Module, inputs: tuple[Tensor, ...], size: int
) -> Any:
    """`function(*inputs)`, whose activations exist for `size` rows at a time; 0 means for all.

    Equal to the whole, gradients too, but for batch normalisation, which sees a chunk as its
    batch. Costs one more forward pass of the rows.

    Args:
        function: rows to rows: a tensor, or a tuple of tensors of one length each.
        modules: what it runs.
        inputs: tensors of equal first dimension.
        size: rows a chunk.
    """
    if size == 0 or len(inputs[0]) <= size:
        return function(*inputs)

    def chunk(number: int, *rows: Tensor) -> Any:
        if number and number % CHUNKS_BETWEEN == 0 and rows[0].device.type == "cpu":
            give_back_freed_memory()
        return function(*rows)

    chunks = zip(*(rows.split(size) for rows in inputs), strict=True)
    contexts = partial(_contexts, modules)
    with _weights_cast_anew():
        parts = [
            checkpoint(chunk, number, *rows, use_reentrant=False, context_fn=contexts)
            for number, rows in enumerate(chunks)
        ]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
