"""Compares an export with torch on the run that it was made from, before anybody trusts it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from beyond_text.encoding.export_model import ExportModel
from beyond_text.encoding.run_model import RunModel
from beyond_text.metrics.ranking import per_query
from beyond_text.models.tokenizer import PROBES
from beyond_text.retrieval.encode import Vectors, encode_products
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import own_products, search
from beyond_text.retrieval.run import split_for
from beyond_text.shards.store import Folder

TOLERANCE = 1e-4


def largest_difference(run: RunModel, exported: ExportModel) -> float:
    """Returns the largest difference of any entry of a vector, over queries and products.

    Raises:
        ValueError: it is above TOLERANCE.
    """
    texts, pictures = list(PROBES), _pictures(len(PROBES))
    some_texts = [text if number % 3 else "" for number, text in enumerate(texts)]
    some_pictures = [each if number % 3 != 1 else None for number, each in enumerate(pictures)]
    largest = 0.0
    for side in ("encode_queries", "encode_products"):
        for given in ((texts, None), (some_texts, some_pictures)):
            difference = getattr(run, side)(*given) - getattr(exported, side)(*given)
            largest = max(largest, float(np.abs(difference).max()))
    if not largest <= TOLERANCE:
        raise ValueError(
            f"{run.run}: the graphs' vectors differ from torch's by {largest:.2g}, expected at "
            f"most {TOLERANCE:g}: not exported"
        )
    return largest


def _pictures(count: int) -> list[bytes]:
    """Returns pictures of noise, of several shapes."""
    random = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        encoded = BytesIO()
        pixels = random.integers(0, 256, (40 + 9 * number, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((300, 200)).save(encoded, "PNG")
        pictures.append(encoded.getvalue())
    return pictures


class Quality(NamedTuple):
    """nDCG@10 of text queries by float32 and by int8, on a split of the run's data."""

    float32: float
    int8: float
    queries: int
    products: int


def quality_of_int8(run: RunModel, folder: Path, data: Folder, split: str) -> Quality:
    """Measures what int8 costs text queries, among products encoded by torch.

    Raises:
        ValueError: the split cannot be read or measured.
    """
    encoder = run.encoder
    catalogue, query_set = split_for(encoder.model, data, split)
    products = encode_products(encoder, catalogue)["product"]
    rows = query_set.queries[query_set.queries["query"].str.strip() != ""]
    if rows.empty:
        raise ValueError(f"{data}: split {split!r} has no query of words")
    ids = list(rows["query_id"])
    own = own_products(catalogue, query_set)
    scores = []
    for precision in ("float32", "int8"):
        vectors = ExportModel(folder, precision).encode_queries(list(rows["query"]))
        ranking = search(Vectors(ids, vectors), products, own)
        scores.append(float(per_query(ranking, rows, _of(query_set, ids)).mean()))
    return Quality(scores[0], scores[1], len(ids), len(products.ids))


def _of(query_set: QuerySet, ids: list[str]) -> pd.DataFrame:
    return query_set.qrels[query_set.qrels["query_id"].isin(ids)]
