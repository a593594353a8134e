"""Anchors and negatives: what each sample is to a stage, and how batches are drawn of them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beyond_text.shards import columns
from beyond_text.shards.batch import SampleIndex
from beyond_text.shards.negatives import MOST_NEGATIVES
from beyond_text.shards.roles import Roles, roles_of
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.split import Split
from data_prep.shards import build_shards

FIELDS = ["title"]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Twenty products; 0 to 4 have no picture, 2 to 6 a query, for which 7 to 9 are judged 0."""
    tables = tmp_path_factory.mktemp("few")
    Image.new("RGB", (20, 20), "red").save(tables / "red.jpg")
    write_table(
        tables / "products.csv",
        [
            {"product_id": str(n), "title": f"thing {n}", "image": "red.jpg" if n > 4 else "",
             "split": "train"}
            for n in range(20)
        ],
    )  # fmt: skip
    write_table(
        tables / "queries.csv",
        [{"query_id": f"q{n}", "query": f"words {n}", "split": "train"} for n in range(2, 7)],
    )
    write_table(
        tables / "qrels.csv",
        [{"query_id": f"q{n}", "product_id": str(n), "relevance": 2} for n in range(2, 7)]
        + [{"query_id": f"q{n}", "product_id": str(n + 5), "relevance": 0} for n in range(2, 5)],
    )
    build_shards(tables, tables / "shards", workers=1, samples_per_shard=6)
    return Split(tables / "shards", "train", FIELDS)


def ids(split: Split, samples: Any) -> set[int]:
    return {int(split.read(int(sample), None)[0]["product_id"]) for sample in samples}


@pytest.mark.parametrize(
    ("losses", "anchors"),
    [
        (["query_text"], range(2, 7)),
        (["query_product"], range(2, 7)),
        (["query_image"], range(5, 7)),
        (["text_image"], range(5, 20)),
        # A loss without queries brings no anchors beside one that has them.
        (["query_image", "text_image"], range(5, 7)),
        (["text_image", "query_product"], range(2, 7)),
        (["cmal"], range(2, 7)),
    ],
    ids=str,
)
def test_an_anchor_has_the_views_of_one_of_the_losses(
    few: Split, losses: list[str], anchors: range
) -> None:
    roles = roles_of(few, losses)
    assert ids(few, np.flatnonzero(roles.anchor)) == set(anchors)


def test_products_judged_0_for_a_query_are_the_negatives_of_its_products(few: Split) -> None:
    roles = roles_of(few, ["query_product"])
    found = {
        min(ids(few, [sample])): ids(few, roles.of(sample))
        for sample in range(20)
        if len(roles.of(sample))
    }
    assert found == {2: {7}, 3: {8}, 4: {9}}


@pytest.mark.parametrize("rows", [3, 1000])
def test_queries_of_one_wording_share_their_judged_negatives_and_few_are_kept(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "ROWS", rows)
    write_table(
        tmp_path / "products.csv",
        [{"product_id": str(n), "title": f"thing {n}", "split": "train"} for n in range(40)],
    )
    # Two ids of the same words; products 3 to 39 are judged 0 for one, 0 is wanted by the other.
    write_table(
        tmp_path / "queries.csv",
        [{"query_id": name, "query": words, "split": "train"}
         for name, words in (("a", "Red  vase"), ("b", "red vase"), ("c", "rug"))],
    )  # fmt: skip
    judged = [("a", 0, 2), ("c", 1, 1), ("c", 2, 0), *(("b", n, 0) for n in range(3, 40))]
    write_table(
        tmp_path / "qrels.csv",
        [{"query_id": q, "product_id": str(p), "relevance": grade} for q, p, grade in judged],
    )
    build_shards(tmp_path, tmp_path / "shards", workers=1)
    split = Split(tmp_path / "shards", "train", FIELDS)
    roles = roles_of(split, ["query_product"])
    assert ids(split, np.flatnonzero(roles.anchor)) == {0, 1}
    number = {min(ids(split, [sample])): sample for sample in range(40)}
    assert ids(split, roles.of(number[1])) == {2}
    found = ids(split, roles.of(number[0]))
    assert found <= set(range(3, 40))
    assert len(found) == MOST_NEGATIVES
    assert not any(len(roles.of(number[n])) for n in range(2, 40))


def plan(roles: Roles, batch_size: int, batches: int, negatives: float, **place: int) -> list:
    sizes = [[6, 6, 6, 2]]
    return list(
        BatchSampler(
            sizes, [1.0], batch_size, batches, 0, roles=[roles], negatives=negatives, **place
        )
    )


def some_roles(anchors: int, negatives: dict[int, list[int]] | None = None) -> Roles:
    """Returns roles of twenty samples, of which the first ones are anchors."""
    of = [sorted((negatives or {}).get(sample, [])) for sample in range(20)]
    starts = np.cumsum([0, *map(len, of)], dtype=np.uint32)
    return Roles(np.arange(20) < anchors, starts, np.concatenate(of).astype(np.uint32))


def test_where_few_are_judged_three_quarters_of_a_batch_are_anchors() -> None:
    for batch in plan(some_roles(8), 8, 10, 0.25):
        assert len({index.sample for index in batch}) == 8
        assert sum(index.sample < 8 for index in batch) == 6


def test_where_most_are_judged_the_others_have_their_own_share() -> None:
    """Two of twenty are no anchors: a tenth, less than the quarter that is allowed."""
    for batch in plan(some_roles(18), 10, 10, 0.25):
        assert sum(index.sample >= 18 for index in batch) == 1


def test_places_that_no_judged_negative_takes_go_to_anchors_and_others_keep_their_share() -> None:
    roles = some_roles(18, {sample: [(sample + 1) % 18] for sample in range(18)})
    for batch in plan(roles, 10, 20, 0.6):
        assert sum(index.sample >= 18 for index in batch) == 1
        assert len({index.sample for index in batch}) == 10


def test_others_fill_the_batch_where_anchors_are_too_few() -> None:
    for batch in plan(some_roles(2), 10, 6, 0.25):
        assert {0, 1} < {index.sample for index in batch}
        assert len({index.sample for index in batch}) == 10


def test_every_anchor_is_drawn_as_often_as_any_other() -> None:
    drawn = Counter(index.sample for batch in plan(some_roles(6), 8, 30, 0.25) for index in batch)
    assert {drawn[sample] for sample in range(6)} == {30}
    others = [drawn[sample] for sample in range(6, 20)]
    assert max(others) - min(others) <= 1


def test_judged_negatives_stand_in_the_batches_of_their_anchors() -> None:
    negatives = {sample: [sample + 10] for sample in range(10)}
    roles = some_roles(20, negatives)
    for batch in plan(roles, 8, 20, 0.5):
        found = [index.sample for index in batch]
        assert len(set(found)) == 8
        assert all(sample + 10 in found for sample in found[:4] if sample < 10)
    # Without a share for them, all is as if nobody had judged them.
    assert plan(roles, 8, 5, 0.0) == plan(some_roles(20), 8, 5, 0.0)


def test_a_mixed_plan_is_cut_by_process_and_goes_on_where_it_was_stopped() -> None:
    roles = some_roles(9, {0: [12, 13], 3: [14], 5: [2]})
    whole = plan(roles, 8, 12, 0.25)
    assert plan(roles, 8, 12, 0.25, start=5) == whole[5:]
    halves = [plan(roles, 8, 12, 0.25, rank=rank, world=2) for rank in (0, 1)]
    for batch, one, other in zip(whole, *halves, strict=True):
        assert one == batch[::2]
        assert other == batch[1::2]
        assert sum(index.sample < 9 for index in one) >= 2


def test_a_source_of_fewer_than_two_batches_has_each_sample_once_an_epoch_and_in_a_batch() -> None:
    batches = list(BatchSampler([[3, 2]], [1.0], 4, 10, 0))
    for batch in batches:
        assert len({index.sample for index in batch}) == 4
    drawn: list[SampleIndex] = [index for batch in batches for index in batch]
    assert {
        drawn.count(SampleIndex(0, sample, epoch)) for sample in range(5) for epoch in range(7)
    } == {1}


@pytest.mark.parametrize("products", [16, 17, 20])
def test_a_batch_is_whole_in_a_source_that_is_hardly_larger(products: int) -> None:
    """Who fills a batch may stand anywhere in an epoch: the next one has what this one lacks."""
    size = 16
    for anchors in range(size - 2, products + 1):
        random = np.random.default_rng(anchors)
        is_anchor = np.zeros(products, bool)
        is_anchor[random.permutation(products)[:anchors]] = True
        has_negative = (random.random(products) < 0.3) & is_anchor
        starts = np.concatenate([[0], np.cumsum(has_negative)]).astype(np.uint32)
        negatives = random.integers(0, products, starts[-1]).astype(np.uint32)
        roles = [Roles(is_anchor, starts, negatives)]
        plan = BatchSampler([[products]], [1.0], size, 200, 0, roles=roles, negatives=0.25)
        for batch in plan:
            assert len({index.sample for index in batch}) == len(batch) == size
