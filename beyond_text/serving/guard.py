"""Stands before the service: limits, security headers, errors of one shape, and times.

It is plain ASGI around the whole application, so nothing leaves without passing it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from beyond_text.serving.limits import Limits
from beyond_text.serving.measures import Measures

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Scripts, styles and requests of this host alone, and pictures that the page itself made.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Returns an error as JSON, of the one shape that all errors have."""
    content = msgspec.json.encode({"status": status, "error": message})
    return Response(content, status, headers, "application/json")


class Guard:
    """Wraps an application.

    Args:
        app: the application.
        limits: of body, time and number of requests.
        measures: count and time what passes.
        hosts: names that a request may call this machine; None: any. A page of a stranger can let
            its own name lead to this machine, and would read the shop through its visitor.
    """

    def __init__(
        self, app: App, limits: Limits, measures: Measures, hosts: Collection[str] | None = None
    ) -> None:
        self.app = app
        self.limits = limits
        self.measures = measures
        self.hosts = hosts
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        self.open += 1
        try:
            refused = self._refused(scope)
            if refused is not None:
                await refused(scope, receive, send_guarded)
            else:
                async with asyncio.timeout(self.limits.seconds):
                    await self.app(scope, self._limited(receive), send_guarded)
        except TimeoutError:
            if not status:
                message = f"not answered within {self.limits.seconds:g} seconds"
                await failure(503, message)(scope, receive, send_guarded)
        except ClientDisconnect:
            # Who left before the body was sent waits for no answer.
            pass
        finally:
            self.open -= 1
            self._count(scope, status, time.perf_counter() - began)

    def _refused(self, scope: Scope) -> Response | None:
        """Returns the answer to a request that goes no further."""
        if self.open > self.limits.requests:
            return failure(503, "too many requests at a time", {"Retry-After": "1"})
        headers = dict(scope["headers"])
        if self.hosts is not None and _host(headers.get(b"host", b"")) not in self.hosts:
            return failure(421, "this service does not go by the name that was asked for")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.limits.body:
            return failure(413, self._too_long, {"Connection": "close"})
        return None

    @property
    def _too_long(self) -> str:
        return f"expected a body of at most {self.limits.body:,} bytes"

    def _limited(self, receive: Receive) -> Receive:
        """Returns `receive`, which ends a body that is too long whatever its head said."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.limits.body:
                raise HTTPException(413, self._too_long, {"Connection": "close"})
            return message

        return counted

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # Paths are without number, so a route goes by its template.
        route = getattr(scope.get("route"), "path", "other")
        self.measures.requests.labels(route, str(status)).observe(seconds)
        if status >= 400:
            self.measures.errors.labels(str(status)).inc()


def _host(header: bytes) -> str:
    """Returns the name of a Host header without its port."""
    name = header.decode("latin-1").lower()
    return name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
