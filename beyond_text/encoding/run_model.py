"""Encodes by a finished run's model in torch, in float32, on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import yaml
from jaxtyping import Float32
from torch.utils.data import Dataset

from beyond_text.config.names import MODEL
from beyond_text.config.settings import ConfigError
from beyond_text.config.views import View
from beyond_text.encoding.digest import digest_of_run as digest_of_run
from beyond_text.encoding.rows import Picture, Pictures, Row, rows_of
from beyond_text.models.query_side import QuerySide, load_query_side
from beyond_text.shards.batch import EMPTY_SAMPLE, Judgment, Sample, product_sample
from beyond_text.tables.pictures import PictureError, decode_pixels, is_reduced, reduce_picture

if TYPE_CHECKING:
    from beyond_text.retrieval.encode import Encoder

QUERIES_AT_ONCE, PRODUCTS_AT_ONCE = 256, 128


class RunModel:
    """Encodes as `Model` says. What text queries need is loaded apart where it is much smaller."""

    def __init__(self, run: Path) -> None:
        self.run = run
        file = run / MODEL / "settings.yaml"
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))
            self.dim = int(settings["dim"])
            self._sizes = int(settings["picture_size"]), int(settings["image_size"])
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise ConfigError(f"{file}: not as a run writes it: {error}") from error

    @cached_property
    def digest(self) -> str:
        """A digest of the model's files."""
        return digest_of_run(self.run)

    @cached_property
    def encoder(self) -> Encoder:
        """The whole model, in float32."""
        from beyond_text.retrieval.run import load_run

        return replace(load_run(self.run), bf16=False, workers=0)

    @cached_property
    def _query_side(self) -> QuerySide | None:
        return None if torch.cuda.is_available() else load_query_side(self.run)

    def encode_queries(
        self, texts: Sequence[str] | None = None, images: Sequence[Picture | None] | None = None
    ) -> Float32[np.ndarray, "queries dim"]:
        """Returns unit vectors of queries."""
        rows = rows_of(texts, images, most_pictures=1)
        whole = "encoder" in vars(self) or any(row.pictures for row in rows)
        if not whole and (side := self._query_side) is not None:
            return _by_length(side, rows, self.dim)
        return self._encode(rows, "query", QUERIES_AT_ONCE)

    def encode_products(
        self, texts: Sequence[str] | None = None, images: Sequence[Pictures] | None = None
    ) -> Float32[np.ndarray, "products dim"]:
        """Returns unit vectors of products."""
        rows = rows_of(texts, images, most_pictures=None)
        return self._encode(rows, "product", PRODUCTS_AT_ONCE)

    def _encode(
        self, rows: Sequence[Row], view: View, batch_size: int
    ) -> Float32[np.ndarray, "rows dim"]:
        # It imports transformers and timm, without which the query's side encodes texts.
        from beyond_text.retrieval.encode import encode_samples

        samples = _Samples(rows, view, *self._sizes)
        ids = [str(row.number) for row in rows]
        found = encode_samples(self.encoder, samples, ids, (view,), batch_size)[view]
        return np.ascontiguousarray(found.vectors, dtype=np.float32)


class _Samples(Dataset[Sample]):
    """Makes a sample of each row, with its pictures as shards hold them."""

    def __init__(self, rows: Sequence[Row], view: View, stored_size: int, image_size: int) -> None:
        self.rows = rows
        self.view = view
        self.stored_size = stored_size
        self.image_size = image_size

    def __getitem__(self, number: int) -> Sample:
        row = self.rows[number]
        pixels = [self._pixels(row, picture) for picture in row.pictures]
        name = str(row.number)
        if self.view == "product":
            return product_sample(name, row.text, pixels)
        query = Judgment(name, row.text, "")
        return EMPTY_SAMPLE._replace(query=query, query_image=pixels[0] if pixels else None)

    def _pixels(self, row: Row, picture: Picture) -> torch.Tensor:
        data = row.read(picture)
        try:
            if not is_reduced(data, self.stored_size):
                data = reduce_picture(data, self.stored_size)
            return decode_pixels(data, reduce_to=self.image_size)
        except PictureError as error:
            raise row.named(picture, error) from error


def _by_length(
    side: QuerySide, rows: Sequence[Row], dim: int
) -> Float32[np.ndarray, "queries dim"]:
    """Encodes texts, those of similar length together, so that little of a batch is padding."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].text))
    vectors = np.zeros((len(rows), dim), dtype=np.float32)
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        numbers = order[start : start + QUERIES_AT_ONCE]
        vectors[numbers] = side.encode([rows[n].text for n in numbers], bf16=False).numpy()
    return vectors
