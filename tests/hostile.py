"""Makes damaged and malicious folders of shards, and says what must become of each."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
import zlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from beyond_text.shards.batch import Sample, SampleIndex
from beyond_text.shards.columns import write_columns
from beyond_text.shards.dataset import Products
from beyond_text.shards.judged import ASKED, judged_schema
from beyond_text.shards.manifest import files_of
from beyond_text.shards.records import category_key, write_records
from beyond_text.shards.split import Split
from tests.tables.test_pictures import bomb, encode

SHARD, INDEX = "train-00000.tar", "train-00000.npy"
ASKED_FILE, JUDGED_FILE = "asked-train.arrow", "judged-train.arrow"
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
    fields = {"product_id": "p", "title": "vase", "description": "", "category": "decor"}
    found = fields | {"group_id": "p"} | changes
    return {name: value for name, value in found.items() if value is not ...}


def asked(**changes: Any) -> pa.RecordBatch:
    """Makes the queries of a split, one query with the changes."""
    row = {"query_id": "q", "query": "red vase", "kind": "human", "picture": -1,
           "product_id": "", "seen": False}  # fmt: skip
    return pa.RecordBatch.from_pylist([row | changes], ASKED)


def judged(*rows: tuple[int, int, bool, float]) -> pa.RecordBatch:
    """Makes the judgments of a split from samples, queries, whether they are own, and grades."""
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    schema = judged_schema(["relevance"])
    arrays = [pa.array(each, field.type) for each, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def sample(key: int, content: bytes | dict[str, Any], picture: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return member(f"{key}.json", text) + (member(f"{key}.jpg", picture) if picture else b"")


def write_folder(
    folder: Path,
    shard: bytes,
    samples: int = 1,
    queries: pa.RecordBatch | None = None,
    judgments: pa.RecordBatch | None = None,
) -> Path:
    """Writes a folder of one shard, with an index and a manifest that are true of it.

    Its only query is judged 2 for each sample unless `queries` or `judgments` say otherwise.
    """
    folder.mkdir(parents=True)
    (folder / SHARD).write_bytes(shard)
    starts = [0, *(m.start() for m in re.finditer(rb"\d+\.json\0", shard) if m.start())]
    starts = [*starts, *[len(shard)] * samples][: samples + 1]
    pictures = [shard[a:b].count(b".jpg\0") for a, b in pairwise(starts)]
    decor = category_key("decor")
    write_records(
        folder / INDEX, [(a, decor, n, 1) for a, n in zip(starts, pictures, strict=False)]
    )
    queries = asked() if queries is None else queries
    rows = judged(*((sample, 0, False, 2.0) for sample in range(samples)))
    write_columns(folder / ASKED_FILE, queries.schema, [queries])
    judgments = rows if judgments is None else judgments
    write_columns(folder / JUDGED_FILE, judgments.schema, [judgments])
    index, asked_file, judged_file = (
        {"file": name, "bytes": 0, "sha256": ""} for name in (INDEX, ASKED_FILE, JUDGED_FILE)
    )
    entry = {"file": SHARD, "samples": samples, "bytes": 0, "sha256": "", "index": index}
    counts = dict.fromkeys(("products", "pictures", "texts", "queries", "judged_pairs"), samples)
    files = {"shards": [entry], "asked": asked_file, "judged": judged_file}
    manifest = {
        "version": 2,
        "picture_size": 40,
        "grades": {"relevance": {"max": 2.0}},
        "splits": {"train": {**counts, **files}},
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
    "a size of 2^80": (
        tar(GOOD, member("0.jpg", size=2**80)),
        "expected no more than the 1024 bytes",
    ),
    "a size past the end": (tar(GOOD, member("0.jpg", size=1025)), "no more than the 1024 bytes"),
    "a header of another checksum": (tar(GOOD[:100] + b"1" + GOOD[101:]), "bad checksum"),
    "no end": (GOOD, "empty header"),
    "half a header": (GOOD + GOOD[:300], "truncated header"),
    "a compressed tar": (gzipped(), "not a readable tar"),
    "a member twice": (tar(GOOD, GOOD), "sample 0 has two members json"),
    "more samples than the manifest says": (
        tar(GOOD, sample(1, product())),
        "expected sample 0 alone, got one of 1 with it",
    ),
}

DEEP = b"[" * 100_000
# Name: the JSON, the picture, and what the line says after the sample's name.
SKIPPED: dict[str, tuple[bytes | dict[str, Any], bytes, str]] = {
    "no bytes": (b"", b"", "truncated"),
    "half a JSON": (b'{"product_id": "p", "tit', b"", "truncated"),
    "a JSON that is not UTF-8": (b'{"product_id": "\xff"}', b"", "UTF-8"),
    "a JSON nested 100,000 deep": (b'{"x":' + DEEP, b"", "maximum recursion depth"),
    "a list": (DEEP, b"", "Expected `object`, got `array`"),
    "no id": (product(product_id=...), b"", "missing required field `product_id`"),
    "an empty id": (product(product_id=""), b"", "of length >= 1 - at `$.product_id`"),
    "a number for a title": (product(title=5), b"", "Expected `str`, got `int` - at `$.title`"),
    "null for a title": (product(title=None), b"", "Expected `str`, got `null` - at `$.title`"),
    "half a character": (product(title="\ud800"), b"", "surrogate"),
    "half a picture": (product(), GOOD_PICTURE[:300], "picture unreadable"),
    "a text for a picture": (product(), b"a teal square", "picture unreadable: expected JPEG"),
    "a picture of 3.6 billion pixels": (product(), bomb(60_000, 60_000), "picture too large"),
    "a picture of 81 million pixels": (product(), bomb(9_000, 9_000), "picture too large"),
}

# Name: the JSON, the picture, and the width and height that the reader must see.
USED: dict[str, tuple[dict[str, Any], bytes, tuple[int, int] | None]] = {
    "fields of our own": (product(x=[1, {}], title=...), b"", None),
    "a text of one megabyte": (product(title="red vase " * 120_000), b"", None),
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
    "a newer version": (("version",), 3, "of version 3, expected 2: a newer"),
    "an earlier version": (("version",), 1, "of version 1, expected 2: pack it again with `python"),
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
    "a shard without its index": ((*FIRST, "index"), ..., "missing required field `index`"),
    "no judgments": (("splits", "train", "judged"), ..., "missing required field `judged`"),
    "a short checksum": ((*FIRST, "sha256"), "ab", "shards[0].sha256`"),
    **{
        f"a shard called {name!r}": ((*FIRST, "file"), name, "shards[0].file`")
        for name in ("../x.tar", "/etc/passwd", "a/x.tar", "pipe:mkdir x", "x.tar.gz", "x.tar\n")
    },
}  # fmt: skip

NAN = float("nan")
# Name: queries, judgments, the file that is wrong, and what the error says.
COLUMNS: dict[str, tuple[pa.RecordBatch | None, pa.RecordBatch | None, str, str]] = {
    "an empty id": (asked(query_id=""), None, ASKED_FILE, "row 0: expected a query_id, got"),
    "a picture below -1": (asked(picture=-2), None, ASKED_FILE, "expected a picture of -1 or more"),
    "no id": (asked(query_id=None), None, ASKED_FILE, "expected no nulls, got some in 'query_id'"),
    "no seen": (asked(seen=None), None, ASKED_FILE, "expected no nulls, got some in 'seen'"),
    "the same query twice": (
        pa.RecordBatch.from_pylist(asked().to_pylist() * 2, ASKED),
        None,
        ASKED_FILE,
        "row 0: expected a query_id before that of the next row",
    ),
    "other columns": (judged(), None, ASKED_FILE, "expected columns query_id: string, query:"),
    "queries for judgments": (None, asked(), JUDGED_FILE, "expected columns sample: uint32, query"),
    "a sample that is not there": (
        None,
        judged((2, 0, False, 1.0)),
        JUDGED_FILE,
        "row 0: expected a sample below 2, got [2, 0, False, 1.0]",
    ),
    "a query that is not there": (
        None,
        judged((0, 0, False, 1.0), (0, 1, False, 1.0)),
        JUDGED_FILE,
        "row 1: expected a query below 1, got [0, 1,",
    ),
    "samples out of order": (
        None,
        judged((1, 0, False, 1.0), (0, 0, False, 1.0)),
        JUDGED_FILE,
        "row 1: expected pairs in the order of sample and query",
    ),
    "a pair twice": (
        None,
        judged((1, 0, False, 1.0), (1, 0, True, 1.0)),
        JUDGED_FILE,
        "row 1: expected pairs in the order of sample and query",
    ),
    **{
        f"a grade of {grade}": (
            None,
            judged((0, 0, False, grade)),
            JUDGED_FILE,
            "row 0: expected grades from 0 to [2.0], got",
        )
        for grade in (NAN, float("inf"), -float("inf"), -1.0, 2.5)
    },
    "a grade of nothing": (None, judged((0, 0, False, None)), JUDGED_FILE, "some in 'relevance'"),
    "a sample of nothing": (None, judged((None, 0, False, 1.0)), JUDGED_FILE, "some in 'sample'"),
}

# Name: the records of two samples, and what the error says; the shard ends at 4096.
RECORDS: dict[str, tuple[list[tuple[int, int, int, int]], str]] = {
    "too few": ([(0, 0, 0, 1)], "expected 2 records of 15 bytes, got (1,)"),
    "too many": ([(0, 0, 0, 1)] * 3, "expected 2 records of 15 bytes, got (3,)"),
    "a place past the end": ([(0, 0, 0, 1), (2**40, 0, 0, 1)], "sample 0: expected a place"),
    "a place at the end": ([(0, 0, 0, 1), (4096, 0, 0, 1)], "sample 1: expected a place"),
    "a place of 2^64": ([(0, 0, 0, 1), (2**64 - 512, 0, 0, 1)], "sample 0: expected a place"),
    "the same place": ([(0, 0, 0, 1), (0, 0, 0, 1)], "sample 0: expected a place"),
    "places out of order": ([(1024, 0, 0, 1), (0, 0, 0, 1)], "sample 0: expected a place"),
    "a place in the middle": ([(0, 0, 0, 1), (1000, 0, 0, 1)], "sample 1: expected a place"),
    "a start after the first": ([(512, 0, 0, 1), (1024, 0, 0, 1)], "sample 0: expected a place"),
}
