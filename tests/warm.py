"""A Python whose imports are done: it forks for every command, so that none pays for importing.

Tests that type many commands put `client` in the place of a virtual environment's interpreter. The
commands then run as they would: in processes of their own, with their arguments, their working
folder, their environment and their exit status.
"""

from __future__ import annotations

import array
import json
import os
import runpy
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from tests import ROOT

# Sends its arguments, folder, environment and standard streams, and ends with the command's status.
# By way of a shell, since the path of an interpreter after #! must have no space.
CLIENT = """#!/bin/sh
''':'
exec "{python}" -SE "$0" "$@"
'''
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1, 2])
server.sendmsg([len(request).to_bytes(8, "big")], [streams])
server.sendall(request)
sys.exit(int(server.recv(8) or b"1"))
"""


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError(f"{len(data)} of {size} bytes of a command came")
        data += part
    return data


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Runs `-m module ...` or `-c code ...`; returns the exit status."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    kind, what, *rest = arguments
    sys.argv = [what, *rest]
    sys.path[0] = folder
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(what, {"__name__": "__main__"})
        else:
            raise ValueError(f"expected -m or -c, got {kind}")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve(address: str, modules: Sequence[str]) -> None:
    """Imports the modules, then runs every command that a client sends to the socket."""
    for module in modules:
        import_module(module)
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        head, rights, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(2 * 4))
        streams = array.array("i", rights[0][2])
        request = json.loads(_read(connection, int.from_bytes(head, "big")))
        if os.fork() == 0:
            # In a process of its own, since a command may end itself by os._exit.
            command = os.fork()
            if command == 0:
                for number, stream in enumerate(streams, 1):
                    os.dup2(stream, number)
                status = _run(*request)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status & 0xFF)
            _, ended = os.waitpid(command, 0)
            connection.sendall(str(os.waitstatus_to_exitcode(ended)).encode())
            os._exit(0)
        connection.close()
        for stream in streams:
            os.close(stream)


@contextmanager
def warm_python(folder: Path, modules: Sequence[str]) -> Iterator[Path]:
    """Yields an interpreter in `folder` that runs `-m` and `-c` with `modules` imported already."""
    address = str(folder / "python.sock")
    command = [sys.executable, "-m", "tests.warm", address, *modules]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o755)
    try:
        yield client
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
