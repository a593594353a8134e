"""Writes how a model's texts become tokens and its pictures pixels, as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from beyond_text.config.settings import ConfigError
from beyond_text.encoding.preprocessing import (
    TOKENIZER,
    VERSION,
    Pictures,
    Preprocessing,
    Texts,
    write_preprocessing,
)
from beyond_text.models.settings import ModelSettings
from beyond_text.models.tokenizer import PROBES, LowerCased
from beyond_text.models.two_tower import TwoTower
from beyond_text.tables.pictures import JPEG_QUALITY

# Long enough to be cut, with capitals, accents, numbers and other scripts.
LONG = "A Red Cushion, 40 x 40 cm; ÄRMEL Café ΟΔΟΣ 青い花瓶 <b>50%</b> " * 12


def write_preprocessing_of(model: TwoTower, tokenizer: Any, digest: str, folder: Path) -> None:
    """Writes tokenizer.json and preprocessing.json, and checks that they read texts alike.

    Raises:
        ConfigError: the tokenizer cannot be written as one file, or reads otherwise from it.
    """
    settings = model.settings
    plain = tokenizer.tokenizer if isinstance(tokenizer, LowerCased) else tokenizer
    texts = _texts(settings, plain, model.text_tower.fixed_length)
    pictures = Pictures(
        stored_size=settings.picture_size,
        stored_resampling="lanczos",
        stored_quality=JPEG_QUALITY,
        image_size=settings.image_size,
        resampling="bilinear",
        crop="none",
        mean=tuple(settings.mean),  # type: ignore[arg-type]
        std=tuple(settings.std),  # type: ignore[arg-type]
    )
    widths = list(settings.matryoshka)
    write_preprocessing(
        folder, Preprocessing(VERSION, digest, settings.dim, texts, pictures, widths)
    )
    written = as_one_file(plain, settings.lower_case)
    written.enable_truncation(texts.max_length)
    length = texts.max_length if texts.padding == "max_length" else None
    written.enable_padding(pad_id=texts.pad_id, pad_token=texts.pad_token, length=length)
    written.save(str(folder / TOKENIZER))
    _check(tokenizer, Tokenizer.from_file(str(folder / TOKENIZER)), texts)


def _texts(settings: ModelSettings, tokenizer: Any, fixed_length: bool) -> Texts:
    # A tokenizer without padding pads with what is masked.
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Texts(
        query_prefix=settings.query_prefix,
        text_prefix=settings.text_prefix,
        lower_case=settings.lower_case,
        max_length=settings.max_length,
        padding="max_length" if fixed_length else "longest",
        pad_id=pad_id,
        pad_token=str(tokenizer.pad_token or "[PAD]"),
        masked="attention_mask" in tokenizer.model_input_names,
        product_fields=list(settings.text_fields),
    )


def as_one_file(tokenizer: Any, lower_case: bool) -> Tokenizer:
    """Returns a copy of a tokenizer as tokenizer.json holds it, which lowers case where told.

    Raises:
        ConfigError: it is not one of the library `tokenizers`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json; expected a fast one"
        )
    written = Tokenizer.from_str(backend.to_str())
    written.no_padding()
    written.no_truncation()
    if lower_case and not _lowers_case(written):
        own = [written.normalizer] if written.normalizer is not None else []
        written.normalizer = Normalizers([Lowercase(), *own])
    return written


def _lowers_case(tokenizer: Tokenizer) -> bool:
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    steps = [normalizer, *normalizer.get("normalizers", ())]
    return any(s["type"] == "Lowercase" or s.get("lowercase") is True for s in steps if s)


def _check(tokenizer: Any, written: Tokenizer, texts: Texts) -> None:
    """Refuses a tokenizer that reads a text otherwise than its tokenizer.json."""
    for text in (*PROBES, LONG):
        expected = _ids(tokenizer(text, truncation=True, max_length=texts.max_length))
        found = written.encode(text.lower() if texts.lower_case else text)
        real = [i for i, kept in zip(found.ids, found.attention_mask, strict=True) if kept]
        if real != expected:
            raise ConfigError(
                f"the tokenizer reads {text[:40]!r} as {expected[:9]}, and its tokenizer.json as "
                f"{real[:9]}: it cannot be exported"
            )


def _ids(encoded: Any) -> Sequence[int]:
    return list(encoded["input_ids"])
