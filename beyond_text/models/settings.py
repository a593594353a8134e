"""The settings that are saved beside a model's weights, so that they rebuild the model alone."""

from __future__ import annotations

from dataclasses import dataclass

from beyond_text.config.settings import Config
from beyond_text.models.encoders import encoder_picture_size, picture_statistics

DEFAULT_TEMPERATURE = 0.05


@dataclass
class ModelSettings:
    """All that is needed to build a model around its saved weights."""

    dim: int
    fusion: str
    fusion_rank: int
    share_text_encoder: bool
    pooling: str
    max_length: int
    image_size: int
    # Longest side of the shards' pictures, in pixels: inference reduces pictures to it first.
    picture_size: int
    mean: list[float]
    std: list[float]
    text_fields: list[str]
    loss: str
    temperature: float
    temperature_min: float


def settings_of(config: Config, picture_size: int) -> ModelSettings:
    """Returns a run's model settings; the encoders' own configurations give what it leaves open.

    `picture_size` is the longest side, in pixels, that the shards' pictures were reduced to.

    Raises:
        ConfigError: `image_encoder.image_size` is 0, and the encoder names no size either.
    """
    image = config.image_encoder
    mean, std = picture_statistics(image.path)
    return ModelSettings(
        dim=config.dim,
        fusion=config.fusion,
        fusion_rank=config.fusion_rank,
        share_text_encoder=config.share_text_encoder,
        pooling=config.text_encoder.pooling,
        max_length=config.text_encoder.max_length,
        image_size=image.image_size or encoder_picture_size(image.path),
        picture_size=picture_size,
        mean=list(mean),
        std=list(std),
        text_fields=list(config.data.text_fields),
        loss=config.loss,
        temperature=DEFAULT_TEMPERATURE if config.temperature is None else config.temperature,
        temperature_min=config.temperature_min,
    )
