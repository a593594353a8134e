"""The shapes of the answers, as OpenAPI has them, and how hits become JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from beyond_text.indexing.index import Hit

Value = str | float | bool | None


class Failure(BaseModel):
    """Why a request was not answered."""

    status: int = Field(examples=[422])
    error: str = Field(examples=["nothing to look for: expected a text or a picture"])


class Product(BaseModel):
    """A product of an index."""

    product_id: str
    title: str
    text: str
    columns: dict[str, Value] = Field(description="What filters and facets know of it.")
    picture: str | None = Field(description="Where its picture is; null: it has none.")


class HitOut(Product):
    """A product that was found, and why."""

    score: float = Field(description="weight x vector + (1 - weight) x lexical")
    vector: float = Field(description="Cosine of the query's and the product's vector.")
    lexical: float | None = Field(description="What its words say, 0 to 1; null: not used.")


class SearchAnswer(BaseModel):
    """What was found, best first."""

    index: str
    products: int = Field(description="Products of the index.")
    milliseconds: dict[str, float] = Field(description="Encoding and searching, of its batch.")
    hits: list[HitOut]


class IndexOut(BaseModel):
    """An index that is served."""

    name: str
    products: int
    columns: dict[str, str] = Field(description="Name and type: number, boolean or text.")
    weight: float = Field(description="What a search takes that names no weight.")


class Health(BaseModel):
    """Whether the service answers, and by what."""

    status: str = Field(examples=["ok"])
    indexes: list[IndexOut]


class Facet(BaseModel):
    """A value of a column, and how many products have it."""

    value: Value
    products: int


class Facets(BaseModel):
    """The values of each column, the most frequent first."""

    index: str
    facets: dict[str, list[Facet]]


def product_of(hit: Hit, index: str) -> dict[str, Any]:
    """Returns a product as JSON has it; `index` is the name that its picture is asked of."""
    place = f"pictures/{quote(hit.product_id, safe='')}?index={quote(index, safe='')}"
    return {
        "product_id": hit.product_id,
        "title": str(hit.columns.get("title") or hit.text),
        "text": hit.text,
        "columns": hit.columns,
        "picture": place if hit.has_picture else None,
    }


def hit_of(hit: Hit, index: str) -> dict[str, Any]:
    """Returns a hit as JSON has it."""
    scores = {"score": hit.score, "vector": hit.vector, "lexical": hit.lexical}
    return product_of(hit, index) | scores
