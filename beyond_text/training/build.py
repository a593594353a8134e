"""Builds the model that a run starts with: from its encoders, or from an earlier run's weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn

from beyond_text.config.settings import Config
from beyond_text.config.urls import shown
from beyond_text.models.checkpoint import WarmStart, load_model, warm_start
from beyond_text.models.image_tower import ImageTower
from beyond_text.models.sentence import read_sentence_settings
from beyond_text.models.settings import settings_of
from beyond_text.models.tokenizer import load_tokenizer
from beyond_text.models.two_tower import TwoTower, build_model
from beyond_text.shards.manifest import read_manifest
from beyond_text.terminal import say
from beyond_text.training.teacher import Teacher, check_reads_batches


def build(config: Config) -> tuple[TwoTower, Any]:
    """Seeds the run, and returns the model that it starts with and its tokenizer.

    Raises:
        CheckpointError: `start` names no finished run, or one of other encoders.
        FileNotFoundError: an encoder does not exist.
    """
    pl.seed_everything(config.seed, verbose=False)
    stored = read_manifest(config.data.dev)["picture_size"]
    settings = settings_of(config, stored)
    warn_of_small_pictures(config, settings.image_size)
    folder = read_sentence_settings(config.text_encoder.path).encoder
    model = build_model(
        settings,
        config.text_encoder.path,
        config.image_encoder.path,
        pretrained=True,
        drop_path=config.image_encoder.drop_path,
    )
    tokenizer = load_tokenizer(folder, settings.lower_case)
    if config.start:
        _say_untaken(config, warm_start(model, config.start))
        if config.temperature is not None:
            model.set_temperature(config.temperature)
    for tower in model.towers.values():
        is_image = isinstance(tower, ImageTower)
        tower.add_lora(config.image_encoder.lora if is_image else config.text_encoder.lora)
        if config.compile:
            tower.compile_encoder()
    return model, tokenizer


def build_teacher(config: Config, student: TwoTower, tokenizer: Any) -> Teacher | None:
    """Loads the teacher of a run, whose model and tokenizer are given; None without a teacher.

    Raises:
        CheckpointError: `teacher` names no finished run.
        ConfigError: the teacher cannot read the student's batches.
    """
    if not config.teacher:
        return None
    model, own = load_model(config.teacher)
    check_reads_batches(config.teacher, (model, own), (student, tokenizer))
    model.chunk_size = config.chunk_size
    return Teacher(model, config.teacher_temperature)


def warn_of_small_pictures(config: Config, size: int) -> None:
    """Warns of every source whose shards hold smaller pictures than the encoder takes."""
    sources = {f"data.sources.{n}": s.path for n, s in config.data.sources.items() if s.weight}
    for name, path in {"data.dev": config.data.dev, **sources}.items():
        stored = read_manifest(path)["picture_size"]
        if stored < size:
            rank_zero_warn(
                f"{name}: the pictures of {shown(path)} have at most {stored} pixels a side and "
                f"are enlarged to the {size} of {config.image_encoder.path}; pack the shards with "
                "larger pictures, or set image_encoder.image_size"
            )


def _say_untaken(config: Config, untaken: WarmStart) -> None:
    """Prints which weights of `start` did not end up in the model, and which are new."""
    if untaken.new:
        line = f"its fusion is not {config.fusion} of rank {config.fusion_rank}, which starts new"
        say(f"start={config.start}: {line}")
    for name in untaken.lost:
        line = f"{name} is not taken: {config.fusion} shares its tensor with another weight"
        say(f"start={config.start}: {line}")
