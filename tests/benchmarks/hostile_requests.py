"""Sends hostile bodies and pictures to a service; counts its answers and watches its memory.

    python -m tests.benchmarks.hostile_requests INDEX --requests 10000

Bodies are cut, flipped, nested, blown up, of other types and encodings; pictures are damaged,
giant, of odd kinds, or none. What comes back must be a status below 500.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.benchmarks.serve import started
from tests.hostile import DEEP, GOOD_PICTURE, SKIPPED, USED, animated, sixteen_bit_png
from tests.tables.test_pictures import bomb, encode

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
TEXTS = (
    *("red rug", "", " ", "\0", "\ud800", "ü☂🧵" * 50, "x" * 2001),
    *("' OR 1=1 --", "<script>", "../../x"),
    *("%00%2e", "{{7*7}}", "\u202egur der", "\n\r\n", "a" * 1999, "🏴" * 600),
    *(5, None, [], {}, True, 1e308),
)
FILTERS = (
    *(["price<50"], ["price<"], ["category=A|B"], ["=" * 400], ['"' * 399], ["x" * 501], [""]),
    *([5], None, ["in_stock"] * 21, ["!in_stock"], ["price=nan"], ["price<1e999"], ['"a""b"=c']),
    *("price<5", [[]]),
)
NUMBERS = (1, 0, -1, 200, 201, 2**70, 1.5, "5", None, [], True, -0.0, 1e-320)
PATHS = (
    "/products/{}", "/pictures/{}", "/facets?filters={}", "/facets?index={}", "/page/{}", "/{}",
    "/health?{}", "/metrics/{}",
)  # fmt: skip


def pictures() -> list[bytes]:
    """Returns pictures of all kinds, good ones among them."""
    found = [GOOD_PICTURE, GOOD_PICTURE[:200], b"", b"GIF89a", animated(), sixteen_bit_png()]
    found += [bomb(60_000, 60_000), bomb(9_000, 9_000), bomb(0, 5), bomb(2**31 - 1, 1)]
    found += [picture for _, picture, _ in SKIPPED.values() if picture]
    found += [picture for _, picture, _ in USED.values() if picture]
    for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16", "F"):
        kind = "TIFF" if mode in ("F", "CMYK", "I;16") else "PNG"
        found.append(encode(Image.new(mode, (20, 30)), kind))
    wide = BytesIO()
    Image.new("RGB", (4000, 3)).save(wide, "WEBP")
    return [*found, wide.getvalue(), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4"]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Returns bytes that are cut, flipped, doubled or filled up somewhere."""
    changed = bytearray(data)
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(4):
            case 0:
                del changed[at : at + draw.randint(1, 40)]
            case 1:
                changed[at:at] = draw.randbytes(draw.randint(1, 9))
            case 2 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case _:
                changed[at:at] = changed[: draw.randint(0, 300)]
    return bytes(changed)


def _json(draw: random.Random, pictures: Sequence[bytes]) -> dict[str, Any]:
    picture = draw.choice(pictures)
    fields = {
        "text": draw.choice(TEXTS),
        "picture": base64.b64encode(damaged(picture, draw)).decode(),
        "filters": draw.choice(FILTERS),
        "top": draw.choice(NUMBERS),
        "weight": draw.choice(NUMBERS),
        "index": draw.choice(TEXTS),
        "__proto__": {},
    }
    kept = {name: value for name, value in fields.items() if draw.random() < 0.4}
    kept.setdefault("text", draw.choice(TEXTS))
    body = json.dumps(kept, allow_nan=True).encode()
    match draw.randrange(12):
        case 0:
            body = damaged(body, draw)
        case 1:
            body = DEEP
        case 2:
            body = json.dumps(kept).encode("utf-16")
        case 3:
            body = draw.randbytes(draw.randint(0, 2000))
    return {"method": "POST", "url": "/search", "content": body, "headers": JSON}


def _form(draw: random.Random, pictures: Sequence[bytes]) -> dict[str, Any]:
    parts = []
    for name in draw.sample(("picture", "text", "filters", "top", "weight", "x" * 300), 3):
        file = f'; filename="{draw.choice(("a.jpg", "../../a", "a" * 500, ""))}"'
        head = f'Content-Disposition: form-data; name="{name}"{file if name == "picture" else ""}'
        word = str(draw.choice(TEXTS)).encode("utf-8", "surrogatepass")
        content = damaged(draw.choice(pictures), draw) if name == "picture" else word
        parts.append(b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    body = b"".join(parts) + b"--x--\r\n"
    if draw.random() < 0.3:
        body = damaged(body, draw)
    return {"method": "POST", "url": "/search", "content": body, "headers": FORM}


def _path(draw: random.Random) -> dict[str, Any]:
    odd = draw.choice(
        (*[str(text) for text in TEXTS], "%2e%2e%2f" * 9, "%ff%fe", "a" * 3000, "%00")
    )
    odd = odd.encode("utf-8", "surrogatepass").decode("latin-1")
    url = httpx.URL("/").copy_with(raw_path=_escaped(draw.choice(PATHS).format(odd)))
    return {"method": draw.choice(("GET", "HEAD", "POST", "PUT", "OPTIONS")), "url": str(url)}


def _escaped(path: str) -> bytes:
    return "".join(
        c if (c.isascii() and c.isalnum()) or c in "/?=%&." else f"%{ord(c):02x}" for c in path
    ).encode()


def hostile_requests(draw: random.Random) -> Iterator[dict[str, Any]]:
    """Yields requests without end, as `httpx.Client.request` takes them."""
    known = pictures()
    while True:
        match draw.randrange(5):
            case 0 | 1:
                yield _json(draw, known)
            case 2 | 3:
                yield _form(draw, known)
            case _:
                yield _path(draw)


def memory(process: int | str = "self") -> int:
    """Returns the bytes of memory that a process holds."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * 4096


def held(address: str) -> float:
    """Returns the MB of memory that the service says it holds."""
    lines = httpx.get(f"{address}metrics").text.splitlines()
    words = next(line for line in lines if line.startswith("process_resident_memory_bytes"))
    return float(words.split()[1]) / 1e6


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line, sends and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hostile_requests")
    parser.add_argument("index", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    statuses: Counter[int] = Counter()
    with started(arguments.index, []) as (address, _), httpx.Client(base_url=address) as client:
        requests = hostile_requests(random.Random(arguments.seed))
        for number in range(arguments.requests):
            if number % max(1, arguments.requests // 5) == 0:
                print(f"{number:6} requests: {held(address):.0f} MB", flush=True)
            answer = client.request(**next(requests))
            statuses[answer.status_code] += 1
        print(f"{arguments.requests:6} requests: {held(address):.0f} MB")
    print(dict(sorted(statuses.items())))
    if any(status >= 500 for status in statuses):
        sys.exit("error: the service failed")


if __name__ == "__main__":
    main()
