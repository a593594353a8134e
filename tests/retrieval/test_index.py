"""Tests that search equals brute force, ties included, and that damaged indexes are refused."""

from __future__ import annotations

import numpy as np
import pytest

from beyond_text.retrieval.index import ProductIndex


def brute_force(vectors: np.ndarray, names: list[str], query: np.ndarray, k: int) -> list[str]:
    scores = vectors @ query
    return [name for _, name in sorted(zip(scores, names, strict=True), reverse=True)[:k]]


@pytest.mark.parametrize(("products", "k"), [(50, 1), (50, 10), (50, 50), (50, 99), (1, 3)])
def test_search_equals_brute_force(products: int, k: int) -> None:
    random = np.random.default_rng(products + k)
    vectors = random.normal(size=(products, 8)).astype(np.float32)
    queries = random.normal(size=(7, 8)).astype(np.float32)
    names = [f"p{number}" for number in random.permutation(products)]
    query_ids = [f"q{number}" for number in range(7)]
    ranking = ProductIndex.build(names, vectors).search(queries, query_ids, k)
    assert ranking.query_ids == query_ids
    assert ranking.scores.shape == (7, min(k, products))
    assert ranking.scores.dtype == np.float32
    for row, query in enumerate(queries):
        assert ranking.product_ids[row] == brute_force(vectors, names, query, k)
        best = np.sort(vectors @ query)[::-1][:k]
        np.testing.assert_allclose(ranking.scores[row], best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 10, 33, 64])
def test_equal_scores_come_by_product_id_descending_also_at_the_cut(k: int) -> None:
    # Whole numbers, so equal inner products are equal to the last bit.
    random = np.random.default_rng(k)
    vectors = random.integers(0, 2, (64, 3)).astype(np.float32)
    names = [f"p{number:02}" for number in random.permutation(64)]
    queries = random.integers(1, 3, (20, 3)).astype(np.float32)
    ranking = ProductIndex.build(names, vectors).search(queries, list(map(str, range(20))), k)
    for row, query in enumerate(queries):
        assert ranking.product_ids[row] == brute_force(vectors, names, query, k)


def test_vectors_are_not_normalised() -> None:
    index = ProductIndex.build(["short", "long"], np.array([[1.0, 0.0], [3.0, 4.0]]))
    ranking = index.search(np.array([[2.0, 0.0]]), ["q"], 2)
    assert ranking.product_ids == [["long", "short"]]
    assert ranking.scores.tolist() == [[6.0, 2.0]]


@pytest.mark.parametrize(
    ("names", "vectors", "message"),
    [
        (["a"], np.ones((2, 3)), r"1 product_ids for vectors of shape \(2, 3\)"),
        (["a", "b", "a"], np.ones((3, 3)), "product_id 'a' comes 2 times in 3"),
        (["a", "b"], np.array([[1.0], [np.nan]]), "vector of product 'b' is not finite"),
        ([], np.ones((0, 3)), "no product"),
    ],
)
def test_bad_products_are_named(names: list[str], vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProductIndex.build(names, vectors)


@pytest.mark.parametrize(
    ("names", "vectors", "k", "message"),
    [
        (["q"], np.ones((1, 3)), 1, "query vectors of dim 3, index of 2"),
        (["q"], np.ones((2, 2)), 1, r"1 query_ids for vectors of shape \(2, 2\)"),
        (["q"], np.array([[1.0, np.inf]]), 1, "vector of query 'q' is not finite"),
        (["q"], np.ones((1, 2)), 0, "k: expected at least 1, got 0"),
    ],
)
def test_bad_queries_are_named(names: list[str], vectors: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProductIndex.build(["a", "b"], np.ones((2, 2))).search(vectors, names, k)
