"""Writes the vectors of a catalogue as one Parquet file, as vector databases load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beyond_text.encoding.run_model import RunModel
from beyond_text.retrieval.catalogue import Catalogue, ShardProducts, TableProducts
from beyond_text.retrieval.encode import encode_products
from beyond_text.retrieval.read_split import read_products
from beyond_text.shards.store import Folder
from beyond_text.terminal import say

VECTORS = "vectors.parquet"
SHOWN = ("title", "category")


def write_vectors(run: RunModel, products: Folder, out: Path) -> int:
    """Writes product_id, vector, title and category of every product; returns their number.

    A column that the shop has under a further name is a further column of text.

    Raises:
        TableError, ShardError: no such products.
        ValueError: a product whose vector is not finite, or none that has a text or a picture.
    """
    settings = run.encoder.model.settings
    # Fields that the model does not read are read too, since they are shown.
    fields = [*settings.text_fields, *(name for name in SHOWN if name not in settings.text_fields)]
    sizes = settings.image_size, settings.picture_size
    catalogue = read_products(products, None, settings.text_fields, *sizes)
    shown = read_products(products, None, fields, *sizes)
    ids, vectors = encode_products(run.encoder, catalogue)["product"]
    if not ids:
        raise ValueError(f"{products}: no product has a text or a picture")
    if left := len(catalogue.product_ids) - len(ids):
        say(f"{products}: {left:,} products are left out that have neither text nor picture")
    if len(wrong := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        raise ValueError(f"vector of product {ids[wrong[0]]!r} is not finite")
    numbers = shown.positions
    rows = [_fields(shown, numbers[product_id]) for product_id in ids]
    flat = pa.array(vectors.astype(np.float32).ravel())
    columns: dict[str, Any] = {
        "product_id": pa.array(ids, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    for name in SHOWN:
        columns[name] = pa.array([row.get(name) or "" for row in rows], pa.string())
    for name in _further(rows, columns):
        further = [(row.get("further") or {}).get(name) for row in rows]
        columns[name] = pa.array(further, pa.string())
    pq.write_table(pa.table(columns), out / VECTORS)
    return len(ids)


def _further(rows: Sequence[dict[str, Any]], taken: dict[str, Any]) -> list[str]:
    """Returns the names of a shop's further columns, in the order in which they appear."""
    names = dict.fromkeys(name for row in rows for name in (row.get("further") or {}))
    return [name for name in names if name not in taken]


def _fields(catalogue: Catalogue, number: int) -> dict[str, Any]:
    """Returns the fields of the number-th product, without reading its picture."""
    products = catalogue.products
    if isinstance(products, ShardProducts):
        split, sample = products.places[number]
        return products.splits[split].read(sample, None)[0]
    assert isinstance(products, TableProducts)
    return {str(name): value for name, value in products.rows[number].items()}
