"""Tests redirects under an address rule, and that every answer of a host is a body or a reason."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext, suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.fetch.addresses import CheckedTransport
from data_prep.fetch.download import HEADERS, _seconds, download
from data_prep.fetch.errors import FetchError
from tests.data_prep.fetch.server import JPEG, PNG, Host, picture_host


class _Anyone(nullcontext):
    """Lets every host be asked."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with picture_host() as host:
        yield host


def get(url: str, max_bytes: int = 100_000, timeout: float = 5) -> bytes:
    """Downloads from 127.0.0.1 alone; other loopback addresses stand for private ones."""

    async def run() -> bytes:
        transport = CheckedTransport(lambda address: address == "127.0.0.1", 4)
        async with httpx.AsyncClient(transport=transport, headers=HEADERS) as client:
            return await download(client, url, timeout, max_bytes, lambda _: _Anyone())

    return asyncio.run(run())


def error_of(url: str, **limits: float) -> FetchError:
    with pytest.raises(FetchError) as error:
        get(url, **limits)  # type: ignore[arg-type]
    return error.value


class _Broken(httpx.AsyncByteStream):
    """A body within which TLS fails."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield PNG[:9]
        raise ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC]")


def test_a_fault_of_tls_is_one_pictures() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/refused":
            raise ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]")
        return httpx.Response(200, stream=_Broken())

    async def run(url: str) -> bytes:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await download(client, url, 5, 1000, lambda _: _Anyone())

    for path in ("refused", "broken"):
        with pytest.raises(FetchError, match=r"shop\.example: .*SSL") as error:
            asyncio.run(run(f"https://shop.example/{path}"))
        assert error.value.reason == "connection broken"
        assert error.value.passing
        assert error.value.unreachable


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ok.png", PNG),
        ("/photo", JPEG),
        ("/ä b.png?w=1&c=a%7Cb", PNG),
        ("/%C3%A4%20b.png?w=1&c=a%7Cb#top", PNG),
        ("/a|b.png", PNG),
        ("/zipped.png", PNG),
        ("/deflated.png", PNG),
        ("/odd-encoding.png", PNG),
        ("/moved", PNG),
    ],
)
def test_a_body_comes_as_it_was_meant(host: Host, path: str, body: bytes) -> None:
    assert get(host.url + path) == body


@pytest.mark.parametrize(
    ("path", "reason", "passing"),
    [
        ("/gone.jpg", "status 404", False),
        ("/secret.jpg", "status 403", False),
        ("/always-500.png", "status 500", True),
        ("/cut", "connection broken", True),
        ("/reset", "connection broken", True),
        ("/rubbish", "connection broken", True),
        ("/heavy.jpg", "picture too large", False),
        ("/flood", "picture too large", False),
        ("/bomb.png", "picture too large", False),
        ("/zip-cut.png", "connection broken", True),
        ("/no-zip.png", "bad response", False),
        ("/circle", "redirect circle", False),
        ("/endless/1", "too many redirects", False),
        ("/to-ftp", "not http or https", False),
        ("/to-file", "not http or https", False),
        ("/to-nothing", "bad response", False),
    ],
)
def test_a_fault_has_its_reason(host: Host, path: str, reason: str, passing: bool) -> None:
    error = error_of(host.url + path)
    assert (error.reason, error.passing) == (reason, passing)
    assert error.detail


@pytest.mark.parametrize("path", ["/slow", "/drip"])
def test_an_answer_that_does_not_end_is_cut_off(host: Host, path: str) -> None:
    error = error_of(host.url + path, timeout=0.4)
    assert (error.reason, error.passing) == ("timeout", True)


def test_a_redirect_to_a_private_address_is_refused(host: Host) -> None:
    port = host.server_address[1]
    for target in (f"http://127.0.0.2:{port}/ok.png", f"http://2130706434:{port}/ok.png"):
        assert error_of(f"{host.url}/to?{target}").reason == "address refused"
    assert get(f"{host.url}/to?http://127.0.0.1:{port}/ok.png") == PNG


def test_a_circle_names_its_way(host: Host) -> None:
    way = [f"{host.url}{path}" for path in ("/circle", "/circle/2", "/circle")]
    assert error_of(way[0]).detail == " to ".join(way)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://127.0.0.1/a.jpg", "not http or https"),
        ("data:image/png;base64,AAAA", "not http or https"),
        ("s3://bucket/a.jpg", "not http or https"),
        ("http:///a.jpg", "bad URL"),
        ("https://", "bad URL"),
        ("http://127.0.0.1:99999/a", "bad URL"),
        ("http://127.0.0.1:x/a", "bad URL"),
        ("http://a\x00b/c", "bad URL"),
        ("http://\udc80/c", "bad URL"),
        ("http://[::1/c", "bad URL"),
        ("http://xn--a/c", "bad URL"),
        ("http://127.0.0.1:0/a", "bad URL"),
        ("http://a b/c", "unknown host"),
        ("http://no-such-host.invalid/a", "unknown host"),
        ("http://127.0.0.1:1/a", "no connection"),
        ("http://user:word@127.0.0.2/a", "address refused"),
    ],
)
def test_a_url_that_leads_nowhere_has_its_reason(url: str, reason: str) -> None:
    assert error_of(url).reason == reason


STARTS = ("", "http://", "https://", "http://127.0.0.2:1/")


@given(st.lists(st.tuples(st.sampled_from(STARTS), st.text(max_size=40)), max_size=40))
@settings(deadline=None, max_examples=20)
def test_any_text_for_a_url_is_an_error_of_ours(urls: list[tuple[str, str]]) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def run() -> None:
        transport = CheckedTransport(lambda _: False, 4)
        async with httpx.AsyncClient(transport=transport) as client:
            for start, text in urls:
                with pytest.raises(FetchError):
                    await download(client, start + text, 1, 100, lambda _: _Anyone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", nobody)
        asyncio.run(run())


NAMES = ("Location", "Content-Encoding", "Content-Length", "Retry-After", "Transfer-Encoding", "A")
HEADER = st.builds(
    lambda name, value: f"{name}: ".encode() + value + b"\r\n",
    st.sampled_from(NAMES),
    st.binary(max_size=20)
    | st.sampled_from(
        [b"gzip", b"chunked", b"9" * 5000, b"Mon, 01 Jan 0001 00:00:00 +9999", b"//"]
    ),
)


@given(st.sampled_from([200, 204, 302, 429, 503, 999]), st.lists(HEADER, max_size=3), st.binary())
@settings(deadline=None, max_examples=60)
def test_any_answer_is_a_body_or_an_error_of_ours(
    host: Host, status: int, headers: list[bytes], body: bytes
) -> None:
    answer = b"HTTP/1.1 %d X\r\n" % status + b"".join(headers) + b"\r\n" + body
    with suppress(FetchError):
        get(f"{host.url}/raw/{answer.hex()}", timeout=1)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("9" * 5000, float("inf")),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Mon, 01 Jan 0001 00:00:00 +9999", None),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0.0),
    ],
)
def test_a_wait_is_seconds_or_a_date(header: str, wait: float | None) -> None:
    assert _seconds(header) == wait


def test_what_a_host_says_of_waiting_is_passed_on(host: Host) -> None:
    assert error_of(f"{host.url}/later").wait == 86400
    assert error_of(f"{host.url}/date.png").wait == 0
    assert error_of(f"{host.url}/down.png").wait is None
