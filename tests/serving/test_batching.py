"""Queries that wait together are searched together, and none waits for company."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from beyond_text.indexing.index import Index
from beyond_text.serving.batching import Batcher, Found, Outcome, Query, search_batch
from beyond_text.serving.measures import Measures
from tests.hostile import GOOD_PICTURE


@pytest.fixture(scope="module")
def opened(indexed: Path) -> Index:
    return Index.open(indexed)


def test_those_that_come_while_all_threads_are_busy_are_one_batch(opened: Index) -> None:
    batches: list[list[str]] = []
    go_on = threading.Event()

    def answer(queries: Sequence[Query]) -> list[Outcome]:
        batches.append([query.text for query in queries])
        go_on.wait(20)
        return [Found([], 0.0, 0.0) for _ in queries]

    async def main() -> None:
        batcher = Batcher(answer, threads=1, most=3)
        tasks = [
            asyncio.create_task(batcher.search(Query(opened, word, None, 1))) for word in "abcdef"
        ]
        await asyncio.sleep(0.05)
        # The first is worked on at once; who gives up is not searched for.
        assert batches == [["a"]]
        tasks[2].cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()

    asyncio.run(main())
    assert batches == [["a"], ["b", "d"], ["e", "f"]]


def test_a_failure_of_the_search_reaches_all_of_its_batch_and_the_next_is_searched(
    opened: Index,
) -> None:
    def answer(queries: Sequence[Query]) -> list[Outcome]:
        if queries[0].text == "bad":
            raise RuntimeError("no memory")
        return [Found([], 0.0, 0.0) for _ in queries]

    async def main() -> None:
        batcher = Batcher(answer)
        with pytest.raises(RuntimeError, match="no memory"):
            await batcher.search(Query(opened, "bad", None, 1))
        assert (await batcher.search(Query(opened, "good", None, 1))).hits == []
        batcher.close()

    asyncio.run(main())


def test_a_mixed_batch_is_answered_as_each_query_alone(opened: Index) -> None:
    queries = [
        Query(opened, "red rug", None, 3),
        Query(opened, "", GOOD_PICTURE, 2, weight=1.0),
        Query(opened, "blue vase", None, 3, ("price<20",), 0.5),
        Query(opened, "lamp", GOOD_PICTURE, 4),
        Query(opened, "green lamp", None, 3),
    ]
    together = search_batch(queries, Measures())
    for query, outcome in zip(queries, together, strict=True):
        assert isinstance(outcome, Found)
        [expected] = opened.search(
            [query.text] if query.text else None,
            None if query.picture is None else [query.picture],
            top=query.top,
            where=query.where,
            weight=query.weight,
        )
        assert [hit.product_id for hit in outcome.hits] == [hit.product_id for hit in expected]
        np.testing.assert_allclose(
            [hit.score for hit in outcome.hits], [hit.score for hit in expected], atol=1e-4
        )


def test_what_is_wrong_with_one_query_is_no_fault_of_the_others(opened: Index) -> None:
    queries = [
        Query(opened, "", b"no picture", 2, weight=1.0),
        Query(opened, "", GOOD_PICTURE, 2, weight=1.0),
        Query(opened, "rug", None, 2, ("nothing=1",)),
        Query(opened, "rug", None, 2),
    ]
    outcomes = search_batch(queries, Measures())
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [True, False, True, False]
    assert "picture" in str(outcomes[0])
    assert "nothing" in str(outcomes[2])
