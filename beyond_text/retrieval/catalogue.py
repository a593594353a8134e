"""The catalogue that is searched: products as samples, read from shards or from tables.

A picture that a table names is reduced as on its way into shards, so both give the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from beyond_text.config.names import Pool
from beyond_text.retrieval.described import (
    Described,
    Place,
    check_there,
    described,
    place_of_file,
    where,
)
from beyond_text.shards.archive import PICTURES
from beyond_text.shards.batch import Sample, product_sample
from beyond_text.shards.split import Split
from beyond_text.shards.store import Folder
from beyond_text.tables.pictures import PictureError, decode_pixels, read_picture, reduce_picture
from beyond_text.tables.splits import is_in_share
from beyond_text.tables.text import product_text
from beyond_text.terminal import plain

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = ("text", "image")


class Catalogue(NamedTuple):
    """The products that are searched; `product_ids` are those of `products`, in order.

    `pool` says which they are: those of one split, or all.
    """

    products: Dataset[Sample]
    product_ids: list[str]
    pool: Pool = "split"

    @property
    def positions(self) -> dict[str, int]:
        """The position in `products` of each product_id."""
        return {product_id: number for number, product_id in enumerate(self.product_ids)}

    @property
    def in_words(self) -> str:
        """How many products are searched, and which."""
        which = "the whole catalogue" if self.pool == "all" else "all of the split"
        return f"{len(self.product_ids):,} products searched, {which}"


class ShardProducts(Dataset[Sample]):
    """Reads products of splits of shards, in order, without their queries.

    `places` are the number of each product's split and its number in that split.
    """

    def __init__(
        self, splits: Sequence[Split], places: Sequence[tuple[int, int]], picture_size: int
    ) -> None:
        self.splits = splits
        self.places = places
        self.picture_size = picture_size

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th product.

        Raises:
            ShardError: it or its picture cannot be read: a measurement skips nothing.
        """
        split, sample = self.places[number]
        fields, pictures = self.splits[split].read_pictures(sample, self.picture_size)
        text = self.splits[split].text_of(fields)
        return product_sample(fields["product_id"], text, pictures)

    def describe(self, number: int) -> Described:
        """Returns what is known of the number-th product; reads no picture."""
        split, sample = self.places[number]
        shards = self.splits[split]
        fields, _ = shards.read(sample, None)
        found = (shards.products.place(sample, name) for name in PICTURES)
        places = tuple(Place(file, *member) for file, member in filter(None, found))
        return described(fields, shards.text_of(fields), places)


class TableProducts(Dataset[Sample]):
    """Reads the products of a table; one whose picture cannot be used has only its text.

    `pictures` is the folder in which the pictures lie.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        text_fields: list[str],
        stored_size: int,
        picture_size: int,
        pictures: Path,
    ) -> None:
        self.pictures = pictures.resolve()
        self.rows = rows.to_dict("records")
        self.text_fields = text_fields
        self.stored_size = stored_size
        self.picture_size = picture_size

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th product."""
        row = self.rows[number]
        paths = [row["image"], *row["images"][1:]]
        found = [file_picture(path, self.stored_size, self.picture_size) for path in paths]
        pictures = [picture for picture in found if picture is not None]
        return product_sample(row["product_id"], product_text(row, self.text_fields), pictures)

    def describe(self, number: int) -> Described:
        """Returns what is known of the number-th product; reads no picture."""
        row = self.rows[number]
        paths = (path for path in (row["image"], *row["images"][1:]) if path)
        places = tuple(place_of_file(path, self.pictures) for path in paths)
        return described(row, product_text(row, self.text_fields), places)


class PlacedProducts(Dataset[Sample]):
    """Reads products whose texts, and places of pictures in a folder, are known."""

    def __init__(
        self, folder: Folder, products: Sequence[Described], stored_size: int, picture_size: int
    ) -> None:
        self.folder = folder
        self.products = products
        self.stored_size = stored_size
        self.picture_size = picture_size

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th product.

        Raises:
            PictureError: a picture of a shard cannot be read, or one of a table is gone; of a
                table one that is no picture is not used.
        """
        product = self.products[number]
        found = map(self._picture, product.pictures)
        pictures = [picture for picture in found if picture is not None]
        return product_sample(product.product_id, product.text, pictures)

    def _picture(self, place: Place) -> Tensor | None:
        if not place.size:
            path = where(self.folder, place.file)
            check_there(Path(path))
            return file_picture(path, self.stored_size, self.picture_size)
        try:
            return decode_pixels(place.read(self.folder), reduce_to=self.picture_size)
        except PictureError as error:
            detail = f"{where(self.folder, place)}: {error.detail}"
            raise PictureError(error.reason, detail) from error


class DropModality(Dataset[Sample]):
    """Takes the texts, or the pictures, from a share of the products, chosen by `is_left_out`.

    A product that is left with neither is an empty sample.
    """

    def __init__(
        self, products: Dataset[Sample], modality: Modality, share: float, seed: int = 0
    ) -> None:
        self.products = products
        self.modality = modality
        self.share = share
        self.seed = seed

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th product, without the modality that it loses."""
        sample = self.products[number]
        if not is_left_out(sample.product_id, self.share, self.seed):
            return sample
        if self.modality == "text":
            return sample._replace(text="")
        return sample._replace(image=None, further=())


def is_left_out(product_id: str, share: float, seed: int = 0) -> bool:
    """Returns whether a product is in the share, 0 to 1, of those that lose a modality.

    A hash decides. So a smaller share is part of every larger one, and the number of products is
    the share of all only by expectation.
    """
    return is_in_share(f"{seed}/{product_id}", share)


def file_picture(path: str, stored_size: int, picture_size: int) -> Tensor | None:
    """Reads a picture as shards would hold it; None, and prints why, where it cannot be used.

    Args:
        path: its file; "" for none.
        stored_size: longest side in pixels that the shards would keep.
        picture_size: side in pixels that the picture may be reduced to while decoding.
    """
    if not path:
        return None
    try:
        data = reduce_picture(read_picture(Path(path)), stored_size)
        return decode_pixels(data, reduce_to=picture_size)
    except PictureError as error:
        # The shard builder counts such pictures; here the metrics show what they cost.
        print(plain(f"{path}: not used: {error}"))
        return None
