"""What is searched: a catalogue of products that a model can encode, from shards or from tables.

A picture of a table goes through the same reduction as on its way into shards, so both give the
same vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.shards.batch import Sample
from beyond_text.shards.split import Split, product_text
from beyond_text.tables.pictures import PictureError, decode_pixels, read_picture, reduce_picture
from beyond_text.tables.splits import is_in_share

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = ("text", "image")


class Catalogue(NamedTuple):
    """The products that are searched; `product_ids` are those of `products`, in order."""

    products: Dataset[Sample]
    product_ids: list[str]


class ShardProducts(Dataset[Sample]):
    """Products of a split of shards, in order, without a drawn query."""

    def __init__(self, split: Split, picture: int) -> None:
        self.split = split
        self.picture = picture

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th product.

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
        """Returns the number-th product."""
        row = self.rows[number]
        picture = file_picture(row["image"], self.stored, self.picture)
        text = product_text(row, self.text_fields)
        return Sample(row["product_id"], text, picture, [], None)


class DropModality(Dataset[Sample]):
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
        """Returns the number-th product, without the modality that it has lost."""
        sample = self.products[number]
        if not is_left_out(sample.product_id, self.share, self.seed):
            return sample
        return sample._replace(**({"text": ""} if self.modality == "text" else {"image": None}))


def is_left_out(product_id: str, share: float, seed: int = 0) -> bool:
    """Says whether a product is of the share, 0 to 1, that loses a modality.

    By hash, so those of a smaller share are of every larger one too, and the share is met only as
    closely as chance meets it.
    """
    return is_in_share(f"{seed}/{product_id}", share)


def file_picture(path: str, stored: int, picture: int) -> Tensor | None:
    """Reads a picture as the shards would hold it; prints why where it cannot be used."""
    if not path:
        return None
    try:
        data = reduce_picture(read_picture(Path(path)), stored)
        return decode_pixels(data, reduce_to=picture)
    except PictureError as error:
        # The shard builder counts these; here the ranking shows what they cost.
        print(f"{path}: not used: {error}")
        return None
