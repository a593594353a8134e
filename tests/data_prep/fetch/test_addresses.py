"""Tests which addresses may be connected to, and that the checked one is connected to."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from data_prep.fetch.addresses import CheckedBackend, CheckedTransport, is_public, resolve
from data_prep.fetch.errors import FetchError
from tests.data_prep.fetch.server import PNG, picture_host


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "172.32.0.1", "192.169.0.1", "100.128.0.1", "2606:4700::1111",
        "::ffff:8.8.8.8", "64:ff9b::808:808",
    ],
)  # fmt: skip
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "0.0.0.0", "0.1.2.3", "100.64.0.1", "192.0.2.1", "198.18.0.1",
        "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::1", "::", "fe80::1", "fe80::1%eth0", "2606:4700::1111%eth0", "fc00::1",
        "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1", "2001:0:4136:e378::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0",
        "::127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
        "2002:7f00:1::1", "2002:808:808::1",
    ],
)  # fmt: skip
def test_an_address_inside_or_of_no_use_is_not_public(address: str) -> None:
    assert not is_public(address)


def connect(host: str) -> FetchError:
    """Returns the error of connecting under the rule for public addresses."""
    with pytest.raises(FetchError) as error:
        asyncio.run(CheckedBackend(is_public).connect_tcp(host, 80, timeout=5))
    return error.value


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1",
        "0", "0.0.0.0", "169.254.169.254", "2852039166", "::1", "::ffff:127.0.0.1", "::",
        "::ffff:a9fe:a9fe", "10.1.2.3",
    ],
)  # fmt: skip
def test_a_host_that_is_a_private_address_in_any_writing_is_refused(host: str) -> None:
    error = connect(host)
    assert error.reason == "address refused"
    assert "--allow-private" in error.detail
    assert not error.passing


@pytest.mark.parametrize(
    "address", ["10.0.0.5", "169.254.169.254", "::ffff:192.168.0.1", "fd00::1"]
)
def test_a_name_that_resolves_to_a_private_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert address in connect("shop.example").detail


def test_a_name_without_an_address_is_an_unknown_host() -> None:
    error = connect("no-such-host.invalid")
    assert error.reason == "unknown host"
    assert error.unreachable


@pytest.mark.parametrize("host", ["a" * 300, "a..b", "\udc80"])
def test_a_name_that_cannot_be_one_is_an_error_of_ours(host: str) -> None:
    assert connect(host).reason in ("bad URL", "unknown host")


def test_the_address_that_was_checked_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resolver says one address first and another ever after, as in DNS rebinding."""
    asked: list[str] = []

    def rebind(host: str, port: int, *_: object, **__: object) -> list[tuple]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def get(url: str) -> bytes:
        transport = CheckedTransport(lambda address: address == "127.0.0.1", 2)
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.get(url)).content

    with picture_host() as host:
        port = host.server_address[1]
        monkeypatch.setattr(socket, "getaddrinfo", rebind)
        assert asyncio.run(get(f"http://shop.example:{port}/ok.png")) == PNG
    assert asked == ["shop.example"]


def test_the_next_address_is_taken_where_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with picture_host() as host:
        port = host.server_address[1]
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("10.0.0.1", "127.0.0.9", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert asyncio.run(resolve("shop.example", port)) == ["10.0.0.1", "127.0.0.9", "127.0.0.1"]

        async def address() -> object:
            backend = CheckedBackend(lambda each: each.startswith("127."))
            stream = await backend.connect_tcp("shop.example", port, timeout=5)
            try:
                return stream.get_extra_info("server_addr")
            finally:
                await stream.aclose()

        assert asyncio.run(address()) == ("127.0.0.1", port)
