"""Counts what stands in train and in another split too, so that no metric is taken for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow.dataset as ds

from beyond_text.tables.sorter import sorter
from data_prep.frozen import Facts, rows_path

# By name: the column of a split's rows, and of what became of them.
OF_ROWS = {"products": "product_id", "groups": "group_id"}
OF_SHARDS = {"texts": "text", "pictures": "stored"}


def count_crossing(
    folder: Path, facts: Facts, became: Mapping[str, Sequence[Path]]
) -> dict[str, dict[str, int]]:
    """Counts for each split but train what train has too.

    Args:
        folder: of the rows.
        facts: of the tables.
        became: by split, files that say what became of the rows of products.

    Returns:
        By split: `queries` of the words or picture of a train query; and distinct `products`,
        `groups` (by group_id), product `texts` and stored `pictures`, the first of each product.
    """
    counts = {}
    with sorter(folder) as connection:
        for split in sorted(facts.splits[1:], key=lambda each: each.name):
            pair = "train", split.name
            rows = [[rows_path(folder, "products", each)] for each in pair]
            shards = [became[each] for each in pair]
            shared = {
                name: _shared(connection, column, *files)
                for files, columns in ((rows, OF_ROWS), (shards, OF_SHARDS))
                for name, column in columns.items()
                if split.products or name == "pictures"
            }
            counts[split.name] = {"queries": split.seen, **shared}
    return counts


def _shared(connection: duckdb.DuckDBPyConnection, column: str, *files: Sequence[Path]) -> int:
    """Counts the distinct values of a column that two lists of files share."""
    if not all(files):
        return 0
    for name, paths in zip(("one", "two"), files, strict=True):
        connection.register(name, ds.dataset([str(path) for path in paths], format="ipc"))
    # The columns' names are ours.
    found = connection.execute(
        f"SELECT count(*) FROM (SELECT {column} FROM one WHERE {column} IS NOT NULL "
        f"INTERSECT SELECT {column} FROM two)"
    ).fetchall()
    return int(found[0][0])
