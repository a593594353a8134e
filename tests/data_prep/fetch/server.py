"""A picture host on the loopback that does what hosts do: some of it right, most of it wrong."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import count

from PIL import Image


def picture(format: str = "PNG", colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    data = BytesIO()
    Image.new("RGB", size, colour).save(data, format)
    return data.getvalue()


def giant() -> bytes:
    """A PNG whose header announces 30,000 x 30,000 pixels, and that has none."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


PNG = picture()
NOISE = Image.effect_noise((300, 300), 90)
_jpeg = BytesIO()
NOISE.convert("RGB").save(_jpeg, "JPEG")
JPEG = _jpeg.getvalue()
PAGE = b"<!DOCTYPE html><html><body>Not here</body></html>"
# Status, headers and body by path.
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/ok.png": (200, {"Content-Type": "image/png"}, PNG),
    "/photo": (200, {"Content-Type": "text/html"}, JPEG),
    "/%C3%A4%20b.png?w=1&c=a%7Cb": (200, {}, PNG),
    "/a|b.png": (200, {}, PNG),
    "/gone.jpg": (404, {"Content-Type": "text/html"}, PAGE),
    "/secret.jpg": (403, {}, PNG),
    "/page.jpg": (200, {"Content-Type": "image/jpeg"}, PAGE),
    "/drawing.svg": (200, {"Content-Type": "image/svg+xml"}, b'<svg xmlns="x"/>'),
    "/empty.jpg": (200, {}, b""),
    "/half.jpg": (200, {}, JPEG[: len(JPEG) // 2]),
    "/giant.png": (200, {}, giant()),
    "/heavy.jpg": (200, {}, b"\xff" * 200_000),
    "/zipped.png": (200, {"Content-Encoding": "gzip"}, gzip.compress(PNG)),
    "/deflated.png": (200, {"Content-Encoding": "deflate"}, zlib.compress(PNG)),
    "/bomb.png": (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(100_000_000))),
    "/zip-cut.png": (200, {"Content-Encoding": "gzip"}, gzip.compress(JPEG)[:-900]),
    "/no-zip.png": (200, {"Content-Encoding": "gzip"}, PNG),
    "/odd-encoding.png": (200, {"Content-Encoding": "binary"}, PNG),
    "/moved": (302, {"Location": "/ok.png"}, PAGE),
    "/circle": (302, {"Location": "/circle/2"}, b""),
    "/circle/2": (301, {"Location": "../circle"}, b""),
    "/to-ftp": (302, {"Location": "ftp://127.0.0.1/a.jpg"}, b""),
    "/to-file": (302, {"Location": "file:///etc/hostname"}, b""),
    "/to-nothing": (302, {"Location": "http://127.0.0.1:x/"}, b""),
    "/later": (429, {"Retry-After": "86400"}, b""),
}
# Answered with a fault so many times, then with a picture.
AT_FIRST = {
    "/busy.png": (1, 429, {"Retry-After": "0"}),
    "/down.png": (2, 503, {}),
    "/date.png": (1, 503, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}),
    "/always-500.png": (999, 500, {}),
    "/cut-once.png": (1, 0, {}),
}


class Host(ThreadingHTTPServer):
    """Counts requests by path, and how many of them it held at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hits: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        # Requests for /held wait for each other: no more than so many come, or the event.
        self.holding = 0
        self.most_held = 0
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        path = self.path
        with self.server.lock:
            self.server.hits[path] += 1
            hits = self.server.hits[path]
            self.server.agents.add(self.headers["User-Agent"])
        if path in AT_FIRST:
            times, status, headers = AT_FIRST[path]
            if hits > times:
                self.answer(200, {}, PNG)
            elif status:
                self.answer(status, headers, b"")
            else:
                self.cut(PNG)
        elif path in ANSWERS:
            self.answer(*ANSWERS[path])
        elif path.startswith("/busy/"):
            self.answer(429, {}, b"")
        elif path.startswith("/many/"):
            self.answer(200, {}, PNG)
        elif path.startswith("/endless/"):
            self.answer(302, {"Location": f"/endless/{int(path.split('/')[-1]) + 1}"}, b"")
        elif path.startswith("/raw/"):
            self.wfile.write(bytes.fromhex(path.removeprefix("/raw/")))
            self.close_connection = True
        elif path.startswith("/to?"):
            self.answer(302, {"Location": path.removeprefix("/to?")}, b"")
        else:
            getattr(self, f"do_{path[1:].split('/')[0].split('.')[0]}")()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def cut(self, body: bytes) -> None:
        """Announces a body and hangs up in the middle of it."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def do_cut(self) -> None:
        self.cut(PNG)

    def do_slow(self) -> None:
        """Never answers."""
        self.server.stopped.wait(60)

    def do_drip(self) -> None:
        """Sends a byte a moment, for ever: each is in time, the picture never is."""
        self.send_response(200)
        self.end_headers()
        for _ in count():
            self.wfile.write(b"\xff")
            if self.server.stopped.wait(0.05):
                return

    def do_flood(self) -> None:
        """Sends without an end, and without saying how much."""
        self.send_response(200)
        self.end_headers()
        while not self.server.stopped.is_set():
            self.wfile.write(b"\xff" * 65536)

    def do_reset(self) -> None:
        """Breaks the connection before any answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def do_rubbish(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        self.close_connection = True

    def do_held(self) -> None:
        """Answers once no further request has come for a while."""
        with self.server.lock:
            self.server.holding += 1
            self.server.most_held = max(self.server.most_held, self.server.holding)
        self.server.released.wait(0.15)
        with self.server.lock:
            self.server.holding -= 1
        self.answer(200, {}, PNG)


@contextmanager
def picture_host() -> Iterator[Host]:
    """Runs a host for the length of the block."""
    with Host() as host:
        threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield host
        finally:
            host.stopped.set()
            host.shutdown()
