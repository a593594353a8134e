"""Every setting of a run, typed; a run is YAML files merged from left to right plus `key=value`.

A stage, a backbone and a data set are only files: each is the difference from `recipes/base.yaml`.
An unknown key or a bad value is an error that names it and the nearest known key; nothing a user
wrote is ever ignored. The merged settings are saved with the run and restore it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

View = Literal["query", "text", "image", "product"]
LossName = Literal["info_nce", "sigmoid"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Resume = Literal["auto", "never"]
FusionName = Literal["bilinear", "concat", "gated", "sum", "text", "image"]
Pooling = Literal["auto", "mean", "cls", "pooler"]


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or at odds with another."""


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021) through peft; rank 0 trains the encoder itself."""

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    # Module names such as q_proj, value; empty means every linear layer.
    targets: list[str] = field(default_factory=list)


@dataclass
class TextEncoder:
    """A Hugging Face text encoder: hub name or folder."""

    path: str = "data/encoders/minilm-l6"
    max_length: int = 64
    pooling: str = "auto"
    lora: Lora = field(default_factory=Lora)


@dataclass
class ImageEncoder:
    """A Hugging Face image encoder: hub name or folder; image_size 0 is the encoder's own."""

    path: str = "data/encoders/efficientnet-lite0"
    image_size: int = 0
    lora: Lora = field(default_factory=Lora)


@dataclass
class Losses:
    """Weight of the contrastive loss between each pair of views; 0 leaves the pair out."""

    text_image: float = 0.0
    query_text: float = 0.0
    query_image: float = 0.0
    query_product: float = 0.0


@dataclass
class LearningRates:
    """Peak learning rate of each parameter group; 0 freezes the group."""

    text_encoder: float = 1e-4
    query_encoder: float = 1e-4
    image_encoder: float = 3e-4
    projections: float = 1e-3
    fusion: float = 1e-3
    temperature: float = 1e-2


@dataclass
class Source:
    """A folder of shards and its share of the batches, relative to the other sources."""

    path: str = ""
    weight: float = 1.0


@dataclass
class Data:
    """What a run reads; the retrieval metrics are those of `dev`'s split `dev_split`."""

    sources: dict[str, Source] = field(default_factory=dict)
    dev: str = ""
    dev_split: str = "dev"
    text_fields: list[str] = field(default_factory=lambda: ["title", "category", "description"])
    # Random resized crop (90 % of each side at least) and mirror image while training.
    augment: bool = True
    # Share of the products that lose one of their two modalities while training.
    modality_dropout: float = 0.0
    workers: int = 1
    # More unreadable samples than this share stop the run.
    max_skipped: float = 0.01


@dataclass
class Config:
    """One run: where it starts, what it contrasts, what moves, and where it writes."""

    run: str = "runs/run"
    # Run folder whose weights this one starts from; empty means the untouched encoders.
    start: str = ""
    seed: int = 0
    # Optimizer steps, and a factor on them: `budget=3` gives every stage three times its steps.
    steps: int = 100
    budget: float = 1.0
    batch_size: int = 128
    accumulate: int = 1
    precision: str = "auto"
    resume: str = "auto"
    dim: int = 384
    fusion: str = "bilinear"
    fusion_rank: int = 512
    share_text_encoder: bool = True
    loss: str = "info_nce"
    temperature: float = 0.05
    temperature_min: float = 0.01
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip_norm: float = 1.0
    evaluate_every: int = 0
    checkpoint_every: int = 50
    losses: Losses = field(default_factory=Losses)
    lr: LearningRates = field(default_factory=LearningRates)
    text_encoder: TextEncoder = field(default_factory=TextEncoder)
    image_encoder: ImageEncoder = field(default_factory=ImageEncoder)
    data: Data = field(default_factory=Data)
    # Passed to Lightning's Trainer as it is: accelerator, devices, num_nodes, strategy ...
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, round(self.steps * self.budget))


# The views that each field of Losses contrasts.
PAIRS: dict[str, tuple[View, View]] = {
    "text_image": ("text", "image"),
    "query_text": ("query", "text"),
    "query_image": ("query", "image"),
    "query_product": ("query", "product"),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": get_args(LossName),
    "precision": get_args(Precision),
    "resume": get_args(Resume),
    "fusion": get_args(FusionName),
    "text_encoder.pooling": get_args(Pooling),
}

# (setting, smallest, largest); bounds included.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("steps", 1, float("inf")),
    ("budget", 1e-3, float("inf")),
    ("batch_size", 2, float("inf")),
    ("accumulate", 1, float("inf")),
    ("dim", 1, float("inf")),
    ("fusion_rank", 1, float("inf")),
    ("temperature", 1e-3, 1.0),
    ("temperature_min", 1e-3, 1.0),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 1.0),
    ("clip_norm", 0.0, float("inf")),
    ("evaluate_every", 0, float("inf")),
    ("checkpoint_every", 1, float("inf")),
    ("text_encoder.max_length", 4, float("inf")),
    ("text_encoder.lora.rank", 0, float("inf")),
    ("image_encoder.image_size", 0, 4096),
    ("image_encoder.lora.rank", 0, float("inf")),
    ("data.modality_dropout", 0.0, 1.0),
    ("data.max_skipped", 0.0, 1.0),
    ("data.workers", 0, float("inf")),
)


def _known_keys(schema: Any, prefix: str = "") -> list[str]:
    """Dotted names of all settings below a dataclass."""
    keys = []
    for item in dataclasses.fields(schema):
        name = f"{prefix}{item.name}"
        keys.append(name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if dataclasses.is_dataclass(default):
            keys += _known_keys(default, f"{name}.")
    return keys


KNOWN = _known_keys(Config)


def _check_keys(given: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Refuses a key that the schema lacks, naming the nearest one."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        if prefix == "trainer.":
            continue
        if prefix == "data.sources.":
            for inner in value if isinstance(value, Mapping) else ():
                if inner not in ("path", "weight"):
                    raise ConfigError(
                        f"{origin}: unknown setting {name}.{inner}; a source has path and weight"
                    )
            continue
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.0)
            raise ConfigError(
                f"{origin}: unknown setting {name}; the nearest known one is {near[0]}"
            )
        if isinstance(value, Mapping):
            _check_keys(value, origin, f"{name}.")


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    loaded = OmegaConf.load(path)
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: expected settings as `key: value`, got a list")
    return loaded


def load_config(files: Sequence[Path | str], overrides: Sequence[str] = ()) -> Config:
    """Merges recipe files from left to right, then `key=value` overrides, and checks the result.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or settings that
            contradict each other; the message names the file or override.
    """
    merged = OmegaConf.structured(Config)
    layers = [(str(path), _read(Path(path))) for path in files]
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"{text}: expected key=value")
        layers.append((text, OmegaConf.from_dotlist([text])))
    for origin, layer in layers:
        _check_keys(cast("Mapping[str, Any]", OmegaConf.to_container(layer)), origin)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{origin}: {error.full_key}: {reason}") from None
    config = cast("Config", OmegaConf.to_object(merged))
    check(config)
    return config


def _get(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def check(config: Config) -> None:
    """Checks values against their choices, ranges and each other.

    Raises:
        ConfigError: naming the setting, what was expected and what was got.
    """
    for name, choices in CHOICES.items():
        value = _get(config, name)
        if value not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    rates = [(f"lr.{f.name}", 0.0, 1.0) for f in dataclasses.fields(LearningRates)]
    weights = [(f"losses.{f.name}", 0.0, float("inf")) for f in dataclasses.fields(Losses)]
    for name, low, high in (*RANGES, *rates, *weights):
        value = _get(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name}: expected a value from {low:g} to {high:g}, got {value:g}")
    if config.temperature < config.temperature_min:
        raise ConfigError(
            f"temperature: {config.temperature:g} lies below temperature_min "
            f"{config.temperature_min:g}"
        )
    for name, source in config.data.sources.items():
        if not source.path:
            raise ConfigError(f"data.sources.{name}.path: expected a folder of shards, got ''")
        if source.weight < 0:
            raise ConfigError(f"data.sources.{name}.weight: expected at least 0")


def active_pairs(config: Config) -> dict[str, float]:
    """The pairs of views a stage contrasts, with their weights.

    Raises:
        ConfigError: none has a weight.
    """
    pairs = {name: getattr(config.losses, name) for name in PAIRS}
    active = {name: weight for name, weight in pairs.items() if weight > 0}
    if not active:
        raise ConfigError(f"losses: every weight is 0; give one of {', '.join(PAIRS)} a weight")
    return active


def views_of(config: Config) -> set[View]:
    """The views that a stage's losses need."""
    return {view for name in active_pairs(config) for view in PAIRS[name]}


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
