"""What a retrieval evaluation runs over: a split's products, its queries and its judgements.

Read from a folder of shards or straight from tables; a picture goes through the same reduction
either way, so both give the same vectors.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.shards.batch import Sample
from beyond_text.shards.manifest import FILE, ShardError
from beyond_text.shards.schema import QueryRow, judgement_row
from beyond_text.shards.split import Split, product_text
from beyond_text.tables.layouts import Reject, TableError
from beyond_text.tables.pairs import read_pairs, trigger_id
from beyond_text.tables.pictures import PictureError, decode_pixels, read_picture, reduce_picture
from beyond_text.tables.read import read_tables
from beyond_text.tables.splits import is_in_share

Modality = Literal["text", "image"]
# Of the pictures that tables name; the shard builder has the same limit.
MAX_MISSING = 0.05
ASKED_COLUMNS = ["query_id", "query", "kind", "product_id"]


def no_picture(number: int) -> Tensor | None:
    """The picture of a query in a corpus where none has one."""
    return None


class Corpus(NamedTuple):
    """One split, ready to be encoded and ranked.

    `product_ids` are those of `products`, in order; `queries` has query_id, query (may be "" where
    there is a picture), kind and product_id (the product that the query itself is, or ""); `qrels`
    has query_id, product_id and the grade columns. `query_image` gives the picture of the number-th
    query, or None.
    """

    products: Dataset[Sample]
    product_ids: list[str]
    queries: pd.DataFrame
    qrels: pd.DataFrame
    query_image: Callable[[int], Tensor | None] = no_picture


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
        fields, picture = self.split.read(number, self.picture)
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
        picture = _file_picture(row["image"], self.stored, self.picture)
        text = product_text(row, self.text_fields)
        return Sample(row["product_id"], text, picture, [], None)


class Without(Dataset[Sample]):
    """The products, a share of which lack their texts or their pictures.

    Which ones, `is_left_out` says. A product left with nothing is an empty sample.
    """

    def __init__(
        self, products: Dataset[Sample], modality: Modality, share: float, seed: int = 0
    ) -> None:
        self.products = products
        self.modality = modality
        self.share = share
        self.seed = seed

    def __getitem__(self, number: int) -> Sample:
        """The number-th product, less what it has lost."""
        sample = self.products[number]
        if not is_left_out(sample.product_id, self.share, self.seed):
            return sample
        return sample._replace(**({"text": ""} if self.modality == "text" else {"image": None}))


def is_left_out(product_id: str, share: float, seed: int = 0) -> bool:
    """Whether a product is of the share, 0 to 1, that loses a modality.

    By hash, so those of a smaller share are of every larger one too, and the share is met only as
    closely as chance meets it.
    """
    return is_in_share(f"{seed}/{product_id}", share)


def _file_picture(path: str, stored: int, picture: int) -> Tensor | None:
    """The picture as the shards would hold it; None, said aloud, where it cannot be used."""
    if not path:
        return None
    try:
        data = reduce_picture(read_picture(Path(path)), stored)
        return decode_pixels(data, reduce_to=picture)
    except PictureError as error:
        # The shard builder counts these; here the ranking shows what they cost.
        print(f"{path}: not used: {error}")
        return None


def _table_query_picture(
    paths: Sequence[str], stored: int, picture: int, number: int
) -> Tensor | None:
    return _file_picture(paths[number], stored, picture)


def _shard_query_picture(
    split: Split, places: Sequence[str], picture: int, number: int
) -> Tensor | None:
    if not places[number]:
        return None
    return split.read_query_picture(int(places[number]), picture)


def _product_picture(
    products: Dataset[Sample], places: Sequence[int], number: int
) -> Tensor | None:
    return products[places[number]].image


def _check_pictures(folder: Path, paths: Iterable[str]) -> None:
    """Refuses tables most of whose pictures lie elsewhere: they would be measured by text alone."""
    named = [path for path in paths if path]
    missing = [path for path in named if not Path(path).is_file()]
    if len(missing) > MAX_MISSING * len(named):
        raise TableError(
            f"{folder}: {len(missing)} of {len(named)} pictures are missing, expected at most a "
            f"share of {MAX_MISSING:g}; the first: {missing[0]}; if they lie elsewhere, make "
            "shards with --pictures and measure these"
        )


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
        TableError, ShardError: nothing of that split, no queries, or too many pictures missing.
    """
    if (folder / FILE).is_file():
        return _shard_corpus(folder, split, text_fields, picture)
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
    _check_pictures(folder, [*products["image"], *queries["image"]])
    return Corpus(
        TableProducts(products, text_fields, stored, picture),
        list(products["product_id"]),
        queries[ASKED_COLUMNS],
        qrels[["query_id", "product_id", *tables.grades]],
        partial(_table_query_picture, list(queries["image"]), stored, picture),
    )


def _shard_corpus(folder: Path, split: str, text_fields: list[str], picture: int) -> Corpus:
    shards = Split(folder, split, text_fields)
    shards.verify()
    rows = {"queries": QueryRow, "qrels": judgement_row(shards.highest)}
    paths = {name: folder / f"{name}-{split}.csv" for name in rows}
    for path in paths.values():
        if not path.is_file():
            raise TableError(f"{path}: missing: split {split!r} has no queries to evaluate")
    queries, qrels = (_read_rows(paths[name], row) for name, row in rows.items())
    if queries.empty:
        raise ShardError(f"{paths['queries']}: expected a query at least, got none")
    ids = [shards.read(number, None)[0]["product_id"] for number in range(len(shards))]
    return Corpus(
        ShardProducts(shards, picture),
        ids,
        queries[ASKED_COLUMNS],
        qrels,
        partial(_shard_query_picture, shards, list(queries["image"]), picture),
    )


def _read_rows(path: Path, row: type) -> pd.DataFrame:
    """The rows of a CSV file; an optional column that it lacks is "" throughout.

    Raises:
        ShardError: a row is not of its type; names file, row (from 0) and column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            given = list(csv.DictReader(file, strict=True))
        rows = msgspec.convert(given, list[row], strict=False)  # type: ignore[valid-type]
    except (csv.Error, UnicodeDecodeError, OSError, msgspec.ValidationError) as error:
        raise ShardError(f"{path}: {error}") from error
    return pd.DataFrame(rows).reindex(columns=list(row.__annotations__), fill_value="")


def with_triggers(corpus: Corpus, pairs: Path) -> Corpus:
    """The same products, asked for by the item 1s of a JSONL of pairs that are products of it.

    A trigger's text is the title that the pairs give, as where they are trained on, its picture
    the corpus's; its relevant products are its item 2s, with grade 1. Prints how many pairs there
    are, and how many were left out because the corpus lacks an item of theirs or because their
    line cannot be used.

    Raises:
        TableError: no pair is left.
    """
    rejects: list[Reject] = []
    found, file = read_pairs(Path(pairs), rejects)
    place = {product_id: number for number, product_id in enumerate(corpus.product_ids)}
    known = found[["item_id_1", "item_id_2"]].isin(corpus.product_ids).all(axis=1)
    reasons = Counter(reject.reason for reject in rejects)
    reasons["of products that the corpus lacks"] = int((~known).sum())
    lost = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    counts = f"{pairs}: {known.sum()} of {file.rows} pairs used, left out: {lost or 'none'}"
    if not known.any():
        raise TableError(f"{counts}; expected pairs of the {len(place)} products of the corpus")
    print(counts)
    found = found[known]
    first = found.drop_duplicates("item_id_1")
    places = [place[product_id] for product_id in first["item_id_1"]]
    triggers = pd.DataFrame(
        {
            "query_id": first["item_id_1"].map(trigger_id),
            "query": first["item_title_1"],
            "kind": first["tag"].mask(first["tag"] == "", "pair"),
            "product_id": first["item_id_1"],
        }
    )
    qrels = pd.DataFrame(
        {
            "query_id": found["item_id_1"].map(trigger_id),
            "product_id": found["item_id_2"],
            "relevance": 1.0,
        }
    )
    return Corpus(
        corpus.products,
        corpus.product_ids,
        triggers.reset_index(drop=True),
        qrels.reset_index(drop=True),
        partial(_product_picture, corpus.products, places),
    )
