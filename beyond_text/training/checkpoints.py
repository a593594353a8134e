"""Writes the checkpoints of a run while it trains, and finds the newest whole one.

    checkpoints/last.ckpt      weights, optimizer, schedule and progress, and the run's settings
    checkpoints/previous.ckpt  the one before, used where the last is damaged

A checkpoint is written beside its place and renamed, so it appears completely or not at all.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from beyond_text.models.checkpoint import CheckpointError
from beyond_text.terminal import first_line, say

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


class Origin(NamedTuple):
    """The run that wrote a checkpoint: its settings, nested, and its number of processes."""

    settings: dict[str, Any]
    processes: int


class Checkpoint(NamedTuple):
    """A whole checkpoint on disk, and the run that wrote it."""

    path: Path
    origin: Origin


def write_checkpoint(content: dict[str, Any], origin: Origin, path: Path) -> None:
    """Writes a checkpoint completely or not at all, and keeps the one before as `previous.ckpt`.

    At every moment, at least one of the two names holds a checkpoint that was written completely.

    Raises:
        CheckpointError: it cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: from another disk, the file would be copied into place, not renamed.
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content | {"origin": origin._asdict()}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # Where the disk is full, torch raises a second error about the bytes that are missing.
        first = error.__context__ or error
        raise CheckpointError(f"{path}: could not be written ({first})") from error
    if path.is_file():
        path.replace(path.with_name(PREVIOUS))
    partial.replace(path)


def read_origin(path: Path) -> Origin:
    """Checks every byte of a checkpoint, and returns the run that wrote it.

    Raises:
        CheckpointError: it is cut short or damaged, or no checkpoint of a run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = {} if damaged else torch.load(path, weights_only=True, mmap=True)
    # Zip, pickle and torch raise all kinds of errors on damaged bytes.
    except Exception as error:
        raise CheckpointError(f"{path}: not whole ({first_line(error)})") from error
    if damaged:
        raise CheckpointError(f"{path}: not whole ({damaged} is damaged)")
    if "origin" not in content:
        raise CheckpointError(f"{path}: does not say whose it is; written by an older version?")
    return Origin(**content["origin"])


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the last checkpoint of a run, or the one before where it is damaged; None: no file.

    Raises:
        CheckpointError: there are files, but all are damaged.
    """
    damaged: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            checkpoint = Checkpoint(path, read_origin(path))
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for line in damaged:
            say(f"{line}; going on from {path}")
        return checkpoint
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}; say resume=never to begin the run again")
    return None


class RunCheckpoints(TorchCheckpointIO):
    """Makes Lightning write its checkpoints by `write_checkpoint`."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint by `write_checkpoint`."""
        write_checkpoint(checkpoint, self.origin, Path(path))


class StepCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which does not save the step that a run resumes from again.

    When Lightning would do so, some of the next step's batches may have been accumulated already,
    and no checkpoint holds those.
    """

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Marks the step that the run starts at as saved."""
        super().on_train_start(trainer, module)
        self._last_global_step_saved = trainer.global_step
