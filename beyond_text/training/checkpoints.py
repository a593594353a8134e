"""TODO training.checkpoints."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from beyond_text.models.checkpoint import (
    CheckpointError,
)

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


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


CHECKPOINTS = "checkpoints"


class RunCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, whole or not there, with the one before and their origin."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """As `write_checkpoint`."""
        write_checkpoint(checkpoint, self.origin, Path(path))


class StepCheckpoint(ModelCheckpoint):
    """Lightning's, which after a resumption would save the step that it has just loaded again.

    By then a part of the next step's batches may have been accumulated, which no checkpoint holds.
    """

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The step that the run starts at is saved already."""
        super().on_train_start(trainer, module)
        self._last_global_step_saved = trainer.global_step
