"""Types of what the files of a folder of shards hold; msgspec decodes and checks them in one pass.

Fields that no type names are ignored.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from beyond_text.tables.layouts import HIGHEST_GRADE

Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Versioned(TypedDict):
    """What a manifest of any version holds."""

    version: Positive


class Grade(TypedDict):
    """The highest grade of a column of judgments."""

    max: Annotated[float, Meta(ge=0, le=HIGHEST_GRADE)]


class File(TypedDict):
    """A file of the manifest's own folder: its name is never a path."""

    file: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\.(tar|npy|arrow)\Z")]
    bytes: Count
    sha256: Digest


class Shard(File):
    """A tar of samples, and the index beside it."""

    samples: Positive
    index: File


class SplitEntry(TypedDict):
    """The counts and the files of a split."""

    products: Count
    pictures: Count
    texts: Count
    queries: Count
    judged_pairs: Count
    shards: list[Shard]
    query_shards: NotRequired[list[Shard]]
    # Pictures of products beside the main one of each.
    further_pictures: NotRequired[Count]
    # Queries and judgments.
    asked: File
    judged: File


class MinedRecord(TypedDict):
    """mined.json: what mined-SPLIT.npy was made of, and its SHA-256."""

    manifest: Digest
    sha256: Digest
    run: str
    top: Positive
    # Share of the score of a positive, `against` says which, that a product stays below.
    below: float
    against: str
    # Queries that have a row of products, these products, and those of them that are judged 0.
    queries: Count
    products: Count
    judged_zero: Count


class Earlier(Versioned):
    """What tells a manifest of an earlier version from one of something else."""

    picture_size: Positive
    grades: dict[str, Grade]
    splits: dict[str, dict[str, Any]]


class Manifest(Versioned):
    """manifest.json; `crossing` counts for other splits what train has too."""

    picture_size: Positive
    # Whether each product has a split of its own; if not, it is in those of the queries it answers.
    products_have_split: NotRequired[bool]
    grades: dict[str, Grade]
    splits: dict[str, SplitEntry]
    crossing: NotRequired[dict[str, dict[str, Count]]]


@cache
def sample_decoder(
    text_fields: tuple[str, ...], further: bool = False
) -> msgspec.json.Decoder[Any]:
    """Makes the decoder of a product's JSON; with `further` it reads the further columns too."""
    texts = dict.fromkeys(("title", "category", "group_id", *text_fields), NotRequired[str])
    product: dict[str, Any] = {**texts, "product_id": Name}
    if further:
        product["further"] = NotRequired[dict[str, str]]
    # Columns are known at run time only.
    make: Any = TypedDict
    return msgspec.json.Decoder(make("Product", product))
