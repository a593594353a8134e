"""The settings that are saved beside a model's weights, so that they rebuild the model alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from beyond_text.config.settings import Config, ConfigError
from beyond_text.models.pictures import encoder_picture_size, picture_statistics
from beyond_text.models.sentence import SentenceSettings, read_sentence_settings
from beyond_text.models.tokenizer import reads_lower_case

# The value of a prefix that stands for the encoder's own.
AUTO = "auto"

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
    # Put before every query and before every product's text.
    query_prefix: str = ""
    text_prefix: str = ""
    lower_case: bool = False
    # Layers after the pooling of texts, as sentence-transformers' folders have them.
    text_head: list[dict[str, Any]] = field(default_factory=list)
    image_pooling: str = "auto"
    # Widths to which the vectors may be shortened; empty: they were trained at `dim` alone.
    matryoshka: list[int] = field(default_factory=list)


def settings_of(config: Config, picture_size: int) -> ModelSettings:
    """Returns a run's model settings; the encoders' own configurations give what it leaves open.

    `picture_size` is the longest side, in pixels, that the shards' pictures were reduced to.

    Raises:
        ConfigError: a size or length is 0, and the encoder names none either; what the encoder
            says of itself is not supported.
    """
    image, text = config.image_encoder, config.text_encoder
    own = read_sentence_settings(text.path)
    # A head was trained on its folder's pooling.
    as_made = text.pooling in ("auto", own.pooling)
    mean, std = picture_statistics(image.path)
    return ModelSettings(
        dim=config.dim,
        fusion=config.fusion,
        fusion_rank=config.fusion_rank,
        share_text_encoder=config.share_text_encoder,
        pooling=own.pooling if as_made else text.pooling,
        max_length=text.max_length or _own_length(own),
        image_size=image.image_size or encoder_picture_size(image.path),
        picture_size=picture_size,
        mean=list(mean),
        std=list(std),
        text_fields=list(config.data.text_fields),
        loss=config.loss,
        temperature=DEFAULT_TEMPERATURE if config.temperature is None else config.temperature,
        temperature_min=config.temperature_min,
        query_prefix=own.query_prefix if text.query_prefix == AUTO else text.query_prefix,
        text_prefix=own.text_prefix if text.text_prefix == AUTO else text.text_prefix,
        lower_case=own.lower_case or reads_lower_case(own.encoder),
        text_head=own.head if as_made else [],
        image_pooling=image.pooling,
        matryoshka=list(config.matryoshka),
    )


def _own_length(own: SentenceSettings) -> int:
    """Returns the longest text, in tokens, that the encoder's folder names."""
    if not own.max_length:
        raise ConfigError(
            f"text_encoder.max_length=0: {own.encoder} names no max_seq_length; set a length"
        )
    return own.max_length
