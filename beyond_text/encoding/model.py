"""What encodes queries and products, and how it is loaded: from a run, or from an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float32

from beyond_text.config.names import MODEL, WEIGHTS
from beyond_text.config.settings import ConfigError
from beyond_text.encoding.preprocessing import PREPROCESSING
from beyond_text.encoding.rows import Picture as Picture
from beyond_text.encoding.rows import Pictures

Precision = Literal["float32", "int8"]


class Model(Protocol):
    """Encodes queries and products as unit vectors of one space, whose products are cosines.

    Prefixes, lower case, the longest text, decoding and resizing are the model's own business.
    """

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        ...

    @property
    def digest(self) -> str:
        """A hexadecimal name of the weights: models of other vectors have another."""
        ...

    def encode_queries(
        self, texts: Sequence[str] | None = None, images: Sequence[Picture | None] | None = None
    ) -> Float32[np.ndarray, "queries dim"]:
        """Returns the unit vectors of queries: words, a picture, or both in one row.

        Args:
            texts: "" in a row without words; None where no row has any.
            images: bytes or path of a picture; None in a row, or for all rows, without one.

        Raises:
            ValueError: a row with neither, or a picture that cannot be used (PictureError).
        """
        ...

    def encode_products(
        self, texts: Sequence[str] | None = None, images: Sequence[Pictures] | None = None
    ) -> Float32[np.ndarray, "products dim"]:
        """Returns the unit vectors of products; of several pictures, the mean of their vectors.

        Args:
            texts: the fields of a product that the model was trained on, joined; "" for none.
            images: a picture or several, as for queries; None for none.

        Raises:
            ValueError: a row with neither, or a picture that cannot be used (PictureError).
        """
        ...


def load(path: Path | str, precision: Precision = "float32", threads: int = 0) -> Model:
    """Loads the model of a finished run or of an export.

    An export is run by onnxruntime; torch is not imported. Each part is read when it is first
    needed: a folder without the graph of products still encodes queries.

    Args:
        path: a run folder, or what `beyond_text.export` wrote.
        precision: int8 encodes text queries faster, by an export's query.int8.onnx.
        threads: of onnxruntime for an export; 0 takes every core.

    Raises:
        ConfigError: neither a finished run nor an export; int8 of a run.
    """
    folder = Path(path)
    if precision not in ("float32", "int8"):
        raise ConfigError(f"precision: expected float32 or int8, got {precision!r}")
    if (folder / PREPROCESSING).is_file():
        from beyond_text.encoding.export_model import ExportModel

        return ExportModel(folder, precision, threads)
    if (folder / MODEL / WEIGHTS).is_file():
        if precision != "float32":
            raise ConfigError(f"{folder}: int8 is a precision of exports; this is a run")
        from beyond_text.encoding.run_model import RunModel

        return RunModel(folder)
    raise ConfigError(
        f"{folder}: expected a finished run ({MODEL}/{WEIGHTS}) or an export ({PREPROCESSING}), "
        "found neither"
    )
