"""The order of a source's samples: whole epochs, local reading, distinct batches, any start."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from beyond_text.shards.order import Order, runs
from beyond_text.shards.records import category_key

SIZES = [7, 7, 3, 7]


def epoch_of(order: Order, epoch: int) -> list[int]:
    """Returns the samples of an epoch of an order of batches of one."""
    assert order.take == 1
    batches = [order.batch(epoch * order.size + number) for number in range(order.size)]
    assert {int(batch.epochs[0]) for batch in batches} == {epoch}
    return [int(batch.samples[0]) for batch in batches]


def test_an_epoch_holds_each_sample_once_in_an_order_of_seed_and_epoch() -> None:
    orders = [
        epoch_of(Order(SIZES, 1, (seed, 0, 0), window=2), epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == epoch_of(Order(SIZES, 1, (0, 0, 0), window=2), 0)


def test_reading_stays_within_a_window_of_shards_drawn_anew_each_epoch_and_told_ahead() -> None:
    shard_of = np.repeat(np.arange(4), SIZES)
    firsts = set()
    for epoch in range(10):
        told: list[list[int]] = []
        order = Order(SIZES, 1, (0, 0, 0), window=2, told=told.append)
        shards = shard_of[epoch_of(order, epoch)].tolist()
        (one, two), following = told[0][:2], told[0][2:]
        size = SIZES[one] + SIZES[two]
        assert set(shards[:size]) == {one, two}
        assert set(shards[size:]) == set(following) == {0, 1, 2, 3} - {one, two}
        # Of the last window of an epoch, the next one is the first of the next epoch.
        assert told[1][:2] == following
        order.batch((epoch + 1) * 24)
        assert told[2][:2] == told[1][2:]
        firsts.add(frozenset((one, two)))
    assert len(firsts) > 2


def test_samples_of_a_category_stand_together_in_short_runs_in_an_order_of_the_seed() -> None:
    kinds = [*"vrvlrvvvrvvv", *[""] * 12]
    keys = np.array([category_key(kind) for kind in kinds], dtype=np.uint32)
    orders = []
    for seed in range(6):
        order = Order([12, 12], 1, (seed, 0, 0), categories=keys, run=4)
        found = epoch_of(order, 0)
        assert sorted(found) == list(range(24))
        together = Counter(
            (kind, len(list(run))) for kind, run in groupby(found, kinds.__getitem__)
        )
        # Eight of one category are two runs of four, which may end up side by side.
        assert together["v", 4] * 4 + together["v", 8] * 8 == 8
        assert together["r", 3] == together["l", 1] == 1
        orders.append(tuple(found))
    assert len(set(orders)) == 6


def test_runs_know_categories_by_all_their_bits() -> None:
    """Keys that are equal in the low half, or in the high half, are different categories."""
    keys = np.array([0x10001, 0x20001, 0x10001, 0x10002, 0x20001, 0x10002], dtype=np.uint32)
    order = runs(np.tile(keys, 5), 10, np.random.default_rng(0))
    assert sorted(order) == list(range(30))
    found = [(key, len(list(run))) for key, run in groupby(np.tile(keys, 5)[order].tolist())]
    assert sorted(found) == [(0x10001, 10), (0x10002, 10), (0x20001, 10)]
    assert runs(keys[:0], 10, np.random.default_rng(0)).tolist() == []


def random_order(trial: int) -> Order | None:
    """Returns an order of few samples, at random; now and then of members, or in runs."""
    random = np.random.default_rng(trial)
    sizes = random.integers(1, 9, random.integers(1, 7)).tolist()
    members = random.random(sum(sizes)) < 0.7 if trial % 2 else None
    count = sum(sizes) if members is None else int(members.sum())
    if not count:
        return None
    keys = np.array([1, 2, 0, 1, 2, 1, 1, 1], dtype=np.uint32)
    categories = np.resize(keys, sum(sizes)) if trial % 3 else None
    take = int(random.integers(1, count + 1))
    return Order(sizes, take, (trial, 0, 0), members, categories, 3, window=2)


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_batches_are_distinct_and_follow_each_other_through_whole_epochs(start: int) -> None:
    for trial in range(start, start + 50):
        order = random_order(trial)
        if order is None:
            continue
        batches = [order.batch(number) for number in range(3 * order.size)]
        assert all(len(set(batch.samples.tolist())) == order.take for batch in batches)
        samples = np.concatenate([batch.samples for batch in batches])
        epochs = np.concatenate([batch.epochs for batch in batches])
        assert (epochs == np.arange(len(samples)) // order.size).all()
        everyone = range(int(order.starts[-1]))
        members = everyone if order.members is None else np.flatnonzero(order.members).tolist()
        for epoch in range(len(samples) // order.size):
            own = samples[epoch * order.size : (epoch + 1) * order.size]
            assert sorted(own.tolist()) == list(members)


def test_a_batch_is_the_same_whatever_was_drawn_before() -> None:
    for trial in range(60):
        order, late = random_order(trial), random_order(trial)
        if order is None or late is None:
            continue
        whole = [order.batch(number) for number in range(40)]
        for number in (37, 11, 38, 0, 39):
            assert (late.batch(number).samples == whole[number].samples).all()


def test_a_batch_far_on_is_drawn_at_once() -> None:
    """Nothing that was drawn before is drawn again: a window of 16 shards and its epoch are."""
    told: list[list[int]] = []
    order = Order([1000] * 100, 4096, (0, 0, 0), told=told.append)
    batch = order.batch(10**9)
    assert len(set(batch.samples.tolist())) == 4096
    assert int(batch.epochs[0]) == 4096 * 10**9 // 100_000
    assert len(told) <= 4


def test_the_order_of_a_source_is_even_where_an_epoch_ends_within_a_batch() -> None:
    """Whoever waits is drawn by chance: each sample stands first about as often as any other."""
    order = Order([4, 5], 4, (0, 0, 0), window=1)
    first = Counter(
        int(draw.samples[0]) for draw in (order.batch(9 * number) for number in range(900))
    )
    assert min(first.values()) > 60


def test_batches_larger_than_the_source_are_refused() -> None:
    for take in (0, 25):
        with pytest.raises(ValueError, match=f"expected batches of at most 24 samples, got {take}"):
            Order(SIZES, take, (0, 0, 0))
