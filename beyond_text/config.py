"""Every setting of a run, typed; a run is YAML files merged from left to right plus `key=value`.

A stage, a backbone and a data set are only files: each is the difference from `recipes/base.yaml`.
An unknown key or a bad value is an error that names it and the nearest known key; nothing a user
wrote is ever ignored. The merged settings are saved with the run and restore it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

View = Literal["query", "text", "image", "product", "trigger_text", "trigger_image"]
LossName = Literal["info_nce", "ranked_nce", "sigmoid"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Resume = Literal["auto", "never"]
FusionName = Literal[
    "bilinear", "concat", "gated", "moe", "mutan", "block", "lmf", "uniecs", "sum", "text", "image"
]
LossWeighting = Literal["fixed", "learned"]
Pooling = Literal["auto", "mean", "cls", "pooler"]
TextField = Literal["title", "description", "category"]


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
    """A Hugging Face text encoder: hub name or folder; `dropout` is its own, not LoRA's."""

    path: str = "data/encoders/minilm-l6"
    max_length: int = 64
    pooling: str = "auto"
    dropout: bool = True
    lora: Lora = field(default_factory=Lora)


@dataclass
class ImageEncoder:
    """A Hugging Face image encoder: hub name or folder; image_size 0 is the encoder's own."""

    path: str = "data/encoders/efficientnet-lite2"
    image_size: int = 0
    # Stochastic depth of the deepest block while training, in encoders that have it.
    drop_path: float = 0.0
    lora: Lora = field(default_factory=Lora)


@dataclass
class Losses:
    """Weight of each objective, 0 leaves it out: contrast of two views, or UniECS's three."""

    text_image: float = 0.0
    query_text: float = 0.0
    query_image: float = 0.0
    query_product: float = 0.0
    cmal: float = 0.0
    clal: float = 0.0
    imcl: float = 0.0


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
    """A folder of shards and its share of the batches, relative to the other sources.

    It joins stages all of whose losses it can feed; with `losses`, it feeds those alone, in every
    stage that has one of them.
    """

    path: str = ""
    weight: float = 1.0
    losses: list[str] = field(default_factory=list)
    # 0 takes data's; queries with pictures of their own are the ones that cost.
    queries_per_product: int = 0


@dataclass
class Data:
    """What a run reads; the retrieval metrics are those of `dev`'s split `dev_split`."""

    sources: dict[str, Source] = field(default_factory=dict)
    dev: str = ""
    dev_split: str = "dev"
    text_fields: list[str] = field(default_factory=lambda: ["title", "category", "description"])
    # Rows of a batch that a product has, a query each; its text and picture are encoded once.
    queries_per_product: int = 1
    # Products of one category that stand together in a batch: each other's hard negatives.
    same_category: int = 1
    # Random resized crop and mirror image while training.
    augment: bool = True
    # The share of each side that a crop keeps at least.
    smallest_crop: float = 0.9
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
    # Rows encoded at a time, in two forward passes: a large batch in little memory; 0 is all.
    chunk_size: int = 0
    # Products of the last batches that stay further candidates (cross-batch memory), for
    # contrasts of two views.
    memory_size: int = 0
    accumulate: int = 1
    precision: str = "auto"
    # torch.compile for the encoders, which takes minutes before the first step.
    compile: bool = False
    # Folder of what frozen towers (rate 0) make of the data, computed once for all runs of the same
    # towers and shards; empty: computed in every step.
    cache: str = ""
    resume: str = "auto"
    dim: int = 384
    fusion: str = "bilinear"
    fusion_rank: int = 512
    share_text_encoder: bool = True
    loss: str = "info_nce"
    # `learned` weighs the objectives by their uncertainty, on top of the weights in `losses`.
    loss_weighting: str = "fixed"
    temperature: float = 0.05
    temperature_min: float = 0.01
    weight_decay: float = 0.05
    warmup: float = 0.1
    # Share of its peak that a learning rate falls to by the last step.
    lr_floor: float = 0.0
    clip_norm: float = 1.0
    # A run ends with the average of its weights over about this share of its last steps.
    average_span: float = 0.0
    evaluate_every: int = 0
    checkpoint_every: int = 50
    losses: Losses = field(default_factory=Losses)
    lr: LearningRates = field(default_factory=LearningRates)
    # Factors on `lr`: how fast a backbone moves is its own, whether a group moves is the stage's.
    lr_scale: LearningRates = field(default_factory=lambda: LearningRates(*[1.0] * 6))
    text_encoder: TextEncoder = field(default_factory=TextEncoder)
    image_encoder: ImageEncoder = field(default_factory=ImageEncoder)
    data: Data = field(default_factory=Data)
    # Passed to Lightning's Trainer as it is: accelerator, devices, num_nodes, strategy ...
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, round(self.steps * self.budget))

    @property
    def rates(self) -> LearningRates:
        """Peak learning rate of each group: `lr` times `lr_scale`, so what is 0 stays 0."""
        names = [item.name for item in dataclasses.fields(LearningRates)]
        return LearningRates(*(getattr(self.lr, n) * getattr(self.lr_scale, n) for n in names))


# The views that a contrastive objective contrasts.
PAIRS: dict[str, tuple[View, View]] = {
    "text_image": ("text", "image"),
    "query_text": ("query", "text"),
    "query_image": ("query", "image"),
    "query_product": ("query", "product"),
}


class Side(NamedTuple):
    """The views of what is fused (its text alone, its picture alone) and of the two together."""

    text: View
    image: View
    fused: View


QUERY = Side("trigger_text", "trigger_image", "query")
PRODUCT = Side("text", "image", "product")
# The views that each field of Losses needs.
OBJECTIVE_VIEWS: dict[str, tuple[View, ...]] = {
    **PAIRS,
    "cmal": (*QUERY, *PRODUCT),
    "clal": (*QUERY, *PRODUCT),
    "imcl": ("trigger_text", "trigger_image", "text", "image"),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": get_args(LossName),
    "loss_weighting": get_args(LossWeighting),
    "precision": get_args(Precision),
    "resume": get_args(Resume),
    "fusion": get_args(FusionName),
    "text_encoder.pooling": get_args(Pooling),
}

# (setting, smallest, largest); bounds included, infinity not.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, 2**32 - 1),
    ("steps", 1, float("inf")),
    ("budget", 1e-3, float("inf")),
    ("batch_size", 2, float("inf")),
    ("chunk_size", 0, float("inf")),
    ("memory_size", 0, float("inf")),
    ("accumulate", 1, float("inf")),
    ("dim", 1, float("inf")),
    ("fusion_rank", 1, float("inf")),
    ("temperature", 1e-3, 1.0),
    ("temperature_min", 1e-3, 1.0),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 1.0),
    ("lr_floor", 0.0, 1.0),
    ("clip_norm", 0.0, float("inf")),
    ("average_span", 0.0, 1.0),
    ("evaluate_every", 0, float("inf")),
    ("checkpoint_every", 1, float("inf")),
    ("text_encoder.max_length", 4, float("inf")),
    ("text_encoder.lora.rank", 0, float("inf")),
    ("text_encoder.lora.dropout", 0.0, 1.0),
    ("image_encoder.image_size", 0, 4096),
    ("image_encoder.drop_path", 0.0, 0.9),
    ("image_encoder.lora.rank", 0, float("inf")),
    ("image_encoder.lora.dropout", 0.0, 1.0),
    ("data.modality_dropout", 0.0, 1.0),
    ("data.smallest_crop", 0.1, 1.0),
    ("data.queries_per_product", 1, float("inf")),
    ("data.same_category", 1, float("inf")),
    ("data.max_skipped", 0.0, 1.0),
    ("data.workers", 0, float("inf")),
)


def _known_keys(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all settings, tables and what is in them."""
    keys = []
    for name, value in settings.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _known_keys(value, f"{prefix}{name}.")
    return keys


KNOWN = _known_keys(dataclasses.asdict(Config()))


def _check_keys(given: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Refuses a key that the schema lacks, naming the nearest one."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        if prefix == "trainer.":
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


def _line(error: Exception) -> str:
    """The error's message on one line."""
    return " ".join(str(error).split())


def _parse(override: str) -> DictConfig:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{override}: expected key=value")
    try:
        # Nothing after the sign is the empty string, as a shell means it, and not null.
        return OmegaConf.from_dotlist([f"{key}={value or repr('')}"])
    except yaml.YAMLError as error:
        raise ConfigError(f"{override}: not a YAML value: {_line(error)}") from None


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {_line(error)}") from None
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
    config = Config()
    layers = [(str(path), _read(Path(path))) for path in files]
    layers += [(text, _parse(text)) for text in overrides]
    for origin, layer in layers:
        _check_keys(cast("Mapping[str, Any]", OmegaConf.to_container(layer)), origin)
        try:
            merged = OmegaConf.merge(merged, layer)
            # Here, so that a reference to nothing names the file or override it stands in.
            config = cast("Config", OmegaConf.to_object(merged))
        except (OmegaConfBaseException, TypeError) as error:
            key = getattr(error, "full_key", None)
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{origin}: {f'{key}: ' if key else ''}{reason}") from None
    check(config)
    return config


def check(config: Config) -> None:
    """Checks values against their choices, ranges and each other.

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
        if not (low <= value <= high and math.isfinite(value)):
            raise ConfigError(f"{name}: expected a value from {low:g} to {high:g}, got {value:g}")
    if config.temperature < config.temperature_min:
        raise ConfigError(
            f"temperature: {config.temperature:g} lies below temperature_min "
            f"{config.temperature_min:g}"
        )
    if config.loss_weighting == "learned" and config.rates.temperature == 0:
        raise ConfigError(
            "loss_weighting=learned: weights learn at the rate of lr.temperature, which is 0"
        )
    for name, source in config.data.sources.items():
        if not source.path:
            raise ConfigError(f"data.sources.{name}.path: expected a folder of shards, got ''")
        if not 0 <= source.weight < float("inf"):
            raise ConfigError(
                f"data.sources.{name}.weight: expected at least 0, got {source.weight:g}"
            )
        if source.queries_per_product < 0:
            raise ConfigError(
                f"data.sources.{name}.queries_per_product: expected at least 0, "
                f"got {source.queries_per_product}"
            )
        if unknown := set(source.losses) - OBJECTIVE_VIEWS.keys():
            raise ConfigError(
                f"data.sources.{name}.losses: expected some of {', '.join(OBJECTIVE_VIEWS)}, "
                f"got {min(unknown)!r}"
            )
    known, fields = get_args(TextField), config.data.text_fields
    if not fields or not set(fields) <= set(known):
        raise ConfigError(f"data.text_fields: expected some of {', '.join(known)}, got {fields}")


def active_losses(config: Config) -> dict[str, float]:
    """The objectives of a stage, with their weights.

    Raises:
        ConfigError: none has a weight.
    """
    weights = {name: getattr(config.losses, name) for name in OBJECTIVE_VIEWS}
    active = {name: weight for name, weight in weights.items() if weight > 0}
    if not active:
        known = ", ".join(OBJECTIVE_VIEWS)
        raise ConfigError(f"losses: every weight is 0; give one of {known} a weight")
    return active


def views_of(config: Config) -> set[View]:
    """The views that a stage's losses need."""
    return {view for name in active_losses(config) for view in OBJECTIVE_VIEWS[name]}


# How a run is carried out and where it lies, which leaves its numbers as they are.
HOW_NOT_WHAT = ("run", "resume", "trainer", "data.workers", "checkpoint_every", "evaluate_every")


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
        and not any(f"{key}.".startswith(f"{how}.") for how in HOW_NOT_WHAT)
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `load_config` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
