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

import os
import shutil
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from beyond_text.model import ModelSettings, TwoTower, build_model
from beyond_text.towers import Tower

MODEL = "model"
WEIGHTS = "model.safetensors"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


class CheckpointError(ValueError):
    """A run folder without a finished model, weights that do not fit, or a file not whole."""


class Origin(NamedTuple):
    """Whose a checkpoint is: the settings of its run, nested, and the number of its processes."""

    settings: dict[str, Any]
    processes: int


def write_checkpoint(content: dict[str, Any], origin: Origin, path: Path) -> None:
    """Writes a checkpoint whole or not at all, and keeps the one before as `previous.ckpt`.

    At every moment at least one that was whole when written lies there under either name.

    Raises:
        CheckpointError: it cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place: a file of another disk would be copied into place, not renamed.
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content | {"origin": origin._asdict()}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # Torch goes on to miss the bytes that the disk had no room for.
        first = error.__context__ or error
        raise CheckpointError(f"{path}: could not be written ({first})") from error
    if path.is_file():
        path.replace(path.with_name(PREVIOUS))
    partial.replace(path)


def read_origin(path: Path) -> Origin:
    """Whose a checkpoint is, once every byte of it is found as it was written.

    Raises:
        CheckpointError: it is cut short or damaged, or no checkpoint of a run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = {} if damaged else torch.load(path, weights_only=True, mmap=True)
    # Zip, pickle and torch each raise what they please on bytes that are not theirs.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not whole ({reason})") from error
    if damaged:
        raise CheckpointError(f"{path}: not whole ({damaged} is damaged)")
    if "origin" not in content:
        raise CheckpointError(f"{path}: does not say whose it is; written by an older version?")
    return Origin(**content["origin"])


def newest_checkpoint(folder: Path) -> tuple[Path, Origin] | None:
    """The last checkpoint of a run, or where it is damaged the one before; None: there is none.

    Raises:
        CheckpointError: there is one, but none is whole.
    """
    damaged: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            found = path, read_origin(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for line in damaged:
            print(f"{line}; going on from {path}", file=sys.stderr)
        return found
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}; say resume=never to begin the run again")
    return None


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
