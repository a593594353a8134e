"""Opens and writes the files of one state of an index: its vectors, products and columns.

Products stand in descending order of their product_ids. So a product is found by bisection, and the
order of rows is that of trec_eval for equal scores.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beyond_text.indexing.arrow_files import (
    DIGEST,
    column_of_digests,
    digests_of,
    open_arrow,
    write_arrow,
)
from beyond_text.indexing.columns import table_of, type_of
from beyond_text.indexing.facts import (
    CHECKED,
    ColumnType,
    Facts,
    IndexFormatError,
    check_files,
    read_facts,
)
from beyond_text.indexing.source import Digests, Known
from beyond_text.retrieval.described import Described, Place
from beyond_text.retrieval.lexical import Lexical, searched_text

VECTORS, PRODUCTS, COLUMNS = "vectors.npy", "products.arrow", "columns.arrow"
# Vectors of queries by which a search is measured; an exact one needs none.
ASKED = "asked.npy"
LEXICAL = "lexical"
SCHEMA = {
    "product_id": pa.string(),
    "text": pa.string(),
    "file": pa.string(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "digest": DIGEST,
    "picture": DIGEST,
}
# Bits of a float16 that are all set where it is infinite or no number.
EXPONENT = 0x7C00


def write_products(
    folder: Path,
    products: Sequence[Described],
    digests: Digests,
    pictures: Digests,
    words: Lexical,
) -> dict[str, ColumnType]:
    """Writes the products, in descending order of their ids; returns the types of columns."""
    places = [product.pictures[0] if product.pictures else Place("") for product in products]
    values: list[Any] = [
        [product.product_id for product in products],
        [product.text for product in products],
        *zip(*places, strict=True),
    ]
    arrays = [pa.array(v, kind) for v, kind in zip(values, SCHEMA.values(), strict=False)]
    arrays += [column_of_digests(each) for each in (digests, pictures)]
    write_arrow(folder / PRODUCTS, pa.table(dict(zip(SCHEMA, arrays, strict=True))))
    table, types = table_of([product.columns for product in products])
    write_arrow(folder / COLUMNS, table)
    words.save(folder / LEXICAL)
    return types


def words_of_products(products: Sequence[Described]) -> Lexical:
    """Indexes the words by which products are searched."""
    return Lexical.build(
        searched_text(each.product_id, each.text, each.columns) for each in products
    )


class ProductIds(Sequence[str]):
    """The product_ids of an index, in order; reads only those asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        return self.column[number].as_py()

    def find(self, product_id: str) -> int:
        """Returns the number of a product.

        Raises:
            KeyError: there is none.
        """
        number = bisect_left(range(len(self)), True, key=lambda each: self[each] <= product_id)
        if number == len(self) or self[number] != product_id:
            raise KeyError(product_id)
        return number


class Generation(NamedTuple):
    """One state of the index at `path`, mapped: it stays as it is while another is written."""

    path: Path
    facts: Facts
    vectors: np.ndarray
    products: pa.Table
    columns: pa.Table
    lexical: Lexical

    @classmethod
    def open(cls, index: Path) -> Generation:
        """Opens the state that index.json names, and checks it.

        Raises:
            IndexFormatError: it is missing or damaged.
        """
        for _ in range(3):
            facts = read_facts(index)
            try:
                return cls._open(index, facts)
            except IndexFormatError:
                # Updates may have replaced and removed it since.
                if read_facts(index) == facts:
                    raise
        raise IndexFormatError(f"{index}: changes faster than it can be opened")

    @classmethod
    def _open(cls, index: Path, facts: Facts) -> Generation:
        folder = index / facts.place
        for name in (VECTORS, PRODUCTS, COLUMNS):
            if name not in facts.files:
                raise IndexFormatError(f"{index}: index.json lists no {name}")
        check_files(folder, facts.files)
        vectors = _open_vectors(folder / VECTORS, facts.dim, facts.products)
        products = open_arrow(folder / PRODUCTS, facts.products, SCHEMA)
        # A table without columns does not know its rows.
        rows = facts.products if facts.columns else 0
        columns = open_arrow(folder / COLUMNS, rows)
        types = {field.name: type_of(field.type) for field in columns.schema}
        if types != facts.columns:
            raise IndexFormatError(f"{folder / COLUMNS}: other columns than index.json says")
        ids = products["product_id"]
        falling = facts.products == 1 or pc.all(pc.greater(ids[:-1], ids[1:])).as_py()
        if any(products[name].null_count for name in SCHEMA) or not falling:
            raise IndexFormatError(f"{folder / PRODUCTS}: expected product_ids in falling order")
        return cls(index, facts, vectors, products, columns, _open_words(folder / LEXICAL, facts))

    def __len__(self) -> int:
        return self.facts.products

    def digests(self) -> Digests:
        """Returns the digest of each product's text and pictures."""
        return digests_of(self.products["digest"])

    def asked(self) -> np.ndarray | None:
        """Returns vectors of queries like those that will be asked; None where there are none."""
        if ASKED not in self.facts.files:
            return None
        folder = self.path / self.facts.place
        return _open_vectors(folder / ASKED, self.facts.dim).astype(np.float32)

    def product_ids(self) -> ProductIds:
        """Returns the product_ids, in falling order."""
        return ProductIds(self.products["product_id"])

    def place(self, number: int) -> Place | None:
        """Returns where the number-th product's main picture lies."""
        file, offset, size = (self.products[name][number].as_py() for name in Place._fields)
        return Place(file, offset, size) if file else None

    def picture_digest(self, number: int) -> bytes:
        """Returns the digest of the number-th product's main picture."""
        return self.products["picture"][number].as_py()

    def known(self) -> Known:
        """Returns what need not be read again."""
        return Known(self.facts.source.shards, self.products)


def _open_words(folder: Path, facts: Facts) -> Lexical:
    """Maps the words into memory."""
    try:
        lexical = Lexical.load(folder)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IndexFormatError(f"{folder}: no words of an index: {error}") from error
    if len(lexical) != facts.products:
        raise IndexFormatError(f"{folder}: {len(lexical)} products, expected {facts.products}")
    return lexical


def _open_vectors(path: Path, dim: int, rows: int | None = None) -> np.ndarray:
    """Maps vectors into memory; None stands for any number of rows."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexFormatError(f"{path}: not an array: {error}") from error
    fits = isinstance(vectors, np.ndarray) and vectors.dtype == np.dtype("<f2")
    if not fits or vectors.shape != (len(vectors) if rows is None else rows, dim):
        raise IndexFormatError(
            f"{path}: expected float16 {['rows' if rows is None else rows, dim]}"
        )
    if not vectors.flags.c_contiguous:
        raise IndexFormatError(f"{path}: expected rows one after the other")
    if vectors.nbytes <= CHECKED:
        bits = vectors.view(np.uint16)
        if bool(((bits & EXPONENT) == EXPONENT).any()):
            raise IndexFormatError(f"{path}: a vector is not finite")
    return vectors
