"""A web server on the loopback that gives the files of a folder, with the faults of real ones."""

from __future__ import annotations

import base64
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Web(ThreadingHTTPServer):
    """Serves `folder` under /shards/, and counts requests by file.

    Attributes:
        faults: for each file, what its next requests meet, in order: a status such as 500, "cut"
            (half of it, then a reset), "short" (half of it, as if whole) or "damaged".
        redirects: requests for /moved/ are sent on to this URL.
        password: where set, requests must have it, of any user.
        held: while it is set, files wait for it to be cleared.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.hits: Counter[str] = Counter()
        self.faults: dict[str, list[int | str]] = {}
        self.redirects = ""
        self.password = ""
        self.token = ""
        self.lock = threading.Lock()
        self.free = threading.Event()
        self.free.set()
        self.together = 0
        self.most_together = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/shards"


class _Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        web = self.server
        place, _, query = self.path.partition("?")
        name = place.rpartition("/")[2]
        with web.lock:
            web.hits[name] += 1
            faults = web.faults.get(name, [])
            fault = faults.pop(0) if faults else ""
            web.together += 1
            web.most_together = max(web.most_together, web.together)
        try:
            web.free.wait(30)
            self.answer(place, name, query, fault)
        finally:
            with web.lock:
                web.together -= 1

    def answer(self, place: str, name: str, query: str, fault: int | str) -> None:
        web = self.server
        if place.startswith("/moved/"):
            return self.send(302, b"", Location=f"{web.redirects}/{name}")
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        if web.password and base64.b64decode(given).decode().partition(":")[2] != web.password:
            return self.send(401, b"who are you")
        if web.token and query != web.token:
            return self.send(403, b"no token")
        if isinstance(fault, int):
            return self.send(fault, b"busy")
        path = web.folder / name
        if not path.is_file():
            return self.send(404, b"not here")
        data = path.read_bytes()
        if fault == "damaged":
            return self.send(200, b"\x00" + data[1:])
        if fault == "short":
            return self.send(200, data[: len(data) // 2])
        if fault != "cut":
            return self.send(200, data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        # Closed with a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def send(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    web = Web(folder)
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield web
    finally:
        web.free.set()
        web.shutdown()
        web.server_close()
