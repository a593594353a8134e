"""Tests that a build is complete, repeats and counts every row, and that a failed one is undone."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import tarfile
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from beyond_text.shards.manifest import files_of
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError
from data_prep.rejects import BuildError
from data_prep.shards import build_shards, main


def write_picture(path: Path, colour: str, size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Seven products, five of train; one has no picture, one no text."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "products.csv").write_text(
        "product_id,title,image,split\n"
        "a.1/x,Vase,images/a.png,train\nb,Lamp,images/b.png,train\nc,Rug,,train\n"
        "d,,images/d.png,train\ne,Mug,images/e.png,train\nf,Bowl,images/f.png,dev\n"
        "g,Plåt,images/g.png,dev\n",
        encoding="utf-8",
    )
    (folder / "queries.csv").write_text(
        "query_id,query,split,kind\nq1,red,train,attribute\nq2,round,dev,human\n", encoding="utf-8"
    )
    (folder / "qrels.csv").write_text(
        "query_id,product_id,relevance,desirability\nq1,a.1/x,2,1\nq1,b,0,0\nq1,d,1,0.5\nq2,f,2,3\n",
        encoding="utf-8",
    )
    for name in "abdefg":
        write_picture(folder / "images" / f"{name}.png", "red")
    return folder


build = partial(build_shards, workers=1)


def samples(out: Path, split: str) -> dict[str, dict[str, Any]]:
    """Reads what the shards hold with tarfile alone, by product_id."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            members = {}
            for member in tar.getmembers():
                stream = tar.extractfile(member)
                assert stream is not None
                members[member.name] = stream.read()
        for name, data in members.items():
            key, extension = name.split(".")
            if extension == "json":
                content = json.loads(data)
                picture = members.get(f"{key}.jpg")
                found[content["product_id"]] = content | {"key": key, "jpg": picture}
    return found


def asked_of(out: Path, split: str) -> list[dict[str, Any]]:
    """Reads the queries of a split with Arrow alone."""
    return pa.ipc.open_file(out / f"asked-{split}.arrow").read_all().to_pylist()


def judged(out: Path, split: str) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Reads the judgments of a split with Arrow alone: own and grades by product and query."""
    products = {content["key"]: name for name, content in samples(out, split).items()}
    queries = [row["query_id"] for row in asked_of(out, split)]
    table = pa.ipc.open_file(out / f"judged-{split}.arrow").read_all()
    rows = list(zip(*table.to_pydict().values(), strict=True))
    assert rows == sorted(rows, key=lambda row: row[:2])
    return {(products[f"{row[0]:08d}"], queries[row[1]]): row[2:] for row in rows}


def test_shards_hold_every_product_of_a_split_and_beside_them_its_queries(
    tables: Path, tmp_path: Path
) -> None:
    build(tables, tmp_path / "out", picture_size=16, samples_per_shard=2)
    train, dev = samples(tmp_path / "out", "train"), samples(tmp_path / "out", "dev")
    assert set(train) == {"a.1/x", "b", "c", "d", "e"}
    assert set(dev) == {"f", "g"}
    assert sorted(sample["key"] for sample in train.values()) == [f"{n:08d}" for n in range(5)]
    assert train["c"]["jpg"] is None
    assert dev["g"]["title"] == "Plåt"
    with Image.open(BytesIO(train["d"]["jpg"])) as image:
        assert (image.format, image.size) == ("JPEG", (16, 8))
    assert "queries" not in train["a.1/x"]
    assert train["e"]["group_id"] == "e"
    assert judged(tmp_path / "out", "train") == {
        ("a.1/x", "q1"): (False, 2.0, 1.0),
        ("b", "q1"): (False, 0.0, 0.0),
        ("d", "q1"): (False, 1.0, 0.5),
    }
    assert asked_of(tmp_path / "out", "train") == [
        {"query_id": "q1", "query": "red", "kind": "attribute", "picture": -1, "product_id": "",
         "seen": False}
    ]  # fmt: skip


def test_the_manifest_counts_what_is_there(tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = build(tables, out, samples_per_shard=2)
    assert manifest == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["version"] == 2
    assert manifest["source"] == "shop"
    assert manifest["grades"] == {"relevance": {"max": 2.0}, "desirability": {"max": 3.0}}
    train = manifest["splits"]["train"]
    files = {"shards", "asked", "judged"}
    counts = {name: train[name] for name in train if name not in files}
    assert counts == {"products": 5, "pictures": 4, "texts": 4, "queries": 1, "judged_pairs": 2}
    assert [shard["samples"] for shard in train["shards"]] == [2, 2, 1]
    assert [shard["index"]["file"] for shard in train["shards"]] == [
        f"train-0000{number}.npy" for number in range(3)
    ]
    for entry in files_of(train) + files_of(manifest["splits"]["dev"]):
        data = (out / entry["file"]).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert judged(out, "dev") == {("f", "q2"): (False, 2.0, 3.0)}
    tars = ["train-00000", "train-00001", "train-00002", "dev-00000"]
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.{kind}" for name in tars for kind in ("tar", "npy")),
        *(f"{name}-{split}.arrow" for name in ("asked", "judged") for split in ("train", "dev")),
        "rejects.csv", "manifest.json",
    }  # fmt: skip


def test_one_process_or_two_write_the_same_bytes(tables: Path, tmp_path: Path) -> None:
    one = build(tables, tmp_path / "one")
    two = build_shards(tables, tmp_path / "two", workers=2)
    assert one == two
    assert build(tables, tmp_path / "three", seed=1)["splits"]["train"] != one["splits"]["train"]


def test_bad_pictures_are_rejected_and_the_product_goes_on_by_its_text(
    tables: Path, tmp_path: Path
) -> None:
    (tables / "images" / "a.png").write_bytes(b"nothing")
    (tables / "images" / "b.png").unlink()
    (tables / "images" / "d.png").unlink()
    write_picture(tables / "images" / "f.png", "red", (101, 100))
    out = tmp_path / "out"
    manifest = build(tables, out, max_rejected=0.6, max_pixels=10_000)
    train = samples(out, "train")
    assert set(train) == {"a.1/x", "b", "c", "e"}
    assert train["a.1/x"]["jpg"] is None
    assert manifest["splits"]["train"]["pictures"] == 1
    assert manifest["splits"]["train"]["judged_pairs"] == 1
    assert manifest["rejects"] == {
        "picture missing": 2,
        "picture unreadable": 1,
        "no text and no picture": 1,
        "unknown product": 1,
        "picture too large": 1,
    }
    with (out / "rejects.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(
            (row["file"], int(row["row"]), row["id"], row["reason"]) for row in csv.DictReader(file)
        )
    assert rows == [
        ("products.csv", 2, "a.1/x", "picture unreadable"),
        ("products.csv", 3, "b", "picture missing"),
        ("products.csv", 5, "d", "no text and no picture"),
        ("products.csv", 5, "d", "picture missing"),
        ("products.csv", 7, "f", "picture too large"),
        ("qrels.csv", 4, "q1 d", "unknown product"),
    ]


def test_too_many_rejects_stop_the_build_and_leave_only_the_list(
    tables: Path, tmp_path: Path
) -> None:
    for name in "ab":
        (tables / "images" / f"{name}.png").unlink()
    out = tmp_path / "out"
    with pytest.raises(BuildError, match=r"products\.csv: 2 of 7 rows .* 2 picture missing") as e:
        build(tables, out, max_rejected=0.2)
    assert "(a.1/x): picture missing" in str(e.value)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))
    assert len((tmp_path / "out.rejects.csv").read_text().splitlines()) == 3
    build(tables, out, max_rejected=2 / 7)
    assert not (tmp_path / "out.rejects.csv").exists()


def test_a_failed_build_keeps_the_earlier_one(tables: Path, tmp_path: Path) -> None:
    build(tables, tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    (tables / "images" / "a.png").unlink()
    with pytest.raises(BuildError):
        build(tables, tmp_path / "out", max_rejected=0)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_leftovers_of_a_killed_build_are_no_part_of_the_next(tables: Path, tmp_path: Path) -> None:
    for name in (".out.partial", ".out.old", "out.partial", "out.old"):
        left = tmp_path / name
        left.mkdir()
        (left / "train-00099.tar").write_bytes(b"half")
    build(tables, tmp_path / "out")
    # Folders without a hidden name belong to somebody else.
    kept = sorted(path.name for path in tmp_path.iterdir() if "out" in path.name)
    assert kept == ["out", "out.old", "out.partial"]
    assert not (tmp_path / "out" / "train-00099.tar").exists()


def test_only_an_empty_folder_or_an_earlier_build_is_replaced(tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    build(tables, out, samples_per_shard=1)
    build(tables, out)
    assert not (out / "train-00001.tar").exists()
    (out / "manifest.json").unlink()
    with pytest.raises(BuildError, match="earlier build"):
        build(tables, out)
    with pytest.raises(BuildError, match="earlier build"):
        build(tables, tables)
    assert (tables / "products.csv").exists()


def test_a_build_of_an_earlier_version_is_replaced_and_a_strange_folder_is_not(
    tables: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = build(tables, out)
    for entry in manifest["splits"].values():
        del entry["asked"], entry["judged"]
    path = out / "manifest.json"
    path.write_text(json.dumps({"version": 1, "splits": {}}))
    with pytest.raises(BuildError, match="earlier build"):
        build(tables, out)
    path.write_text(json.dumps(manifest | {"version": 1}))
    assert build(tables, out)["version"] == 2


def test_tables_without_a_usable_product_build_nothing(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product_id,title\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"products\.csv: expected a row of a product at least"):
        build(tmp_path, tmp_path / "out")
    (tmp_path / "products.csv").write_text("product_id,title\n,a\n", encoding="utf-8")
    with pytest.raises(BuildError, match="no product is left"):
        build(tmp_path, tmp_path / "out", max_rejected=1)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def asked(tables: Path) -> Path:
    """The same tables, where queries have pictures, and some are products themselves."""
    (tables / "queries.csv").write_text(
        "query_id,query,image,product_id,split,kind\n"
        "q1,red,asked/1.png,,train,attribute\nq3,,asked/3.png,b,train,pair\n"
        "q4,mug,asked/4.png,e,train,pair\nq2,round,,g,dev,human\nq5,,asked/5.png,,dev,human\n",
        encoding="utf-8",
    )
    (tables / "qrels.csv").write_text(
        "query_id,product_id,relevance\nq1,a.1/x,2\nq1,b,0\nq1,d,1\nq3,a.1/x,1\nq3,d,1\n"
        "q4,b,1\nq2,f,2\nq5,f,1\n",
        encoding="utf-8",
    )
    for name, colour in (("1", "red"), ("3", "blue"), ("4", "green"), ("5", "white")):
        write_picture(tables / "asked" / f"{name}.png", colour)
    return tables


def test_query_pictures_are_stored_once_and_pointed_at_by_number(
    asked: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = build(asked, out, picture_size=16, samples_per_shard=2)
    pictures = []
    for shard in manifest["splits"]["train"]["query_shards"]:
        data = (out / shard["file"]).read_bytes()
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        with tarfile.open(out / shard["file"]) as tar:
            pictures += [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]
    assert [shard["file"] for shard in manifest["splits"]["train"]["query_shards"]] == [
        "queries-train-00000.tar", "queries-train-00001.tar",
    ]  # fmt: skip
    content = dict(pictures)
    names = [f"{number:08d}" for number in range(3)]
    assert [json.loads(content[f"{name}.json"])["query_id"] for name in names] == ["q1", "q3", "q4"]
    with Image.open(BytesIO(content["00000001.jpg"])) as image:
        assert (image.format, image.size) == ("JPEG", (16, 8))
        assert image.getpixel((8, 4))[2] > 200

    assert [(row["query_id"], row["picture"]) for row in asked_of(out, "train")] == [
        ("q1", 0), ("q3", 1), ("q4", 2),
    ]  # fmt: skip
    # A product with the picture of the query's own product is neither match nor negative, unless
    # it is judged.
    own = True, 0.0
    assert judged(out, "train") == {
        ("a.1/x", "q1"): (False, 2.0), ("b", "q1"): (False, 0.0), ("d", "q1"): (False, 1.0),
        ("a.1/x", "q3"): (False, 1.0), ("d", "q3"): (False, 1.0), ("b", "q3"): own,
        ("e", "q3"): own, ("b", "q4"): (False, 1.0), ("a.1/x", "q4"): own, ("d", "q4"): own,
        ("e", "q4"): own,
    }  # fmt: skip
    assert judged(out, "dev") == {
        ("f", "q2"): (False, 2.0), ("g", "q2"): own, ("f", "q5"): (False, 1.0),
    }  # fmt: skip
    assert asked_of(out, "dev") == [
        {"query_id": "q2", "query": "round", "kind": "human", "picture": -1, "product_id": "g",
         "seen": False},
        {"query_id": "q5", "query": "", "kind": "human", "picture": 0, "product_id": "",
         "seen": False},
    ]  # fmt: skip


def test_a_build_without_query_pictures_names_none(tables: Path, tmp_path: Path) -> None:
    manifest = build(tables, tmp_path / "out")
    assert all("query_shards" not in entry for entry in manifest["splits"].values())
    assert [row["picture"] for row in asked_of(tmp_path / "out", "train")] == [-1]


def test_a_query_whose_picture_is_bad_goes_by_its_text_or_goes_with_its_judgments(
    asked: Path, tmp_path: Path
) -> None:
    (asked / "asked" / "1.png").write_bytes(b"nothing")
    (asked / "asked" / "3.png").unlink()
    manifest = build(asked, tmp_path / "out", max_rejected=0.6)
    # The remaining pictures are numbered from 0 again.
    rows = asked_of(tmp_path / "out", "train")
    assert [(row["query_id"], row["picture"]) for row in rows] == [("q1", -1), ("q4", 0)]
    pairs = judged(tmp_path / "out", "train")
    assert {pair for pair in pairs if pair[0] in "a.1/xb"} == {
        (product, query) for product in ("a.1/x", "b") for query in ("q1", "q4")
    }
    assert manifest["splits"]["train"]["queries"] == 2
    assert manifest["splits"]["train"]["judged_pairs"] == 3
    assert manifest["rejects"] == {
        "unknown query": 2, "picture unreadable": 1, "picture missing": 1, "empty query": 1,
    }  # fmt: skip
    with pytest.raises(BuildError, match=r"queries\.csv: 2 of 5 rows"):
        build(asked, tmp_path / "strict", max_rejected=0.39)


def test_a_split_named_like_the_query_pictures_of_another_is_refused(
    asked: Path, tmp_path: Path
) -> None:
    for name in ("products.csv", "queries.csv"):
        text = (asked / name).read_text(encoding="utf-8")
        (asked / name).write_text(text.replace("dev", "queries-train"), encoding="utf-8")
    with pytest.raises(BuildError, match="query pictures of 'train' go there"):
        build(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_prints_counts_and_an_error_without_a_traceback(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "data_prep.shards", str(tables), str(tmp_path / "out")]
    done = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True, check=True)
    assert "train: 5 products, 4 pictures, 4 texts, 1 queries, 2 judged pairs" in done.stdout
    assert "rejected: nothing" in done.stdout
    assert main([str(tmp_path / "none"), str(tmp_path / "out2")]) == 1
    assert "error: " in capsys.readouterr().err


def test_all_pictures_of_a_product_are_stored_and_a_broken_one_is_left_out(
    tables: Path, tmp_path: Path
) -> None:
    for name, colour in (("a2", "blue"), ("a3", "white"), ("b2", "lime")):
        write_picture(tables / "images" / f"{name}.png", colour)
    (tables / "images" / "b.png").write_bytes(b"nothing")
    (tables / "images.csv").write_text(
        "product_id,image,position\na.1/x,images/a3.png,3\na.1/x,images/a2.png,2\n"
        "a.1/x,images/none.png,4\nb,images/b2.png,1\n"
    )
    out = tmp_path / "out"
    manifest = build(tables, out, max_rejected=1)
    assert manifest["splits"]["train"]["pictures"] == 4
    assert manifest["splits"]["train"]["further_pictures"] == 2
    assert "further_pictures" not in manifest["splits"]["dev"]
    split = Split(out, "train", ["title"])
    shown = {}
    for number in range(len(split)):
        fields, pictures = split.read_pictures(number, 8)
        shown[fields["product_id"]] = [picture[:, 5, 5].tolist() for picture in pictures]
        first = split.read(number, 8)[1]
        assert (first is None) == (not pictures)
        assert first is None or bool((first == pictures[0]).all())
    colours = [[round(value / 255) for value in pixel] for pixel in shown["a.1/x"]]
    assert colours == [[1, 0, 0], [0, 0, 1], [1, 1, 1]]
    assert [[round(value / 255) for value in pixel] for pixel in shown["b"]] == [[0, 1, 0]]
    assert shown["c"] == []
    assert manifest["rejects"] == {"picture missing": 1, "picture unreadable": 1}
    with tarfile.open(out / "train-00000.tar") as tar:
        names = {name.partition(".")[2] for name in tar.getnames()}
    assert names == {"json", "jpg", "1.jpg", "2.jpg"}


def test_a_missing_picture_is_named_as_written_with_the_file_that_is_near(
    tables: Path, tmp_path: Path
) -> None:
    (tables / "images" / "my mug.PNG").write_bytes((tables / "images" / "e.png").read_bytes())
    names = ["e.png", "Images/E.PNG", "images/my%20mug.PNG", "images/e.png?v=1", "images/e.jpg",
             "images\\\\e.png", "x/y.png"]  # fmt: skip
    lines = [f"{number},t,{name}" for number, name in enumerate(names)]
    (tables / "products.csv").write_text("\n".join(["product_id,title,image", *lines]))
    for name in ("queries", "qrels"):
        (tables / f"{name}.csv").unlink()
    build(tables, tmp_path / "out", max_rejected=1)
    with (tmp_path / "out" / "rejects.csv").open(newline="", encoding="utf-8") as file:
        details = {row["id"]: row["detail"] for row in csv.DictReader(file)}
    near = ["images/e.png", "images/e.png", "images/my mug.PNG", "images/e.png", "images/e.png",
            "images/e.png", None]  # fmt: skip
    assert details == {
        str(number): f"image {name!r}: expected a file, found none"
        + (f"; there is {near[number]!r}" if near[number] else "")
        for number, name in enumerate(names)
    }


def test_what_crosses_splits_is_counted_and_seen_queries_are_marked(
    tables: Path, tmp_path: Path
) -> None:
    (tables / "products.csv").write_text(
        "product_id,title,image,group_id,split\na.1/x,Vase,images/a.png,v,train\nb,Lamp,,l,train\n"
        "d,Rug,,r,train\nf,VASE,images/f.png,l,dev\ng,Bowl,,w,dev\n"
    )
    queries = "query_id,query,split\nq1,red,train\nq2,round,dev\nq3,Red,dev\n"
    (tables / "queries.csv").write_text(queries)
    (tables / "qrels.csv").write_text("query_id,product_id,relevance\nq1,d,1\nq2,f,1\nq3,g,0.5\n")
    out = tmp_path / "out"
    manifest = build(tables, out)
    # Both pictures are plain red.
    assert manifest["crossing"] == {
        "dev": {"queries": 1, "products": 0, "groups": 1, "texts": 1, "pictures": 1}
    }
    assert [(row["query_id"], row["seen"]) for row in asked_of(out, "dev")] == [
        ("q2", False), ("q3", True),
    ]  # fmt: skip


def test_a_folder_of_nothing_but_products_and_pictures_is_a_shop(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("queries", "qrels"):
        (tables / f"{name}.csv").unlink()
    lines = [f"{name},Title {name},images/{name}.png" for name in "abdefg"]
    (tables / "products.csv").write_text("\n".join(["product_id,title,image", *lines]))
    for number, name in enumerate("abdefg"):
        write_picture(tables / "images" / f"{name}.png", f"hsl({50 * number}, 80%, 50%)")
    assert main([str(tables), str(tmp_path / "out"), "--workers", "1"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name: entry["products"] for name, entry in manifest["splits"].items()}["dev"] >= 1
    assert sum(entry["products"] for entry in manifest["splits"].values()) == 6
    assert "dev and train share: nothing" in capsys.readouterr().out
