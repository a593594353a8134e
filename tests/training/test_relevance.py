"""Relevance is the lookup of judgments by keys, in either direction and in blocks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from beyond_text.shards.batch import SELF_MATCH
from beyond_text.training.relevance import Judged, Relevance, Sides, judged_relevance


def judged_from(entries: list[tuple[int, int, float]]) -> Judged:
    keys, rows, grades = zip(*entries, strict=True) if entries else ((), (), ())
    return Judged(
        torch.tensor(keys, dtype=torch.long),
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(grades, dtype=torch.float32),
    )


def in_blocks(relevance: Relevance, queries: int, products: int) -> tuple[Tensor, Tensor]:
    """Returns both matrices of a relevance, put together of blocks of two rows."""
    first, second = (
        torch.cat([blocks(slice(row, row + 2)) for row in range(0, rows, 2)])
        for blocks, rows in zip(relevance, (queries, products), strict=True)
    )
    return first, second


KEYS = st.sampled_from([-(2**63), -7, 0, 3, 2**63 - 1])


@given(
    query_key=st.lists(KEYS, min_size=1, max_size=6),
    judgments=st.dictionaries(
        st.tuples(KEYS, st.integers(0, 5)), st.sampled_from([SELF_MATCH, 0.0, 0.25, 0.5, 1])
    ),
)
@settings(max_examples=60, deadline=None)
def test_relevance_is_the_lookup_of_query_and_product_in_either_direction(
    query_key: list[int], judgments: dict[tuple[int, int], float]
) -> None:
    judged = judged_from([(key, row, grade) for (key, row), grade in judgments.items()])
    # A query of key 0 has nothing of the view.
    expected = torch.tensor(
        [[judgments.get((key, row), 0.0) if key else 0.0 for row in range(6)] for key in query_key]
    )
    zeros = torch.tensor(
        [[float(judgments.get((key, r)) == 0 and key != 0) for r in range(6)] for key in query_key]
    )
    keys, products = torch.tensor(query_key), torch.arange(6)
    # This process has the last queries and the products 2 to 5; the last are remembered ones.
    own = keys[len(keys) // 2 :]
    sides = Sides(own, keys, 2, 3, products)
    for columns, matrix in ((judged, expected), (judged.zeros(), zeros)):
        first, second = in_blocks(judged_relevance(columns, sides), len(own), 3)
        assert first.equal(matrix[len(keys) // 2 :])
        assert second.equal(matrix.T[2:5])


@given(
    key=st.lists(KEYS, min_size=1, max_size=6),
    grades=st.lists(st.sampled_from([SELF_MATCH, 0.0, 0.5, 1.0]), min_size=12, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_candidates_of_equal_key_share_the_best_relevance_among_them(
    key: list[int], grades: list[float]
) -> None:
    relevance = torch.tensor(grades).view(2, 6)[:, : len(key)]
    expected = slow_sharing(relevance.tolist(), key)
    queries = torch.tensor([5, 7])
    rows, columns = relevance.nonzero(as_tuple=True)
    judged = Judged(queries[rows], columns, relevance[rows, columns])
    sides = Sides(queries, queries, 0, len(key), torch.tensor(key))
    first, second = in_blocks(judged_relevance(judged, sides, shared=True), 2, len(key))
    assert first.equal(torch.tensor(expected))
    assert second.equal(torch.tensor(expected).T)


def slow_sharing(relevance: list[list[float]], key: list[int]) -> list[list[float]]:
    """Shares the best: a match is better than SELF_MATCH, which is better than not judged."""
    order = [0.0, SELF_MATCH]
    return [
        [
            max(
                (grade for grade, other in zip(row, key, strict=True) if other == own),
                key=lambda grade: grade if grade > 0 else order.index(grade) - 2,
            )
            for own in key
        ]
        for row in relevance
    ]
