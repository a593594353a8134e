"""Records what a run was made of besides its settings, and compares that with what is there now.

    inputs.json    SHA-256 of each source's manifest, and of the record of its mined negatives where
                   they are used, of dev's manifest, of the start's metrics, and of the teacher's
                   weights

A manifest holds the checksums of all shards, and metrics the seconds that training took, so these
tell any two data sets and any two trainings apart.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import msgspec

from beyond_text.config.load import load_config
from beyond_text.config.names import MODEL, SOUP, WEIGHTS
from beyond_text.config.settings import Config, ConfigError
from beyond_text.files import MALFORMED, sha256_of, write_json
from beyond_text.metrics.results import METRICS
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.mined import RECORD, folder_of_mined, has_mined
from beyond_text.shards.store import Store

INPUTS = "inputs.json"
# Settings that name other runs.
RUNS = ("start", "teacher")
# What to do where a run's inputs have changed.
AGAIN = "take another run folder, delete this one, or say resume=never to begin again"


def write_inputs(config: Config) -> None:
    """Records in the run's folder the inputs that it begins with."""
    write_json(Path(config.run) / INPUTS, digests_of(config))


def check_inputs(config: Config, again: str = AGAIN) -> None:
    """Refuses a run that was begun with other data or weights than are there now.

    Data that is missing is left to whoever reads it: a finished run needs none. `again` says what
    to do instead.

    Raises:
        ConfigError: names the settings whose folders hold something else, or a damaged record.
    """
    path = Path(config.run) / INPUTS
    if not path.is_file():
        return
    now = digests_of(config)
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except MALFORMED as error:
        raise ConfigError(f"{path}: not what a run began with: {error}") from error
    changed = {name for name, _ in begun.items() ^ now.items() if name in now or name in RUNS}
    if changed:
        raise ConfigError(
            f"{config.run}: what {', '.join(sorted(changed))} held when the run began is "
            f"not what is there now; {again}"
        )


def shares_dev(config: Config) -> bool:
    """Says whether a run is measured on the dev split of its start, as far as that tells."""
    start, run = Path(config.start), Path(config.run)
    try:
        its, own = (msgspec.json.decode((each / INPUTS).read_bytes()) for each in (start, run))
        split = load_config([start / "config.yaml"]).data.dev_split
    except (OSError, ConfigError, *MALFORMED):
        return True
    return its.get("data.dev") == own.get("data.dev") and split == config.data.dev_split


def digests_of(config: Config) -> dict[str, str]:
    """Returns the digest of each input that exists, by the setting that names it."""
    data = config.data
    places = {f"data.sources.{name}": source.path for name, source in data.sources.items()}
    digests = {}
    for name, place in {**places, "data.dev": data.dev}.items():
        with suppress(ShardError):
            manifest = Store.of(place, data).read_manifest_bytes()
            digests[name] = hashlib.sha256(manifest).hexdigest()
    for name, source in data.sources.items():
        folder = folder_of_mined(Store.of(source.path, data), source.mined)
        if data.hard_negatives and folder is not None and has_mined(folder):
            digests[f"data.sources.{name}.mined"] = sha256_of(folder / RECORD)
    metrics = Path(config.start) / METRICS
    if config.start and metrics.is_file():
        digests["start"] = sha256_of(metrics)
        # Mixtures of the same runs may have the same metrics.
        if (mixture := Path(config.start) / SOUP).is_file():
            digests["start"] += sha256_of(mixture)
    weights = Path(config.teacher) / MODEL / WEIGHTS
    if config.teacher and weights.is_file():
        digests["teacher"] = sha256_of(weights)
    return digests
