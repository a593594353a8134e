"""Encodes by an export's graphs in onnxruntime; imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from beyond_text.config.settings import ConfigError
from beyond_text.encoding.pixels import square_of
from beyond_text.encoding.preprocessing import TOKENIZER, read_preprocessing
from beyond_text.encoding.rows import Picture, Pictures, Row, rows_of
from beyond_text.tables.pictures import PictureError

# The files of an export's graphs.
GRAPHS = "onnx"
QUERY, INT8, QUERY_PICTURE, PRODUCT = (
    f"{GRAPHS}/{name}.onnx" for name in ("query", "query.int8", "query_picture", "product")
)
OUTPUT = "vectors"
# Texts of similar length, and pictures, that are encoded together.
TEXTS_AT_ONCE, PICTURES_AT_ONCE = 64, 32


class Tokens(NamedTuple):
    """Texts as a graph takes them, padded on the right."""

    input_ids: Int64[np.ndarray, "texts length"]
    attention_mask: Int64[np.ndarray, "texts length"]


class ExportModel:
    """Encodes as `Model` says; each graph is loaded when it is first needed."""

    def __init__(self, folder: Path, precision: str = "float32", threads: int = 0) -> None:
        self.folder = folder
        self.settings = read_preprocessing(folder)
        self.dim = self.settings.dim
        self.digest = self.settings.digest
        self._query = INT8 if precision == "int8" else QUERY
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._loading = threading.Lock()

    def encode_queries(
        self, texts: Sequence[str] | None = None, images: Sequence[Picture | None] | None = None
    ) -> Float32[np.ndarray, "queries dim"]:
        """Returns unit vectors of queries."""
        rows = rows_of(texts, images, most_pictures=1)
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        words = [number for number, row in enumerate(rows) if not row.pictures]
        for numbers in self._by_length(rows, words):
            tokens = self._tokens([rows[number].text for number in numbers], query=True)
            vectors[numbers] = self._run(self._query, tokens._asdict())
        pictures = [number for number, row in enumerate(rows) if row.pictures]
        for start in range(0, len(pictures), PICTURES_AT_ONCE):
            numbers = pictures[start : start + PICTURES_AT_ONCE]
            entries = [(rows[number], rows[number].pictures[0]) for number in numbers]
            vectors[numbers] = self._fused(QUERY_PICTURE, entries, query=True)
        return vectors

    def encode_products(
        self, texts: Sequence[str] | None = None, images: Sequence[Pictures] | None = None
    ) -> Float32[np.ndarray, "products dim"]:
        """Returns unit vectors of products."""
        rows = rows_of(texts, images, most_pictures=None)
        sums = np.zeros((len(rows), self.dim), dtype=np.float32)
        entries: list[tuple[int, Picture | None]] = [
            (number, picture)
            for number, row in enumerate(rows)
            for picture in (row.pictures or (None,))
        ]
        # Those without a picture stand together, as a graph of texts alone is much faster.
        entries.sort(key=lambda entry: (entry[1] is None, len(rows[entry[0]].text)))
        for start in range(0, len(entries), PICTURES_AT_ONCE):
            part = entries[start : start + PICTURES_AT_ONCE]
            found = self._fused(PRODUCT, [(rows[n], picture) for n, picture in part], query=False)
            np.add.at(sums, [number for number, _ in part], found)
        several = np.array([len(row.pictures) > 1 for row in rows], dtype=bool)
        norms = np.linalg.norm(sums[several], axis=1, keepdims=True)
        sums[several] /= np.maximum(norms, 1e-12)
        return sums

    def _by_length(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[list[int]]:
        """Returns the numbers of rows in batches of texts of similar length."""
        order = sorted(numbers, key=lambda number: len(rows[number].text))
        return [
            order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)
        ]

    def _fused(
        self, graph: str, entries: Sequence[tuple[Row, Picture | None]], query: bool
    ) -> Float32[np.ndarray, "rows dim"]:
        """Encodes rows of a text, a picture or both by a graph that fuses them."""
        texts = list(dict.fromkeys(row.text for row, _ in entries if row.text))
        numbers = {text: number for number, text in enumerate(texts)}
        squares = [self._square(row, each) for row, each in entries if each is not None]
        has_image = np.array([each is not None for _, each in entries], dtype=bool)
        size = self.settings.pictures.image_size
        # A modality that no row has still takes one input, which no row points at.
        tokens = self._tokens(texts or [""], query)
        pixels = np.stack(squares) if squares else np.zeros((1, 3, size, size), dtype=np.uint8)
        return self._run(
            graph,
            {
                **tokens._asdict(),
                "text_row": np.array([numbers.get(row.text, -1) for row, _ in entries]),
                "pixels": pixels,
                "image_row": np.where(has_image, has_image.cumsum() - 1, -1),
            },
        )

    def _square(self, row: Row, picture: Picture) -> UInt8[np.ndarray, "3 size size"]:
        data = row.read(picture)
        try:
            return square_of(data, self.settings.pictures)
        except PictureError as error:
            raise row.named(picture, error) from error

    def _tokens(self, texts: Sequence[str], query: bool) -> Tokens:
        """Tokenizes texts behind their prefix."""
        settings = self.settings.texts
        prefix = settings.query_prefix if query else settings.text_prefix
        texts = [prefix + text for text in texts]
        if settings.lower_case:
            texts = [text.lower() for text in texts]
        found = self._tokenizer.encode_batch(texts)
        ids = np.array([text.ids for text in found], dtype=np.int64)
        if not settings.masked:
            return Tokens(ids, np.ones_like(ids))
        return Tokens(ids, np.array([text.attention_mask for text in found], dtype=np.int64))

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file, settings = self.folder / TOKENIZER, self.settings.texts
        try:
            tokenizer = Tokenizer.from_file(str(file))
        # The library raises a bare Exception where a file is missing or damaged.
        except Exception as error:
            raise ConfigError(f"{file}: no tokenizer that can be read: {error}") from error
        tokenizer.enable_truncation(settings.max_length)
        length = settings.max_length if settings.padding == "max_length" else None
        tokenizer.enable_padding(
            pad_id=settings.pad_id, pad_token=settings.pad_token, length=length
        )
        return tokenizer

    def _run(self, graph: str, inputs: dict[str, np.ndarray]) -> Float32[np.ndarray, "rows dim"]:
        session = self._sessions.get(graph)
        if session is None:
            with self._loading:
                session = self._sessions.get(graph) or self._load(graph)
                self._sessions[graph] = session
        return session.run([OUTPUT], inputs)[0]

    def _load(self, graph: str) -> Any:
        import onnxruntime

        file = self.folder / graph
        if not file.is_file():
            raise ConfigError(f"{file}: no such file, which this needs; export it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        try:
            return onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime has a class of its own for each cause, none of which is a ValueError.
        except Exception as error:
            raise ConfigError(f"{file}: no graph that onnxruntime reads: {error}") from error
