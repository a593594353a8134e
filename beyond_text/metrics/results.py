"""Writes the results of an evaluation: the TREC files, and last metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from beyond_text.files import write_json
from beyond_text.metrics.ranking import Ranking
from beyond_text.metrics.trec import write_trec

Metrics = dict[str, dict[str, Any]]
METRICS = "metrics.json"


def with_pool(metrics: Metrics, products: int, pool: str) -> Metrics:
    """Returns metrics whose every block says among how many products was searched, and which."""
    return {kind: {**block, "products": products, "pool": pool} for kind, block in metrics.items()}


def whole(metrics: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the block of all queries; of a shop without queries, which has none, the first."""
    blocks = (block for block in metrics.values() if "products" in block)
    return metrics.get("all") or next(blocks, {})


def write_results(
    out: Path, metrics: Metrics, ranking: Ranking, queries: pd.DataFrame, qrels: pd.DataFrame
) -> None:
    """Writes the TREC files, then metrics.json: where that exists, all of them do."""
    out.mkdir(parents=True, exist_ok=True)
    write_trec(out, ranking, qrels, queries)
    write_json(out / METRICS, metrics)
