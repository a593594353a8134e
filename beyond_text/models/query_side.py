"""Loads the part of a model that encodes a text query, for a search that must not wait.

The image encoder and its libraries take most of the seconds of loading a whole model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from beyond_text.config.names import MODEL, WEIGHTS
from beyond_text.config.settings import ConfigError
from beyond_text.models.cpu.bert import Bert, is_plain, tokens_of
from beyond_text.models.pooling import POOLINGS, pool

# The settings under which a text query is encoded by tower and projection alone. A model with
# another setting that is not empty is loaded whole.
KNOWN = frozenset(
    {"dim", "fusion", "fusion_rank", "share_text_encoder", "pooling", "max_length", "image_size"}
    | {"picture_size", "mean", "std", "text_fields", "loss", "temperature", "temperature_min"}
    | {"query_prefix", "text_prefix", "lower_case", "text_head", "image_pooling"}
)
# Fusions of tokens encode queries as well.
FUSES_QUERIES = ("uniecs",)


class QuerySide(NamedTuple):
    """What encodes the texts of queries: a function to pooled vectors, and their projection."""

    pooled: Callable[[Sequence[str]], Float[Tensor, "texts features"]]
    projection: Float[Tensor, "dim features"]
    prefix: str

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], bf16: bool) -> Float[Tensor, "texts dim"]:
        """Returns the unit vectors of text queries, as the whole model would."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            pooled = self.pooled([self.prefix + text for text in texts])
            vectors = functional.linear(pooled, self.projection).float()
        return functional.normalize(vectors, dim=1)


def load_query_side(run: Path) -> QuerySide | None:
    """Loads what a run's text queries need, on the CPU; None where they need the whole model.

    Raises:
        ConfigError: the model folder is damaged.
    """
    folder = run / MODEL
    try:
        settings = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        further = [name for name, value in settings.items() if name not in KNOWN and value]
        if further or settings["fusion"] in FUSES_QUERIES:
            return None
        with safe_open(folder / WEIGHTS, "pt") as weights:
            names = list(weights.keys())
            own = any(name.startswith("own_query_tower.") for name in names)
            prefix = "own_query_tower." if own else "text_tower."
            state = {
                name.removeprefix(prefix): weights.get_tensor(name)
                for name in names
                if name.startswith(prefix)
            }
            projection = weights.get_tensor("query_projection.weight")
        pooled = _bert(folder / "text_encoder", settings, state) or _tower(
            str(folder / "text_encoder"), settings, state
        )
    except (KeyError, TypeError, AttributeError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{folder}: not a whole model: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{folder / 'settings.yaml'}: {error}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{folder}: not readable: {error}") from error
    return QuerySide(pooled, projection, settings.get("query_prefix", ""))


def _bert(
    folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Callable[[Sequence[str]], Tensor] | None:
    """Returns the encoder of a plain BERT, which needs none of transformers; None for others."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pooling = "mean" if settings["pooling"] == "auto" else settings["pooling"]
    file = folder / "tokenizer.json"
    known = set(pooling.split("+")) <= POOLINGS.keys()
    if not (is_plain(config) and known and file.is_file() and not settings.get("text_head")):
        return None
    bert = Bert({name.removeprefix("encoder."): value for name, value in state.items()}, config)

    def pooled(texts: Sequence[str]) -> Tensor:
        lower = settings.get("lower_case", False)
        texts = [text.lower() if lower else text for text in texts]
        ids, mask = tokens_of(str(file), texts, settings["max_length"])
        return pool(pooling, bert(ids, mask), mask)

    return pooled


def _tower(
    folder: str, settings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Callable[[Sequence[str]], Tensor]:
    """Returns the text tower of any other encoder."""
    from transformers import AutoConfig, AutoModel
    from transformers.initialization import no_init_weights

    from beyond_text.models.sentence import build_head
    from beyond_text.models.tokenizer import load_tokenizer
    from beyond_text.models.towers import TextTower
    from beyond_text.shards.tokenize import tokenize

    with no_init_weights():
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    head = build_head(settings.get("text_head", []))
    tower = TextTower(encoder, settings["pooling"], head=head).eval()
    tower.load_state_dict(state)
    tokenizer = load_tokenizer(folder, settings.get("lower_case", False))

    def pooled(texts: Sequence[str]) -> Tensor:
        return tower(*tokenize(tokenizer, texts, settings["max_length"], tower.fixed_length))

    return pooled
