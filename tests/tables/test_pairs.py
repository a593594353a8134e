"""Tests that pairs are made, read, stored and used as queries; none is lost without a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.retrieval.catalogue import DropModality, is_left_out
from beyond_text.retrieval.query_set import with_triggers
from beyond_text.retrieval.read_split import read_split
from beyond_text.shards.batch import SELF_MATCH
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import Reject, TableError
from beyond_text.tables.pairs import read_pairs
from beyond_text.tables.read import read_tables
from data_prep.mbeer import Item, main, pairs_of, read_designs, write_pairs
from data_prep.rejects import BuildError
from data_prep.shards import build_shards
from tests.tiny import as_bytes

FIELDS = ["title", "category", "description"]


def pair(one: str, two: str, **more: Any) -> dict[str, Any]:
    """A line of M-BEER; an item's title and picture follow from its id."""
    return {
        "item_id_1": one, "item_title_1": f"title {one}", "item_image_1": f"{one}.jpg",
        "item_id_2": two, "item_title_2": f"title {two}", "item_image_2": f"{two}.jpg",
        "tag": "vase", **more,
    }  # fmt: skip


def write(path: Path, *lines: dict[str, Any] | str | bytes) -> Path:
    raw = [each if isinstance(each, bytes) else
           (each if isinstance(each, str) else json.dumps(each)).encode()
           for each in lines]  # fmt: skip
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def read(path: Path) -> tuple[list[list[str]], list[Reject]]:
    rejects: list[Reject] = []
    found, file = read_pairs(path, rejects)
    assert len(found) + len(rejects) == file.rows
    columns = ["item_id_1", "item_id_2", "design", "split"]
    return found[columns].to_numpy().tolist(), rejects


def test_bad_lines_are_rejected_with_their_number_and_reason(tmp_path: Path) -> None:
    short = {key: value for key, value in pair("a", "b").items() if key != "item_title_2"}
    path = write(
        tmp_path / "m.jsonl",
        pair("a", "b"),
        "{",
        "[1]",
        "",
        b'{"item_id_1": "\xff"}',
        short,
        pair("a", "c", item_image_2=["c.jpg"]),
        pair("a", "c", item_id_2=True),
        pair("a", "c", item_title_2="\ud800"),
        pair("a", " "),
        pair("a", "a"),
        pair("a", "c", item_title_1="another"),
        pair("c", "a", item_image_2="another.jpg"),
        pair("a", "b"),
        pair("a", "c", split="../up"),
        "[" * 100_000,
        pair("a", "c"),
    )
    used, rejects = read(path)
    assert [row[:2] for row in used] == [["a", "b"], ["a", "c"]]
    assert [(reject.row, reject.reason) for reject in rejects] == [
        (2, "malformed row"),
        (3, "malformed row"),
        (5, "malformed row"),
        (6, "missing field"),
        (7, "field is no text"),
        (8, "field is no text"),
        (9, "malformed row"),
        (10, "empty id"),
        (11, "pair of one item"),
        (12, "conflicting item"),
        (13, "conflicting item"),
        (14, "duplicate pair"),
        (15, "bad split"),
        (16, "malformed row"),
    ]
    assert {reject.file for reject in rejects} == {"m.jsonl"}
    assert "item_title_2" in rejects[3].detail
    assert (rejects[9].id, rejects[11].id) == ("a c", "a b")


def test_numbers_are_ids_and_tags_and_null_is_no_text(tmp_path: Path) -> None:
    line = pair("x", "y", item_id_1=7, item_image_1=None, tag=None)
    rejects: list[Reject] = []
    found, _ = read_pairs(write(tmp_path / "m.jsonl", b"\xef\xbb\xbf" + json.dumps(line).encode()),
                          rejects)  # fmt: skip
    assert rejects == []
    assert found.loc[0, ["row", "item_id_1", "item_image_1", "tag", "split"]].tolist() == [
        1, "7", "", "", "",
    ]  # fmt: skip
    for tag in (3, 0.5):
        path = write(tmp_path / "tagged.jsonl", json.dumps({**line, "tag": tag}).encode())
        found, _ = read_pairs(path, rejects)
        assert found["tag"].tolist() == [str(tag)]
    assert rejects == []


def test_designs_are_what_pairs_connect_in_any_order_of_lines(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    edges = [(f"p{a}", f"p{b}") for a, b in random.integers(0, 60, (45, 2)) if a != b]
    edges = list(dict.fromkeys(edges))
    # Brute force: join the sets of every edge until nothing changes.
    groups = {item: {item} for edge in edges for item in edge}
    for one, two in edges * len(edges):
        groups[one] = groups[two] = groups[one] | groups[two]
    for order in (edges, edges[::-1]):
        used, rejects = read(write(tmp_path / "m.jsonl", *(pair(*edge) for edge in order)))
        assert rejects == []
        assert {(a, b): design for a, b, design, _ in used} == {
            (a, b): min(groups[a] | groups[b]) for a, b in edges
        }
    assert len({min(group) for group in groups.values()}) > 3


def test_a_design_is_of_the_split_its_first_line_states(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        pair("a", "b"),
        pair("b", "c", split="dev"),
        pair("c", "d", split="train"),
        pair("x", "y"),
    )
    used, rejects = read(path)
    assert used == [["a", "b", "a", "dev"], ["b", "c", "a", "dev"], ["x", "y", "x", ""]]
    assert [(reject.row, reject.id, reject.reason) for reject in rejects] == [
        (3, "c d", "crosses splits")
    ]


def test_pairs_are_tables_of_products_triggers_and_judgments(tmp_path: Path) -> None:
    lines = (pair("a", "b", split="dev"), pair("b", "a"), pair("a", "c"), pair("x", "y", tag=""))
    path = write(tmp_path / "pairs.jsonl", *lines)
    tables = read_tables(path, dev_share=0.0)
    root = tmp_path.resolve()
    columns = ["product_id", "title", "image", "group_id", "split"]
    assert tables.products[columns].to_numpy().tolist() == [
        [name, f"title {name}", str(root / f"{name}.jpg"), group, split]
        for name, group, split in (
            ("a", "a", "dev"), ("b", "a", "dev"), ("c", "a", "dev"),
            ("x", "x", "train"), ("y", "x", "train"),
        )
    ]  # fmt: skip
    columns = ["query_id", "query", "image", "product_id", "kind", "split"]
    assert tables.queries[columns].to_numpy().tolist() == [
        ["trigger/a", "title a", str(root / "a.jpg"), "a", "vase", "dev"],
        ["trigger/b", "title b", str(root / "b.jpg"), "b", "vase", "dev"],
        ["trigger/x", "title x", str(root / "x.jpg"), "x", "pair", "train"],
    ]
    columns = ["query_id", "product_id", "relevance", "split"]
    assert tables.qrels[columns].to_numpy().tolist() == [
        ["trigger/a", "b", 1.0, "dev"], ["trigger/b", "a", 1.0, "dev"],
        ["trigger/a", "c", 1.0, "dev"], ["trigger/x", "y", 1.0, "train"],
    ]  # fmt: skip
    assert tables.rejects == []
    for name in ("products", "queries", "qrels"):
        one, two = getattr(tables, name), getattr(read_tables(tmp_path, dev_share=0.0), name)
        pd.testing.assert_frame_equal(one, two)


def test_a_hash_puts_each_design_into_one_split(tmp_path: Path) -> None:
    lines = [pair(f"{n}.{one}", f"{n}.{two}") for n in range(300) for one, two in ("ab", "bc")]
    tables = read_tables(write(tmp_path / "m.jsonl", *lines), dev_share=0.3)
    assert len(tables.products) == 900
    assert (tables.products.groupby("group_id")["split"].nunique() == 1).all()
    assert tables.products["group_id"].nunique() == 300
    # 300 draws at 0.3: three standard deviations are 0.08.
    assert abs((tables.products["split"] == "dev").mean() - 0.3) < 0.08


def test_items_of_nothing_take_their_judgments_along(tmp_path: Path) -> None:
    bare = {"item_title_2": "", "item_image_2": "../up.jpg"}
    tables = read_tables(write(tmp_path / "m.jsonl", pair("a", "b", **bare), pair("a", "c")))
    assert tables.products["product_id"].tolist() == ["a", "c"]
    assert Counter(reject.reason for reject in tables.rejects) == {
        "picture outside folder": 1, "no text and no picture": 1, "unknown product": 1,
    }  # fmt: skip


def item(name: str) -> Item:
    return Item(name, name, "", "", duplicate_key=name)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("most", [2, 3, 4, 8])
def test_each_product_has_as_many_partners_as_the_limit_allows(count: int, most: int) -> None:
    items = [item(str(number)) for number in range(count)]
    found = [(one.product_id, two.product_id) for one, two in pairs_of(items, most)]
    assert len(found) == len(set(found))
    assert {(two, one) for one, two in found} == set(found)
    expected = min(count - 1, most - most % 2)
    assert Counter(one for one, _ in found) == dict.fromkeys(
        (i.product_id for i in items if expected), expected
    )


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_products_of_one_design_in_different_photos_are_paired(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red"), ("z", "red")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "products.csv").write_text(
        "product_id,title,category,image,group_id,split\n"
        "a,Våse,decor,images/a.png,g,train\nc,Vase,,images/c.png,g,train\n"
        "b,,,images/b.png,g,train\n"
        "t,Vase,,,g,train\nu,Vase,,,g,train\nm,Mug,,images/gone.png,g,train\n"
        "d,Vase,,images/z.png,g,dev\nz,Bowl,,images/z.png,h,train\nn,,,images/gone.png,g,train\n",
        encoding="utf-8",
    )
    designs, lost = read_designs(tmp_path)
    out = tmp_path / "out" / "pairs.jsonl"
    counts = write_pairs(designs, out)
    # a and c are the same picture; t and u have none and the same title.
    alike = {frozenset("ac"), frozenset("tu")}
    expected = {(x, y) for x, y in permutations("abcmtu", 2) if {x, y} not in alike}
    lines = lines_of(out)
    assert {(line["item_id_1"], line["item_id_2"]) for line in lines} == expected
    assert len(lines) == len(expected) == 26
    assert counts["train"] == (1, 26, 4)
    assert lost == {"picture missing": 2, "no title and no picture": 1}
    assert lines[0] == {
        "item_id_1": "a", "item_title_1": "Våse", "item_image_1": "images/a.png",
        "item_id_2": "b", "item_title_2": "", "item_image_2": "images/b.png",
        "tag": "decor", "split": "train",
    }  # fmt: skip
    assert {line["item_image_2"] for line in lines if line["item_id_2"] in "mtu"} == {""}
    rejects: list[Reject] = []
    assert len(read_pairs(out, rejects)[0]) == 26
    assert rejects == []


def test_a_design_of_several_splits_is_never_trained_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "products.csv").write_text(
        "product_id,title,group_id\n" + "".join(f"{name},{name},g\n" for name in "abcd")
    )
    (tmp_path / "queries.csv").write_text("query_id,query,split\nq,x,train\nr,y,dev\n")
    (tmp_path / "qrels.csv").write_text(
        "query_id,product_id,relevance\nq,a,1\nq,b,1\nq,c,1\nr,c,1\nr,d,1\n"
    )
    designs, lost = read_designs(tmp_path)
    found = {design.split: [item.product_id for item in design.items] for design in designs}
    assert found == {"dev": ["c", "d"]}
    assert lost == {"train product of a design that is evaluated": 2}


def test_the_file_of_pairs_repeats_to_the_byte_and_is_read_without_a_reject(
    tiny_pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again.jsonl"
    assert main([str(tiny_pairs.parent), str(out)]) == 0
    assert out.read_bytes() == tiny_pairs.read_bytes()
    tables = read_tables(tiny_pairs)
    assert tables.rejects == []
    # Eight designs of three products a split, each product with both others.
    assert tables.qrels["split"].value_counts().to_dict() == {"train": 48, "dev": 48}
    assert tables.products["group_id"].value_counts().unique().tolist() == [3]


def test_the_command_says_what_there_is_and_loudly_when_there_is_nothing(
    tiny_pairs: Path, tiny_tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs.jsonl"
    command = [sys.executable, "-m", "data_prep.mbeer", str(tiny_pairs.parent), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "train: 8 designs, 48 pairs, 0 left out as duplicates" in done.stdout
    assert "dev: 8 designs, 48 pairs" in done.stdout
    assert main([str(tiny_tables), str(out)]) == 0
    assert "WARNING: no pairs" in capsys.readouterr().err
    assert out.read_bytes() == b""
    assert main([str(tmp_path / "none"), str(out)]) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tiny_pairs.parent), str(out), "--max-per-design", "1"])


def test_an_empty_file_of_pairs_is_an_empty_source_and_no_other_table_is(tmp_path: Path) -> None:
    empty = tmp_path / "pairs.jsonl"
    empty.write_bytes(b"")
    manifest = build_shards(empty, tmp_path / "out", workers=1)
    entry = manifest["splits"]["train"]
    del entry["asked"], entry["judged"]
    assert entry == {
        "products": 0, "pictures": 0, "texts": 0, "queries": 0, "judged_pairs": 0, "shards": [],
    }  # fmt: skip
    assert len(Split(tmp_path / "out", "train", FIELDS)) == 0
    with pytest.raises(BuildError, match="1 of 1 rows rejected"):
        build_shards(write(empty, "no pair"), tmp_path / "out", workers=1)


def test_shards_of_pairs_take_pictures_from_the_folder_named(
    tiny_pairs: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "pairs.jsonl"
    moved.write_bytes(tiny_pairs.read_bytes())
    build = {"picture_size": 40, "workers": 1}
    manifest = build_shards(moved, tmp_path / "out", pictures=tiny_pairs.parent, **build)
    assert manifest["rejects"] == {}
    train = manifest["splits"]["train"]
    assert (train["products"], train["pictures"], train["judged_pairs"]) == (24, 22, 48)
    assert sum(shard["samples"] for shard in train["query_shards"]) == 22
    split = Split(tmp_path / "out", "train", FIELDS)
    for number in range(24):
        fields, picture = split.read(number, 32)
        judgments = split.judgments(number)
        [own] = [j for j in judgments if j.gain == SELF_MATCH]
        assert own.query_id == f"trigger/{fields['product_id']}"
        assert sorted(j.gain for j in judgments) == [SELF_MATCH, 1.0, 1.0]
        if picture is None:
            assert own.picture is None
        else:
            assert own.picture is not None
            stored = split.read_query_picture(own.picture, 32)
            assert as_bytes(stored) == as_bytes(picture)
    with pytest.raises(BuildError, match="picture missing"):
        build_shards(moved, tmp_path / "other", **build)


def test_shards_and_tables_give_the_same_products_and_query_pictures(
    tiny_pairs: Path, tmp_path: Path
) -> None:
    build_shards(tiny_pairs, tmp_path / "out", picture_size=40, workers=1)
    folders = (tiny_pairs, tmp_path / "out")
    (products, tables), (stored, shards) = (
        read_split(folder, "dev", FIELDS, 32, stored_size=40) for folder in folders
    )
    assert sorted(products.product_ids) == sorted(stored.product_ids)
    columns = ["query_id", "query", "kind", "product_id"]
    assert tables.queries.columns.tolist() == shards.queries.columns.tolist() == [*columns, "seen"]
    # Shards hold queries in the order of their ids.
    order = tables.queries["query_id"].argsort().tolist()
    expected = tables.queries.to_numpy()[order].tolist()
    assert shards.queries.to_numpy().tolist() == expected
    pictures = 0
    for number in range(24):
        one, two = tables.query_image(order[number]), shards.query_image(number)
        assert as_bytes(one) == as_bytes(two)
        pictures += one is not None
    assert pictures == 22


def test_a_query_set_of_texts_has_no_query_pictures_and_no_own_products(
    tiny_shards: Path, tiny_tables: Path
) -> None:
    for folder in (tiny_shards, tiny_tables):
        _, query_set = read_split(folder, "dev", FIELDS, 32)
        assert set(query_set.queries["product_id"]) == {""}
        assert {query_set.query_image(number) for number in range(12)} == {None}


def test_triggers_are_products_that_ask_for_their_partners(
    tiny_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue, _ = read_split(tiny_pairs.parent, "dev", FIELDS, 32, stored_size=40)
    asked = with_triggers(catalogue, tiny_pairs)
    assert "48 of 96 pairs used, left out: 48 of products that the catalogue lacks" in (
        capsys.readouterr().out
    )
    assert len(asked.queries) == 24
    place = {product_id: number for number, product_id in enumerate(catalogue.product_ids)}
    titles = {pair["item_id_1"]: pair["item_title_1"] for pair in lines_of(tiny_pairs)}
    for number, query in enumerate(asked.queries.to_dict("records")):
        product = catalogue.products[place[query["product_id"]]]
        picture = asked.query_image(number)
        assert query["query_id"] == f"trigger/{product.product_id}"
        assert (query["query"], query["kind"]) == (titles[product.product_id], "decor")
        assert as_bytes(picture) == as_bytes(product.image)
    wanted = [pair for pair in lines_of(tiny_pairs) if pair["split"] == "dev"]
    assert asked.qrels.to_numpy().tolist() == [
        [f"trigger/{pair['item_id_1']}", pair["item_id_2"], 1.0] for pair in wanted
    ]


def test_pairs_of_other_products_are_an_error_that_counts_them(
    tiny_pairs: Path, tmp_path: Path
) -> None:
    catalogue, _ = read_split(tiny_pairs.parent, "dev", FIELDS, 32)
    path = write(tmp_path / "m.jsonl", pair("a", "b"), pair("dev.0", "b"), "{")
    with pytest.raises(TableError, match="0 of 3 pairs used, left out: 1 malformed row, 2 of prod"):
        with_triggers(catalogue, path)


def test_what_is_left_out_at_a_quarter_is_left_out_at_half() -> None:
    names = [str(number) for number in range(2000)]
    lost = {
        share: {name for name in names if is_left_out(name, share)}
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    for share, smaller in zip((0.25, 0.5, 0.75, 1.0), lost.values(), strict=False):
        assert smaller < lost[share]
        # 2,000 draws: three standard deviations are below 0.034.
        assert len(lost[share]) / 2000 == pytest.approx(share, abs=0.034)
    assert lost[0.0] == set()
    assert lost[1.0] == set(names)
    assert {name for name in names if is_left_out(name, 0.5, seed=1)} != lost[0.5]


def test_products_lose_one_modality_and_nothing_else(tiny_pairs: Path) -> None:
    products = read_split(tiny_pairs.parent, "dev", FIELDS, 32)[0].products
    changed = 0
    for number in range(24):
        whole = products[number]
        textless = DropModality(products, "text", 0.5)[number]
        blind = DropModality(products, "image", 0.5)[number]
        lost = is_left_out(whole.product_id, 0.5)
        changed += lost
        assert textless.text == ("" if lost else whole.text)
        assert blind.text == whole.text
        for sample, bare in ((textless, False), (blind, lost)):
            expected = None if bare else whole.image
            assert as_bytes(sample.image) == as_bytes(expected)
            assert sample.product_id == whole.product_id
    assert 4 < changed < 20
    nothing = DropModality(DropModality(products, "text", 1.0), "image", 1.0)[0]
    assert (nothing.text, nothing.image) == ("", None)
