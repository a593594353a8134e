"""Encodes what a user asks for with a run's model; texts alone need only a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

Queries = Float32[np.ndarray, "queries dim"]


def encode_words(run: Path, texts: Sequence[str], picture: bytes | None = None) -> Queries:
    """Returns unit vectors of texts; the picture is part of every query.

    What texts alone do not need is not imported: they run the text tower alone where that can be.

    Raises:
        ValueError: a text that is blank, without a picture.
        CheckpointError: no finished model in `run`.
    """
    if picture is None:
        if not all(text.strip() for text in texts):
            raise ValueError("a query of blanks finds nothing: expected words or a picture")
        vectors = _encode_texts(run, texts)
        if vectors is not None:
            return vectors
    return _encode_queries(run, texts, picture)


def _encode_texts(run: Path, texts: Sequence[str]) -> Queries | None:
    """Encodes text queries by the query tower alone; None where that cannot be."""
    import torch

    from beyond_text.config.load import load_config
    from beyond_text.models.precision import uses_bf16
    from beyond_text.models.query_side import load_query_side

    if torch.cuda.is_available() or (side := load_query_side(run)) is None:
        return None
    config = run / "config.yaml"
    bf16 = uses_bf16(load_config([config]).precision if config.is_file() else "auto")
    return side.encode(texts, bf16).numpy()


def _encode_queries(run: Path, texts: Sequence[str], picture: bytes | None) -> Queries:
    """Encodes queries of texts, of a picture or of both by the whole model."""
    import pandas as pd

    from beyond_text.retrieval.encode import encode_queries
    from beyond_text.retrieval.query_set import COLUMNS, QuerySet
    from beyond_text.retrieval.run import load_run
    from beyond_text.tables.pictures import decode_pixels, reduce_picture

    encoder = load_run(run)
    settings = encoder.model.settings
    image: Any = None
    if picture is not None:
        # Reduced as the pictures of products are, into shards and out of them.
        stored = reduce_picture(picture, settings.picture_size)
        image = decode_pixels(stored, reduce_to=settings.image_size)
    rows = [(str(number), text, "", "") for number, text in enumerate(texts)]
    queries = pd.DataFrame(rows, columns=COLUMNS)
    query_set = QuerySet(queries, pd.DataFrame(), lambda number: image)
    return encode_queries(encoder, query_set).vectors
