"""Replaces PyTorch functions for a while, inside models that are not ours to edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


class Replaced(TorchFunctionMode):
    """Replaces functions by others that take the same arguments, while it is entered."""

    def __init__(self, functions: Mapping[Function, Function]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(
        self,
        function: Function,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.functions.get(function, function)(*args, **(kwargs or {}))
