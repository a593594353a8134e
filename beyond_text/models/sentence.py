"""Reads what a sentence-transformers folder says about turning tokens into a vector.

That is pooling, Dense layers and Normalize, prompts, the longest text, and whether case counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import cached_file

from beyond_text.config.settings import ConfigError

# Our names of the poolings that sentence-transformers has, by its own and its older names.
POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    a.__name__: a for a in (nn.Tanh, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}
# The names of a text's prompt, in the order in which sentence-transformers looks for them.
TEXT_PROMPTS = ("document", "passage", "corpus")


@dataclass
class SentenceSettings:
    """What the folder says; the defaults are those of a folder that is an encoder alone."""

    pooling: str = "auto"
    # Layers after pooling, as `build_head` takes them, and the folders of their weights.
    head: list[dict[str, Any]] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    query_prefix: str = ""
    text_prefix: str = ""
    max_length: int = 0
    lower_case: bool = False
    # Where encoder and tokenizer stand.
    encoder: str = ""


def find_file(path: str, name: str) -> Path | None:
    """Returns a file of a folder or hub name, or None where there is none."""
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    try:
        found = cached_file(
            path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def read_json(path: str, name: str) -> Any:
    """Reads a JSON file of a folder or hub name; None where there is none.

    Raises:
        ConfigError: the file holds no JSON.
    """
    file = find_file(path, name)
    if file is None:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: expected JSON ({error})") from error


def read_sentence_settings(path: str) -> SentenceSettings:
    """Reads a folder's `modules.json` and what it names.

    Raises:
        ConfigError: it names a module, a pooling or a layer that is not supported.
    """
    modules = read_json(path, "modules.json")
    if modules is None:
        return SentenceSettings(encoder=path)
    try:
        return _read_modules(path, modules)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}/modules.json: not as sentence-transformers writes it") from error


def _read_modules(path: str, modules: list[dict[str, Any]]) -> SentenceSettings:
    kinds = [module["type"].split(".")[-1] for module in modules]
    known = ("Dense", "Normalize", "Dropout")
    wrong = [k for k in kinds[2:] if k not in known]
    if kinds[:2] != ["Transformer", "Pooling"] or wrong:
        raise ConfigError(
            f"{path}/modules.json: expected Transformer, Pooling and then any of "
            f"{', '.join(known)}; got {', '.join(kinds)}"
        )
    first = modules[0]["path"]
    prefix = f"{first}/" if first else ""
    reading = read_json(path, f"{prefix}sentence_bert_config.json") or {}
    found = SentenceSettings(
        pooling=_pooling(path, modules[1]["path"]),
        max_length=reading.get("max_seq_length") or 0,
        lower_case=bool(reading.get("do_lower_case")),
        encoder=str(Path(path, first)) if first else path,
    )
    if first and not Path(path).is_dir():
        raise ConfigError(f"{path}: its encoder stands in {first}; download it as a folder")
    for kind, module in zip(kinds[2:], modules[2:], strict=True):
        if kind == "Normalize":
            found.head.append({"kind": "normalize"})
        elif kind == "Dense":
            found.head.append(_dense(path, module["path"]))
            found.weights.append(module["path"])
    _read_prompts(path, found)
    return found


def _read_prompts(path: str, found: SentenceSettings) -> None:
    named = read_json(path, "config_sentence_transformers.json") or {}
    prompts = named.get("prompts") or {}
    default = prompts.get(named.get("default_prompt_name"), "")
    found.query_prefix = prompts.get("query", default)
    of_text = [prompts[name] for name in TEXT_PROMPTS if name in prompts]
    found.text_prefix = of_text[0] if of_text else default


def _pooling(path: str, folder: str) -> str:
    """Returns our name of a folder's pooling; several are joined by `+`."""
    settings = read_json(path, f"{folder}/config.json") or {}
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [name for key, name in OLD_NAMES.items() if settings.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not settings.get("include_prompt", True):
        raise ConfigError(
            f"{path}/{folder}: include_prompt=false (pools without the prompt's "
            "tokens) is not supported; set text_encoder.pooling"
        )
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown:
        raise ConfigError(
            f"{path}/{folder}: pooling_mode: expected {', '.join(POOLINGS)}; got {unknown[0]}"
        )
    return "+".join(POOLINGS[mode] for mode in modes)


def _dense(path: str, folder: str) -> dict[str, Any]:
    settings = read_json(path, f"{folder}/config.json") or {}
    activation = settings.get("activation_function", "Tanh").split(".")[-1]
    names = {
        settings.get(f"module_{end}_name", "sentence_embedding") for end in ("input", "output")
    }
    if (
        activation not in ACTIVATIONS
        or settings.get("use_residual")
        or (names - {"sentence_embedding", None})
    ):
        raise ConfigError(
            f"{path}/{folder}: expected a Dense layer of the sentence's vector without residual, "
            f"with one of {', '.join(ACTIVATIONS)}; got {settings}"
        )
    return {
        "kind": "dense",
        "inputs": settings["in_features"],
        "outputs": settings["out_features"],
        "bias": settings.get("bias", True),
        "activation": activation,
    }


class Normalize(nn.Module):
    """Scales vectors to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns unit vectors of the same shape."""
        return functional.normalize(vectors, dim=-1)


def build_head(layers: list[dict[str, Any]]) -> nn.Sequential:
    """Returns the layers after pooling, with random weights; without any it is the identity."""
    head = nn.Sequential()
    for layer in layers:
        if layer["kind"] == "normalize":
            head.append(Normalize())
            continue
        head.append(nn.Linear(layer["inputs"], layer["outputs"], bias=layer["bias"]))
        head.append(ACTIVATIONS[layer["activation"]]())
    return head


def load_head(head: nn.Sequential, path: str) -> None:
    """Loads the weights of a folder's Dense layers.

    Raises:
        ConfigError: they are not there, or do not fit.
    """
    layers = [layer for layer in head if isinstance(layer, nn.Linear)]
    if not layers:
        return
    for layer, folder in zip(layers, read_sentence_settings(path).weights, strict=True):
        file = find_file(path, f"{folder}/model.safetensors")
        old = find_file(path, f"{folder}/pytorch_model.bin")
        if file is None and old is None:
            raise ConfigError(f"{path}/{folder}: no weights of the Dense layer")
        state = load_file(file) if file else torch.load(old, weights_only=True)  # type: ignore
        try:
            layer.load_state_dict({key.removeprefix("linear."): v for key, v in state.items()})
        except RuntimeError as error:
            raise ConfigError(f"{path}/{folder}: its weights do not fit: {error}") from error
