"""Tests that each kind of index finds what brute force finds, filtered, mapped and updated."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from beyond_text.config.names import IndexKind
from beyond_text.retrieval import scan
from beyond_text.retrieval.nearest import FEWEST_ROWS, KINDS, SURE, Nearest, recall
from beyond_text.retrieval.scan import Scan
from beyond_text.retrieval.truncate import truncate

ROWS, DIM = FEWEST_ROWS + 1500, 32


def directions(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = directions(ROWS, DIM, 0), directions(50, DIM, 1)
built: dict[IndexKind, Nearest] = {}


def index_of(kind: IndexKind) -> Nearest:
    if kind not in built:
        built[kind] = Nearest.build(kind, VECTORS)
    return built[kind]


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ vectors.astype(np.float32).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def test_every_kind_of_index_has_a_name() -> None:
    assert get_args(IndexKind) == KINDS


@pytest.mark.parametrize("queries", [1, 31, 50])
@pytest.mark.parametrize("precision", [np.float16, np.float32])
def test_a_scan_equals_brute_force(
    queries: int, precision: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 300 rows, of which the last is short.
    monkeypatch.setattr(scan, "BLOCK_BYTES", 300 * 4 * DIM)
    vectors = VECTORS[:2000].astype(precision)
    for k in (1, 10, 400):
        scores, rows = Scan(vectors).search(QUERIES[:queries], k)
        expected, best = brute_force(vectors, QUERIES[:queries], k)
        assert (rows == best).mean() > 0.999
        np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [1, 50])
def test_allowed_rows_are_searched_exactly_at_any_selectivity(
    kind: IndexKind, queries: int
) -> None:
    random = np.random.default_rng(2)
    for count in (1, 2, 40, 1024, 1025, ROWS - 1, ROWS):
        allowed = np.sort(random.choice(ROWS, count, replace=False))
        scores, rows = index_of(kind).search(QUERIES[:queries], 5, allowed)
        expected, best = brute_force(VECTORS[allowed], QUERIES[:queries], 5)
        np.testing.assert_array_equal(rows, allowed[best])
        np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_allowed_row_finds_nothing(kind: IndexKind) -> None:
    scores, rows = index_of(kind).search(QUERIES, 5, np.array([], dtype=np.int64))
    assert scores.shape == rows.shape == (50, 0)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("precision", [np.float16, np.float32])
def test_lists_miss_few_and_their_scores_are_those_of_the_vectors(
    kind: IndexKind, precision: type
) -> None:
    # Clusters, as the vectors of products are; every direction alike has no lists to speak of.
    centres = directions(300, DIM, 3)[np.random.default_rng(4).integers(300, size=ROWS)]
    vectors = centres + 0.3 * VECTORS
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(precision)
    nearest = Nearest.build(kind, vectors)
    assert nearest.lists is not None
    queries = vectors[::131].astype(np.float32)
    assert recall(nearest, queries) >= 0.95
    scores, rows = nearest.search(queries, 10)
    own = np.einsum("qd,qkd->qk", queries, vectors[rows].astype(np.float32))
    np.testing.assert_allclose(scores, own, atol=1e-6)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_rows_are_found_as_are_asked_for(kind: IndexKind) -> None:
    for k in (1, 100, 400, 2000, ROWS, 2 * ROWS):
        _, rows = index_of(kind).search(QUERIES[:3], k)
        assert rows.shape == (3, min(k, ROWS))
        assert all(len(set(row)) == len(row) and min(row) >= 0 for row in rows.tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 39, 200])
def test_few_vectors_are_scanned(kind: IndexKind, rows: int) -> None:
    _, found = Nearest.build(kind, VECTORS[:rows]).search(QUERIES, 5)
    np.testing.assert_array_equal(found, brute_force(VECTORS[:rows], QUERIES, 5)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_finds_the_same_in_a_mapped_file(kind: IndexKind, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", VECTORS.astype(np.float16))
    vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    nearest = Nearest.build(kind, vectors)
    nearest.save(tmp_path / "lists")
    assert (tmp_path / "lists").exists() == (kind != "exact")
    loaded = Nearest.load(kind, tmp_path / "lists", vectors)
    for before, after in zip(nearest.search(QUERIES, 7), loaded.search(QUERIES, 7), strict=True):
        np.testing.assert_array_equal(before, after)


def test_as_many_lists_are_read_as_the_vectors_need(tmp_path: Path) -> None:
    # Hundreds of vectors around each of a few directions find their neighbours in the nearest list.
    centres = directions(20, DIM, 3).repeat(ROWS // 20, axis=0)
    easy = centres + 0.05 * directions(len(centres), DIM, 4)
    easy /= np.linalg.norm(easy, axis=1, keepdims=True)
    few = Nearest.build("ivf_sq8", easy, queries=easy[::40])
    many = Nearest.build("ivf_sq8", VECTORS, queries=QUERIES)
    assert few.lists.nprobe < many.lists.nprobe < many.lists.nlist
    assert recall(few, easy[::40]) >= SURE
    assert recall(many, QUERIES) >= SURE
    # Queries that lie elsewhere than the products need more of the same lists.
    apart = Nearest.build("ivf_sq8", easy, queries=QUERIES)
    assert apart.lists.nprobe > few.lists.nprobe
    assert recall(apart, QUERIES) >= SURE > recall(few, QUERIES)
    many.save(tmp_path / "lists")
    assert Nearest.load("ivf_sq8", tmp_path / "lists", VECTORS).lists.nprobe == many.lists.nprobe


def test_lists_of_other_vectors_or_none_are_refused(tmp_path: Path) -> None:
    index_of("ivf_sq8").save(tmp_path / "lists")
    for file, vectors, message in (
        ("lists", VECTORS[:-1], "an index of .* vectors, expected"),
        ("none", VECTORS, "none: no index that can be read"),
    ):
        with pytest.raises(ValueError, match=message):
            Nearest.load("ivf_sq8", tmp_path / file, vectors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped", [False, True])
def test_an_updated_index_finds_what_is_there_now(
    kind: IndexKind, mapped: bool, tmp_path: Path
) -> None:
    nearest = index_of(kind)
    if mapped:
        nearest.save(tmp_path / "lists")
        nearest = Nearest.load(kind, tmp_path / "lists", VECTORS)
    # Rows 0 to 99 go, 100 to 199 change, 300 comes thrice, 200 are new; the order is another.
    old = np.concatenate([np.arange(100, ROWS), np.full(200, -1), [300, 300]])
    vectors = np.concatenate([VECTORS[100:], directions(200, DIM, 7), VECTORS[[300, 300]]])
    vectors[:100], old[:100] = directions(100, DIM, 8), -1
    order = np.random.default_rng(9).permutation(len(old))
    vectors, old = vectors[order], old[order]
    after = nearest.updated(vectors, old)
    assert len(after) == len(vectors)
    scores, rows = after.search(vectors, 1)
    # A vector is the nearest to itself, and is found under its own row.
    assert (rows[:, 0] == np.arange(len(rows))).mean() > 0.99
    assert (rows[old < 0, 0] == np.flatnonzero(old < 0)).mean() > 0.98
    np.testing.assert_allclose(scores[:, 0], 1, atol=0.01)
    if after.lists is not None:
        held = [after.lists.invlists.list_size(each) for each in range(after.lists.nlist)]
        assert sum(held) == len(vectors)


def test_a_much_larger_catalogue_learns_its_lists_anew() -> None:
    few = Nearest.build("ivf_sq8", VECTORS[: FEWEST_ROWS - 1])
    assert few.lists is None
    old = np.concatenate([np.arange(FEWEST_ROWS - 1), np.full(ROWS - FEWEST_ROWS + 1, -1)])
    assert few.updated(VECTORS, old).lists is not None
    three = np.concatenate([VECTORS] * 3)
    grown = index_of("ivf_sq8").updated(three, np.tile(np.arange(ROWS), 3))
    assert grown.lists.nlist > index_of("ivf_sq8").lists.nlist


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((0, 3), dtype=np.float32), "no vectors"),
        (np.ones((2, 3)), "float16 or float32, got float64"),
        (np.ones((2, 6), dtype=np.float16)[:, ::2], "expected rows of float16"),
    ],
)
def test_vectors_that_cannot_be_read_in_place_are_refused(
    vectors: np.ndarray, message: str
) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=message):
            Nearest.build(kind, vectors)


def test_bad_searches_are_refused() -> None:
    nearest = index_of("exact")
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        nearest.search(QUERIES, 0)
    with pytest.raises(ValueError, match="query vectors of dim 4, index of 32"):
        nearest.search(QUERIES[:, :4], 1)
    for allowed in ([-1, 2], [0, ROWS]):
        with pytest.raises(ValueError, match="allowed rows"):
            nearest.search(QUERIES, 1, np.array(allowed))


@pytest.mark.parametrize("precision", [np.float16, np.float32])
def test_truncated_vectors_are_the_first_numbers_at_length_one(precision: type) -> None:
    vectors = np.array([[3, 4, 12], [0, 0, 1]], dtype=precision)
    short = truncate(vectors, 2)
    np.testing.assert_allclose(short, [[0.6, 0.8], [0, 0]], atol=1e-3)
    assert short.dtype == precision
    assert truncate(vectors, 3) is vectors
    for dim in (0, -1, 4):
        with pytest.raises(ValueError, match=f"dim {dim}: expected 1 to 3"):
            truncate(vectors, dim)
