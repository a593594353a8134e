"""Loads the model of a finished run, and a split in the form that the model was trained for."""

from __future__ import annotations

from pathlib import Path

import torch

from beyond_text.config.load import config_of
from beyond_text.config.names import Pool
from beyond_text.models.checkpoint import load_model
from beyond_text.models.precision import uses_bf16
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.read_split import read_split
from beyond_text.shards.store import Folder
from beyond_text.tasks.cores import cores


def load_run(run: Path) -> Encoder:
    """Loads a run's model, on the GPU where there is one; all cores but one load samples for it.

    The precision is that of the run's config.yaml, so the numbers are those that training reported.

    Raises:
        CheckpointError: no finished model in `run`.
    """
    model, tokenizer = load_model(run)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    config = config_of(run)
    workers = max(1, cores() - 1)
    return Encoder(model, tokenizer, uses_bf16(config.precision if config else "auto"), workers)


def split_for(
    model: TwoTower, tables: Folder, split: str, pool: Pool | None = None
) -> tuple[Catalogue, QuerySet]:
    """Reads a split with the text fields and picture sizes that a model was trained for.

    Raises:
        TableError, ShardError: as for `read_split`.
    """
    settings = model.settings
    return read_split(
        tables, split, settings.text_fields, settings.image_size, settings.picture_size, pool
    )


def train_for(model: TwoTower, tables: Folder) -> tuple[Catalogue, QuerySet]:
    """Reads the train products and queries with the text fields and picture sizes of a model.

    Raises:
        TableError, ShardError: as for `read_split`.
    """
    return split_for(model, tables, "train", "split")
