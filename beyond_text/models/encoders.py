"""Loads Hugging Face encoders, and reads what their own configurations say about pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig
from transformers.utils import logging

from beyond_text.config.settings import ConfigError

# Mean and standard deviation of each channel.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_encoder(path: str, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
    """Loads the encoder of a folder or hub name; with `pretrained=False` its weights are random.

    Weights are float32, whatever they are stored in: autocast, not storage, makes training fast. A
    `drop_path` of 0 leaves the encoder its own rate.

    Raises:
        FileNotFoundError: `path` is neither a folder nor a hub name that can be reached.
        ConfigError: the timm model takes no `drop_path`.
    """
    try:
        settings = AutoConfig.from_pretrained(path)
        if drop_path:
            settings = _with_drop_path(settings, drop_path)
        if pretrained:
            with _bars_for_downloads_only(path):
                return AutoModel.from_pretrained(path, config=settings, dtype=torch.float32)
        return AutoModel.from_config(settings, dtype=torch.float32)
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: no encoder there: expected a folder with config.json and weights, or a "
            f"Hugging Face hub name ({str(error).splitlines()[0]})"
        ) from error
    except TypeError as error:
        # timm checks its arguments only when it builds the model.
        if "drop_path_rate" not in str(error):
            raise
        raise ConfigError(
            f"image_encoder.drop_path={drop_path:g}: {path} has no stochastic depth; expected 0"
        ) from error


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


def picture_statistics(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Reads the mean and standard deviation of each channel, of pixels in [0, 1].

    They are those that the encoder was trained with, by the image processor beside its weights;
    ImageNet's where there is none.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    except (OSError, ValueError):
        return IMAGENET
    if not getattr(processor, "do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    statistics = getattr(processor, "data_config", None) or {
        "mean": processor.image_mean,
        "std": processor.image_std,
    }
    return tuple(statistics["mean"]), tuple(statistics["std"])


def encoder_picture_size(path: str) -> int:
    """Reads the side, in pixels, of the square pictures that the encoder was configured for.

    Raises:
        ConfigError: its configuration names none; set `image_encoder.image_size`.
    """
    settings = AutoConfig.from_pretrained(path)
    size = getattr(getattr(settings, "vision_config", settings), "image_size", None)
    timm_settings = getattr(settings, "pretrained_cfg", None) or {}
    if size is None and "input_size" in timm_settings:
        size = timm_settings["input_size"][-1]
    if not isinstance(size, int):
        raise ConfigError(f"{path}: names no picture size; set image_encoder.image_size")
    return size
