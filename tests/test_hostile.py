"""Tests that bad data gives one of our errors or a counted skip, and is never run."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from beyond_text.models.checkpoint import CheckpointError
from beyond_text.retrieval.read_split import read_split
from beyond_text.shards.batch import SELF_MATCH, Sample
from beyond_text.shards.collate import Collate
from beyond_text.shards.manifest import ShardError, read_manifest
from beyond_text.shards.records import write_records
from beyond_text.shards.roles import roles_of
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError
from beyond_text.tables.pairs import read_pairs
from beyond_text.tables.pictures import MAX_BYTES, PictureError, decode_pixels
from beyond_text.tables.read import read_tables
from beyond_text.training.checkpoints import Origin, read_origin, write_checkpoint
from data_prep.rejects import BuildError
from data_prep.shards import build_shards
from tests.conftest import tiny_tokenizer
from tests.hostile import (
    ASKED_FILE,
    COLUMNS,
    DEEP,
    FIELDS,
    GOOD_PICTURE,
    INDEX,
    JUDGED_FILE,
    MANIFESTS,
    RECORDS,
    SHARD,
    SHARDS,
    SKIPPED,
    USED,
    animated,
    asked,
    judged,
    member,
    product,
    read_all,
    sample,
    sign,
    sixteen_bit_png,
    tar,
    turned,
    write_folder,
)
from tests.tables.test_pictures import bomb, encode

# The same examples in every run, without a time limit, since the machine may be busy.
FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
COLLATE = Collate(tiny_tokenizer(), 16, fixed_length=False, picture_size=32)


@pytest.mark.parametrize("name", SHARDS)
def test_a_hostile_shard_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    shard, expected = SHARDS[name]
    folder = write_folder(tmp_path / "shards", shard)
    with pytest.raises(ShardError) as caught:
        read_all(folder)
    assert str(caught.value).startswith(f"{folder / SHARD}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", SKIPPED)
def test_a_hostile_sample_is_a_line_that_names_it_and_the_next_is_used(
    name: str, tmp_path: Path
) -> None:
    content, picture, expected = SKIPPED[name]
    shard = tar(sample(0, content, picture), sample(1, product(), GOOD_PICTURE))
    folder = write_folder(tmp_path / "shards", shard, samples=2)
    line, following = read_all(folder)
    assert isinstance(line, str)
    assert line.startswith(f"{folder} sample 0: ")
    assert expected.lower() in line.lower()
    assert isinstance(following, Sample)
    assert COLLATE([line, following]).skipped == [line]


def test_an_empty_picture_in_a_shard_is_a_line_that_names_it(tmp_path: Path) -> None:
    text = json.dumps(product()).encode()
    shard = tar(member("0.json", text), member("0.jpg", b""))
    folder = write_folder(tmp_path / "shards", shard)
    [line] = read_all(folder)
    assert isinstance(line, str)
    assert line.startswith(f"{folder} sample 0: picture unreadable: expected JPEG, PNG, ")


@pytest.mark.parametrize("name", USED)
def test_an_odd_sample_is_used(name: str, tmp_path: Path) -> None:
    content, picture, size = USED[name]
    folder = write_folder(tmp_path / "shards", tar(sample(0, content, picture)))
    [found] = read_all(folder)
    assert isinstance(found, Sample)
    assert (None if found.image is None else found.image.shape) == (size and (3, *reversed(size)))
    assert found.text.startswith(str(content.get("title", "decor")).strip())
    batch = COLLATE([found])
    assert batch.text.input_ids.shape[1] <= 16
    assert (batch.query_row >= 0).all() == (found.query is not None)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_is_an_error_that_names_field_and_file(
    name: str, tmp_path: Path
) -> None:
    place, value, expected = MANIFESTS[name]
    folder = write_folder(tmp_path / "shards", tar(sample(0, product())))
    manifest = json.loads((folder / "manifest.json").read_text())
    changed(manifest, place, value)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError) as caught:
        Split(folder, "train", FIELDS)
    assert str(caught.value).startswith(f"{folder / 'manifest.json'}: ")
    assert expected in str(caught.value)


def changed(content: Any, place: tuple[str | int, ...], value: Any) -> None:
    """Puts a value at a place of a JSON content; the value ... removes the place."""
    for name in place[:-1]:
        content = content[name]
    if value is ...:
        del content[place[-1]]
    else:
        content[place[-1]] = value


@pytest.mark.parametrize("data", [b"", DEEP, b"[]", b"\xff\xfe{", b'{"x":' + DEEP])
def test_a_manifest_that_is_no_json_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(ShardError, match=r"manifest\.json: not a manifest: "):
        read_manifest(tmp_path)


def test_a_shard_that_is_a_pipe_or_a_folder_is_an_error_and_is_not_waited_for(
    tmp_path: Path,
) -> None:
    folder = write_folder(tmp_path / "shards", tar(sample(0, product())))
    (folder / SHARD).unlink()
    for make in (os.mkfifo, os.mkdir):
        make(folder / SHARD)
        with pytest.raises(ShardError, match=r"train-00000\.tar: no such file"):
            Split(folder, "train", FIELDS)
        if make is os.mkfifo:
            (folder / SHARD).unlink()


def test_a_flipped_bit_that_no_decoder_sees_is_found_by_the_checksum(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "shards", tar(sample(0, product(), GOOD_PICTURE)))
    [whole] = read_all(folder)
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data.replace(b'"vase"', b'"case"'))
    split = Split(folder, "train", FIELDS)
    assert isinstance(whole, Sample)
    assert split.read(0, 32)[0]["title"] == "case"
    with pytest.raises(ShardError, match=r"train-00000\.tar: damaged: SHA-256 .*manifest says"):
        split.verify()
    sign(folder)
    Split(folder, "train", FIELDS).verify()


def test_checksums_cover_the_pictures_of_queries_too(tiny_pairs: Path, tmp_path: Path) -> None:
    build_shards(tiny_pairs, tmp_path / "out", picture_size=40, workers=1)
    split = Split(tmp_path / "out", "train", FIELDS)
    split.verify()
    with (tmp_path / "out" / "queries-train-00000.tar").open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    with pytest.raises(ShardError, match=r"queries-train-00000\.tar: damaged"):
        split.verify()


@pytest.mark.parametrize("name", COLUMNS)
def test_hostile_queries_and_judgments_are_an_error_that_names_file_and_row(
    name: str, tmp_path: Path
) -> None:
    queries, judgments, file, expected = COLUMNS[name]
    shard = tar(sample(0, product()), sample(1, product(product_id="r")))
    folder = write_folder(tmp_path / "shards", shard, 2, queries, judgments)
    reads: list[Callable[[], object]] = [
        lambda: read_all(folder),
        lambda: read_split(folder, "train", FIELDS, 32),
    ]
    if file == JUDGED_FILE:
        reads.append(lambda: roles_of(Split(folder, "train", FIELDS), ["query_product"]))
    for read in reads:
        with pytest.raises(ShardError) as caught:
            read()
        assert str(caught.value).startswith(f"{folder / file}: ")
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RECORDS)
def test_a_hostile_index_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    records, expected = RECORDS[name]
    shard = tar(sample(0, product()), sample(1, product(product_id="r"))).ljust(4096, b"\0")
    folder = write_folder(tmp_path / "shards", shard, 2)
    write_records(folder / INDEX, records)
    sign(folder)
    with pytest.raises(ShardError) as caught:
        read_all(folder)
    assert str(caught.value).startswith(f"{folder / INDEX}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"PK\3\4", pickle.dumps([1]), b"\x93NUMPY\1\0\4\0{{{\n"], ids=repr
)
@pytest.mark.parametrize("name", [INDEX, ASKED_FILE, JUDGED_FILE])
def test_a_file_of_another_kind_is_an_error_that_names_it(
    name: str, data: bytes, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "shards", tar(sample(0, product())))
    (folder / name).write_bytes(data)
    sign(folder)
    with pytest.raises(ShardError) as caught:
        read_all(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")


def test_an_index_that_must_be_unpickled_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "shards", tar(sample(0, product())))
    np.save(folder / INDEX, np.array([MakesFolder(tmp_path / "made")], dtype=object))
    sign(folder)
    with pytest.raises(ShardError, match=r"train-00000\.npy: not a readable index"):
        read_all(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("queries", [asked(picture=7)])
def test_a_query_whose_picture_is_not_there_is_a_line(
    queries: pa.RecordBatch, tmp_path: Path
) -> None:
    shard = tar(sample(0, product(), GOOD_PICTURE))
    [line] = read_all(write_folder(tmp_path / "shards", shard, 1, queries))
    assert isinstance(line, str)
    assert "expected a sample below 0, got 7" in line


@pytest.mark.parametrize(
    ("judgments", "gains"),
    [
        (judged(), []),
        (judged((0, 0, False, 1e-20)), [0.0]),
        (judged((0, 0, True, 0.0)), [SELF_MATCH]),
        (judged((0, 0, False, 2.0)), [1.0]),
    ],
    ids=["none", "a grade too small for a gain", "the product itself", "the highest grade"],
)
def test_odd_judgments_are_used(
    judgments: pa.RecordBatch, gains: list[float], tmp_path: Path
) -> None:
    shard = tar(sample(0, product()))
    [found] = read_all(write_folder(tmp_path / "shards", shard, judgments=judgments))
    assert isinstance(found, Sample)
    assert [judgment.gain for judgment in found.judgments] == gains
    assert (found.query is not None) == (gains == [1.0])


def test_a_table_of_one_grade_is_not_taken_for_that_of_another(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "shards", tar(sample(0, product())))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["grades"]["desire"] = {"max": 2.0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"judged-train\.arrow: expected columns .*desire: float"):
        read_all(folder)


@pytest.mark.parametrize("name", ["asked-dev.arrow", "judged-dev.arrow", "dev-00000.npy"])
def test_checksums_cover_queries_judgments_and_indexes(
    name: str, tiny_shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ShardError, match=rf"{name}: damaged: SHA-256"):
        read_split(folder, "dev", FIELDS, 32)
    path.write_bytes(whole[:-1])
    with pytest.raises(ShardError, match=rf"{name}: \d+ bytes, the manifest says"):
        read_split(folder, "dev", FIELDS, 32)


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_unpickled_or_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    payload = pickle.dumps(MakesFolder(made))
    pickle.loads(payload)
    made.rmdir()
    command = f"__import__('os').mkdir({str(made)!r})"
    told = product(product_id=command, title=command, description=f"pipe:mkdir {made}")
    names = ("pyd", "pickle", "pkl", "pth", "pt", "npy", "npz", "cls", "ten", "py", "jpg.pickle")
    pickles = b"".join(tar(payload_member(name, payload))[:-1024] for name in names)
    shard = tar(sample(0, told, payload), sample(1, told), pickles, sample(2, payload))
    folder = write_folder(tmp_path / "shards", shard, samples=3)
    found = read_all(folder)
    assert [isinstance(each, Sample) for each in found] == [False, True, False]
    COLLATE(found)

    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "a.jpg").write_bytes(payload)
    with (tables / "products.csv").open("w", newline="") as file:
        rows = [("product_id", "title", "image"), (command, f"={command}", "a.jpg")]
        csv.writer(file).writerows([*rows, ("b", "b", f"pipe:mkdir {made}"), ("c", "{x.y}", "")])
    manifest = build_shards(tables, tmp_path / "out", max_rejected=1, workers=1)
    assert manifest["rejects"] == {"picture outside folder": 1, "picture unreadable": 1}
    (tables / "pairs.jsonl").write_bytes(payload + b"\n" + payload)
    assert len(read_pairs(tables / "pairs.jsonl", [])[0]) == 0
    for name in ("products.csv", "products.parquet"):
        (tables / "products.csv").unlink(missing_ok=True)
        (tables / name).write_bytes(payload)
        with pytest.raises(TableError, match="products"):
            read_tables(tables)
    assert not made.exists()


def payload_member(extension: str, payload: bytes) -> bytes:
    """Makes a further member of sample 1."""
    header = tarfile.TarInfo(f"1.{extension}")
    header.size = len(payload)
    return header.tobuf() + payload + bytes(-len(payload) % tarfile.BLOCKSIZE)


def test_hostile_pictures_of_a_table_are_rejected_or_stored_upright(tmp_path: Path) -> None:
    stored = {
        "png_called.jpg": encode(Image.new("RGB", (30, 20))), "animated.png": animated(),
        "deep.jpg": sixteen_bit_png(), "turned.gif": turned(),
        "cmyk.jpg": encode(Image.new("CMYK", (30, 20)), "JPEG"),
    }  # fmt: skip
    refused = {"empty.jpg": b"", "bomb.png": bomb(60_000, 60_000), "half.jpg": GOOD_PICTURE[:300]}
    for name, data in (stored | refused).items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "holes.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    further = ("holes.jpg", "pipe.jpg", "folder.jpg", "loop.jpg", "n" * 5000)
    names = [*stored, *refused, *further]
    lines = [f"{number},title,{name}" for number, name in enumerate(names)]
    (tmp_path / "products.csv").write_text("\n".join(["product_id,title,image", *lines]))
    manifest = build_shards(tmp_path, tmp_path / "out", max_rejected=1, workers=1, dev_share=0)
    assert manifest["rejects"] == {
        "picture missing": 3, "picture unreadable": 3, "picture too large": 2,
    }  # fmt: skip
    found = {s.product_id: s.image for s in read_all(tmp_path / "out") if isinstance(s, Sample)}
    shown = [image for number in range(len(names)) if (image := found[str(number)]) is not None]
    sizes = [(image.shape[2], image.shape[1]) for image in shown]
    assert sizes == [(30, 20), (30, 20), (2, 1), (20, 30), (30, 20)]


# Name: the files, and what the error says.
TABLES: dict[str, tuple[dict[str, bytes], str]] = {
    "a header with a broken quote": (
        {"products.csv": b'product_id,"title"x\n1,a\n'},
        "products.csv: row 1: expected a header of column names",
    ),
    "a header that never ends": ({"products.csv": b'"product_id,title\n1,a\n'}, "row 1: expected"),
    "a field of 17 megabytes": (
        {"products.csv": b'product_id,title\n1,"' + b"a\n" * (17 * 2**19) + b'"\n'},
        "row 2: a quote opened on line 2 does not end: field larger",
    ),
    "UTF-16 without its mark": (
        {"products.csv": "product_id,title\n1,a\n".encode("utf-16-le")},
        "expected UTF-8, got UTF-16 without its mark",
    ),
    "a cut file of UTF-16": (
        {"products.csv": "product_id,title\n1,a\n".encode("utf-16")[:-1]},
        "expected UTF-16",
    ),
    "an Excel workbook": ({"products.csv": b"PK\x03\x04"}, "save the sheet as CSV UTF-8"),
    "a compressed table": ({"products.csv": b"\x1f\x8b"}, "compressed by gzip and damaged"),
    "a picture for a table": ({"products.parquet": GOOD_PICTURE}, "expected Parquet columns"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    files, expected = TABLES[name]
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises(TableError) as caught:
        read_tables(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / min(files)))
    assert expected in str(caught.value)


def test_parquet_columns_must_be_there_and_distinct(tmp_path: Path) -> None:
    path = tmp_path / "products.parquet"
    texts = pa.array(["a", "b"])
    pq.write_table(pa.Table.from_arrays([texts] * 3, ["product_id", "title", "title"]), path)
    with pytest.raises(TableError, match="distinct column names, got twice title"):
        read_tables(tmp_path)
    pd.DataFrame({"name": ["a", "b"]}).to_parquet(path)
    with pytest.raises(TableError, match="expected a column 'product_id'"):
        read_tables(tmp_path)


def test_rows_that_no_disk_and_no_float_could_hold_are_rejected(tmp_path: Path) -> None:
    long = "s" * 65
    (tmp_path / "products.csv").write_text(
        f"product_id,title,split\np1,{'red vase ' * 120_000},train\np2,b,{long}\n"
    )
    (tmp_path / "queries.csv").write_text("query_id,query\nq1,vase\nq2,lamp\n")
    (tmp_path / "qrels.csv").write_text(
        "query_id,product_id,relevance,split\nq1,p1,100,3\nq2,p1,100.5,3\nq2,p1,1e300,3\n"
    )
    tables = read_tables(tmp_path)
    assert [(reject.row, reject.reason) for reject in tables.rejects] == [
        (3, "bad split"), (3, "bad grade"), (4, "bad grade"),
    ]  # fmt: skip
    assert len(tables.products.loc[0, "title"]) > 10**6
    # The split of a judgment is not a grade, even where it looks like one.
    assert tables.grades == ["relevance"]
    build_shards(tmp_path, tmp_path / "out", max_rejected=1, workers=1)
    [found] = read_all(tmp_path / "out")
    assert isinstance(found, Sample)
    assert [judgment.gain for judgment in found.judgments] == [1.0]


def test_names_that_no_file_can_hold_end_among_the_rejects_as_they_are(tmp_path: Path) -> None:
    lines = [b'"\\ud800"', b'{"\\ud800": 1}', b"[" * 900 + b"]" * 900, b'[{"\\udfff": NaN}]']
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(BuildError, match="4 of 4 rows rejected"):
        build_shards(tmp_path / "pairs.jsonl", tmp_path / "out", workers=1)
    with (tmp_path / "out.rejects.csv").open(newline="", encoding="utf-8") as file:
        reasons = Counter(row["reason"] for row in csv.DictReader(file))
    assert reasons == {"malformed row": 4}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=8)
CUT = st.none() | st.integers(0, 2**20)


def edited(data: bytes, edits: list[tuple[int, int]], cut: int | None) -> bytes:
    content = bytearray(data)
    for place, value in edits:
        content[place % len(content)] = value
    return bytes(content if cut is None else content[: cut % len(content)])


def places(content: Any) -> Iterator[tuple[str | int, ...]]:
    """Yields the places of everything inside a JSON value."""
    if isinstance(content, dict | list):
        for name, inner in content.items() if isinstance(content, dict) else enumerate(content):
            yield (name,)
            yield from ((name, *place) for place in places(inner))


@st.composite
def variants(draw: st.DrawFn, content: Any) -> Any:
    """Draws JSON in which one or two values are changed or removed."""
    content = deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        if found := list(places(content)):
            changed(content, draw(st.sampled_from(found)), draw(st.just(...) | JSON))
    return content


def with_right_checksums(shard: bytes) -> bytes:
    """Returns the shard with a right checksum in every block where a header was."""
    content = bytearray(shard)
    for offset in HEADERS:
        header = content[offset : offset + 512]
        if len(header) == 512:
            content[offset + 148 : offset + 156] = b"%06o\0 " % (
                # The sum of the header's bytes, with blanks for the sum itself.
                sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
            )
    return bytes(content)


TWO = tar(sample(0, product(), GOOD_PICTURE), sample(1, product()))
HEADERS = [offset for offset in range(0, len(TWO), 512) if b"ustar" in TWO[offset : offset + 512]]
IN_HEADERS = st.builds(lambda header, place: header + place, st.sampled_from(HEADERS),
                       st.integers(0, 511))  # fmt: skip


@FUZZ
@given(EDITS, st.lists(st.tuples(IN_HEADERS, st.integers(0, 255)), max_size=3), CUT)
def test_fuzzed_shards_are_shard_errors_lines_or_samples(
    edits: list[tuple[int, int]], headers: list[tuple[int, int]], cut: int | None
) -> None:
    shard = with_right_checksums(edited(TWO, edits + headers, cut))
    with TemporaryDirectory() as folder:
        try:
            found = read_all(write_folder(Path(folder) / "shards", shard, samples=2))
        except ShardError as error:
            assert "train-00000." in str(error)  # noqa: PT017
            return
    assert all(isinstance(each, Sample | str) for each in found)
    COLLATE(found)


@FUZZ
@given(variants(product()))
def test_fuzzed_samples_are_lines_or_samples_of_the_right_types(content: Any) -> None:
    with TemporaryDirectory() as folder:
        shard = tar(sample(0, content, GOOD_PICTURE))
        [found] = read_all(write_folder(Path(folder) / "shards", shard))
    if isinstance(found, Sample):
        assert found.product_id
    COLLATE([found])


@FUZZ
@given(st.sampled_from([INDEX, ASKED_FILE, JUDGED_FILE]), EDITS, CUT)
def test_fuzzed_indexes_and_columns_are_shard_errors_or_samples(
    name: str, edits: list[tuple[int, int]], cut: int | None
) -> None:
    with TemporaryDirectory() as made:
        folder = write_folder(Path(made) / "shards", TWO, samples=2)
        path = folder / name
        path.write_bytes(edited(path.read_bytes(), edits, cut))
        sign(folder)
        try:
            found = read_all(folder)
            roles_of(Split(folder, "train", FIELDS), ["query_product", "text_image"])
        except ShardError as error:
            assert str(folder) in str(error)  # noqa: PT017
            return
    assert all(isinstance(each, Sample | str) for each in found)
    gains = [judged.gain for each in found if isinstance(each, Sample) for judged in each.judgments]
    assert all(0 <= gain <= 1 or gain == SELF_MATCH for gain in gains)
    COLLATE(found)


@FUZZ
@given(st.data())
def test_fuzzed_manifests_are_shard_errors_or_folders_that_read(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = write_folder(Path(name) / "shards", TWO, samples=2)
        manifest = folder / "manifest.json"
        whole = manifest.read_bytes()
        content = json.dumps(data.draw(variants(json.loads(whole)))).encode()
        manifest.write_bytes(edited(content, data.draw(st.just([]) | EDITS), data.draw(CUT)))
        try:
            found = read_all(folder)
        except ShardError as error:
            assert str(folder) in str(error)  # noqa: PT017
            return
    assert all(isinstance(each, Sample | str) for each in found)


PICTURES = [
    GOOD_PICTURE,
    turned(),
    animated(),
    sixteen_bit_png(),
    *(encode(Image.effect_noise((30, 20), 50), kind) for kind in ("PNG", "WEBP", "TIFF", "BMP")),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damage that it tolerates.
@FUZZ
@given(st.sampled_from(PICTURES), EDITS, CUT, st.sampled_from([None, 8]))
def test_fuzzed_pictures_are_picture_errors_or_rgb(
    data: bytes, edits: list[tuple[int, int]], cut: int | None, reduce_to: int | None
) -> None:
    try:
        pixels = decode_pixels(edited(data, edits, cut), max_pixels=10**6, reduce_to=reduce_to)
    except PictureError as error:
        assert error.reason in ("picture unreadable", "picture too large")  # noqa: PT017
    else:
        assert (pixels.dtype, pixels.shape[0]) == (torch.uint8, 3)
        assert 0 < pixels[0].numel() <= 10**6


CELLS = st.sampled_from(
    ["", "a", "b", "c", "1", "2", "nan", "inf", "-1", "1e999", "train", "dev", "../a", "a.jpg",
     "\0", '"', "a\nb", "a\rb", "\ufeff", "=1+1", "{a}", "%s", "p" * 300]
) | st.text(max_size=4)  # fmt: skip
HEADERS_OF_TABLES = {
    "products": ["product_id", "title", "image", "group_id", "split"],
    "queries": ["query_id", "query", "product_id", "split", "kind"],
    "qrels": ["query_id", "product_id", "relevance", "further"],
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, bytes]:
    """Draws CSV files of odd cells under right headers, now and then damaged."""
    found = {}
    for name, header in HEADERS_OF_TABLES.items():
        kept = [each for each in header if draw(st.integers(0, 9))]
        row = st.lists(CELLS, min_size=len(kept), max_size=len(kept) + draw(st.integers(0, 1)))
        buffer = StringIO(newline="")
        csv.writer(buffer).writerows([kept, *draw(st.lists(row, max_size=8))])
        data = buffer.getvalue().encode("utf-8", "surrogatepass")
        found[name] = edited(data, draw(st.just([]) | EDITS), None) if data.strip() else data
    return found


@FUZZ
@given(tables())
def test_fuzzed_tables_are_our_errors_or_shards_whose_samples_all_read(
    files: dict[str, bytes],
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for table, data in files.items():
            (folder / f"{table}.csv").write_bytes(data)
        (folder / "a.jpg").write_bytes(GOOD_PICTURE)
        assert_built_or_refused(folder, folder / "out")


def parquet() -> bytes:
    """Makes a table of three products as pandas writes it."""
    buffer = BytesIO()
    rows = [("a", "vase", "a.jpg"), ("b", "rug", ""), ("c", "lamp", "a.jpg")]
    pd.DataFrame(rows, columns=["product_id", "title", "image"]).to_parquet(buffer)
    return buffer.getvalue()


PARQUET = parquet()


@FUZZ
@given(EDITS, CUT)
def test_fuzzed_parquet_is_our_error_or_shards_whose_samples_all_read(
    edits: list[tuple[int, int]], cut: int | None
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "products.parquet").write_bytes(edited(PARQUET, edits, cut))
        (folder / "queries.csv").write_text("query_id,query\nq,red\n")
        (folder / "qrels.csv").write_text("query_id,product_id,relevance\nq,a,1\n")
        (folder / "a.jpg").write_bytes(GOOD_PICTURE)
        assert_built_or_refused(folder, folder / "out")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    write_checkpoint({"state_dict": {"weight": torch.ones(3)}}, ORIGIN, path)
    return path.read_bytes()


ORIGIN = Origin({"seed": 0, "lr": {"fusion": 0.1}}, 2)


@FUZZ
@given(EDITS, CUT)
def test_a_fuzzed_checkpoint_is_refused_or_says_what_it_said(
    checkpoint: bytes, edits: list[tuple[int, int]], cut: int | None
) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "last.ckpt"
        path.write_bytes(edited(checkpoint, edits, cut))
        try:
            assert read_origin(path) == ORIGIN
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: not whole")  # noqa: PT017


def assert_built_or_refused(tables: Path, out: Path) -> None:
    try:
        manifest = build_shards(tables, out, max_rejected=1.0, workers=1)
    except (TableError, BuildError):
        assert not out.exists()
        return
    assert manifest["splits"]["train"]["products"] == len(found := read_all(out))
    assert all(isinstance(each, Sample) for each in found)


PAIR = {
    "item_id_1": "a", "item_title_1": "vase", "item_image_1": "a.jpg",
    "item_id_2": "b", "item_title_2": "lamp", "item_image_2": "", "tag": "x", "split": "train",
}  # fmt: skip
OTHER_CELLS = st.dictionaries(st.sampled_from(list(PAIR)), CELLS).map(lambda found: PAIR | found)
LINES = st.lists(
    (st.just(PAIR) | variants(PAIR) | OTHER_CELLS).map(lambda found: json.dumps(found).encode())
    | st.binary(max_size=20),
    max_size=6,
)


@FUZZ
@given(LINES)
def test_fuzzed_pairs_are_our_errors_or_shards_whose_samples_all_read(lines: list[bytes]) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "pairs.jsonl"
        path.write_bytes(b"\n".join(lines))
        (Path(name) / "a.jpg").write_bytes(GOOD_PICTURE)
        assert_built_or_refused(path, Path(name) / "out")
