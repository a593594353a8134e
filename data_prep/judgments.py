"""Writes the queries of a split and their judgments, once it is known which rows are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from beyond_text.shards.columns import write_columns
from beyond_text.shards.judged import ASKED, judged_schema
from beyond_text.tables.compact import places
from beyond_text.tables.layouts import Reject
from beyond_text.tables.sorter import sorter
from data_prep.frozen import column, open_rows, rows_path


class Numbers(NamedTuple):
    """What each row of a split becomes, by its position; -1 is nothing.

    Attributes:
        sample: number of each product's sample.
        query: row of each query in asked-SPLIT.
        picture: number of each query's picture.
        source: digest of each product's picture file.
    """

    sample: Int[np.ndarray, " products"]
    query: Int[np.ndarray, " queries"]
    picture: Int[np.ndarray, " queries"]
    source: pa.ChunkedArray


def rank_queries(folder: Path, split: str, is_used: np.ndarray) -> Int[np.ndarray, " queries"]:
    """Numbers the used queries of a split in the order of their ids; others get -1."""
    ids = column(folder, "queries", split, "query_id").filter(pa.array(is_used))
    number = np.full(len(is_used), -1, dtype=np.int64)
    order = pc.sort_indices(ids).to_numpy()
    number[np.flatnonzero(is_used)[order]] = np.arange(len(order))
    return number


def write_asked(folder: Path, split: str, numbers: Numbers, path: Path) -> None:
    """Writes asked-SPLIT.arrow."""
    rows = open_rows(rows_path(folder, "queries", split)).read_all()
    order = np.empty(int((numbers.query >= 0).sum()), dtype=np.int64)
    used = np.flatnonzero(numbers.query >= 0)
    order[numbers.query[used]] = used
    columns = {
        **{name: rows[name] for name in ("query_id", "query", "kind", "product_id")},
        "picture": pa.array(numbers.picture, pa.int32()),
        "seen": pc.equal(rows["seen"], "1"),
    }
    table = pa.table({name: columns[name].take(pa.array(order)) for name in ASKED.names})
    write_columns(path, ASKED, table.cast(ASKED).combine_chunks().to_batches())


def unused_judgments(
    folder: Path, split: str, name: str, numbers: Numbers, files: Sequence[str]
) -> Iterator[Reject]:
    """Yields a reject for each judgment whose "query" or "product" (`name`) is not used.

    A judgment whose query is not used has no second one for its product.
    """
    reader = open_rows(rows_path(folder, "qrels", split))
    ids = [column(folder, each, split, f"{each_id}_id")
           for each, each_id in (("queries", "query"), ("products", "product"))]  # fmt: skip
    for part in range(reader.num_record_batches):
        batch = reader.get_batch(part)
        has_query = numbers.query[batch["query"].to_numpy()] >= 0
        has_product = numbers.sample[batch["product"].to_numpy()] >= 0
        unused = ~has_query if name == "query" else has_query & ~has_product
        for row in np.flatnonzero(unused):
            query, product = (
                each[batch[column_name][row].as_py()].as_py()
                for each, column_name in zip(ids, ("query", "product"), strict=True)
            )
            detail = f"expected a {name} that was not rejected"
            file, number = files[batch["file"][row].as_py()], batch["row"][row].as_py()
            yield Reject(file, number, f"{query} {product}", f"unknown {name}", detail)


def write_judged(
    folder: Path, split: str, numbers: Numbers, grades: Sequence[str], path: Path
) -> int:
    """Writes judged-SPLIT.arrow, in the order of sample and query.

    Judgments of grade 0 are kept, since a stated no is information. A query that is a product has a
    row of its own for that product and its twins, which have its picture, but for those that are
    judged.

    Returns:
        The number of judgments with a grade above 0.
    """
    schema = judged_schema(grades)
    positive = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal positive
        for batch in _judged(folder, split, numbers, schema):
            above = [np.asarray(batch[name]) > 0 for name in grades]
            positive += int(np.logical_or.reduce(above).sum())
            yield batch

    with sorter(folder) as connection:
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        connection.register("read", reader)
        connection.execute("CREATE TEMP TABLE judged AS SELECT * FROM read")
        own = _own(folder, split, numbers)
        if len(own):
            _add_own(connection, own, numbers, len(grades))
        ordered = connection.sql("SELECT * FROM judged ORDER BY sample, query")
        rows = (batch.cast(schema) for batch in ordered.to_arrow_reader(2**16))
        write_columns(path, schema, rows)
    return positive


def _judged(
    folder: Path, split: str, numbers: Numbers, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yields the judgments of used queries and products, in the order of the tables."""
    reader = open_rows(rows_path(folder, "qrels", split))
    for part in range(reader.num_record_batches):
        batch = reader.get_batch(part)
        sample = numbers.sample[batch["product"].to_numpy()]
        query = numbers.query[batch["query"].to_numpy()]
        used = (sample >= 0) & (query >= 0)
        columns = {"sample": sample, "query": query, "own": np.zeros(len(used), dtype=bool)}
        columns |= {name: batch[name].to_numpy() for name in schema.names if name not in columns}
        arrays = [pa.array(columns[field.name][used], field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _own(folder: Path, split: str, numbers: Numbers) -> pa.Table:
    """Returns the used queries that are a product of the split, and the position of that."""
    product = places(
        column(folder, "queries", split, "product_id"),
        column(folder, "products", split, "product_id"),
    )
    chosen = (numbers.query >= 0) & (product >= 0)
    return pa.table({"query": numbers.query[chosen], "product": product[chosen]})


def _add_own(
    connection: duckdb.DuckDBPyConnection, own: pa.Table, numbers: Numbers, grades: int
) -> None:
    """Adds rows for queries that are a product, for it and its twins."""
    products = pa.table(
        {
            "product": np.arange(len(numbers.sample)),
            "sample": numbers.sample,
            "source": numbers.source,
        }
    )
    connection.register("own", own)
    connection.register("products", products)
    connection.execute(
        f"""
        INSERT INTO judged
        WITH twins AS (
            SELECT products.sample, own.query FROM own JOIN products USING (product)
            UNION
            SELECT twin.sample, own.query FROM own JOIN products USING (product)
            JOIN products AS twin ON twin.source = products.source
        )
        SELECT sample, query, true {", 0" * grades} FROM twins
        WHERE sample >= 0 AND NOT EXISTS (
            SELECT 1 FROM judged
            WHERE judged.sample = twins.sample AND judged.query = twins.query
        )
        """
    )
