"""Names that commands offer and run folders hold, at no cost, so that `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from beyond_text.config.settings import ConfigError, FusionName

FUSION_NAMES: tuple[str, ...] = get_args(FusionName)
# Fusions without parameters, and the word that stands for all others.
CONTROLS = ("sum", "text", "image")
ALL_LEARNED = "all-learned"
MEASURE_NAMES = ("ndcg@1", "ndcg@10", "recall@10", "recall@100", "mrr")
IndexKind = Literal["exact", "ivf_sq8", "rabitq"]
INDEX_KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
# What an evaluation searches: the products of its split, or those of every split.
Pool = Literal["split", "all"]
POOLS: tuple[Pool, ...] = get_args(Pool)
# Which of a query's positives what is mined must stay below a share of.
Against = Literal["lowest", "best"]
AGAINST: tuple[Against, ...] = get_args(Against)

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STAGE3 = RECIPES / "stage3.yaml"
CURRICULUM = RECIPES / "ladder" / "curriculum.yaml"
LABELS = RECIPES / "ladder" / "labels.yaml"

# A run's finished model.
MODEL = "model"
WEIGHTS = "model.safetensors"
# What makes a run a mixture of others' weights.
SOUP = "soup.json"
# Stands for the model that a run, or the first of its stages, began with.
UNTOUCHED = "untouched"
# What makes a folder an index.
INDEX_FILE = "index.json"


def check_finished(run: Path) -> None:
    """Checks, without loading anything, that a run holds a finished model.

    Raises:
        ConfigError: it holds none.
    """
    weights = run / MODEL / WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"{run}: no finished model there (expected {weights})")
