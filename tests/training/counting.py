"""Counts what a step costs: bytes that are alive at once, and how often a device is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators whose result, or its length, depends on values: on a device the host waits for them.
WAITING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive")
WAITING = (*WAITING, "masked_select", "equal", "is_nonzero", "unique_dim_consecutive")
# Methods that copy to the host without such an operator.
READING = ("tolist", "numpy", "cpu")


class LiveBytes(TorchDispatchMode):
    """Measures the most bytes that tensors made under it hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {StorageWeakRef(t.untyped_storage()) for t in _tensors((args, kwargs))}
        found = function(*args, **(kwargs or {}))
        for tensor in _tensors(found):
            storage = StorageWeakRef(tensor.untyped_storage())
            # A view, or a result in place, of what was there before is nothing new.
            if storage not in given:
                self.live[storage] = tensor.untyped_storage().nbytes()
        self.live = {ref: size for ref, size in self.live.items() if not ref.expired()}
        self.most = max(self.most, sum(self.live.values()))
        return found


class Waits(TorchDispatchMode):
    """Counts the operators that a device must be waited for, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.reads = _Reads(self)

    def __enter__(self) -> Waits:
        self.reads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.reads.__exit__(*error)

    def count(self, name: str) -> None:
        self.counts[name] += 1

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        repeats = name == "repeat_interleave" and isinstance(args[0], Tensor) and len(args) == 1
        if name in WAITING or by_mask or repeats:
            self.count(name)
        return function(*args, **(kwargs or {}))


def waits_of_a_step(module: Any, batch: Any, number: int, optimizer: Any) -> Counter[str]:
    """Returns what a whole step of a module waits for, its towers and its gradients included."""
    for tower in module.model.towers.values():
        # A CPU packs texts, and reads what is on the host already.
        tower.packing_fails = True
    with Waits() as waits:
        module.on_train_batch_start(batch, number)
        module.training_step(batch, number).backward()
        module.configure_gradient_clipping(optimizer)
        module.optimizer_step(0, number, optimizer, None)
    return waits.counts


class _Reads(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Tensors made of arrays, whose storage cannot grow, lie on the host.
        on_host = args and isinstance(args[0], Tensor) and not _may_grow(args[0])
        if getattr(function, "__name__", "") in READING and not on_host:
            self.waits.count(function.__name__)
        return function(*args, **(kwargs or {}))


class Answers(TorchDispatchMode):
    """Answers for tensors that have a shape and no values: numbers that are read, then `later`."""

    def __init__(self, numbers: Iterable[int], later: int) -> None:
        super().__init__()
        self.numbers = chain(numbers, repeat(later))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name == "_local_scalar_dense":
            return next(self.numbers)
        return function(*args, **(kwargs or {}))


def _may_grow(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage().resizable()


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
