"""What a retrieval evaluation runs over: a split's products, its queries and its judgements.

Read from a folder of shards or straight from tables; a picture goes through the same reduction
either way, so both give the same vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch.utils.data import Dataset

from beyond_text.batch import Sample
from beyond_text.pictures import PictureError, decode_picture, reduce_picture
from beyond_text.shards import ShardError, Split, product_text
from beyond_text.tables import TableError, read_tables


class Corpus(NamedTuple):
    """One split, ready to be encoded and ranked.

    `product_ids` are those of `products`, in order; `queries` has query_id, query and kind; `qrels`
    has query_id, product_id and the grade columns.
    """

    products: Dataset[Sample]
    product_ids: list[str]
    queries: pd.DataFrame
    qrels: pd.DataFrame


class ShardProducts(Dataset[Sample]):
    """Products of a split of shards, in order, without a drawn query."""

    def __init__(self, split: Split, picture: int) -> None:
        self.split = split
        self.picture = picture

    def __getitem__(self, number: int) -> Sample:
        """The number-th product.

        Raises:
            ShardError: its picture cannot be read; a measurement leaves nothing out.
        """
        try:
            fields, picture = self.split.read(number, self.picture)
        except PictureError as error:
            raise ShardError(f"{self.split.folder} sample {number}: {error}") from error
        text = self.split.text_of(fields)
        return Sample(fields["product_id"], text, picture, [], None)


class TableProducts(Dataset[Sample]):
    """Products of a table; one whose picture cannot be used goes on by its text."""

    def __init__(
        self, rows: pd.DataFrame, text_fields: list[str], stored: int, picture: int
    ) -> None:
        self.rows = rows.to_dict("records")
        self.text_fields = text_fields
        self.stored = stored
        self.picture = picture

    def __getitem__(self, number: int) -> Sample:
        """The number-th product."""
        row = self.rows[number]
        picture = None
        if row["image"]:
            try:
                data = reduce_picture(Path(row["image"]).read_bytes(), self.stored)
                picture = decode_picture(data, reduce_to=self.picture)
            except (OSError, PictureError) as error:
                # The shard builder counts these; here the ranking shows what they cost.
                print(f"{row['image']}: not used: {error}")
        text = product_text(row, self.text_fields)
        return Sample(row["product_id"], text, picture, [], None)


def read_corpus(
    folder: Path, split: str, text_fields: list[str], picture: int, stored: int = 256
) -> Corpus:
    """The corpus of one split, from a folder of shards or of tables.

    Args:
        folder: shards (they have a manifest.json) or tables.
        split: its name.
        text_fields: which columns make up the product text.
        picture: side in pixels that pictures may be reduced to while decoding.
        stored: longest side in pixels that the shards keep, for tables.

    Raises:
        TableError, ShardError: nothing of that split, or no queries.
    """
    if (folder / "manifest.json").is_file():
        shards = Split(folder, split, text_fields)
        paths = [folder / f"{name}-{split}.csv" for name in ("queries", "qrels")]
        for path in paths:
            if not path.is_file():
                raise TableError(f"{path}: missing: split {split!r} has no queries to evaluate")
        text = {"query_id": str, "product_id": str, "query": str, "kind": str}
        queries, qrels = (
            pd.read_csv(path, dtype=text, keep_default_na=False)  # type: ignore[arg-type]
            for path in paths
        )
        ids = [shards.read(number, None)[0]["product_id"] for number in range(len(shards))]
        return Corpus(ShardProducts(shards, picture), ids, queries, qrels)
    tables = read_tables(folder)
    products, queries, qrels = (
        table[table["split"] == split] for table in (tables.products, tables.queries, tables.qrels)
    )
    if products.empty or queries.empty:
        known = ", ".join(sorted(set(tables.products["split"])))
        raise TableError(
            f"{folder}: split {split!r} has {len(products)} products and {len(queries)} queries "
            f"(splits: {known})"
        )
    return Corpus(
        TableProducts(products, text_fields, stored, picture),
        list(products["product_id"]),
        queries[["query_id", "query", "kind"]],
        qrels[["query_id", "product_id", *tables.grades]],
    )
