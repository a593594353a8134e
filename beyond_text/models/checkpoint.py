"""What a run leaves on disk: a finished model that needs nothing else, and where to go on from.

    model/settings.yaml        everything that rebuilds the model around its weights
    model/model.safetensors    weights of both towers, projections, fusion; adapters merged
    model/text_encoder/        Hugging Face configuration and tokenizer
    model/image_encoder/       Hugging Face configuration
    checkpoints/last.ckpt      weights, optimizer, schedule and progress, and whose they are
    checkpoints/previous.ckpt  the one before, which is used where the last is damaged

Folder and checkpoints appear whole or not at all: each is written beside its place and renamed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from beyond_text.models.settings import ModelSettings
from beyond_text.models.towers import Tower
from beyond_text.models.two_tower import TwoTower, build_model

MODEL = "model"
WEIGHTS = "model.safetensors"


class CheckpointError(ValueError):
    """A run folder without a finished model, weights that do not fit, or a file not whole."""


def plain_state(model: TwoTower) -> dict[str, Tensor]:
    """All weights, adapters merged into their encoders."""
    towers = {name: part for name, part in model.named_children() if isinstance(part, Tower)}
    state: dict[str, Tensor] = {}
    for name, tower in towers.items():
        state |= {f"{name}.encoder.{k}": v for k, v in tower.plain().state_dict().items()}
    # By the model's names: a part that has two of them stands under both.
    state |= {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in towers}
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def save_model(model: TwoTower, tokenizer: PreTrainedTokenizerBase, run: Path) -> Path:
    """Writes RUN/model, replacing an older one only when the new one is whole.

    Raises:
        CheckpointError: the weights cannot be written.
    """
    folder = run / MODEL
    partial = run / f"{MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(plain_state(model), partial / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{partial / WEIGHTS}: could not be written ({error})") from error
    model.text_tower.settings.save_pretrained(partial / "text_encoder")
    tokenizer.save_pretrained(partial / "text_encoder")
    model.image_tower.settings.save_pretrained(partial / "image_encoder")
    OmegaConf.save(OmegaConf.create(asdict(model.settings)), partial / "settings.yaml")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _folder_of(run: Path) -> Path:
    folder = run / MODEL
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{run}: no finished model there (expected {folder / WEIGHTS})")
    return folder


def _weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not whole: {error}") from error


def _fill(model: TwoTower, state: dict[str, Tensor], folder: Path) -> None:
    """Gives the model all of its weights, and names the first that does not fit."""
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in state.items()}
    wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{folder}: does not fit this run's model: {len(wrong)} weights differ, the first is "
            f"{wrong[0]}: expected {expected.get(wrong[0], 'none')}, "
            f"got {found.get(wrong[0], 'none')}; are both of one backbone?"
        )
    model.load_state_dict(state)


def load_model(run: Path | str) -> tuple[TwoTower, Any]:
    """The model of a run folder and its tokenizer, from that folder alone, in evaluation mode.

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
    _fill(model, _weights(folder), folder)
    return model.eval(), AutoTokenizer.from_pretrained(text)


def warm_start(model: TwoTower, run: Path | str) -> list[str]:
    """Gives `model` the weights of another run; returns the names of those that stay new.

    Only the fusion block may differ: a stage starts another block from the same towers. Its
    weights are taken over all together, where every name and shape agrees, or not at all.

    Raises:
        CheckpointError: the towers or projections of the two models do not match.
    """
    folder = _folder_of(Path(run))
    state = _weights(folder)
    own = {f"fusion.{name}": value for name, value in model.fusion.state_dict().items()}
    saved = {name: value for name, value in state.items() if name.startswith("fusion.")}
    fits = {n: v.shape for n, v in own.items()} == {n: v.shape for n, v in saved.items()}
    towers = {name: value for name, value in state.items() if name not in saved}
    _fill(model, towers | (saved if fits else own), folder)
    return [] if fits else list(own)
