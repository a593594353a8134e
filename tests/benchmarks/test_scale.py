"""The page about 100 million products says what its formulas say."""

from __future__ import annotations

import pytest

from tests.benchmarks import scale
from tests.benchmarks.scale import CLUSTERS, STAGES, Cluster


def test_the_page_has_the_tables_of_today() -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    assert scale.written(page) == page, "python -m tests.benchmarks.scale --write"


def test_costs_are_their_parts() -> None:
    small, large = (scale.training(STAGES["stage 1"], CLUSTERS[n]) for n in list(CLUSTERS)[:2])
    # Three times the forward pass of a picture and a text, at a share of eight GPUs' peak.
    flops = 3 * (8.72e9 + 1.81e9) * 100e6
    seconds = flops / (8 * 0.3 * 989e12)
    assert small.hours * 3600 > seconds
    assert small.hours * 3600 == pytest.approx(seconds, rel=0.2)
    assert small.hours / 8 < large.hours < small.hours
    assert small.dollars == pytest.approx(small.hours * 8 * 3.0)


def test_the_slower_of_computing_and_a_store_decides() -> None:
    cluster = Cluster(10, 0, 32)
    slow = scale.on_cores(1, 0, 0, cluster)
    assert (slow.limit, slow.hours) == ("computing", pytest.approx(100e6 / 320 / 3600))
    store = scale.on_cores(1e9, 1e15, 0, cluster)
    assert (store.limit, store.hours) == ("the store", pytest.approx(1e15 / 12.5e9 / 3600))


def test_a_page_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one mark <!-- measured -->, got 0"):
        scale.written("no table here")
