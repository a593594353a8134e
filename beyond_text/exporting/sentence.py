"""Writes the query's side of a model as a folder that sentence-transformers loads by itself.

The files are those that `models.sentence` reads: Transformer, Pooling, Dense layers, Normalize.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from beyond_text.exporting.preprocessing import as_one_file
from beyond_text.files import write_json
from beyond_text.models.fusion import UniecsFusion
from beyond_text.models.sentence import POOLINGS, Normalize
from beyond_text.models.tokenizer import LowerCased
from beyond_text.models.towers import TextTower
from beyond_text.models.two_tower import TwoTower

QUERY_FOLDER = "query"
NAMES = {ours: theirs for theirs, ours in reversed(POOLINGS.items())}
BASE = "sentence_transformers.base.modules"
# Where each kind of module stands in the library.
PLACES = {
    "Transformer": f"{BASE}.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": f"{BASE}.dense.Dense",
    "Normalize": f"{BASE}.normalize.Normalize",
}


def why_not(model: TwoTower) -> str | None:
    """Returns why a model's queries cannot be such a folder, in a sentence; None where they can."""
    tower = model.query_tower
    name = tower.settings.model_type
    if isinstance(model.fusion, UniecsFusion):
        return "its queries pass through UniECS's own encoder, for which the library has no module"
    if tower.fixed_length:
        return f"{name} pads every text to its full length and reads the padding"
    if tower.pooling == "pooler":
        return f"it takes the vector of {name}'s own pooler, which the library does not"
    if _takes_features(tower) and not _has_clip_text(tower):
        return f"it takes the text features of {name}, which the library does not"
    return None


def write_query_folder(model: TwoTower, tokenizer: Any, out: Path) -> str | None:
    """Writes OUT/query where that is possible; else returns why not."""
    if (reason := why_not(model)) is not None:
        return reason
    tower, folder = model.query_tower, out / QUERY_FOLDER
    features = _takes_features(tower)
    encoder: Any = tower.encoder
    folder.mkdir()
    (encoder.text_model if _has_clip_text(tower) else encoder).save_pretrained(folder)
    plain = tokenizer.tokenizer if isinstance(tokenizer, LowerCased) else tokenizer
    plain.save_pretrained(folder)
    settings = model.settings
    as_one_file(plain, settings.lower_case).save(str(folder / "tokenizer.json"))
    length = {"max_seq_length": settings.max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", length)
    # CLIP's feature is that of the text's last token, mapped.
    pooling = "last" if features else "mean" if tower.pooling == "auto" else tower.pooling
    layers: list[nn.Module] = [encoder.text_projection] if features else []
    layers += [*tower.head]
    modules = ["Transformer", "Pooling"]
    width = _hidden_size(encoder)
    _write_pooling(folder / "1_Pooling", pooling, width)
    modules += _write_layers(folder, [*layers, model.query_projection, Normalize()])
    listed = [
        {
            "idx": number,
            "name": str(number),
            "path": "" if kind == "Transformer" else f"{number}_{kind}",
            "type": PLACES[kind],
        }
        for number, kind in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    prompts = {"query": settings.query_prefix, "document": settings.text_prefix}
    named = {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": "query",
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", named)
    return None


def _takes_features(tower: TextTower) -> bool:
    return tower.pooling == "auto" and hasattr(tower.encoder, "get_text_features")


def _has_clip_text(tower: TextTower) -> bool:
    return tower.settings.model_type == "clip"


def _hidden_size(encoder: Any) -> int:
    settings = getattr(encoder.config, "text_config", encoder.config)
    return int(settings.hidden_size)


def _write_pooling(folder: Path, pooling: str, width: int) -> None:
    modes = [NAMES[part] for part in pooling.split("+")]
    settings = {
        "embedding_dimension": width,
        "pooling_mode": modes[0] if len(modes) == 1 else modes,
        "include_prompt": True,
    }
    folder.mkdir()
    write_json(folder / "config.json", settings)


def _write_layers(folder: Path, layers: list[nn.Module]) -> list[str]:
    """Writes the layers after pooling, but for identities; returns their kinds."""
    kinds: list[str] = []
    for number, layer in enumerate(layers):
        if isinstance(layer, Normalize):
            (folder / f"{len(kinds) + 2}_Normalize").mkdir()
            kinds.append("Normalize")
        elif isinstance(layer, nn.Linear):
            after = layers[number + 1]
            # A layer of a head is followed by its activation.
            acts = not isinstance(after, nn.Linear | Normalize)
            activation = after if acts else nn.Identity()
            if not (_is_identity(layer) and isinstance(activation, nn.Identity)):
                _write_dense(folder / f"{len(kinds) + 2}_Dense", layer, activation)
                kinds.append("Dense")
    return kinds


def _write_dense(folder: Path, layer: nn.Linear, activation: nn.Module) -> None:
    settings = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "activation_function": f"{type(activation).__module__}.{type(activation).__name__}",
        "module_input_name": "sentence_embedding",
        "module_output_name": None,
        "use_residual": False,
    }
    folder.mkdir()
    write_json(folder / "config.json", settings)
    state: dict[str, Tensor] = {
        f"linear.{name}": value.detach().cpu().contiguous().clone()
        for name, value in layer.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")


def _is_identity(layer: nn.Linear) -> bool:
    weight = layer.weight.detach().cpu()
    square = weight.shape[0] == weight.shape[1] and layer.bias is None
    return square and torch.equal(weight, torch.eye(len(weight)))
