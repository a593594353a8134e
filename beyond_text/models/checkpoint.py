"""Writes a finished model as a folder that needs nothing else, and reads it.

    model/settings.yaml        everything that rebuilds the model around its weights
    model/model.safetensors    weights of the towers, projections and fusion; adapters merged
    model/text_encoder/        Hugging Face configuration and tokenizer
    model/image_encoder/       Hugging Face configuration

The folder is written beside its place and renamed, so it appears completely or not at all.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from beyond_text.config.names import MODEL as MODEL
from beyond_text.config.names import WEIGHTS as WEIGHTS
from beyond_text.files import atomic_folder
from beyond_text.models.settings import ModelSettings
from beyond_text.models.tokenizer import load_tokenizer
from beyond_text.models.towers import Tower
from beyond_text.models.two_tower import TwoTower, build_model


class CheckpointError(ValueError):
    """Reports a run without a finished model, weights that do not fit, or a damaged file."""


def save_model(model: TwoTower, tokenizer: Any, run: Path) -> Path:
    """Writes RUN/model; an older one is replaced only when the new one is complete.

    Raises:
        CheckpointError: the weights cannot be written.
    """
    folder = run / MODEL
    with atomic_folder(folder, is_ours=Path.is_dir) as partial:
        try:
            save_file(merged_state(model), partial / WEIGHTS)
        except SafetensorError as error:
            raise CheckpointError(f"{folder / WEIGHTS}: could not be written ({error})") from error
        model.text_tower.settings.save_pretrained(partial / "text_encoder")
        tokenizer.save_pretrained(partial / "text_encoder")
        model.image_tower.settings.save_pretrained(partial / "image_encoder")
        OmegaConf.save(OmegaConf.create(asdict(model.settings)), partial / "settings.yaml")
    return folder


def merged_state(model: TwoTower) -> dict[str, Tensor]:
    """Returns all weights, with adapters merged into their encoders."""
    towers = {name: part for name, part in model.named_children() if isinstance(part, Tower)}
    state: dict[str, Tensor] = {}
    for name, tower in towers.items():
        merged = tower.merged_encoder().state_dict()
        state |= {f"{name}.encoder.{key}": value for key, value in merged.items()}
    # By the model's names: a module that has two of them stands under both.
    state |= {
        key: value
        for key, value in model.state_dict().items()
        if key.split(".")[0] not in towers or key.split(".")[1] != "encoder"
    }
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def load_model(run: Path | str) -> tuple[TwoTower, Any]:
    """Loads a run's model, in evaluation mode, and its tokenizer from the run folder alone.

    Raises:
        CheckpointError: no finished model, or weights cut short or of another model.
    """
    folder = _folder_of(Path(run))
    try:
        saved = OmegaConf.to_container(OmegaConf.load(folder / "settings.yaml"))
        settings = ModelSettings(**cast("dict[str, Any]", saved))
    except (OSError, TypeError) as error:
        raise CheckpointError(f"{folder / 'settings.yaml'}: {error}") from error
    text = str(folder / "text_encoder")
    model = build_model(settings, text, str(folder / "image_encoder"), pretrained=False)
    _load_state(model, _weights(folder), folder)
    return model.eval(), load_tokenizer(text, settings.lower_case)


class WarmStart(NamedTuple):
    """Names of the weights that start new, and of saved ones that are not in the model."""

    new: list[str]
    lost: list[str]


def warm_start(model: TwoTower, run: Path | str) -> WarmStart:
    """Loads the weights of another run into `model`; returns what is not that run's.

    Only the fusion block may differ: a stage may start another block from the same towers. The
    block's weights are loaded if every name and shape agrees, and otherwise none of them is. Where
    one tensor has two names in this model, the last of the saved ones is taken.

    Raises:
        CheckpointError: the towers or projections of the two models do not match.
    """
    folder = _folder_of(Path(run))
    state = _weights(folder)
    own = {f"fusion.{name}": value for name, value in model.fusion.state_dict().items()}
    saved = {name: value for name, value in state.items() if name.startswith("fusion.")}
    fits = {n: v.shape for n, v in own.items()} == {n: v.shape for n, v in saved.items()}
    others = {name: value for name, value in state.items() if name not in saved}
    _load_state(model, others | (saved if fits else own), folder)
    taken = model.state_dict()
    lost = [name for name, value in others.items() if not torch.equal(taken[name].cpu(), value)]
    return WarmStart([] if fits else list(own), lost)


def _folder_of(run: Path) -> Path:
    """Returns the run's model folder; refuses a run without a finished model."""
    folder = run / MODEL
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{run}: no finished model there (expected {folder / WEIGHTS})")
    return folder


def _weights(folder: Path) -> dict[str, Tensor]:
    """Reads the weights of a model folder; refuses a file that is cut short."""
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not whole: {error}") from error
    # Models from before pictures had a weight gave them 1.
    return {"image_log_weight": torch.zeros(())} | state


def _load_state(model: TwoTower, state: dict[str, Tensor], folder: Path) -> None:
    """Loads all weights of a model; an error names the first that does not fit."""
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    got = {name: list(value.shape) for name, value in state.items()}
    wrong = [name for name in expected | got if expected.get(name) != got.get(name)]
    if wrong:
        raise CheckpointError(
            f"{folder}: does not fit this run's model: {len(wrong)} weights differ, the first is "
            f"{wrong[0]}: expected {expected.get(wrong[0], 'none')}, "
            f"got {got.get(wrong[0], 'none')}; are both of one backbone?"
        )
    model.load_state_dict(state)
