"""Decides whether a run is finished, goes on from a checkpoint, or begins anew.

A run goes on only with the settings and the inputs that it began with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only

from beyond_text.config.compare import differences
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.settings import Config, ConfigError
from beyond_text.files import write_text
from beyond_text.metrics.results import METRICS
from beyond_text.models.checkpoint import CheckpointError
from beyond_text.training.checkpoints import CHECKPOINTS, LAST, Checkpoint, newest_checkpoint
from beyond_text.training.inputs import check_inputs


def finished_metrics(config: Config) -> dict[str, Any] | None:
    """Returns the metrics of a finished run; None: it is to be trained.

    Raises:
        ConfigError: the run began with other settings or inputs.
    """
    run = Path(config.run)
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
        _delete(run / METRICS, *(run / CHECKPOINTS).glob("*"))
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


def _settings_of(checkpoint: Checkpoint) -> Config:
    """Returns the settings of a checkpoint's run; those that it does not know have defaults."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), checkpoint.origin.settings)
        return cast("Config", OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{checkpoint.path}: of other settings: {reason}") from error


@rank_zero_only
def _delete(*files: Path) -> None:
    """Deletes files in the first process alone: the others start when it has already begun."""
    for path in files:
        path.unlink(missing_ok=True)


def check_processes(checkpoint: Checkpoint, processes: int) -> None:
    """Refuses to go on with another number of processes, which share each batch.

    Raises:
        ConfigError: names the checkpoint and both numbers.
    """
    begun = checkpoint.origin.processes
    if begun != processes:
        raise ConfigError(
            f"{checkpoint.path} was begun with another number of processes, which share each "
            f"batch: asked {processes}, found {begun}"
        )
