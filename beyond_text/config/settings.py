"""Defines every setting of a run. A run is YAML files merged from left to right plus `key=value`.

A stage, a backbone and a data set are only files: each is the difference from `recipes/base.yaml`.
An unknown key or a bad value is an error that names it and the nearest known key; nothing a user
wrote is ever ignored. The merged settings are saved with the run and restore it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from beyond_text.config.views import OBJECTIVE_VIEWS, View

LossName = Literal["info_nce", "ranked_nce", "sigmoid"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Resume = Literal["auto", "never"]
FusionName = Literal[
    "bilinear", "concat", "gated", "attended", "moe", "mutan", "block", "lmf", "uniecs",
    "sum", "text", "image",
]  # fmt: skip
LossWeighting = Literal["fixed", "learned"]
Pooling = Literal["auto", "mean", "cls", "pooler", "last", "max", "mean_sqrt", "weighted_mean"]
ImagePooling = Literal["auto", "mean", "cls", "pooler"]
TextField = Literal["title", "description", "category"]


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or contradicts another."""


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
    """A Hugging Face text encoder by hub name or folder; `dropout` is the encoder's, not LoRA's."""

    path: str = "data/encoders/minilm-l6"
    # 0 takes the longest text that a sentence-transformers folder names.
    max_length: int = 64
    pooling: str = "auto"
    # Put before every query and every product's text; `auto` takes the prompts of the folder.
    query_prefix: str = "auto"
    text_prefix: str = "auto"
    dropout: bool = True
    lora: Lora = field(default_factory=Lora)


@dataclass
class ImageEncoder:
    """A Hugging Face image encoder by hub name or folder; image_size 0 takes the encoder's."""

    path: str = "data/encoders/efficientnet-lite2"
    image_size: int = 0
    pooling: str = "auto"
    # Stochastic depth of the deepest block while training, in encoders that have it.
    drop_path: float = 0.0
    lora: Lora = field(default_factory=Lora)


@dataclass
class Losses:
    """Weight of each objective; 0 leaves it out. Four contrast two views, three are UniECS's.

    The last one follows a teacher.
    """

    text_image: float = 0.0
    query_text: float = 0.0
    query_image: float = 0.0
    query_product: float = 0.0
    cmal: float = 0.0
    clal: float = 0.0
    imcl: float = 0.0
    teacher: float = 0.0


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
    """A folder of shards, or its URL, and its share of the batches, relative to the other sources.

    It joins the stages all of whose losses it can supply. With `losses`, it supplies those alone,
    in every stage that has one of them.
    """

    path: str = ""
    weight: float = 1.0
    losses: list[str] = field(default_factory=list)
    # Product ids are those of one shop; sources of the same shop share its name. Empty: the
    # source's own name.
    namespace: str = ""
    # 0 takes data.queries_per_product. Queries with pictures of their own are the expensive ones.
    queries_per_product: int = 0
    # Folder of its mined negatives; empty: they lie beside its shards.
    mined: str = ""
    # As data.labels, for this source; null takes that.
    labels: int | None = None


@dataclass
class Data:
    """The data of a run; retrieval metrics are measured on the split `dev_split` of `dev`."""

    sources: dict[str, Source] = field(default_factory=dict)
    dev: str = ""
    dev_split: str = "dev"
    text_fields: list[str] = field(default_factory=lambda: ["title", "category", "description"])
    # Rows of a product in a batch, a query each; its text and picture are encoded once.
    queries_per_product: int = 1
    # Judged queries of train that training sees, drawn by a hash of their content; null: all.
    labels: int | None = None
    # Weights of the columns of grades in a judgment's gain; empty: the first column alone.
    grades: dict[str, float] = field(default_factory=dict)
    # Largest share of a batch for products that are negatives only: first those judged 0 for a
    # query of the batch, then those without the views of the losses.
    negatives: float = 0.25
    # The most products that were mined for an anchor's query (`mine`) and join its batch, within
    # the share of `negatives`; 0: none.
    hard_negatives: int = 0
    # Products of one category that stand together in a batch: each other's hard negatives.
    same_category: int = 1
    # Random resized crop and mirror image in training.
    augment: bool = True
    # The share of each side that a crop keeps at least.
    smallest_crop: float = 0.9
    # Share of the products that lose one of their two modalities in training.
    modality_dropout: float = 0.0
    # Processes that load; null: as many as there are cores for, at least 1.
    workers: int | None = None
    # Folder that keeps shards of URLs, shared by the runs of a machine; empty: the user's cache.
    cache_dir: str = ""
    # Its size in gigabytes (10^9 bytes); the shards used longest ago go first.
    cache_gb: float = 50.0
    # The run stops if a larger share of the samples is unreadable.
    max_skipped: float = 0.01


@dataclass
class AutoSteps:
    """The rule of `steps: auto` (`config/steps.py`), before `budget`.

    Stages are short where more was measured to be worse (recipes/results): stage 1, and stage 3 of
    few queries, which it learns by heart. 400 steps for thousands of queries are the recipes'.
    """

    # Stages without queries: passes over the products of the sources, and limits of the steps.
    passes: float = 0.5
    least: int = 20
    most: int = 400
    # Stages with queries: steps at few judged queries, and at many or more.
    few_queries: int = 30
    few_steps: int = 10
    many_queries: int = 3000
    many_steps: int = 400
    # Share of these steps for a stage that sees queries and texts alone.
    text_share: float = 0.05


@dataclass
class Config:
    """One run: where it starts, what it contrasts, which parameters learn, where it writes."""

    run: str = "runs/run"
    # Run folder whose weights this one starts from; empty means the untouched encoders.
    start: str = ""
    seed: int = 0
    # Pairs of product text and picture that fit the image projection in closed form before the
    # first step, where it maps to another width; 0: it starts random.
    align_pairs: int = 8192
    # Optimizer steps, and a factor on them: `budget=3` gives every stage three times its steps.
    # `auto` computes the steps from the products and judged queries by the rule `auto_steps`.
    steps: int | str = 100
    auto_steps: AutoSteps = field(default_factory=AutoSteps)
    budget: float = 1.0
    batch_size: int = 128
    # Rows encoded at a time, in two forward passes: a large batch in little memory; 0 is all.
    chunk_size: int = 0
    # Products of the last batches that are kept as further candidates (cross-batch memory), for
    # contrasts of two views.
    memory_size: int = 0
    accumulate: int = 1
    precision: str = "auto"
    # torch.compile for the encoders, which takes minutes before the first step.
    compile: bool = False
    # Folder for the outputs of frozen towers (rate 0), computed once for all runs of the same
    # towers and shards; empty: computed in every step.
    cache: str = ""
    resume: str = "auto"
    dim: int = 384
    # Widths at which the losses are computed as well, ascending, such as [64, 128, 384]: of the
    # first numbers of the vectors, normalised again. Empty: at `dim` alone.
    matryoshka: list[int] = field(default_factory=list)
    # Weight of the losses at each width; empty: 1 each.
    matryoshka_weights: list[float] = field(default_factory=list)
    fusion: str = "bilinear"
    fusion_rank: int = 512
    # Weight of the loss that balances the load of the experts of `fusion: moe`.
    fusion_balance: float = 0.01
    share_text_encoder: bool = True
    loss: str = "info_nce"
    # How often a product that is judged 0 for a query counts among its negatives; others once.
    negative_weight: float = 1.0
    # `learned` weighs the objectives by their uncertainty, on top of the weights in `losses`.
    loss_weighting: str = "fixed"
    # At the start of the run; null goes on with that of `start`, or takes 0.05 without one.
    temperature: float | None = None
    temperature_min: float = 0.01
    weight_decay: float = 0.05
    warmup: float = 0.1
    # Pulls trained encoder weights towards those that the run starts with: after each step, by this
    # times their learning rate times the distance.
    start_penalty: float = 0.0
    # Run folder whose scores of a batch's products are soft targets, weighed by losses.teacher; and
    # the temperature that its cosines and the model's own are divided by, null: the teacher's own.
    teacher: str = ""
    teacher_temperature: float | None = None
    # Share of its peak that a learning rate falls to by the last step.
    lr_floor: float = 0.0
    clip_norm: float = 1.0
    # A run ends with the average of its weights over about this share of its last steps.
    average_span: float = 0.0
    evaluate_every: int = 0
    checkpoint_every: int = 50
    losses: Losses = field(default_factory=Losses)
    lr: LearningRates = field(default_factory=LearningRates)
    # Factors on `lr`: a backbone sets how fast its groups learn, a stage which groups learn.
    lr_scale: LearningRates = field(default_factory=lambda: LearningRates(*[1.0] * 6))
    text_encoder: TextEncoder = field(default_factory=TextEncoder)
    image_encoder: ImageEncoder = field(default_factory=ImageEncoder)
    data: Data = field(default_factory=Data)
    # Passed to Lightning's Trainer as it is: accelerator, devices, num_nodes, strategy ...
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the run.

        Raises:
            ConfigError: steps is `auto`, which `training/steps.py` turns into a number.
        """
        if isinstance(self.steps, str):
            raise ConfigError(f"steps: expected a number by now, got {self.steps!r}")
        return max(1, round(self.steps * self.budget))

    @property
    def rates(self) -> LearningRates:
        """Peak learning rate of each group: `lr` times `lr_scale`, so what is 0 stays 0."""
        names = [item.name for item in dataclasses.fields(LearningRates)]
        return LearningRates(*(getattr(self.lr, n) * getattr(self.lr_scale, n) for n in names))


def active_losses(config: Config) -> dict[str, float]:
    """Returns the objectives of a stage with their weights.

    Raises:
        ConfigError: none has a weight.
    """
    weights = {name: getattr(config.losses, name) for name in OBJECTIVE_VIEWS}
    active = {name: weight for name, weight in weights.items() if weight > 0}
    if not active:
        known = ", ".join(OBJECTIVE_VIEWS)
        raise ConfigError(f"losses: every weight is 0; give one of {known} a weight")
    return active


def widths_of(config: Config) -> list[tuple[int, float]]:
    """Returns the widths of vectors at which losses are computed, and the weight of each."""
    widths = config.matryoshka or [config.dim]
    return list(zip(widths, config.matryoshka_weights or [1.0] * len(widths), strict=True))


def views_of(config: Config) -> set[View]:
    """Returns the views that a stage's losses need."""
    return {view for name in active_losses(config) for view in OBJECTIVE_VIEWS[name]}
