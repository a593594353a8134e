"""The batches of a run: their sources, the share of each process, and going on at any step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beyond_text.shards import sampler
from beyond_text.shards.batch import SampleIndex
from beyond_text.shards.sampler import BatchSampler
from tests.shards.test_roles import some_roles

SIZES = [7, 7, 3, 7]


def plan(
    sizes: list[list[int]] | None = None,
    weights: list[float] | None = None,
    batch_size: int = 5,
    batches: int = 20,
    seed: int = 0,
    **place: Any,
) -> list[list[SampleIndex]]:
    sizes = sizes or [SIZES]
    found = BatchSampler(sizes, weights or [1.0] * len(sizes), batch_size, batches, seed, **place)
    assert len(found) == batches
    return list(found)


def test_batches_run_through_whole_epochs_without_a_gap() -> None:
    draws = [draw for batch in plan(batches=24) for draw in batch]
    assert [draw.epoch for draw in draws] == [number // 24 for number in range(120)]
    for epoch in range(5):
        assert sorted(d.sample for d in draws if d.epoch == epoch) == list(range(24))
    orders = {tuple(d.sample for d in draws if d.epoch == epoch) for epoch in range(5)}
    assert len(orders) == 5


def test_a_plan_repeats_by_its_seed_and_changes_with_it() -> None:
    assert plan(seed=3) == plan(seed=3)
    assert plan(seed=3) != plan(seed=4)


def mixed(**place: Any) -> list[list[SampleIndex]]:
    """Three sources: all alike, with few anchors and judged negatives, and with categories."""
    few = some_roles(9, {0: [12, 13], 3: [14], 5: [2]})
    keys = np.array([1, 2, 0, 1, 2, 1, 1], dtype=np.uint32)
    return plan(
        [[7, 7], [6, 6, 6, 2], [7, 7, 7]],
        [2.0, 3.0, 1.0],
        6,
        120,
        roles=[None, few, some_roles(20)._replace(anchor=np.ones(21, dtype=bool))],
        negatives=0.3,
        categories=[np.resize(keys, number) for number in (14, 20, 21)],
        run=2,
        **place,
    )


@pytest.mark.parametrize("block", [7, 2**16])
def test_a_plan_that_starts_late_is_the_rest_of_the_whole_one(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "BLOCK", block)
    whole = mixed()
    assert {batch[0].source for batch in whole} == {0, 1, 2}
    for start in (1, 6, 7, 8, 50, 119, 120):
        assert mixed(start=start) == whole[start:]
        halves = [mixed(start=start, rank=rank, world=2) for rank in (0, 1)]
        assert halves == [[batch[rank::2] for batch in whole[start:]] for rank in (0, 1)]


def test_processes_share_each_batch_in_equal_parts() -> None:
    whole = plan(batch_size=6)
    parts = [plan(batch_size=6, rank=rank, world=3) for rank in range(3)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert [len(share) for share in shares] == [2, 2, 2]
        assert [shares[row % 3][row // 3] for row in range(6)] == batch
    with pytest.raises(ValueError, match="expected a batch_size that 4 processes divide, got 6"):
        plan(batch_size=6, world=4)


def test_all_slots_of_a_product_stand_together_on_one_process() -> None:
    parts = [plan(batch_size=6, rank=rank, world=2, queries_per_product=[3]) for rank in (0, 1)]
    whole = plan(batch_size=6)
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            assert share == [d._replace(slot=s) for d in batch[rank::2] for s in range(3)]


def test_a_batch_comes_from_one_source_drawn_by_weight() -> None:
    batches = plan([[7, 7], [5, 5]], [3.0, 1.0], batches=2000)
    sources = [{draw.source for draw in batch} for batch in batches]
    assert all(len(source) == 1 for source in sources)
    share = sum(source == {0} for source in sources) / len(sources)
    assert share == pytest.approx(0.75, abs=0.03)
    for source, count in ((0, 14), (1, 10)):
        draws = [d for batch in batches for d in batch if d.source == source]
        assert sorted(d.sample for d in draws if d.epoch == 0) == list(range(count))
