"""Types of what the files of a folder of shards hold; msgspec decodes and checks them in one pass.

Fields that no type names are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from beyond_text.tables.layouts import HIGHEST_GRADE

Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class Versioned(TypedDict):
    """What a manifest of any version holds."""

    version: Positive


class Grade(TypedDict):
    """The highest grade of a column of judgments."""

    max: Annotated[float, Meta(ge=0, le=HIGHEST_GRADE)]


class File(TypedDict):
    """A file of the manifest's own folder: its name is never a path."""

    file: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\.(tar|csv)\Z")]
    bytes: Count
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Shard(File):
    """A tar of samples."""

    samples: Positive


class SplitEntry(TypedDict):
    """The counts and the files of a split; older folders list no files but shards."""

    products: Count
    pictures: Count
    texts: Count
    queries: Count
    judged_pairs: Count
    shards: list[Shard]
    query_shards: NotRequired[list[Shard]]
    # Pictures of products beside the main one of each.
    further_pictures: NotRequired[Count]
    tables: NotRequired[list[File]]


class Manifest(Versioned):
    """manifest.json; `crossing` counts for other splits what train has too."""

    picture_size: Positive
    # Whether each product has a split of its own; if not, it is in those of the queries it answers.
    products_have_split: NotRequired[bool]
    grades: dict[str, Grade]
    splits: dict[str, SplitEntry]
    crossing: NotRequired[dict[str, dict[str, Count]]]


class Category(TypedDict):
    """The category in a product's JSON."""

    category: NotRequired[str]


CATEGORY = msgspec.json.Decoder(Category)


class QueryRow(TypedDict):
    """A row of queries-SPLIT.csv; columns that are empty throughout are left out."""

    query_id: Name
    query: str
    kind: str
    # The number of its picture.
    image: NotRequired[Annotated[str, Meta(pattern=r"^[0-9]{0,18}\Z")]]
    product_id: NotRequired[str]
    # "1" where a train query has its words or its picture.
    seen: NotRequired[Literal["", "1"]]


def judgment_row(highest: Mapping[str, float]) -> type:
    """Makes the type of a row of qrels-SPLIT.csv, where grades go up to `highest`."""
    return _object({"query_id": Name, "product_id": Name, **_grades(highest)})


@cache
def sample_decoder(
    text_fields: tuple[str, ...], highest: tuple[tuple[str, float], ...], further: bool = False
) -> msgspec.json.Decoder[Any]:
    """Makes the decoder of a product's JSON, where grades go up to `highest`.

    With `further` it reads the further columns too, which older shards do not have.
    """
    query = {
        "query_id": Name,
        "query": str,
        "kind": str,
        "grades": NotRequired[_object(_grades(dict(highest)))],
        "own": NotRequired[bool],
        "picture": NotRequired[Count],
    }
    texts = dict.fromkeys(("title", "category", *text_fields), NotRequired[str])
    product = {**texts, "product_id": Name, "queries": list[_object(query)]}  # type: ignore[misc]
    if further:
        product["further"] = NotRequired[dict[str, str]]
    return msgspec.json.Decoder(_object(product))


def _grades(highest: Mapping[str, float]) -> dict[str, Any]:
    """Makes the types of grade columns."""
    return {name: Annotated[float, Meta(ge=0, le=high)] for name, high in highest.items()}


def _object(fields: dict[str, Any]) -> type:
    """Makes the type of a JSON object with the fields."""
    # Columns are known at run time only.
    make: Any = TypedDict
    return make("Object", fields)
