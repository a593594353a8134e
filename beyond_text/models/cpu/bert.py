"""Encodes texts by BERT's weights alone: importing a library's models takes longer than a search.

The arithmetic is that of transformers' BertModel without dropout (Devlin et al. 2018, arXiv
1810.04805), and the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

# Settings of BertModel's configuration under which its arithmetic is the one below.
PLAIN: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
}


def is_plain(config: Mapping[str, Any]) -> bool:
    """Says whether an encoder's configuration is that of a BERT that `Bert` computes."""
    return all(config.get(name) in values for name, values in PLAIN.items())


class Bert(NamedTuple):
    """A BERT: its weights by their names in transformers, and its configuration."""

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def __call__(
        self, ids: Int[Tensor, "texts length"], mask: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts length features"]:
        """Returns the last hidden states; padding stands behind the tokens."""
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        word, position, kind = (self.weights[f"embeddings.{name}.weight"] for name in names)
        hidden = F.embedding(ids, word) + position[: ids.shape[1]] + kind[0]
        hidden = self._normalised(hidden, "embeddings")
        attended = mask[:, None, None, :].bool()
        for number in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                self._linear(hidden, f"{layer}.attention.self.{name}")
                .unflatten(2, (self.config["num_attention_heads"], -1))
                .transpose(1, 2)
                for name in ("query", "key", "value")
            )
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
            found = self._linear(
                found.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense"
            )
            hidden = self._normalised(hidden + found, f"{layer}.attention.output")
            inner = F.gelu(self._linear(hidden, f"{layer}.intermediate.dense"))
            outer = self._linear(inner, f"{layer}.output.dense")
            hidden = self._normalised(hidden + outer, f"{layer}.output")
        return hidden

    def _linear(self, values: Tensor, name: str) -> Tensor:
        return F.linear(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _normalised(self, values: Tensor, name: str) -> Tensor:
        weight, bias = (self.weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(values, weight.shape, weight, bias, self.config["layer_norm_eps"])


def tokens_of(
    file: str, texts: Sequence[str], max_length: int
) -> tuple[Int[Tensor, "texts length"], Int[Tensor, "texts length"]]:
    """Returns the ids of texts by a tokenizer.json, padded to the longest, and their mask."""
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(max_length)
    # Padding is masked, whatever its id is.
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(list(texts))
    ids, mask = ([getattr(text, part) for text in found] for part in ("ids", "attention_mask"))
    return torch.tensor(ids), torch.tensor(mask)
