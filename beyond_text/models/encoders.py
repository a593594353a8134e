"""Loads Hugging Face encoders, and refuses those whose weights are not what was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging

from beyond_text.config.settings import ConfigError
from beyond_text.terminal import first_line

SUPPORTED = (
    "BERT, DistilBERT, RoBERTa, XLM-R, MPNet, Qwen3, CLIP, SigLIP, SigLIP2, DINOv2, DINOv3, ViT, "
    "Swin, ConvNeXt, timm's and others that transformers loads without code from the folder"
)
# What a configuration may tell timm: sizes and numbers, never names of files or of a hub.
TIMM_ARGUMENTS = (
    "depth",
    "depths",
    "drop_path_rate",
    "drop_rate",
    "dynamic_img_size",
    "embed_dim",
    "img_size",
    "mlp_ratio",
    "num_heads",
    "patch_size",
    "window_size",
)
# Parts that a vector need not use; where a checkpoint has none, the encoder has none either.
HEADS = ("pooler",)
# Parts of two-headed models that score pairs, which no tower keeps.
SCORING = ("logit_scale", "logit_bias")


def load_encoder(
    path: str, pretrained: bool, drop_path: float = 0.0, unused: Iterable[str] = ()
) -> nn.Module:
    """Loads the encoder of a folder or hub name; with `pretrained=False` its weights are random.

    Weights are float32, whatever they are stored in: autocast, not storage, makes training fast. A
    `drop_path` of 0 leaves the encoder its own rate. `unused` names parts whose weights may be
    missing, since the tower drops them. A pooler that the checkpoint lacks is dropped, and the
    encoder's configuration keeps that in `dropped_heads`.

    Raises:
        FileNotFoundError: `path` is neither a folder nor a hub name that can be reached.
        ConfigError: transformers cannot load it by itself; weights are missing or of other shapes;
            the timm model takes no `drop_path`; its configuration tells timm what it may not.
    """
    try:
        settings = AutoConfig.from_pretrained(path, trust_remote_code=False)
        _check_timm(path, settings)
        if drop_path:
            settings = _with_drop_path(settings, drop_path)
        if not pretrained:
            encoder = AutoModel.from_config(settings, dtype=torch.float32, trust_remote_code=False)
            return _without(encoder, getattr(settings, "dropped_heads", None) or ())
        return _load_weights(path, settings, {*unused, *SCORING})
    except ConfigError:
        raise
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: no encoder there: expected a folder with config.json and weights, or a "
            f"Hugging Face hub name ({first_line(error)})"
        ) from error
    except TypeError as error:
        # timm checks its arguments only when it builds the model.
        if "drop_path_rate" not in str(error) or not drop_path:
            raise _unsupported(path, error) from error
        raise ConfigError(
            f"image_encoder.drop_path={drop_path:g}: {path} has no stochastic depth; expected 0"
        ) from error
    except (ValueError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise _unsupported(path, error) from error


def _unsupported(path: str, error: Exception) -> ConfigError:
    reason = first_line(error)
    return ConfigError(f"{path}: cannot be loaded ({reason}); supported are {SUPPORTED}")


def _load_weights(path: str, settings: PretrainedConfig, unused: set[str]) -> nn.Module:
    """Loads an encoder; drops a head that has no weights, and refuses any other lack."""
    with _bars_for_downloads_only(path):
        encoder, found = AutoModel.from_pretrained(
            path,
            config=settings,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    missing = [k for k in sorted(found["missing_keys"]) if k.split(".")[0] not in unused]
    heads = {k.split(".")[0] for k in missing} & set(HEADS)
    lacking = [k for k in missing if k.split(".")[0] not in heads]
    if lacking:
        others = sorted(found["unexpected_keys"])
        hint = f"; the file has {others[0]} ... instead" if others else ""
        raise ConfigError(
            f"{path}: {len(lacking)} weights of {type(encoder).__name__} are missing, the first "
            f"is {lacking[0]}{hint}"
        )
    if heads:
        encoder.config.dropped_heads = sorted(
            {*heads, *(getattr(settings, "dropped_heads", None) or ())}
        )
    return _without(encoder, getattr(encoder.config, "dropped_heads", None) or ())


def _without(encoder: nn.Module, heads: Iterable[str]) -> nn.Module:
    for head in set(heads) & set(HEADS):
        if hasattr(encoder, head):
            setattr(encoder, head, None)
    return encoder


def _check_timm(path: str, settings: PretrainedConfig) -> None:
    """Refuses a configuration that could make timm read files or a hub.

    Raises:
        ConfigError: names the argument or the architecture.
    """
    if settings.model_type != "timm_wrapper":
        return
    name = str(settings.architecture)
    if not timm.is_model(name) or not set(name).isdisjoint(":/\\"):
        raise ConfigError(f"{path}/config.json: architecture: expected one of timm's; got {name!r}")
    for key, value in (settings.model_args or {}).items():
        if key not in TIMM_ARGUMENTS or not _is_number(value):
            raise ConfigError(
                f"{path}/config.json: model_args: expected numbers for any of "
                f"{', '.join(TIMM_ARGUMENTS)}; got {key}={value!r}"
            )


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number, or a list of such."""
    if isinstance(value, list | tuple):
        return all(_is_number(v) for v in value)
    return value is None or isinstance(value, bool | int | float)


def _with_drop_path(settings: PretrainedConfig, rate: float) -> PretrainedConfig:
    """Sets the stochastic depth of an encoder (Huang et al. 2016, arXiv 1603.09382)."""
    if settings.model_type == "timm_wrapper":
        settings.model_args = (settings.model_args or {}) | {"drop_path_rate": rate}
    elif hasattr(settings, "drop_path_rate"):
        settings.drop_path_rate = rate
    else:
        warnings.warn(
            f"image_encoder.drop_path={rate:g} changes nothing: {settings.name_or_path} "
            f"({settings.model_type}) has no stochastic depth",
            stacklevel=2,
        )
    return settings


@contextmanager
def _bars_for_downloads_only(path: str) -> Iterator[None]:
    """Hides the progress bars of transformers where `path` is a folder, which is read quickly."""
    if not (Path(path).is_dir() and logging.is_progress_bar_enabled()):
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
