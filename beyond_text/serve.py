"""The command that answers searches over HTTP, and shows a page to search by.

    python -m beyond_text.serve INDEX
    python -m beyond_text.serve untouched=indexes/before trained=indexes/after --port 8080

Several indexes are searched by name, and compared side by side on the page. An index that is
updated is opened again while the service runs. It is bound to this machine, unless --host says
otherwise: then whoever reaches the port can search, so put what checks visitors before it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beyond_text.config.names import INDEX_KINDS
from beyond_text.tasks.cores import cores
from beyond_text.terminal import at_least, command_parser, errors_in_one_line, plain

if TYPE_CHECKING:
    import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Names by which this machine calls itself; a page of another host has another one.
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_parser("beyond_text.serve", __doc__)
    parser.add_argument("indexes", nargs="+", metavar="INDEX", help="index folders, or NAME=FOLDER")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one")
    parser.add_argument("--index", choices=INDEX_KINDS, help="default: the index's own")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument(
        "--threads", type=at_least(1), default=cores(), help="that search at a time"
    )
    parser.add_argument("--max-body", type=at_least(1), default=8_000_000, metavar="BYTES")
    parser.add_argument("--max-pixels", type=at_least(1), default=25_000_000, metavar="N")
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="SECONDS")
    return parser.parse_args(argv)


def _port(word: str) -> int:
    if not 0 <= (number := int(word)) < 65_536:
        raise ValueError(word)
    return number


def _seconds(word: str) -> float:
    if not 0 < (number := float(word)) < 86_400:
        raise ValueError(word)
    return number


_port.__name__ = "port from 0 to 65535"
_seconds.__name__ = "number of seconds"


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address.

    Raises:
        OSError: it cannot: the address is taken, or none of this machine's.
    """
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise OSError(f"{host}:{port}: not listened at: {error.strerror or error}") from error


def address_of(listening: socket.socket) -> str:
    """Returns the address of a listening socket as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command until it is stopped."""
    arguments = parse(argv)
    # Threads that search share the cores; libraries read these when they are imported.
    apart = max(1, cores() // arguments.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(apart))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with errors_in_one_line():
        from beyond_text.serving.indexes import named

        paths = named(arguments.indexes)
        listening = listen(arguments.host, arguments.port)
        import logging

        import uvicorn

        # It warns of each form that is damaged, which is the client's fault and is answered.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        from beyond_text.serving.app import create_app
        from beyond_text.serving.indexes import Indexes
        from beyond_text.serving.limits import Limits
        from beyond_text.serving.measures import Measures

        measures = Measures()
        limits = Limits(arguments.max_body, arguments.max_pixels, arguments.timeout)
        indexes = Indexes(paths, measures, arguments.precision, arguments.index, apart)
        app = create_app(
            indexes,
            measures,
            limits,
            precision=arguments.precision,
            threads=arguments.threads,
            hosts=OWN_NAMES if arguments.host in LOOPBACK else None,
        )
        # Its access log would keep what shoppers look for.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        for name, index in indexes.items():
            print(plain(f"{name}: {len(index):,} products"))
        print(f"ready at {address_of(listening)}", flush=True)
        uvicorn.Server(config).run([listening])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
