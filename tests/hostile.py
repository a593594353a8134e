"""Makes damaged and malicious folders of shards, and says what must become of each."""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from beyond_text.shards.batch import Sample, SampleIndex
from beyond_text.shards.dataset import Products
from beyond_text.shards.manifest import files_of
from beyond_text.shards.split import Split
from tests.tables.test_pictures import bomb, encode

SHARD = "train-00000.tar"
FIELDS = ["title", "category", "description"]
GOOD_PICTURE = encode(Image.new("RGB", (30, 20), "teal"), "JPEG")


def member(name: str, data: bytes = b"", **fields: Any) -> bytes:
    """Makes a member of a tar, with a right checksum whatever else is wrong with it."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + bytes(2 * tarfile.BLOCKSIZE)


def product(**changes: Any) -> dict[str, Any]:
    """Makes the JSON of a product; a change to ... removes the field."""
    asked = {"query_id": "q", "query": "red vase", "kind": "human", "grades": {"relevance": 2.0}}
    fields = {"product_id": "p", "title": "vase", "description": "", "category": "decor"}
    found = fields | {"group_id": "p", "queries": [asked]} | changes
    return {name: value for name, value in found.items() if value is not ...}


def asked(**changes: Any) -> dict[str, Any]:
    """Makes the JSON of a product whose only query has the changes."""
    query = product()["queries"][0] | changes
    return product(queries=[{name: value for name, value in query.items() if value is not ...}])


def sample(key: int, content: bytes | dict[str, Any], picture: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return member(f"{key}.json", text) + (member(f"{key}.jpg", picture) if picture else b"")


def write_folder(folder: Path, shard: bytes, samples: int = 1) -> Path:
    """Writes a folder of one shard, with a manifest that is true of it."""
    folder.mkdir(parents=True)
    (folder / SHARD).write_bytes(shard)
    entry = {"file": SHARD, "samples": samples, "bytes": 0, "sha256": ""}
    counts = dict.fromkeys(("products", "pictures", "texts", "queries", "judged_pairs"), samples)
    manifest = {
        "version": 1,
        "picture_size": 40,
        "grades": {"relevance": {"max": 2.0}},
        "splits": {"train": {**counts, "shards": [entry]}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    sign(folder)
    return folder


def sign(folder: Path) -> None:
    """Updates sizes and checksums in the manifest to those of the shards as they are now."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for split in manifest["splits"].values():
        for entry in files_of(split):
            data = (folder / entry["file"]).read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def read_all(folder: Path) -> list[Sample | str]:
    """Checks the checksums and reads every sample of train, or the line in its place."""
    split = Split(folder, "train", FIELDS)
    split.verify()
    products = Products([split], seed=0, picture=32)
    return [products[SampleIndex(0, number, 0)] for number in range(len(split))]


def sixteen_bit_png() -> bytes:
    """Makes a PNG of two pixels, red and blue, of a kind that Pillow reads but does not write."""
    pixels = struct.pack(">B6H", 0, 0xFFFF, 0, 0, 0, 0, 0xFFFF)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def turned() -> bytes:
    """Makes a picture that is stored wider than high and shown higher than wide."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.new("RGB", (30, 20), "teal"), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("teal", "red")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def gzipped() -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.json"))
    return buffer.getvalue().ljust(4096, b"\0")


GOOD = sample(0, product())
# Name: the shard, and what the error says after the shard's name.
SHARDS: dict[str, tuple[bytes, str]] = {
    "a name that leaves the folder": (tar(member("../0.json", b"{}")), "called KEY.EXTENSION"),
    "an absolute name": (tar(member("/tmp/0.json", b"{}")), "called KEY.EXTENSION"),
    "a name in a folder": (tar(member("a/0.json", b"{}")), "called KEY.EXTENSION"),
    "a name that is no text": (tar(member("0\udcff.json", b"{}")), "called KEY.EXTENSION"),
    "a long name in a header of its own": (tar(member("0" * 200 + ".json", b"{}")), "of type b'L'"),
    "a header for all": (
        tarfile.TarInfo.create_pax_global_header({"path": "0.json"}) + tar(GOOD),
        "of type b'g'",
    ),
    "a symbolic link": (
        tar(GOOD, member("0.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "of type b'2'",
    ),
    "a hard link": (
        tar(GOOD, member("0.jpg", type=tarfile.LNKTYPE, linkname="0.json")),
        "of type b'1'",
    ),
    "a device": (tar(GOOD, member("0.jpg", type=tarfile.CHRTYPE, devmajor=1)), "of type b'3'"),
    "a pipe": (tar(GOOD, member("0.jpg", type=tarfile.FIFOTYPE)), "of type b'6'"),
    "a folder": (tar(member("0", type=tarfile.DIRTYPE), GOOD), "of type b'5'"),
    "a file with holes": (tar(GOOD, member("0.jpg", type=tarfile.GNUTYPE_SPARSE)), "of type b'S'"),
    "a size below zero": (tar(GOOD, member("0.jpg", size=-1024)), "0.jpg of -1024 bytes"),
    "a size of 2^80": (tar(GOOD, member("0.jpg", size=2**80)), "and no more than the 1024 bytes"),
    "a size past the end": (tar(GOOD, member("0.jpg", size=1025)), "no more than the 1024 bytes"),
    "a header of another checksum": (tar(GOOD[:100] + b"1" + GOOD[101:]), "bad checksum"),
    "no end": (GOOD, "empty header"),
    "half a header": (GOOD + GOOD[:300], "truncated header"),
    "a compressed tar": (gzipped(), "not a readable tar"),
    "a member twice": (tar(GOOD, GOOD), "sample 0 has two members json"),
    "more samples than the manifest says": (
        tar(GOOD, sample(1, product())),
        "2 samples, the manifest says 1",
    ),
}

DEEP = b"[" * 100_000
# Name: the JSON, the picture, and what the line says after the sample's name.
SKIPPED: dict[str, tuple[bytes | dict[str, Any], bytes, str]] = {
    "no bytes": (b"", b"", "truncated"),
    "half a JSON": (b'{"product_id": "p", "tit', b"", "truncated"),
    "a JSON that is not UTF-8": (b'{"product_id": "\xff"}', b"", "'utf-8' codec can't decode"),
    "a JSON nested 100,000 deep": (b'{"x":' + DEEP, b"", "maximum recursion depth"),
    "a list": (DEEP, b"", "Expected `object`, got `array`"),
    "no id": (product(product_id=...), b"", "missing required field `product_id`"),
    "an empty id": (product(product_id=""), b"", "of length >= 1 - at `$.product_id`"),
    "a number for a title": (product(title=5), b"", "Expected `str`, got `int` - at `$.title`"),
    "null for a title": (product(title=None), b"", "Expected `str`, got `null` - at `$.title`"),
    "half a character": (product(title="\ud800"), b"", "surrogate"),
    "queries in an object": (product(queries={}), b"", "got `object` - at `$.queries`"),
    "a text for a query": (product(queries=["q"]), b"", "got `str` - at `$.queries[0]`"),
    "a query without id": (asked(query_id=...), b"", "field `query_id` - at `$.queries[0]`"),
    "a list for a query's text": (asked(query=[]), b"", "got `array` - at `$.queries[0].query`"),
    "a query without grades": (asked(grades=...), b"", "query 'q': expected grades, got none"),
    "a grade of another name": (asked(grades={"x": 1}), b"", "required field `relevance`"),
    "grades in a list": (asked(grades=[1]), b"", "got `array` - at `$.queries[0].grades`"),
    **{
        f"a grade of {grade!r}": (asked(grades={"relevance": grade}), b"", "JSON is malformed")
        for grade in (float("nan"), float("inf"))
    },
    **{
        f"a grade of {grade!r}": (
            asked(grades={"relevance": grade}),
            b"",
            f"Expected `float`{but} - at `$.queries[0].grades.relevance`",
        )
        for grade, but in (
            (-1, " >= 0.0"),
            (3, " <= 2.0"),
            (True, ", got `bool`"),
            ("1", ", got `str`"),
            (None, ", got `null`"),
        )
    },
    "a grade of 400 digits": (asked(grades={"relevance": 10**400}), b"", "Number out of range"),
    "a yes in words": (asked(own="yes"), b"", "got `str` - at `$.queries[0].own`"),
    "a picture of a query that is not there": (
        asked(picture=7),
        GOOD_PICTURE,
        "expected a sample below 0, got 7",
    ),
    "a number below zero for a picture": (
        asked(picture=-1),
        b"",
        "Expected `int` >= 0 - at `$.queries[0].picture`",
    ),
    "half a picture": (product(), GOOD_PICTURE[:300], "picture unreadable"),
    "a text for a picture": (product(), b"a teal square", "picture unreadable: expected JPEG"),
    "a picture of 3.6 billion pixels": (product(), bomb(60_000, 60_000), "picture too large"),
    "a picture of 81 million pixels": (product(), bomb(9_000, 9_000), "picture too large"),
}

# Name: the JSON, the picture, and the width and height that the reader must see.
USED: dict[str, tuple[dict[str, Any], bytes, tuple[int, int] | None]] = {
    "fields of our own": (product(x=[1, {}], title=...), b"", None),
    "a text of one megabyte": (product(title="red vase " * 120_000), b"", None),
    "no query": (product(queries=[]), b"", None),
    "a grade too small for a gain": (asked(grades={"relevance": 1e-20}), b"", None),
    "a query that is the product itself": (asked(own=True, grades=...), b"", None),
    "a PNG under another extension": (
        product(),
        encode(Image.new("RGBA", (30, 20), "teal")),
        (30, 20),
    ),
    "an animation": (product(), animated(), (30, 20)),
    "CMYK": (product(), encode(Image.new("CMYK", (30, 20)), "JPEG"), (30, 20)),
    "16 bits a channel": (product(), sixteen_bit_png(), (2, 1)),
    "a turned camera": (product(), turned(), (20, 30)),
    "a single pixel": (product(), encode(Image.new("1", (1, 1))), (1, 1)),
}

FIRST = ("splits", "train", "shards", 0)
# Name: the place in the manifest, its value (... removes it), and what the error says.
MANIFESTS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "a newer version": (("version",), 2, "of version 2, expected at most 1: a newer"),
    "a version in words": (("version",), "one", "Expected `int`, got `str` - at `$.version`"),
    "no version": (("version",), ..., "missing required field `version`"),
    "no picture size": (("picture_size",), 0, "Expected `int` >= 1 - at `$.picture_size`"),
    "no grades": (("grades",), {}, "expected a grade 'relevance', got []"),
    "a grade that is none": (("grades", "relevance", "max"), float("nan"), "JSON is malformed"),
    "a grade without bounds": (("grades", "x"), {"max": 1e9}, "Expected `float` <= 100.0 - at"),
    "splits in a list": (("splits",), [], "Expected `object`, got `array` - at `$.splits`"),
    "a split that is a text": (("splits", "train"), "x", "got `str` - at `$.splits[...]`"),
    "no shards": (("splits", "train", "shards"), ..., "missing required field `shards`"),
    "shards in an object": (("splits", "train", "shards"), {}, "Expected `array`, got `object`"),
    "fewer shards than products": (
        ("splits", "train", "shards"),
        [],
        "split 'train': expected 1 products, got 0 samples",
    ),
    "more products than samples": (("splits", "train", "products"), 9, "expected 9 products, got"),
    "a negative count": (("splits", "train", "texts"), -1, "Expected `int` >= 0 - at `$.splits"),
    "samples below one": ((*FIRST, "samples"), 0, "shards[0].samples`"),
    "a fraction of a sample": ((*FIRST, "samples"), 1.5, "got `float` - at"),
    "a short checksum": ((*FIRST, "sha256"), "ab", "shards[0].sha256`"),
    **{
        f"a shard called {name!r}": ((*FIRST, "file"), name, "shards[0].file`")
        for name in ("../x.tar", "/etc/passwd", "a/x.tar", "pipe:mkdir x", "x.tar.gz", "x.tar\n")
    },
}  # fmt: skip

ASKED = "query_id,query,kind,image\n"
JUDGED = "query_id,product_id,relevance\n"
# Name: the file, its new content, and what the error says.
TABLES_OF_A_SPLIT: dict[str, tuple[str, str | bytes, str]] = {
    "no bytes": ("queries", "", "expected a query at least, got none"),
    "no kinds": ("queries", "query_id,query\nq,a\n", "missing required field `kind` - at `$[0]`"),
    "no grades": ("qrels", "query_id,product_id\nq,p\n", "required field `relevance` - at `$[0]`"),
    "a short row": ("qrels", f"{JUDGED}q,p,1\nq,p\n", "got `null` - at `$[1].relevance`"),
    "a long row": ("qrels", f"{JUDGED}q,p,1,2\n", "at `key` in `$[0]`"),
    "an empty id": ("queries", f"{ASKED},a,b,\n", "length >= 1 - at `$[0].query_id`"),
    "a picture's name": ("queries", f"{ASKED}q,a,b,x.jpg\n", "at `$[0].image`"),
    "a picture below zero": ("queries", f"{ASKED}q,a,b,-1\n", "at `$[0].image`"),
    "a broken quote": ("queries", f'{ASKED}q,"a"x,b,\n', "expected after"),
    "a quote that never ends": ("queries", f'{ASKED}q,"a,b,\n', "unexpected end"),
    "half a character": ("queries", ASKED.encode() + b"q,\xc3,b,\n", "codec can't decode"),
    **{
        f"a grade of {grade!r}": ("qrels", f"{JUDGED}q,p,{grade}\n", "at `$[0].relevance`")
        for grade in ("", "a", "nan", "inf", "-1", "3", "1_0")
    },
}
