"""Mixes the weights of models that are made alike: a straight line between two, or a mean of many.

Weights of models that were fine-tuned from one start can be mixed, and the mixture is a model of
the same cost (Wortsman et al. 2022, arXiv 2109.01903 and 2203.05482).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beyond_text.models.checkpoint import CheckpointError, load_model
from beyond_text.models.settings import ModelSettings
from beyond_text.models.tokenizer import reads_alike

State = Mapping[str, Tensor]
FUSION = "fusion."
# Where these differ, equal weights would make other vectors.
ALIKE = (
    "dim",
    "share_text_encoder",
    "pooling",
    "image_pooling",
    "text_head",
    "lower_case",
    "mean",
    "std",
)
FUSIONS_ALIKE = ("fusion", "fusion_rank")


class Ingredient(NamedTuple):
    """A finished model: its name in messages, its settings, tokenizer and weights."""

    name: str
    settings: ModelSettings
    tokenizer: Any
    state: dict[str, Tensor]


def read_ingredient(run: Path) -> Ingredient:
    """Reads the model of a finished run.

    Raises:
        CheckpointError: no finished model there, or a damaged one.
    """
    model, tokenizer = load_model(run)
    return Ingredient(str(run), model.settings, tokenizer, model.state_dict())


def mixed(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Returns the weighted sum of states of the same names and shapes, added up in float64.

    A weight of 0 leaves a state out, whatever stands in it. What is no floating-point number, such
    as a counter, is that of the first state.
    """
    used = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight]
    return {
        name: torch.stack([weight * state[name].double() for state, weight in used])
        .sum(dim=0)
        .to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


def with_fusion_of(ours: Ingredient, theirs: Ingredient) -> Ingredient:
    """Returns `theirs` with our fusion block, where theirs is another one; else as it is."""
    names = {name for name in ours.state.keys() | theirs.state.keys() if name.startswith(FUSION)}
    same = all(_shape(ours.state, name) == _shape(theirs.state, name) for name in names)
    if same and not _differing(ours, theirs, FUSIONS_ALIKE):
        return theirs
    others = {n: value for n, value in theirs.state.items() if n not in names}
    block = {n: value for n, value in ours.state.items() if n in names}
    own = {name: getattr(ours.settings, name) for name in FUSIONS_ALIKE}
    settings = ModelSettings(**{**vars(theirs.settings), **own})
    return theirs._replace(settings=settings, state=others | block)


def check_alike(ours: Ingredient, theirs: Ingredient) -> None:
    """Refuses models whose weights cannot be mixed.

    Raises:
        CheckpointError: names the setting or the first weight that differs.
    """
    both = f"{theirs.name} cannot be mixed with {ours.name}"
    if differing := _differing(ours, theirs, (*ALIKE, *FUSIONS_ALIKE)):
        name = differing[0]
        one, other = getattr(theirs.settings, name), getattr(ours.settings, name)
        raise CheckpointError(f"{both}: {name} is {one!r} there, and {other!r} here")
    names = [*ours.state, *(name for name in theirs.state if name not in ours.state)]
    wrong = [name for name in names if _shape(ours.state, name) != _shape(theirs.state, name)]
    if wrong:
        raise CheckpointError(
            f"{both}: {len(wrong)} weights differ, the first is {wrong[0]}: "
            f"{_shape(theirs.state, wrong[0])} there, and {_shape(ours.state, wrong[0])} here"
        )
    if not reads_alike(ours.tokenizer, theirs.tokenizer):
        raise CheckpointError(f"{both}: its tokenizer is another one")


def _differing(ours: Ingredient, theirs: Ingredient, names: Sequence[str]) -> list[str]:
    one, other = ours.settings, theirs.settings
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _shape(state: State, name: str) -> str:
    return str(list(state[name].shape)) if name in state else "none"
