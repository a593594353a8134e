"""Reads how an encoder's pictures are made: the processor beside its weights says so."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, AutoImageProcessor

from beyond_text.config.settings import ConfigError
from beyond_text.models.sentence import find_file
from beyond_text.terminal import first_line

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and standard deviation of each channel.
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What the published checkpoints of a class were trained with; those of all others with ImageNet's.
FAMILIES = {
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": HALF,
    "siglip_vision_model": HALF,
    "siglip2": HALF,
    "siglip2_vision_model": HALF,
    "vit": HALF,
}
FILES = ("preprocessor_config.json", "processor_config.json")


def picture_statistics(path: str) -> Statistics:
    """Reads the mean and standard deviation of each channel, of pixels in [0, 1].

    They are those of the image processor beside the encoder's weights. Where there is none, those
    that are usual for the encoder's class are taken, and a warning says so.

    Raises:
        ConfigError: the processor's statistics are not numbers, or it cannot be read.
    """
    processor = _processor(path)
    if processor is None:
        return _usual_statistics(path)
    if not getattr(processor, "do_normalize", True):
        mean, std = _channels(path, "image_mean", 0.0), _channels(path, "image_std", 1.0)
    else:
        found = getattr(processor, "data_config", None) or {
            "mean": processor.image_mean,
            "std": processor.image_std,
        }
        mean = _channels(path, "image_mean", found["mean"])
        std = _channels(path, "image_std", found["std"])
    if min(std) <= 0:
        raise ConfigError(f"{path}: image_std: expected numbers above 0; got {list(std)}")
    # 1 where pixels are divided by 255, as nearly everywhere.
    factor = 255 * float(getattr(processor, "rescale_factor", 1 / 255) or 1 / 255)
    if not getattr(processor, "do_rescale", True):
        factor = 255.0
    if getattr(processor, "rescale_offset", False):
        mean = tuple(value + 1 for value in mean)
    if factor != 1:
        mean, std = (tuple(value / factor for value in values) for values in (mean, std))
    return mean, std


def _channels(path: str, name: str, value: Any) -> tuple[float, ...]:
    """Returns a number for each of three channels; a number alone stands for all three."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    fits = len(values) in (1, 3) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not fits:
        raise ConfigError(
            f"{path}: {name}: expected a number, or one for each of 3 channels, in "
            f"{FILES[0]}; got {value!r}"
        )
    return tuple(values) * (3 // len(values))


def _usual_statistics(path: str) -> Statistics:
    try:
        kind = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    except (OSError, ValueError):
        kind = ""
    mean, std = FAMILIES.get(kind, IMAGENET)
    warnings.warn(
        f"{path}: no image processor ({FILES[0]}) says how its pictures are normalised: taken is "
        f"what is usual for {kind or 'an encoder'}, mean {list(mean)}, std {list(std)}",
        stacklevel=3,
    )
    return mean, std


def _processor(path: str) -> Any:
    """Returns the image processor of a folder or hub name; None: there is none.

    Raises:
        ConfigError: its file is there, and cannot be read.
    """
    try:
        return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        file = find_file(path, FILES[0])
        if file is not None:
            line = f"{file}: no image processor that can be read ({first_line(error)})"
            raise ConfigError(line) from error
        return None


def encoder_picture_size(path: str) -> int:
    """Reads the side, in pixels, of the square pictures that the encoder takes.

    The image processor says it, by its crop or its size; where there is none, the configuration.

    Raises:
        ConfigError: neither names one side; set `image_encoder.image_size`.
    """
    settings = AutoConfig.from_pretrained(path, trust_remote_code=False)
    size = _processor_size(_processor(path))
    if size is None:
        size = getattr(getattr(settings, "vision_config", settings), "image_size", None)
    timm_settings = getattr(settings, "pretrained_cfg", None) or {}
    if size is None and "input_size" in timm_settings:
        size = timm_settings["input_size"][-2:]
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if isinstance(size, list | tuple):
        raise ConfigError(
            f"{path}: takes pictures of {size[0]} x {size[1]}, expected a square; set "
            "image_encoder.image_size"
        )
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{path}: names no picture size; set image_encoder.image_size")
    return size


def _processor_size(processor: Any) -> Any:
    """Returns the side of the pictures that a processor makes, or its height and width."""
    if processor is None:
        return None
    crops, resizes = (getattr(processor, n, None) for n in ("do_center_crop", "do_resize"))
    size = getattr(processor, "crop_size" if crops else "size", None) if crops or resizes else None
    size = dict(size) if size else {}
    if "height" in size and size["height"] and size["width"]:
        return [size["height"], size["width"]]
    return size.get("shortest_edge")
