"""Puts the service together: routes, errors of one shape, indexes that are opened again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from beyond_text.encoding.model import Precision
from beyond_text.serving.batching import Batcher, search_batch
from beyond_text.serving.guard import Guard, failure
from beyond_text.serving.indexes import Indexes
from beyond_text.serving.limits import Limits
from beyond_text.serving.measures import Measures
from beyond_text.serving.requests import problem
from beyond_text.serving.routes import Service, router
from beyond_text.terminal import one_line

# Seconds between two looks at whether an index was updated.
LOOK = 1.0


def create_app(
    indexes: Indexes,
    measures: Measures,
    limits: Limits | None = None,
    *,
    precision: Precision = "float32",
    threads: int = 1,
    hosts: Collection[str] | None = None,
) -> Guard:
    """Returns the application, as any ASGI server takes it.

    Args:
        indexes: what is searched.
        measures: the metrics, which the indexes count into as well.
        limits: of a request.
        precision: of the model that encodes queries.
        threads: that encode and search at a time.
        hosts: names that a request may call this machine; None: any.
    """
    limits = limits or Limits()
    answer = functools.partial(search_batch, measures=measures, precision=precision)
    service = Service(indexes, Batcher(answer, threads), limits, measures)
    app = FastAPI(
        title="Beyond Text",
        summary="Product search by words and pictures.",
        version="1",
        # Their pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ValueError, _value_error)
    app.add_exception_handler(Exception, _any_error)
    return Guard(app, limits, measures, hosts)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Looks for updated indexes while the service runs."""
    service: Service = app.state.service

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK)
            await service.apart(service.indexes.reload)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        service.batcher.close()
        service.threads.shutdown()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return failure(error.status_code, str(error.detail), dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    return failure(422, problem(error))


async def _value_error(request: Request, error: Exception) -> Response:
    return failure(422, one_line(error))


async def _any_error(request: Request, error: Exception) -> Response:
    # uvicorn prints the traceback; a client learns nothing of it.
    return failure(500, "the service failed; its log says why")
