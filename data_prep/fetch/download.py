"""Downloads one URL: follows redirects, reads a bounded body, tells every fault by a reason."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpcore
import httpx

from data_prep.fetch.errors import FetchError

MOST_REDIRECTS = 10
# A host that does not accept a connection in so many seconds is not there.
CONNECT_TIMEOUT = 10.0
# Of a picture in several formats, one that can be read; a body as it is, and not compressed.
HEADERS = {
    "Accept": "image/jpeg, image/png, image/webp, image/gif, image/*;q=0.2, */*;q=0.1",
    "Accept-Encoding": "identity",
}
# Statuses that may be another one in a while.
PASSING = {408, 425, 429, 500, 502, 503, 504}

# What bounds the requests that a host, by its name, gets at a time.
Slots = Callable[[str], AbstractAsyncContextManager[object]]


async def download(
    client: httpx.AsyncClient, url: str, timeout: float, max_bytes: int, slots: Slots
) -> bytes:
    """Returns the body of a URL, of at most `max_bytes`, where the status is 200 in the end.

    Args:
        client: its transport decides which addresses are connected to.
        url: http or https.
        timeout: seconds that a request may take, to its last byte.
        max_bytes: of the body, as sent and as decompressed.
        slots: makes the context in which a host is asked.

    Raises:
        FetchError: with the reason.
    """
    seen: list[str] = []
    try:
        parsed = httpx.URL(url)
        _check_url(parsed)
        request = client.build_request("GET", parsed)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise FetchError("bad URL", str(error)) from error
    while True:
        _check_url(request.url)
        if str(request.url) in seen:
            raise FetchError("redirect circle", " to ".join([*seen, str(request.url)])[:500])
        if len(seen) > MOST_REDIRECTS:
            raise FetchError("too many redirects", f"more than {MOST_REDIRECTS}, to {request.url}")
        seen.append(str(request.url))
        async with slots(request.url.host), _sent(client, request, timeout) as response:
            if response.next_request is None:
                return await _body(response, max_bytes)
            request = response.next_request


def _check_url(url: httpx.URL) -> None:
    """Raises FetchError unless a URL is http or https and names a host and a port."""
    if url.scheme not in ("http", "https"):
        raise FetchError("not http or https", str(url)[:200])
    if not url.host:
        raise FetchError("bad URL", f"{str(url)[:200]} names no host")
    if url.port is not None and not 0 < url.port < 2**16:
        raise FetchError("bad URL", f"{str(url)[:200]} names no port that there is")


@asynccontextmanager
async def _sent(
    client: httpx.AsyncClient, request: httpx.Request, timeout: float
) -> AsyncIterator[httpx.Response]:
    """Sends a request; turns faults of the network, in the block too, into a FetchError."""
    try:
        async with asyncio.timeout(timeout):
            response = await client.send(request, stream=True)
            try:
                yield response
            finally:
                await response.aclose()
    except (TimeoutError, httpcore.TimeoutException) as error:
        connecting = isinstance(error, httpcore.ConnectTimeout)
        seconds = min(CONNECT_TIMEOUT, timeout) if connecting else timeout
        detail = f"{'no connection' if connecting else 'not whole'} after {seconds:g} seconds"
        raise FetchError("timeout", detail, passing=True, unreachable=True) from error
    except httpcore.ConnectError as error:
        certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
        reason = "bad certificate" if certificate else "no connection"
        detail = f"{request.url.host}: {error}"
        raise FetchError(reason, detail, passing=not certificate, unreachable=True) from error
    except ssl.SSLError as error:
        # Of what comes after the handshake, httpcore makes no error of its own.
        detail = f"{request.url.host}: {error}"
        raise FetchError("connection broken", detail, passing=True, unreachable=True) from error
    except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
        raise FetchError("connection broken", str(error) or "by the host", passing=True) from error
    except (httpcore.ProtocolError, httpx.ProtocolError, httpx.InvalidURL) as error:
        # A redirect to what is no URL is one of these.
        raise FetchError("bad response", str(error)) from error
    except (ValueError, LookupError, OverflowError) as error:
        # What a host makes a library stumble over concerns this picture alone.
        raise FetchError("bad response", f"{type(error).__name__}: {error}") from error


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    """Reads the body of a response, decompressed."""
    status = response.status_code
    if status != HTTPStatus.OK:
        wait = _seconds(response.headers.get("retry-after", ""))
        detail = f"{response.reason_phrase} from {response.url}"
        raise FetchError(f"status {status}", detail, passing=status in PASSING, wait=wait)
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise FetchError("picture too large", f"{length} bytes, expected <= {max_bytes}")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    # Of both zlib's and gzip's format. What names another encoding may be a bare picture.
    zipped = encoding in ("gzip", "x-gzip", "deflate")
    inflate = zlib.decompressobj(32 + zlib.MAX_WBITS) if zipped else None
    body = bytearray()
    try:
        async for part in response.aiter_raw():
            # Never more than a byte above the limit comes out, however small the part is.
            body += inflate.decompress(part, max_bytes + 1 - len(body)) if inflate else part
            if len(body) > max_bytes:
                raise FetchError("picture too large", f"more than {max_bytes} bytes")
    except zlib.error as error:
        raise FetchError("bad response", f"content encoding {encoding}: {error}") from error
    if inflate and not inflate.eof:
        raise FetchError("connection broken", f"{encoding} body cut short", passing=True)
    return bytes(body)


def _seconds(retry_after: str) -> float | None:
    """Parses the header Retry-After, seconds or a date; None where it is neither."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
