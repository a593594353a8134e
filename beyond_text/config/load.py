"""Merges recipe files and `key=value` words into a `Config`, and checks every value.

An error names the file or word, the setting, and the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from beyond_text.config.negatives import check_hard_negatives
from beyond_text.config.references import check_start_penalty, check_teacher
from beyond_text.config.settings import (
    Config,
    ConfigError,
    Data,
    FusionName,
    ImagePooling,
    LearningRates,
    Losses,
    LossName,
    LossWeighting,
    Pooling,
    Precision,
    Resume,
    Source,
    TextField,
)
from beyond_text.config.steps import check_steps
from beyond_text.config.urls import is_url, shown, shown_word, without_credentials
from beyond_text.config.views import OBJECTIVE_VIEWS, PAIRS
from beyond_text.terminal import first_line, one_line

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": get_args(LossName),
    "loss_weighting": get_args(LossWeighting),
    "precision": get_args(Precision),
    "resume": get_args(Resume),
    "fusion": get_args(FusionName),
    "text_encoder.pooling": get_args(Pooling),
    "image_encoder.pooling": get_args(ImagePooling),
}

# Settings that are no URLs.
LOCAL_PATHS = (
    *("run", "start", "teacher", "cache", "data.cache_dir"),
    *("text_encoder.path", "image_encoder.path"),
)

# (setting, smallest, largest); bounds included, infinity not.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, 2**32 - 1),
    ("align_pairs", 0, float("inf")),
    ("steps", 1, float("inf")),
    ("budget", 1e-3, float("inf")),
    ("batch_size", 2, float("inf")),
    ("chunk_size", 0, float("inf")),
    ("memory_size", 0, float("inf")),
    ("accumulate", 1, float("inf")),
    ("dim", 1, float("inf")),
    ("fusion_rank", 1, float("inf")),
    ("fusion_balance", 0.0, float("inf")),
    ("negative_weight", 1e-3, 1e3),
    ("temperature", 1e-3, 1.0),
    ("temperature_min", 1e-3, 1.0),
    ("teacher_temperature", 1e-3, 1.0),
    ("start_penalty", 0.0, float("inf")),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 1.0),
    ("lr_floor", 0.0, 1.0),
    ("clip_norm", 0.0, float("inf")),
    ("average_span", 0.0, 1.0),
    ("evaluate_every", 0, float("inf")),
    ("checkpoint_every", 1, float("inf")),
    ("text_encoder.max_length", 0, float("inf")),
    ("text_encoder.lora.rank", 0, float("inf")),
    ("text_encoder.lora.dropout", 0.0, 1.0),
    ("image_encoder.image_size", 0, 4096),
    ("image_encoder.drop_path", 0.0, 0.9),
    ("image_encoder.lora.rank", 0, float("inf")),
    ("image_encoder.lora.dropout", 0.0, 1.0),
    ("data.modality_dropout", 0.0, 1.0),
    ("data.smallest_crop", 0.1, 1.0),
    ("data.negatives", 0.0, 0.9),
    ("data.hard_negatives", 0, 1000),
    ("data.queries_per_product", 1, float("inf")),
    ("data.labels", 0, float("inf")),
    ("data.same_category", 1, float("inf")),
    ("data.max_skipped", 0.0, 1.0),
    ("data.workers", 0, float("inf")),
    ("data.cache_gb", 1e-3, float("inf")),
)


def _known_keys(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted names of all settings, groups included."""
    keys = []
    for name, value in settings.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _known_keys(value, f"{prefix}{name}.")
    return keys


KNOWN = _known_keys(dataclasses.asdict(Config()))
# Typed; made once, as it takes longer than a merge, which copies it.
DEFAULTS = OmegaConf.structured(Config)


def _check_keys(settings: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Refuses an unknown key and names the nearest known one."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if prefix in ("trainer.", "data.grades."):
            continue
        if prefix == "data.sources.":
            for inner in value if isinstance(value, Mapping) else ():
                known = [item.name for item in dataclasses.fields(Source)]
                if inner not in known:
                    raise ConfigError(
                        f"{origin}: unknown setting {name}.{inner}; a source has {', '.join(known)}"
                    )
            continue
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.0)
            raise ConfigError(
                f"{origin}: unknown setting {name}; the nearest known one is {near[0]}"
            )
        if isinstance(value, Mapping):
            _check_keys(value, origin, f"{name}.")


def _is_text(key: str) -> bool:
    """Says whether a setting is a text, such as a path, which is taken as it is written."""
    if re.fullmatch(r"data\.sources\.[^.]+\.(path|mined)", key):
        return True
    return key in KNOWN and isinstance(attrgetter(key)(Config()), str)


def _parse(override: str) -> DictConfig:
    """Parses a `key=value` override."""
    key, equals, value = override.partition("=")
    override = shown_word(override)
    if not equals:
        raise ConfigError(f"{override}: expected key=value")
    if _is_text(key):
        # A folder may be called `shop: first try`, which YAML would take for something else.
        layer = OmegaConf.create({})
        OmegaConf.update(layer, key, value, force_add=True)
        return layer
    if re.fullmatch(r"[-+]?0\d+", value):
        # YAML would read it as octal.
        raise ConfigError(f"{override}: expected a number without a leading 0")
    try:
        # An empty value is the empty string, as a shell means it, and not null.
        return OmegaConf.from_dotlist([f"{key}={value or repr('')}"])
    except yaml.YAMLError as error:
        raise ConfigError(f"{override}: not a YAML value: {one_line(error)}") from None


def _read(path: Path) -> DictConfig:
    """Reads a recipe file."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: expected settings as `key: value`, got a list")
    return loaded


def _merge(layers: Sequence[tuple[str, DictConfig]]) -> Config:
    """Merges layers from left to right.

    Raises:
        ConfigError: a value of the wrong type; the message names its layer.
    """
    try:
        merged = OmegaConf.merge(DEFAULTS, *(layer for _, layer in layers))
        return cast("Config", OmegaConf.to_object(merged))
    except (OmegaConfBaseException, TypeError) as error:
        # Where those before the last cannot be merged either, the fault is theirs.
        if layers[:-1]:
            _merge(layers[:-1])
        key = getattr(error, "full_key", None)
        place = f"{layers[-1][0]}: {key}" if key else layers[-1][0]
        raise ConfigError(f"{place}: {first_line(error)}") from None


def load_config(files: Sequence[Path | str], overrides: Sequence[str] = ()) -> Config:
    """Merges recipe files from left to right, then `key=value` overrides, and checks the result.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or settings that
            contradict each other; the message names the file or override.
    """
    layers = [(str(path), _read(Path(path))) for path in files]
    layers += [(shown_word(text), _parse(text)) for text in overrides]
    for origin, layer in layers:
        _check_keys(cast("Mapping[str, Any]", OmegaConf.to_container(layer)), origin)
    check(config := _merge(layers))
    return config


def config_of(run: Path) -> Config | None:
    """Returns the settings that a run was trained with; None where it does not hold them.

    Raises:
        ConfigError: as for `load_config`.
    """
    file = run / "config.yaml"
    return load_config([file]) if file.is_file() else None


def check(config: Config) -> None:
    """Checks every value against its choices or range, and values against each other.

    Raises:
        ConfigError: naming the setting, what was expected and what was got.
    """
    for name, choices in CHOICES.items():
        value = attrgetter(name)(config)
        if value not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    rates = [
        (f"{table}.{f.name}", 0.0, highest)
        for table, highest in (("lr", 1.0), ("lr_scale", 100.0))
        for f in dataclasses.fields(LearningRates)
    ]
    weights = [(f"losses.{f.name}", 0.0, float("inf")) for f in dataclasses.fields(Losses)]
    for name, low, high in (*RANGES, *rates, *weights):
        value = attrgetter(name)(config)
        # Left open, or checked below.
        if value is None or isinstance(value, str):
            continue
        if not (low <= value <= high and math.isfinite(value)):
            raise ConfigError(f"{name}: expected a value from {low:g} to {high:g}, got {value:g}")
    if config.temperature is not None and config.temperature < config.temperature_min:
        raise ConfigError(
            f"temperature: {config.temperature:g} lies below temperature_min "
            f"{config.temperature_min:g}"
        )
    check_steps(config)
    _check_unused(config)
    _check_matryoshka(config)
    check_start_penalty(config)
    check_teacher(config)
    if config.loss_weighting == "learned" and config.rates.temperature == 0:
        raise ConfigError(
            "loss_weighting=learned: weights learn at the rate of lr.temperature, which is 0"
        )
    for name in LOCAL_PATHS:
        if is_url(value := attrgetter(name)(config)):
            raise ConfigError(f"{name}: expected a folder of this machine, got {shown(value)}")
    _check_data(config.data)
    check_hard_negatives(config)


def _check_matryoshka(config: Config) -> None:
    """Checks the widths of shortened vectors, and their weights."""
    widths, weights = config.matryoshka, config.matryoshka_weights
    if widths != sorted(set(widths)) or not all(1 <= width <= config.dim for width in widths):
        raise ConfigError(
            f"matryoshka: expected ascending widths from 1 to {config.dim} (dim), got {widths}"
        )
    if weights and len(weights) != len(widths):
        raise ConfigError(
            f"matryoshka_weights: expected {len(widths)} weights, one for each of matryoshka's "
            f"{widths}, got {weights}"
        )
    if not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(f"matryoshka_weights: expected weights above 0, got {weights}")


def _check_data(data: Data) -> None:
    """Checks the sources, the weights of grades and the fields of texts."""
    for name, source in data.sources.items():
        if not source.path:
            raise ConfigError(
                f"data.sources.{name}.path: expected a folder of shards or its URL, got ''"
            )
        if not 0 <= source.weight < float("inf"):
            raise ConfigError(
                f"data.sources.{name}.weight: expected at least 0, got {source.weight:g}"
            )
        if is_url(source.mined):
            raise ConfigError(
                f"data.sources.{name}.mined: expected a folder of this machine, got "
                f"{shown(source.mined)}"
            )
        for key, number in (
            ("queries_per_product", source.queries_per_product), ("labels", source.labels),
        ):  # fmt: skip
            if number is not None and number < 0:
                raise ConfigError(f"data.sources.{name}.{key}: expected at least 0, got {number}")
        if unknown := set(source.losses) - OBJECTIVE_VIEWS.keys():
            raise ConfigError(
                f"data.sources.{name}.losses: expected some of {', '.join(OBJECTIVE_VIEWS)}, "
                f"got {min(unknown)!r}"
            )
    known, fields = get_args(TextField), data.text_fields
    if not fields or not set(fields) <= set(known):
        raise ConfigError(f"data.text_fields: expected some of {', '.join(known)}, got {fields}")
    if any(weight < 0 for weight in data.grades.values()) or (
        data.grades and not sum(data.grades.values())
    ):
        raise ConfigError(
            f"data.grades: expected weights of at least 0, not all 0, got {data.grades}"
        )


def _check_unused(config: Config) -> None:
    """Refuses settings that would have no effect beside the others."""
    if 0 < config.memory_size < config.batch_size:
        raise ConfigError(
            f"memory_size: {config.memory_size} products hold no batch of {config.batch_size} "
            "(batch_size); expected 0, or at least as many"
        )
    if config.fusion_balance != (default := Config.fusion_balance) and config.fusion != "moe":
        raise ConfigError(
            f"fusion_balance: only fusion=moe has experts to balance; expected {default:g}, got "
            f"{config.fusion_balance:g} with fusion={config.fusion}"
        )
    contrasts = any(getattr(config.losses, name) for name in PAIRS)
    for name, unused in (("memory_size", 0), ("negative_weight", 1)):
        if getattr(config, name) != unused and not contrasts:
            raise ConfigError(
                f"{name}: only contrasts of two views use it; expected {unused}, or a weight for "
                f"one of {', '.join(PAIRS)} in losses"
            )


def to_yaml(config: Config) -> str:
    """Returns the whole configuration as YAML; `load_config` reads an equal one back.

    Only the credentials of URLs are left out.
    """
    return OmegaConf.to_yaml(OmegaConf.structured(without_credentials(config)))
