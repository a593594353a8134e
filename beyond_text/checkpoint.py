"""What a finished model is on disk: one folder that needs nothing else.

    model/settings.yaml        everything that rebuilds the model around its weights
    model/model.safetensors    weights of both towers, projections, fusion; adapters merged
    model/text_encoder/        Hugging Face configuration and tokenizer
    model/image_encoder/       Hugging Face configuration

The folder appears whole or not at all: it is written beside its place and renamed.
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
from transformers import AutoTokenizer

from beyond_text.model import ModelSettings, TwoTower, build_model
from beyond_text.towers import Tower

MODEL = "model"
WEIGHTS = "model.safetensors"


class CheckpointError(ValueError):
    """A run folder without a finished model, or weights that do not fit."""


def plain_state(model: TwoTower) -> dict[str, Tensor]:
    """All weights, adapters merged into their encoders."""
    state = {}
    for name, child in model.named_children():
        if isinstance(child, Tower):
            state |= {f"{name}.encoder.{k}": v for k, v in child.plain().state_dict().items()}
        else:
            state |= {f"{name}.{key}": value for key, value in child.state_dict().items()}
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def save_model(model: TwoTower, tokenizer: Any, run: Path) -> Path:
    """Writes RUN/model, replacing an older one only when the new one is whole."""
    folder = run / MODEL
    partial = run / f"{MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(plain_state(model), partial / WEIGHTS)
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


def load_model(run: Path | str) -> tuple[TwoTower, Any]:
    """The model of a run folder and its tokenizer, from that folder alone, in evaluation mode.

    Raises:
        CheckpointError: no finished model, or weights cut short or of another model.
    """
    folder = _folder_of(Path(run))
    fields = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(folder / "settings.yaml")))
    settings = ModelSettings(**fields)
    text = str(folder / "text_encoder")
    model = build_model(settings, text, str(folder / "image_encoder"), pretrained=False)
    try:
        model.load_state_dict(_weights(folder))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return model.eval(), AutoTokenizer.from_pretrained(text)


def warm_start(model: TwoTower, run: Path | str) -> list[str]:
    """Gives `model` the weights of another run; returns the names of those that stay new.

    Only the fusion block may differ: a stage starts another block from the same towers. Its
    weights are taken over just where they are of the same shape and the same variant.

    Raises:
        CheckpointError: the towers or projections of the two models do not match.
    """
    folder = _folder_of(Path(run))
    state = _weights(folder)
    fusion = OmegaConf.load(folder / "settings.yaml").fusion
    if fusion != model.settings.fusion:
        state = {name: value for name, value in state.items() if not name.startswith("fusion.")}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: does not fit this run's model: {error}") from error
    strangers = [name for name in missing if not name.startswith("fusion.")] + unexpected
    if strangers:
        raise CheckpointError(
            f"{folder}: does not fit this run's model: {len(strangers)} weights differ, "
            f"the first {strangers[0]}; are both runs of one backbone?"
        )
    return missing
