"""Connects to public addresses alone, so that no URL of a table reaches a machine inside.

A host is resolved once and the address that was checked is the one connected to: a name that
resolves to another address a moment later (DNS rebinding) gains nothing. Every connection is made
here, those of redirects too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore
import httpx

from data_prep.fetch.errors import FetchError

# The only block of IPv6 that is given out (RFC 4291), and the one that carries IPv4 (RFC 6052).
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Says whether an IP address is one of the public internet.

    Private, loopback, link-local, shared, multicast, reserved and unspecified addresses are not,
    nor are IPv6 addresses that carry such an IPv4 address (mapped or NAT64) or tunnel at all (6to4,
    Teredo).

    Raises:
        ValueError: the text is not an IP address.
    """
    # A zone, as in fe80::1%eth0, is of no public address.
    if "%" in address:
        return False
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped
        if inner is None and ip in NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None:
            return ip in GLOBAL_UNICAST and ip.is_global and ip.sixtofour is None
        ip = inner
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    """Returns the distinct addresses of a host, as the system's resolver orders them.

    Decimal, octal and hexadecimal hosts such as 2130706433 are addresses to the resolver too.

    Raises:
        FetchError: "unknown host" or "bad URL".
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        again = error.errno == socket.EAI_AGAIN
        raise FetchError(
            "unknown host", f"{host}: {error.strerror}", passing=again, unreachable=True
        ) from error
    except (UnicodeError, OverflowError, ValueError) as error:
        raise FetchError("bad URL", f"host {host[:100]!r}, port {port}: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to those addresses of a host that `is_allowed`."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self.is_allowed = is_allowed
        self.backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first address that is allowed and answers.

        Raises:
            FetchError: the host is unknown, or none of its addresses is allowed.
            httpcore.ConnectError, httpcore.ConnectTimeout: none of them answers.
        """
        addresses = await resolve(host, port)
        allowed = [each for each in addresses if self.is_allowed(each)]
        failure: Exception | None = None
        for address in allowed:
            try:
                return await self.backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        if failure is not None:
            raise failure
        refused = ", ".join(addresses) or "no address"
        raise FetchError(
            "address refused", f"{host} is {refused}, expected a public address (--allow-private)"
        )

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await self.backend.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    """Passes the body of a response on."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.stream:
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()


class CheckedTransport(httpx.AsyncBaseTransport):
    """Sends requests over connections of `CheckedBackend`; uses no proxy.

    Errors of the network are those of httpcore.
    """

    def __init__(self, is_allowed: Callable[[str], bool], most_connections: int) -> None:
        self.pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=most_connections,
            network_backend=CheckedBackend(is_allowed),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request and returns its response, whose body is still to be read."""
        url = request.url
        response = await self.pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        await self.pool.aclose()
