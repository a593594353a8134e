"""The routes of the service; each takes what it works with from `request.app.state.service`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response

from beyond_text.indexing.index import Index
from beyond_text.retrieval.filters import parse_filter
from beyond_text.serving.answers import (
    Facets,
    Failure,
    Health,
    Product,
    SearchAnswer,
    hit_of,
    product_of,
)
from beyond_text.serving.batching import Batcher
from beyond_text.serving.batching import Query as SearchQuery
from beyond_text.serving.indexes import Indexes
from beyond_text.serving.limits import Limits
from beyond_text.serving.measures import Measures
from beyond_text.serving.page_files import page_files
from beyond_text.serving.pictures import Sent, checked
from beyond_text.serving.requests import FORM, JSON, Filters, SearchRequest, read_search
from beyond_text.tables.pictures import PictureError, check_size

Result = TypeVar("Result")


@dataclass
class Service:
    """What the routes work with."""

    indexes: Indexes
    batcher: Batcher
    limits: Limits
    measures: Measures
    # Pictures are large once they are decoded, so few are at a time.
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "other"))
    page: dict[str, Sent] = field(default_factory=page_files)

    def index(self, name: str | None) -> tuple[str, Index]:
        """Returns the name and the index that a request asks for.

        Raises:
            HTTPException: 404 where none goes by the name.
        """
        name = next(iter(self.indexes)) if name is None else name
        if name not in self.indexes:
            known = ", ".join(self.indexes)
            raise HTTPException(404, f"no index is called {name!r}: expected one of {known}")
        return name, self.indexes[name]

    async def apart(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Runs what takes a while in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)


def _service(request: Request) -> Service:
    return request.app.state.service


Serving = Annotated[Service, Depends(_service)]
Name = Annotated[
    str | None, Query(max_length=200, description="Name of the index; default: the first.")
]
ProductId = Annotated[str, Path(max_length=2_000, description="Any slash in it as %2F.")]
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 404, 413, 415, 421, 422, 503)
}
router = APIRouter(responses=FAILURES)


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=JSON)


def _sent(request: Request, sent: Sent, cached: str) -> Response:
    """Returns a file, or that the client has it already."""
    headers = {"ETag": sent.etag, "Cache-Control": cached}
    if request.headers.get("if-none-match") == sent.etag:
        return Response(None, 304, headers)
    return Response(sent.content, 200, headers, sent.media_type)


EXAMPLES = {
    "words": {"value": {"text": "a red striped cushion", "top": 12}},
    "words and filters": {
        "value": {"text": "blue vase", "filters": ["category=vase|bowl"], "weight": 0.7}
    },
}
BODY = {
    "required": True,
    "content": {
        JSON: {"schema": SearchRequest.model_json_schema(), "examples": EXAMPLES},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "picture": {"type": "string", "format": "binary"},
                    "filters": {"type": "array", "items": {"type": "string"}},
                    "top": {"type": "integer"},
                    "weight": {"type": "number"},
                    "index": {"type": "string"},
                },
            }
        },
    },
}


@router.post("/search", response_model=SearchAnswer, openapi_extra={"requestBody": BODY})
async def search(request: Request, service: Serving) -> Response:
    """Finds products by words, by a picture or by both."""
    asked, picture = await read_search(request)
    name, index = service.index(asked.index)
    if picture is not None:
        await service.apart(check_size, picture, service.limits.pixels)
    text = asked.text.strip()
    weight = asked.weight if text else 1.0
    query = SearchQuery(index, text, picture, asked.top, tuple(asked.filters), weight)
    found = await service.batcher.search(query)
    return _json(
        {
            "index": name,
            "products": len(index),
            "milliseconds": {
                "encoding": round(1000 * found.encoding, 2),
                "searching": round(1000 * found.searching, 2),
            },
            "hits": [hit_of(hit, name) for hit in found.hits],
        }
    )


@router.get("/products/{product_id:path}", response_model=Product)
async def product(product_id: ProductId, service: Serving, index: Name = None) -> Response:
    """Returns a product."""
    name, opened = service.index(index)
    try:
        found = await service.apart(opened.product, product_id)
    except KeyError as error:
        raise HTTPException(404, f"no product {product_id!r}") from error
    return _json(product_of(found, name))


@router.get(
    "/pictures/{product_id:path}",
    response_class=Response,
    responses={200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def picture(
    request: Request, product_id: ProductId, service: Serving, index: Name = None
) -> Response:
    """Returns the picture of a product."""
    _, opened = service.index(index)

    def read() -> Sent | None:
        content = opened.picture(product_id)
        return None if content is None else checked(content)

    try:
        found = await service.apart(read)
    except KeyError as error:
        raise HTTPException(404, f"no product {product_id!r}") from error
    except PictureError as error:
        raise HTTPException(404, f"product {product_id!r}: {error}") from error
    if found is None:
        raise HTTPException(404, f"product {product_id!r} has no picture")
    return _sent(request, found, "private, max-age=60")


@router.get("/facets", response_model=Facets)
async def facets(
    service: Serving,
    index: Name = None,
    filters: Annotated[Filters, Query(description="As in a search.")] = [],  # noqa: B006
) -> Response:
    """Returns the values of each column, and how many products have each.

    A column is counted among the products that pass the filters of the other columns.
    """
    name, opened = service.index(index)
    found = await service.apart(_facets, opened, filters)
    return _json({"index": name, "facets": found})


def _facets(index: Index, filters: list[str]) -> dict[str, list[dict[str, Any]]]:
    found = dict(index.facets(filters))
    columns = {text: parse_filter(text).column for text in filters}
    for column in set(columns.values()) & set(index.columns):
        others = [text for text in filters if columns[text] != column]
        if values := index.facets(others).get(column):
            found[column] = values
    return {
        column: [{"value": value, "products": count} for value, count in values]
        for column, values in found.items()
    }


@router.get("/health", response_model=Health)
async def health(service: Serving) -> Response:
    """Says that the service answers, and by which indexes."""
    indexes = [
        {
            "name": name,
            "products": len(index),
            "columns": index.columns,
            "weight": index.facts.weight,
        }
        for name, index in service.indexes.items()
    ]
    return _json({"status": "ok", "indexes": indexes})


@router.get("/metrics", response_class=Response)
async def metrics(service: Serving) -> Response:
    """Returns counts and times for Prometheus."""
    content = await service.apart(service.measures.text)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page(request: Request, service: Serving) -> Response:
    """Returns the page."""
    return _sent(request, service.page["index.html"], "no-cache")


@router.get("/page/{name}", include_in_schema=False)
async def page_file(name: str, request: Request, service: Serving) -> Response:
    """Returns a file of the page."""
    if name not in service.page:
        raise HTTPException(404, "no such file of the page")
    return _sent(request, service.page[name], "no-cache")
