"""Decides whether a run is finished, goes on from a checkpoint, or begins anew.

A run goes on only with the settings and the inputs that it began with, on any number of processes.
The first process decides; the others are told, and check that they see the same.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from beyond_text.config.compare import differences
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.names import MODEL, SOUP, WEIGHTS
from beyond_text.config.settings import Config, ConfigError
from beyond_text.config.urls import shown, without_credentials
from beyond_text.files import write_text
from beyond_text.metrics.results import METRICS
from beyond_text.models.checkpoint import CheckpointError
from beyond_text.terminal import check_writable, first_line, say
from beyond_text.training.checkpoints import CHECKPOINTS, LAST, Checkpoint, newest_checkpoint
from beyond_text.training.inputs import RUNS, check_inputs, digests_of
from beyond_text.training.launch import check_processes

# Seconds that a file which one machine has written may take to be seen by the others.
PATIENCE = 60


class Stamp(NamedTuple):
    """Tells one version of a file from another, also on the disk of another machine."""

    size: int
    written: int


class Begun(NamedTuple):
    """What the first process decided; `checkpoint` is empty where the run begins anew.

    `file` is one of the run's folder that it has just seen, and `settings` and `inputs` are its
    own.
    """

    finished: bool
    checkpoint: str
    file: str
    stamp: Stamp | None
    settings: dict[str, Any]
    inputs: dict[str, str]


def begin(config: Config, processes: int) -> Begun:
    """Decides what becomes of a run, and prepares its folder; for the first process alone.

    Raises:
        CheckpointError, ConfigError: as `begin_or_resume`; the processes cannot share a batch.
        OSError: the run's folder cannot be written.
    """
    if finished_metrics(config) is not None:
        return Begun(True, "", "", None, {}, {})
    check_processes(config, processes)
    check_writable(Path(config.run))
    checkpoint = begin_or_resume(config)
    if checkpoint and checkpoint.origin.processes != processes:
        say(
            f"{checkpoint.path}: written by {checkpoint.origin.processes} processes, goes on with "
            f"{processes}: the same batches, and losses that are equal but for rounding"
        )
    path = checkpoint.path if checkpoint else Path(config.run) / "config.yaml"
    return Begun(
        False,
        str(checkpoint.path) if checkpoint else "",
        str(path),
        _stamp(path),
        asdict(without_credentials(config)),
        digests_of(config),
    )


def check_view(begun: Begun, config: Config) -> None:
    """Checks that this process has the settings of the first one, and sees its files.

    Raises:
        ConfigError: it has other settings, a file of the run's folder is not there or another, or
            so are the data.
    """
    settings = _as_config(begun.settings)
    if differing := differences(settings, config):
        raise ConfigError(f"other settings than the first process has: {', '.join(differing)}")
    path = Path(begun.file)
    patience = time.monotonic() + PATIENCE
    while _stamp(path) != begun.stamp:
        if time.monotonic() > patience:
            raise ConfigError(
                f"{path}: not the file that the first process sees; the folder of a run must be on "
                "a disk that all machines share"
            )
        time.sleep(0.5)
    own = digests_of(config)
    for name, digest in begun.inputs.items():
        if own.get(name) != digest:
            found = "something else" if name in own else "nothing"
            raise ConfigError(
                f"{name}: {found} where the first process reads {_folder_of(name, config)}; every "
                "machine needs the same files there"
            )


def _folder_of(name: str, config: Config) -> str:
    """Returns the folder that a setting of an input names."""
    source = config.data.sources.get(name.removeprefix("data.sources.").removesuffix(".mined"))
    if source and source.mined and name.endswith(".mined"):
        return source.mined
    if source:
        return shown(source.path)
    return getattr(config, name) if name in RUNS else shown(config.data.dev)


def _stamp(path: Path) -> Stamp | None:
    """Returns the stamp of a file, or None where there is none."""
    try:
        # A disk of the network looks again when a file is opened.
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns)


def finished_metrics(config: Config) -> dict[str, Any] | None:
    """Returns the metrics of a finished run; None: it is to be trained.

    Raises:
        ConfigError: the run began with other settings or inputs, or is a mixture of others.
    """
    run = Path(config.run)
    if (run / SOUP).is_file():
        raise ConfigError(f"run: {run} is a mixture of other runs; take another run folder")
    if config.resume != "auto" or not (run / METRICS).is_file():
        return None
    _refuse_other_settings(load_config([run / "config.yaml"]), config, run)
    check_inputs(config)
    return json.loads((run / METRICS).read_text(encoding="utf-8"))


def begin_or_resume(config: Config) -> Checkpoint | None:
    """Prepares the run's folder; returns the checkpoint that the run goes on from, if there is one.

    A run that failed before its first checkpoint may begin again with any settings.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
        ConfigError: the run began with other settings or inputs, or there is no dev split to
            measure.
    """
    run = Path(config.run)
    checkpoint = None
    if config.resume == "auto":
        checkpoint = _checkpoint_to_resume(config)
    else:
        # Without weights no command takes the run for a finished one.
        _delete(run / METRICS, run / MODEL / WEIGHTS, *(run / CHECKPOINTS).glob("*"))
    if not config.data.dev:
        raise ConfigError("data.dev: expected a folder of shards to measure retrieval on, got ''")
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", to_yaml(config))
    return checkpoint


def _checkpoint_to_resume(config: Config) -> Checkpoint | None:
    """Returns the newest whole checkpoint, if it has the same settings and inputs."""
    folder = Path(config.run) / CHECKPOINTS
    checkpoint = newest_checkpoint(folder)
    if checkpoint:
        _refuse_other_settings(_settings_of(checkpoint), config, checkpoint.path)
        check_inputs(config)
        if checkpoint.path.name != LAST:
            # The last one is damaged. The next one written would rename it to `previous.ckpt`, in
            # the place of the whole one.
            _delete(folder / LAST)
    return checkpoint


def _refuse_other_settings(begun: Config, config: Config, where: Path) -> None:
    """Raises a ConfigError where the run began with other settings."""
    if differing := differences(begun, config):
        raise ConfigError(
            f"{where} was begun with other settings: {', '.join(differing)}; take another run "
            "folder, delete this one, or say resume=never to begin again"
        )


def _as_config(settings: dict[str, Any]) -> Config:
    """Returns nested settings as a Config; those that they lack have defaults."""
    merged = OmegaConf.merge(OmegaConf.structured(Config), settings)
    return cast("Config", OmegaConf.to_object(merged))


def _settings_of(checkpoint: Checkpoint) -> Config:
    """Returns the settings of a checkpoint's run."""
    try:
        return _as_config(checkpoint.origin.settings)
    except OmegaConfBaseException as error:
        line = f"{checkpoint.path}: of other settings: {first_line(error)}"
        raise CheckpointError(line) from error


def _delete(*files: Path) -> None:
    for path in files:
        path.unlink(missing_ok=True)
