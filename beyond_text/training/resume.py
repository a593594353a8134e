"""Decides whether a run is finished, goes on from a checkpoint, or begins anew.

A run goes on only with the settings and inputs that it began with. Its folder records the inputs:

    inputs.json    SHA-256 of each source's manifest, of dev's, and of the start's metrics

A manifest holds the checksums of all shards, and metrics the seconds that training took, so these
tell any two data sets and any two trainings apart.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only

from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.settings import Config, ConfigError
from beyond_text.files import MALFORMED, write_json, write_text
from beyond_text.metrics.results import METRICS
from beyond_text.models.checkpoint import CheckpointError
from beyond_text.shards.manifest import FILE, sha256_of
from beyond_text.training.checkpoints import (
    CHECKPOINTS,
    LAST,
    Checkpoint,
    newest_checkpoint,
)

INPUTS = "inputs.json"
# How and where a run is carried out: these settings do not change its numbers.
SETTINGS_WITHOUT_EFFECT = (
    "run",
    "resume",
    "trainer",
    "data.workers",
    "checkpoint_every",
    "evaluate_every",
)


def differences(before: Config, now: Config) -> list[str]:
    """Returns the settings that would change a run's numbers, sorted, as "key (asked, found)"."""
    found, asked = (flatten(dataclasses.asdict(config)) for config in (before, now))
    # The order of the sources matters: each one's samples are shuffled by its position.
    for settings, config in ((found, before), (asked, now)):
        settings["data.sources"] = ", ".join(config.data.sources)
    return [
        f"{key} (asked {asked.get(key)!r}, found {found.get(key)!r})"
        for key in sorted(found.keys() | asked.keys())
        if asked.get(key) != found.get(key)
        and not any(f"{key}.".startswith(f"{name}.") for name in SETTINGS_WITHOUT_EFFECT)
    ]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _refuse_other_settings(begun: Config, config: Config, where: Path) -> None:
    """Raises a ConfigError where the run began with other settings."""
    if differing := differences(begun, config):
        raise ConfigError(
            f"{where} was begun with other settings: {', '.join(differing)}; take another run "
            "folder, delete this one, or say resume=never to begin again"
        )


def write_inputs(config: Config) -> None:
    """Records in the run's folder the inputs that it begins with."""
    write_json(Path(config.run) / INPUTS, _digests(config))


def check_inputs(config: Config) -> None:
    """Refuses a run that was begun with other data or weights than are there now.

    Data that is missing is left to whoever reads it: a finished run needs none.

    Raises:
        ConfigError: names the settings whose folders hold something else, or a damaged record.
    """
    path = Path(config.run) / INPUTS
    if not path.is_file():
        return
    now = _digests(config)
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except MALFORMED as error:
        raise ConfigError(f"{path}: not what a run began with: {error}") from error
    changed = {name for name, _ in begun.items() ^ now.items() if name in now or name == "start"}
    if changed:
        raise ConfigError(
            f"{config.run}: what {', '.join(sorted(changed))} held when the run began is "
            "not what is there now; take another run folder, delete this one, or say resume=never "
            "to begin again"
        )


def _digests(config: Config) -> dict[str, str]:
    """Returns the digest of each input that exists, by the setting that names its folder."""
    data = config.data
    files = {f"data.sources.{name}": Path(s.path) / FILE for name, s in data.sources.items()}
    files["data.dev"] = Path(data.dev) / FILE
    if config.start:
        files["start"] = Path(config.start) / METRICS
    return {name: sha256_of(path) for name, path in files.items() if path.is_file()}


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
