"""Encodes large batches in little memory: chunk by chunk, and again in the backward pass.

Notable: this is gradient caching (Gao et al. 2021, arXiv 2101.06983), written as activation
checkpointing. Autograd itself holds the gradients of the vectors, so every loss, temperature and
mask gets the same ones as without chunks, DDP reduces once a step, and PyTorch replays dropout and
autocast.
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

# On a CPU, chunks leave free memory in pieces that the next chunks do not fit into. After this many
# chunks it goes back to the system, which costs the page faults of one chunk.
CHUNKS_BETWEEN = 8


def in_chunks(
    function: Callable[..., Any], modules: nn.Module, inputs: tuple[Tensor, ...], size: int
) -> Any:
    """Computes `function(*inputs)`, and holds the activations of only `size` rows at a time.

    Vectors and gradients are those of one call with all rows, except under batch normalisation,
    whose batch is then a chunk. Costs one more forward pass of the rows.

    Args:
        function: maps rows to rows: to a tensor, or to a tuple of tensors of equal length.
        modules: the modules that `function` runs.
        inputs: tensors of equal first dimension.
        size: most rows of a chunk; 0 makes one chunk of all rows.
    """
    if size == 0 or len(inputs[0]) <= size:
        return function(*inputs)

    def chunk(number: int, *rows: Tensor) -> Any:
        if number and number % CHUNKS_BETWEEN == 0 and rows[0].device.type == "cpu":
            give_back_freed_memory()
        return function(*rows)

    # Of like sizes: a last chunk of a single row would have no statistics of its own.
    number = -(-len(inputs[0]) // size)
    chunks = zip(*(rows.tensor_split(number) for rows in inputs), strict=True)
    contexts = partial(_contexts, modules)
    with _uncached_autocast():
        outputs = [
            checkpoint(chunk, number, *rows, use_reentrant=False, context_fn=contexts)
            for number, rows in enumerate(chunks)
        ]
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return tuple(torch.cat(columns) for columns in zip(*outputs, strict=True))


@contextmanager
def _uncached_autocast() -> Iterator[None]:
    """Switches off autocast's cache of weights.

    Gradients of chunks then add up in the weights' own precision, not in that of a shared cast.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


def _contexts(
    modules: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Returns the contexts of the forward pass and of its repetition in the backward pass."""
    return nullcontext(), _frozen_statistics(modules)


@contextmanager
def _frozen_statistics(modules: nn.Module) -> Iterator[None]:
    """Freezes the running statistics of batch norms: the forward pass has counted these rows."""
    norms = [m for m in modules.modules() if isinstance(m, _BatchNorm) and m.training]
    saved = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in saved:
            norm.momentum = momentum
            norm.num_batches_tracked = count
