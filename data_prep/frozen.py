"""Writes what was read of tables to disk, in the order of the shards, for tasks to take it up.

In a folder: FACTS, REJECTS, and for each split files of Arrow's: `products-SPLIT` and
`pictured-SPLIT` (queries with pictures), of which each part is the rows of one shard,
`queries-SPLIT` and `qrels-SPLIT`, whose judgments name rows of the other two by their positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from msgspec import Struct

from beyond_text.files import write_bytes
from beyond_text.shards.columns import write_columns
from beyond_text.tables.compact import by_code, parts, places
from beyond_text.tables.layouts import TEXT_COLUMNS, Reject, TableFile
from beyond_text.tables.sorter import sorter
from beyond_text.tables.tables import Tables
from data_prep.rejects import BuildError

FACTS, REJECTS = "facts.json", "rejects.json"
PRODUCT_ROWS = pa.schema(
    [
        ("row", pa.int64()),
        ("product_id", pa.string()),
        *((name, pa.string()) for name in TEXT_COLUMNS),
        ("images", pa.list_(pa.string())),
        ("group_id", pa.string()),
        ("further", pa.string()),
    ]
)
QUERY_ROWS = pa.schema(
    [
        ("row", pa.int64()),
        *((name, pa.string()) for name in
          ("query_id", "query", "kind", "image", "product_id", "seen")),
    ]
)  # fmt: skip


class SplitFacts(Struct, frozen=True):
    """How many rows a split has; `seen` queries have the words or picture of a train query."""

    name: str
    products: int
    pictured: int
    queries: int
    seen: int


class Facts(Struct, frozen=True):
    """What a build must know of its tables beside their rows.

    Attributes:
        key: of the tables and the options; those of another key are other rows.
        source: name of the tables.
        pictures: the folder in which pictures lie, resolved.
        products_have_split: see `Tables`.
        grades: the highest of each.
        splits: train first.
        files: by table name.
        judged: names of the files of judgments, by their number in `qrels-SPLIT`.
    """

    key: str
    source: str
    pictures: str
    products_have_split: bool
    grades: dict[str, float]
    splits: list[SplitFacts]
    files: dict[str, TableFile]
    judged: list[str]


def qrel_rows(grades: Iterable[str]) -> pa.Schema:
    """Returns the columns of judgments; query and product are positions in the split's files."""
    numbers = [("row", pa.int64()), ("query", pa.int32()), ("product", pa.int32())]
    return pa.schema([*numbers, ("file", pa.int32()), *((name, pa.float64()) for name in grades)])


def freeze(
    tables: Tables, folder: Path, key: str, source: str, seed: int, samples_per_shard: int
) -> Facts:
    """Writes tables to a folder, which is whole once it has FACTS.

    Args:
        tables: as `read_tables` reads them, compact.
        folder: to fill.
        key: see `Facts`.
        source: name of the tables.
        seed: of the order of the products within a split.
        samples_per_shard: most rows of a part.

    Raises:
        BuildError: a split of a reserved name.
    """
    splits = ["train", *sorted({*tables.products["split"], *tables.queries["split"]} - {"train"})]
    taken = [split for split in splits if f"queries-{split}" in splits]
    if taken:
        raise BuildError(f"split 'queries-{taken[0]}': query pictures of {taken[0]!r} go there")
    _write_products(tables.products, splits, folder, seed, samples_per_shard)
    counts = [_write_queries(tables, split, folder, samples_per_shard) for split in splits]
    judged = _write_qrels(tables, splits, folder)
    highest = tables.qrels[tables.grades].max() if len(tables.qrels) else {}
    write_bytes(folder / REJECTS, msgspec.json.encode(tables.rejects))
    facts = Facts(
        key=key,
        source=source,
        pictures=str(tables.pictures.resolve()),
        products_have_split=tables.products_have_split,
        grades={name: float(highest.get(name, 0.0)) for name in tables.grades},
        splits=counts,
        files=tables.files,
        judged=judged,
    )
    write_bytes(folder / FACTS, msgspec.json.encode(facts))
    return facts


def read_facts(folder: Path) -> Facts | None:
    """Reads the facts of a folder; None where it is not whole."""
    path = folder / FACTS
    return msgspec.json.decode(path.read_bytes(), type=Facts) if path.is_file() else None


def read_rejects(folder: Path) -> list[Reject]:
    """Reads what was rejected when the tables were read."""
    return msgspec.json.decode((folder / REJECTS).read_bytes(), type=list[Reject])


def rows_path(folder: Path, name: str, split: str) -> Path:
    """Returns the file of some rows of a split."""
    return folder / f"{name}-{split}.arrow"


def open_rows(path: Path) -> pa.ipc.RecordBatchFileReader:
    """Opens a file of rows, which is mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


def column(folder: Path, name: str, split: str, field: str) -> pa.ChunkedArray:
    """Reads one column of a file of rows."""
    options = pa.ipc.IpcReadOptions()
    schema = open_rows(rows_path(folder, name, split)).schema
    options.included_fields = [schema.get_field_index(field)]
    with pa.OSFile(str(rows_path(folder, name, split))) as file:
        return pa.ipc.open_file(file, options=options).read_all()[field]


def _write_products(
    products: pd.DataFrame, splits: Sequence[str], folder: Path, seed: int, size: int
) -> None:
    """Writes products by the hash of their ids, which parts neighbours, the same everywhere."""
    names = PRODUCT_ROWS.names
    table = PRODUCT_ROWS.append(pa.field("split", pa.string())).empty_table()
    if len(products):
        table = pa.Table.from_pandas(products[[*names, "split"]], preserve_index=False)
    chosen = ", ".join(f'"{name}"' for name in names)
    query = (
        f"SELECT {chosen} FROM products WHERE split = ? "
        "ORDER BY sha256(concat(?, '/', product_id)), product_id"
    )
    with sorter(folder) as connection:
        connection.register("products", table)
        for split in splits:
            found = connection.sql(query, params=[split, str(seed)])
            rows = (batch.cast(PRODUCT_ROWS) for batch in found.to_arrow_reader(2**14))
            write_columns(rows_path(folder, "products", split), PRODUCT_ROWS, rows, size)


def _write_queries(tables: Tables, split: str, folder: Path, size: int) -> SplitFacts:
    """Writes the queries of a split in the order of the tables, and those with pictures."""
    rows = tables.queries[tables.queries["split"] == split]
    pictured = rows[rows["image"] != ""]
    for name, frame, most in (("queries", rows, 2**16), ("pictured", pictured, size)):
        table = pa.Table.from_pandas(frame[QUERY_ROWS.names], preserve_index=False)
        batches = table.cast(QUERY_ROWS).to_batches()
        write_columns(rows_path(folder, name, split), QUERY_ROWS, batches, most)
    products = int((tables.products["split"] == split).sum())
    return SplitFacts(split, products, len(pictured), len(rows), int((rows["seen"] == "1").sum()))


def _write_qrels(tables: Tables, splits: Sequence[str], folder: Path) -> list[str]:
    """Writes the judgments of each split; returns the names of their files."""
    names = ("query_id", "product_id", "split", "file")
    qrels = tables.qrels.assign(**{name: by_code(tables.qrels[name]) for name in names})
    schema = qrel_rows(tables.grades)
    known = list(qrels["split"].cat.categories)
    for split in splits:
        own = known.index(split) if split in known else -1
        place = {
            name: places(
                qrels[f"{name}_id"].cat.categories, column(folder, table, split, f"{name}_id")
            )
            for name, table in (("query", "queries"), ("product", "products"))
        }
        batches = (
            _positions(part[part["split"].cat.codes == own], place, schema) for part in parts(qrels)
        )
        write_columns(rows_path(folder, "qrels", split), schema, batches, 2**16)
    return list(qrels["file"].cat.categories)


def _positions(
    part: pd.DataFrame, place: dict[str, np.ndarray], schema: pa.Schema
) -> pa.RecordBatch:
    """Makes rows of judgments from the codes of their ids."""
    columns = {
        **{name: part[name] for name in schema.names if name in part},
        **{name: place[name][part[f"{name}_id"].cat.codes] for name in ("query", "product")},
        "file": part["file"].cat.codes,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
