"""Builds again the model that a run, or the first of the stages before it, began with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, Lora
from beyond_text.models.precision import uses_bf16
from beyond_text.retrieval.encode import Encoder
from beyond_text.shards.sources import supplies_of
from beyond_text.terminal import say
from beyond_text.training.alignment import align_pictures
from beyond_text.training.build import build


def untouched(run: Path) -> Encoder:
    """Returns the untouched encoders with the projections and the fusion that a run began with.

    A run with a `start` began with what its start began with, and so on; the first run of that
    chain says on which products the image projection was fitted (`alignment.py`). The fusion block
    is the run's own, as new.

    Raises:
        ConfigError, ShardError, FileNotFoundError: no settings there, or the encoders or shards
            that they name are gone.
    """
    config = load_config([run / "config.yaml"])
    first = first_of(config)
    first = replace(
        first,
        start="",
        compile=False,
        fusion=config.fusion,
        fusion_rank=config.fusion_rank,
        text_encoder=replace(first.text_encoder, lora=Lora()),
        image_encoder=replace(first.image_encoder, lora=Lora()),
    )
    model, tokenizer = build(first)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    encoder = Encoder(model, tokenizer, uses_bf16(first.precision), 1)
    align_pictures(encoder, [source.split for source in supplies_of(first).values()], first)
    model.eval()
    return encoder


def first_of(config: Config) -> Config:
    """Returns the settings of the first run of a chain of starts, as far as its folders are there.

    Where one is gone, the run that started from it stands for the first, and a line says so.
    """
    met = {config.run}
    while config.start:
        settings = Path(config.start) / "config.yaml"
        if not settings.is_file():
            line = f"{settings}: gone; its untouched model is that of the settings of {config.run}"
            say(line)
            break
        config = load_config([settings])
        if config.run in met:
            break
        met.add(config.run)
    return config
