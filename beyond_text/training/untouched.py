"""Builds again the model that a run, or the first of the stages before it, began with."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
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
    is the run's own, as the stage drew it that began with a new one.

    Raises:
        ConfigError, ShardError, FileNotFoundError: no settings there, or the encoders or shards
            that they name are gone.
    """
    config = load_config([run / "config.yaml"])
    chain = chain_of(config)
    *_, began = takewhile(lambda each: _block(each) == _block(config), chain)
    first = chain[-1]
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
    if began.seed != first.seed:
        model.fusion.load_state_dict(build(replace(first, seed=began.seed))[0].fusion.state_dict())
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    encoder = Encoder(model, tokenizer, uses_bf16(first.precision), 1)
    align_pictures(encoder, [source.split for source in supplies_of(first).values()], first)
    model.eval()
    return encoder


def _block(config: Config) -> tuple[str, int]:
    """Returns what decides the shape of a fusion block."""
    return config.fusion, config.fusion_rank


def chain_of(config: Config) -> list[Config]:
    """Returns the settings of a run, of its start, of that one's start, and so on to the first.

    Where the folder of one is gone, the run that started from it is the last, and a line says so.
    """
    chain, met = [config], {config.run}
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
        chain.append(config)
    return chain
