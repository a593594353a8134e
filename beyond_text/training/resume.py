"""What a run was made of besides its settings: its data, and the run whose weights it began with.

    inputs.json    SHA-256 of each source's manifest, of dev's, and of the start's metrics

A manifest holds the checksums of all shards, and metrics the seconds that training took, so these
tell any two data sets and any two trainings apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only

from beyond_text.config.settings import (
    Config,
    ConfigError,
)
from beyond_text.files import MALFORMED, write_json
from beyond_text.metrics.results import METRICS
from beyond_text.models.checkpoint import CheckpointError
from beyond_text.shards.manifest import FILE, sha256_of
from beyond_text.training.checkpoints import (
    CHECKPOINTS,
    LAST,
    Origin,
    newest_checkpoint,
)

# How a run is carried out and where it lies, which leaves its numbers as they are.
SETTINGS_WITHOUT_EFFECT = (
    "run",
    "resume",
    "trainer",
    "data.workers",
    "checkpoint_every",
    "evaluate_every",
)


def differences(before: Config, now: Config) -> list[str]:
    """The settings that would give other numbers, as "key (asked ..., found ...)", sorted."""
    found, asked = (flat(dataclasses.asdict(config)) for config in (before, now))
    # Each source's order is drawn by its place among them.
    for settings, config in ((found, before), (asked, now)):
        settings["data.sources"] = ", ".join(config.data.sources)
    return [
        f"{key} (asked {asked.get(key)!r}, found {found.get(key)!r})"
        for key in sorted(found.keys() | asked.keys())
        if asked.get(key) != found.get(key)
        and not any(f"{key}.".startswith(f"{how}.") for how in SETTINGS_WITHOUT_EFFECT)
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


INPUTS = "inputs.json"


def _digests(config: Config) -> dict[str, str]:
    """The digest of each input that is there, by the setting that names its folder."""
    data = config.data
    files = {f"data.sources.{name}": Path(s.path) / FILE for name, s in data.sources.items()}
    files["data.dev"] = Path(data.dev) / FILE
    if config.start:
        files["start"] = Path(config.start) / METRICS
    return {name: sha256_of(path) for name, path in files.items() if path.is_file()}


def write_inputs(config: Config) -> None:
    """Notes in the run's folder what it begins with."""
    write_json(Path(config.run) / INPUTS, _digests(config))


def check_inputs(config: Config) -> None:
    """Refuses a run that was begun with other data or weights than lie there now.

    Data that is not there is left to whoever reads it: a finished run needs none.

    Raises:
        ConfigError: names the settings whose folders hold something else, or a damaged note.
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


def refuse_other_settings(begun: Config, config: Config, where: Path) -> None:
    """Refuses to go on with other settings than the run began with."""
    if differing := differences(begun, config):
        raise ConfigError(
            f"{where} was begun with other settings: {', '.join(differing)}; take another run "
            "folder, delete this one, or say resume=never to begin again"
        )


def _settings(checkpoint: Path, origin: Origin) -> Config:
    """The settings of a checkpoint's run; what it does not know yet has its default."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), origin.settings)
        return cast("Config", OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{checkpoint}: of other settings: {reason}") from error


def checkpoint_to_resume(config: Config) -> tuple[Path, Origin] | None:
    """The checkpoint that the run goes on from, if it has one.

    Raises:
        CheckpointError: none is whole.
        ConfigError: it is one of other settings.
    """
    folder = Path(config.run) / CHECKPOINTS
    if found := newest_checkpoint(folder):
        path, origin = found
        refuse_other_settings(_settings(path, origin), config, path)
        check_inputs(config)
        if path.name != LAST:
            # It would push the whole one out when the next is written.
            delete_once(folder / LAST)
    return found


@rank_zero_only
def delete_once(*files: Path) -> None:
    """Once, for a second process starts when the first has already begun."""
    for path in files:
        path.unlink(missing_ok=True)
