"""Loads the part of a model that encodes a text query, for a search that must not wait.

The image encoder and its libraries take most of the seconds of loading a whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from beyond_text.config.names import MODEL, WEIGHTS
from beyond_text.config.settings import ConfigError
from beyond_text.models.sentence import build_head
from beyond_text.models.tokenizer import load_tokenizer
from beyond_text.models.towers import TextTower
from beyond_text.shards.tokenize import tokenize

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
    """The text tower of queries with its projection and tokenizer."""

    tower: TextTower
    projection: nn.Linear
    tokenizer: Any
    max_length: int
    prefix: str

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], bf16: bool) -> Float[Tensor, "texts dim"]:
        """Returns the unit vectors of text queries, as the whole model would."""
        texts = [self.prefix + text for text in texts]
        tokens = tokenize(self.tokenizer, texts, self.max_length, self.tower.fixed_length)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            vectors = self.projection(self.tower(*tokens)).float()
        return functional.normalize(vectors, dim=1)


def load_query_side(run: Path) -> QuerySide | None:
    """Loads what a run's text queries need, on the CPU; None where they need the whole model.

    Raises:
        ConfigError: the model folder is damaged.
    """
    from transformers import AutoConfig, AutoModel

    folder = run / MODEL
    try:
        settings = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        further = [name for name, value in settings.items() if name not in KNOWN and value]
        if further or settings["fusion"] in FUSES_QUERIES:
            return None
        text = str(folder / "text_encoder")
        with _no_random_weights():
            encoder = AutoModel.from_config(AutoConfig.from_pretrained(text), dtype=torch.float32)
        head = build_head(settings.get("text_head", []))
        tower = TextTower(encoder, settings["pooling"], head=head)
        with safe_open(folder / WEIGHTS, "pt") as weights:
            names = list(weights.keys())
            own = any(name.startswith("own_query_tower.") for name in names)
            prefix = "own_query_tower." if own else "text_tower."
            state = {
                name.removeprefix(prefix): weights.get_tensor(name)
                for name in names
                if name.startswith(prefix)
            }
            matrix = weights.get_tensor("query_projection.weight")
        tower.load_state_dict(state)
    except (KeyError, TypeError, AttributeError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{folder}: not a whole model: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{folder / 'settings.yaml'}: {error}") from error
    projection = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    projection.weight = nn.Parameter(matrix)
    tokenizer = load_tokenizer(text, settings.get("lower_case", False))
    prefix = settings.get("query_prefix", "")
    return QuerySide(tower.eval(), projection, tokenizer, settings["max_length"], prefix)


def _no_random_weights() -> Any:
    """Returns a context in which encoders are built without drawing weights."""
    from transformers.initialization import no_init_weights

    return no_init_weights()
