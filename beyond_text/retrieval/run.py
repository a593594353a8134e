"""Loads what a finished run left: its model, and the data that the model was made for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from beyond_text.config.load import load_config
from beyond_text.models.checkpoint import load_model
from beyond_text.models.precision import precision_of
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.read_split import read_split


def load_run(run: Path) -> tuple[TwoTower, Any, bool]:
    """A run's model, on its device, its tokenizer, and whether it computes in bfloat16.

    In the precision of the run's config.yaml, so the numbers are those that training reported.

    Raises:
        CheckpointError: no finished model in `run`.
    """
    model, tokenizer = load_model(run)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    saved = run / "config.yaml"
    precision = precision_of(load_config([saved]).precision if saved.is_file() else "auto")
    return model, tokenizer, precision == "bf16-mixed"


def split_for(model: TwoTower, tables: Path, split: str) -> tuple[Catalogue, QuerySet]:
    """The corpus of a split with the texts and pictures that the model was made for."""
    settings = model.settings
    return read_split(
        tables, split, settings.text_fields, settings.image_size, settings.picture_size
    )


def loader_workers() -> int:
    """All cores but one decode pictures."""
    return max(1, (os.cpu_count() or 1) - 1)
