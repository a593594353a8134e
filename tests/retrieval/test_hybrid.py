"""Tests that scores are joined by their formulas, exactly over all products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beyond_text.retrieval.hybrid import (
    WEIGHTS,
    reciprocal_rank_fusion,
    top_weighted,
    tune_weight,
    weighted,
)

VECTOR = np.array([0.9, 0.1, -0.5], dtype=np.float32)
LEXICAL = np.array([0.0, 1.0, 0.5], dtype=np.float32)


def test_the_weighted_score_is_its_formula() -> None:
    np.testing.assert_allclose(weighted(VECTOR, LEXICAL, 0.75), [0.675, 0.325, -0.25], rtol=1e-6)
    assert weighted(VECTOR, LEXICAL, 1.0).tolist() == VECTOR.tolist()
    np.testing.assert_allclose(weighted(VECTOR, LEXICAL, 0.0), [0, 1, 0.5])
    # Of a part of the products it is the same.
    part = weighted(VECTOR[2:], LEXICAL[2:], 0.75)
    assert part.tolist() == weighted(VECTOR, LEXICAL, 0.75)[2:].tolist()


def test_without_a_common_word_the_lexical_part_is_0() -> None:
    nothing = np.zeros(3, dtype=np.float32)
    np.testing.assert_allclose(weighted(VECTOR, nothing, 0.5), VECTOR / 2)
    assert weighted(nothing[:0], nothing[:0], 0.5).tolist() == []


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight: expected 0 .* to 1"):
        weighted(VECTOR, LEXICAL, weight)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    products=st.integers(1, 60),
    k=st.integers(1, 12),
    found=st.integers(1, 60),
    weight=st.sampled_from(WEIGHTS),
    filtered=st.booleans(),
)
def test_the_best_are_those_of_all_products(
    seed: int, products: int, k: int, found: int, weight: float, filtered: bool
) -> None:
    random = np.random.default_rng(seed)
    # Few values, so that many are equal.
    vector = (random.integers(-4, 5, products) / 4).astype(np.float32)
    lexical = (random.integers(0, 3, products) * random.integers(0, 2, products) / 2).astype("f4")
    allowed = np.flatnonzero(random.random(products) < 0.5) if filtered else None
    rows = np.arange(products) if allowed is None else allowed
    nearest = rows[np.argsort(-vector[rows], kind="stable")][:found]
    compared: list[np.ndarray] = []

    def cosines(rows: np.ndarray) -> np.ndarray:
        compared.append(rows)
        return vector[rows]

    scores, positions = top_weighted(
        (vector[nearest], nearest), lexical, cosines, weight, k, allowed
    )
    everything = weighted(vector, lexical, weight)
    expected = sorted(rows, key=lambda row: (-everything[row], row))[:k]
    assert positions.tolist() == expected
    assert scores.tolist() == everything[expected].tolist()


def test_few_products_are_compared_beside_the_nearest() -> None:
    random = np.random.default_rng(0)
    vector = random.random(10_000, dtype=np.float32)
    lexical = np.zeros(10_000, dtype=np.float32)
    lexical[:50] = random.random(50)
    nearest = np.argsort(-vector)[:200]
    compared: list[int] = []

    def cosines(rows: np.ndarray) -> np.ndarray:
        compared.extend(rows.tolist())
        return vector[rows]

    top_weighted((vector[nearest], nearest), lexical, cosines, 0.5, 10)
    assert set(compared) <= set(range(50))


def test_reciprocal_ranks_are_added() -> None:
    scores, rows = reciprocal_rank_fusion([np.array([7, 3, 5]), np.array([3, 9])])
    assert rows.tolist() == [3, 7, 9, 5]
    np.testing.assert_allclose(scores, [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    # Equal scores by position.
    assert reciprocal_rank_fusion([np.array([8]), np.array([2])])[1].tolist() == [2, 8]
    assert reciprocal_rank_fusion([np.array([1, 2])], k=0)[0].tolist() == [1, 0.5]
    scores, rows = reciprocal_rank_fusion([])
    assert (len(scores), len(rows)) == (0, 0)


def test_the_weight_with_the_highest_ndcg_is_taken() -> None:
    # The words are right for one query, the vectors for another, and both need the sum.
    by_words = (np.array([0.2, 0.3], np.float32), np.array([1, 0], np.float32), {0: 3.0}, "a")
    by_vectors = (np.array([0.9, 0.1], np.float32), np.array([2 / 3, 1], np.float32), {0: 3.0}, "a")
    weight, means = tune_weight([by_words, by_vectors, (*by_words[:2], {}, "a")])
    assert list(means) == list(WEIGHTS)
    assert means[1.0] == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert means[0.0] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    # Both are right between 0.34 and 0.9; the highest of equal weights is taken.
    assert means[0.5] == 1.0
    assert weight == 0.9


def test_ndcg_of_a_weight_counts_gains_and_discounts() -> None:
    vector = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    _, means = tune_weight([(vector, np.zeros(4, np.float32), {1: 1.0, 2: 3.0}, "a")], [1.0])
    expected = (1 / np.log2(3) + 3 / np.log2(4)) / (3 / np.log2(2) + 1 / np.log2(3))
    assert means == {1.0: pytest.approx(expected)}


def test_of_weights_within_a_standard_error_the_highest_is_taken() -> None:
    # Words are right for nine queries of ten, by vectors it is one more or one less.
    words = np.array([0, 1], np.float32)
    right, wrong = np.array([0.1, 0.2], np.float32), np.array([0.2, 0.1], np.float32)
    for helped, taken in ((1, 1.0), (10, 0.9)):
        queries = [(wrong, words, {1: 1.0}, "a")] * helped + [(right, words, {1: 1.0}, "a")] * 20
        queries += [(right, words, {0: 1.0}, "a")] * 5
        weight, means = tune_weight(queries, [0.9, 1.0])
        assert means[0.9] > means[1.0]
        assert weight == taken


def test_a_weight_that_costs_a_kind_is_not_taken() -> None:
    words = np.array([0, 1], np.float32)
    near, far = np.array([0.6, 0.5], np.float32), np.array([0.9, 0.1], np.float32)
    # What words win for ids by any weight below 0.9, they cost attributes by one below 0.55.
    ids = [(near, words, {1: 1.0}, "id")] * 50
    for attributes, taken in ((0, 0.9), (10, 0.9)):
        kinds = ids + [(far, words, {0: 1.0}, "attribute")] * attributes
        assert tune_weight(kinds, [0.3, 0.9, 1.0])[0] == taken
    # Without that weight there is none that wins without a loss.
    assert tune_weight(kinds, [0.3, 1.0])[0] == 1.0
    assert tune_weight(ids, [0.3, 1.0])[0] == 0.3


def test_a_weight_cannot_be_tuned_on_nothing() -> None:
    with pytest.raises(ValueError, match="no query with a relevant product"):
        tune_weight([(VECTOR, LEXICAL, {}, "a")])
