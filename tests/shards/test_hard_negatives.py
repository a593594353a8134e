"""Hard negatives: which query an anchor draws, which products join it, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from beyond_text.files import sha256_of
from beyond_text.shards.batch import SampleIndex
from beyond_text.shards.dataset import Products, draw_queries
from beyond_text.shards.hard_negatives import HardNegatives, hard_negatives
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.mined import manifest_digest, read_mined, write_mined
from beyond_text.shards.roles import roles_of
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.schema import MinedRecord
from beyond_text.shards.split import Split
from data_prep.shards import build_shards
from tests.shards.test_roles import plan, some_roles, write_table

PRODUCTS, TOP = 40, 6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Forty products; product n below 20 has queries of two kinds, one of them with two grades."""
    tables = tmp_path_factory.mktemp("shop")
    write_table(
        tables / "products.csv",
        [{"product_id": f"{n:02}", "title": f"thing {n}", "split": "train"}
         for n in range(PRODUCTS)],
    )  # fmt: skip
    kinds = {"a": "broad", "b": "broad", "c": "narrow"}
    write_table(
        tables / "queries.csv",
        [{"query_id": f"{n:02}{key}", "query": f"{key} of {n}", "split": "train", "kind": kind}
         for n in range(20) for key, kind in kinds.items()],
    )  # fmt: skip
    grades = {"a": 1, "b": 2, "c": 2}
    write_table(
        tables / "qrels.csv",
        [{"query_id": f"{n:02}{key}", "product_id": f"{n:02}", "relevance": grade}
         for n in range(20) for key, grade in grades.items()],
    )  # fmt: skip
    build_shards(tables, tables / "shards", workers=1, samples_per_shard=9)
    return Split(tables / "shards", "train", ["title"])


def ids(split: Split) -> list[str]:
    return [split.read(sample, None)[0]["product_id"] for sample in range(len(split))]


def some_mined(split: Split) -> np.ndarray:
    """Returns mined products of each query: none of those of kind c of even products."""
    random = np.random.default_rng(0)
    poor = np.flatnonzero([int(product) >= 20 for product in ids(split)])
    rows = np.full((len(split.asked), TOP), -1, dtype=np.int32)
    for row in range(len(rows)):
        asked = split.asked[row].query_id
        if int(asked[:2]) % 2 or asked[2] != "c":
            rows[row, : 1 + row % TOP] = random.permutation(poor)[: 1 + row % TOP]
    return rows


def record(split: Split) -> MinedRecord:
    return {
        "manifest": manifest_digest(split.store),
        "sha256": "",
        "run": "runs/x",
        "top": TOP,
        "below": 0.95,
        "against": "lowest",
        "queries": 1,
        "products": 1,
        "judged_zero": 0,
    }


def batches(
    split: Split, hard: HardNegatives | None, size: int = 16, number: int = 12, **place: int
) -> list[list[SampleIndex]]:
    roles = [roles_of(split, ["query_product"])]
    return list(
        BatchSampler(
            [split.sizes], [1.0], size, number, 0, roles=roles, negatives=0.5, hard=[hard], **place
        )
    )


@pytest.mark.parametrize("each", [1, TOP])
def test_mined_products_of_the_drawn_queries_join_the_batch(shop: Split, each: int) -> None:
    mined = some_mined(shop)
    number = ids(shop)
    for batch in batches(shop, hard_negatives(shop, mined, each)):
        held = [index.sample for index in batch]
        assert len(set(held)) == 16
        asked = [index for index in batch if index.query >= 0]
        # Anchors come first, half of the batch; only as many are asked as there is room for.
        assert asked == batch[: len(asked)]
        assert len(asked) == 8 if each == 1 else 2 <= len(asked) <= 8
        room = set(held[8:])
        left = 8
        for index in asked:
            assert shop.asked[index.query].query_id[:2] == number[index.sample]
            own = set(mined[index.query].tolist()) - {-1}
            if each == 1:
                # Eight anchors bring no more than eight: each finds a place for one.
                assert not own or own & room
                continue
            # All of a row joins while there is room.
            assert left <= 0 or len(own & room) >= min(left, len(own))
            left -= len(own & room)
        assert each == 1 or left <= 0 or len(asked) == 8


def test_each_query_brings_as_many_as_are_asked_for_from_anywhere_in_its_row(shop: Split) -> None:
    mined = some_mined(shop)
    with_query = np.array([int(product) < 20 for product in ids(shop)])
    for each in (1, 2, 4, 100):
        hard = hard_negatives(shop, mined, each)
        assert hard.asking == 20 * each
        samples = np.repeat(np.arange(PRODUCTS), 800)
        shares, places = np.random.default_rng(1).random((2, len(samples)))
        queries = hard.queries(samples, shares)
        found = hard.products(queries, places)
        assert ((queries >= 0) == with_query[samples]).all()
        assert (found[queries == -1] == -1).all()
        drawn: dict[int, set[int]] = {}
        for query, row in zip(queries.tolist(), found.tolist(), strict=True):
            if query >= 0:
                own, there = set(row) - {-1}, set(mined[query].tolist()) - {-1}
                assert own <= there
                assert len(own) == sum(n >= 0 for n in row) == min(each, len(there))
                drawn.setdefault(query, set()).update(own)
        assert all(own == set(mined[query].tolist()) - {-1} for query, own in drawn.items())


def test_a_query_is_drawn_as_often_as_by_the_loader(shop: Split) -> None:
    """A kind of the two, then by gain: of grades 1 and 2 of 2, gains 1/3 and 1."""
    hard = hard_negatives(shop, some_mined(shop), 1)
    sample = ids(shop).index("07")
    queries = hard.queries(np.full(20000, sample), np.random.default_rng(2).random(20000))
    drawn = Counter(shop.asked[query].query_id for query in queries.tolist())
    loaded = Counter(
        draw_queries(shop.judgments(sample), (0, 0, 7, epoch))[0].query_id for epoch in range(3000)
    )
    for query, share in {"07a": 1 / 8, "07b": 3 / 8, "07c": 1 / 2}.items():
        assert drawn[query] / 20000 == pytest.approx(share, abs=0.02)
        assert loaded[query] / 3000 == pytest.approx(share, abs=0.03)


def test_the_loader_takes_the_drawn_query_first_and_draws_the_others(shop: Split) -> None:
    products = Products([shop], 0, None, [("query_product",)], [3])
    number = ids(shop)
    for row in range(len(shop.asked)):
        query = shop.asked[row].query_id
        sample = number.index(query[:2])
        found = [products[SampleIndex(0, sample, 5, slot, row)] for slot in range(3)]
        asked = [each.query.query_id for each in found]  # type: ignore[union-attr]
        assert asked[0] == query
        assert set(asked) == {f"{query[:2]}{key}" for key in "abc"}
    judgments = shop.judgments(number.index("00"))
    assert [each.query_id for each in draw_queries(judgments, (1,), 1, "00b")] == ["00b"]


def test_without_hard_negatives_batches_are_as_if_there_were_none(shop: Split) -> None:
    roles = some_roles(9, {0: [12, 13], 3: [14], 5: [2]})
    assert plan(roles, 8, 12, 0.25) == list(
        BatchSampler([[6, 6, 6, 2]], [1.0], 8, 12, 0, roles=[roles], negatives=0.25, hard=[None])
    )
    assert all(index.query == -1 for batch in batches(shop, None) for index in batch)


def test_hard_negatives_are_cut_by_process_and_go_on_where_they_were_stopped(shop: Split) -> None:
    hard = hard_negatives(shop, some_mined(shop), 2)
    whole = batches(shop, hard)
    assert whole == batches(shop, hard)
    assert batches(shop, hard, start=7) == whole[7:]
    halves = [batches(shop, hard, rank=rank, world=2) for rank in (0, 1)]
    assert halves == [[batch[rank::2] for batch in whole] for rank in (0, 1)]


def test_where_nothing_was_mined_anchors_fill_the_batch(shop: Split) -> None:
    none = np.full((len(shop.asked), TOP), -1, dtype=np.int32)
    without, found = batches(shop, None), batches(shop, hard_negatives(shop, none, 4))
    assert [[i.sample for i in batch] for batch in found] == [
        [i.sample for i in batch] for batch in without
    ]


def test_what_was_mined_is_read_as_it_was_written(shop: Split, tmp_path: Path) -> None:
    mined = some_mined(shop)
    write_mined(tmp_path / "new", mined, record(shop))
    assert np.array_equal(read_mined(tmp_path / "new", shop), mined)


def altered(folder: Path, change: str) -> None:
    """Damages what was mined, or says that it is of something else."""
    path, array = folder / "mined.json", folder / "mined-train.npy"
    content = json.loads(path.read_text())
    if change == "bytes":
        data = bytearray(array.read_bytes())
        data[-1] ^= 1
        array.write_bytes(data)
    elif change in ("gone", "no record"):
        (array if change == "gone" else path).unlink()
    elif change == "not JSON":
        path.write_text("{")
    else:
        path.write_text(json.dumps(content | {change: "0" * 64 if change == "manifest" else 7}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("manifest", "mined of other shards than those now in"),
        ("bytes", "not the file that mined.json tells of"),
        ("gone", "not readable"),
        ("no record", "No such file"),
        ("not JSON", "not what mining writes"),
        ("run", "not what mining writes"),
        ("top", r"expected \(60, 7\) numbers of int32, got \(60, 6\)"),
    ],
)
def test_what_was_mined_of_something_else_or_is_damaged_is_refused(
    shop: Split, change: str, message: str, tmp_path: Path
) -> None:
    write_mined(tmp_path, some_mined(shop), record(shop))
    altered(tmp_path, change)
    with pytest.raises(ShardError, match=message) as error:
        read_mined(tmp_path, shop)
    assert "python -m beyond_text.mine" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [-2, PRODUCTS])
def test_a_number_that_is_no_sample_is_refused(shop: Split, wrong: int, tmp_path: Path) -> None:
    mined = some_mined(shop)
    mined[3, 0] = wrong
    write_mined(tmp_path, mined, record(shop))
    with pytest.raises(ShardError, match="expected samples below 40"):
        read_mined(tmp_path, shop)


def test_an_array_of_objects_is_not_unpickled(shop: Split, tmp_path: Path) -> None:
    write_mined(tmp_path, some_mined(shop), record(shop))
    with (tmp_path / "mined-train.npy").open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    content = json.loads((tmp_path / "mined.json").read_text())
    content["sha256"] = sha256_of(tmp_path / "mined-train.npy")
    (tmp_path / "mined.json").write_text(json.dumps(content))
    with pytest.raises(ShardError, match="not readable"):
        read_mined(tmp_path, shop)
