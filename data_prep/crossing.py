"""Counts what stands in train and in another split too, so that no metric is taken for more."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from beyond_text.tables.splits import product_key
from beyond_text.tables.tables import Tables


def count_crossing(tables: Tables, pictures: Mapping[str, set[bytes]]) -> dict[str, dict[str, int]]:
    """Counts for each split but train what train has too.

    Args:
        tables: with their splits.
        pictures: digests of each split's stored pictures, the first of each product.

    Returns:
        By split: `queries` of the words or picture of a train query; and distinct `products`,
        `groups` (by group_id), product `texts` and `pictures`.
    """
    products, queries = tables.products, tables.queries
    contents = {split: _contents(rows) for split, rows in products.groupby("split")}
    train = contents.get("train", {})
    counts = {}
    for split in sorted({*contents, *queries["split"]} - {"train"}):
        seen = (queries["split"] == split) & (queries["seen"] == "1")
        counts[str(split)] = {
            "queries": int(seen.sum()),
            **{
                name: len(values & train.get(name, set()))
                for name, values in contents.get(split, {}).items()
            },
            "pictures": len(pictures.get(split, set()) & pictures.get("train", set())),
        }
    return counts


def _contents(products: pd.DataFrame) -> dict[str, set[str]]:
    """Returns the distinct ids, groups and texts of a split's products."""
    texts = {product_key(record) for record in products.to_dict("records")}
    return {
        "products": set(products["product_id"]),
        "groups": set(products["group_id"]),
        "texts": texts - {""},
    }
