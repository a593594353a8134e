"""How texts become tokens and pictures pixels, as data: preprocessing.json of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from beyond_text.config.settings import ConfigError
from beyond_text.files import MALFORMED, write_json

PREPROCESSING = "preprocessing.json"
TOKENIZER = "tokenizer.json"
VERSION = 1

Positive = Annotated[int, Meta(ge=1)]
Channels = tuple[float, float, float]


class Texts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts to tokens: prefix, lower case, tokenizer.json, cut, pad on the right.

    `masked` says whether padding is masked: an encoder trained without a mask counts every token.
    """

    query_prefix: str
    text_prefix: str
    lower_case: bool
    max_length: Positive
    padding: Literal["longest", "max_length"]
    pad_id: Annotated[int, Meta(ge=0)]
    pad_token: str
    masked: bool
    # The fields of a product that make its text: those that are not empty, joined by ". ".
    product_fields: list[str]


class Pictures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures to pixels: upright RGB over white, reduced to JPEG as shards hold it, squeezed.

    The graphs take the pixels as uint8, and compute (pixel / 255 - mean) / std themselves.
    """

    stored_size: Positive
    stored_resampling: Literal["lanczos"]
    stored_quality: Positive
    image_size: Positive
    resampling: Literal["bilinear"]
    crop: Literal["none"]
    mean: Channels
    std: Channels


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of preprocessing.json."""

    version: Positive
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    dim: Positive
    texts: Texts
    pictures: Pictures
    # Shorter widths that the vectors were trained to be cut to.
    widths: list[Positive] = []


def read_preprocessing(folder: Path) -> Preprocessing:
    """Reads preprocessing.json of an export.

    Raises:
        ConfigError: it cannot be read, is damaged, or of another version.
    """
    file = folder / PREPROCESSING
    try:
        data = file.read_bytes()
        version = msgspec.json.decode(data, type=dict[str, object]).get("version")
        if version != VERSION:
            raise ConfigError(f"{file}: of version {version!r}, expected {VERSION}: export again")
        return msgspec.json.decode(data, type=Preprocessing)
    except (*MALFORMED, OSError) as error:
        raise ConfigError(f"{file}: not as an export writes it: {error}") from error


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Writes preprocessing.json."""
    write_json(folder / PREPROCESSING, msgspec.to_builtins(preprocessing))
