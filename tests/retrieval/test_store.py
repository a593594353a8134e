"""Tests that a store gives back what was written, and nothing where it is not that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from beyond_text.config.names import INDEX_KINDS, IndexKind
from beyond_text.retrieval.index import ProductIndex
from beyond_text.retrieval.shown import Shown
from beyond_text.retrieval.store import Store

MADE_OF = {"weights": "a", "split": ""}
SHOWN = [
    Shown("å/1", "Mug [set of 4]", "dev-00000.tar", 1536, 3),
    Shown("b c", "two\nlines", "images/b.jpg"),
    Shown("c", ""),
]


def saved(folder: Path) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    Store.save(folder, vectors, SHOWN, MADE_OF)
    return vectors


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_a_kept_index_finds_what_a_new_one_finds(
    kind: IndexKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    vectors = saved(tmp_path / "store")
    queries = np.random.default_rng(1).normal(size=(2, 4))
    expected = ProductIndex.build([s.product_id for s in SHOWN], vectors, kind)
    before = expected.search(queries, ["q", "r"], 3)
    for _ in range(2):
        store = Store.load(tmp_path / "store", MADE_OF)
        assert store is not None
        after = store.index(kind).search(queries, ["q", "r"], 3)
        assert after.product_ids == before.product_ids
        np.testing.assert_allclose(after.scores, before.scores, atol=1e-6)
        assert {store.products.found(name) for name in after.product_ids[0]} == set(SHOWN)
    # Few products are scanned; there are no lists to keep.
    assert not list((tmp_path / "cache").rglob("*.faiss"))
    assert not list((tmp_path / "store").rglob("*.faiss"))


def test_lists_are_kept_with_the_user_and_built_again_where_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shown = [Shown(f"{number:05}", "") for number in range(6000)]
    vectors = np.random.default_rng(0).normal(size=(6000, 8)).astype(np.float32)
    Store.save(tmp_path / "store", vectors, shown, MADE_OF)
    store = Store.load(tmp_path / "store", MADE_OF)
    assert store is not None
    before = store.index("ivf_sq8").search(vectors[:5], list("abcde"), 3)
    (lists,) = (tmp_path / "cache").rglob("*.faiss")
    assert not list((tmp_path / "store").rglob("*.faiss"))
    for content in (lists.read_bytes(), b"", b"\0" * 500, lists.read_bytes()[:-1]):
        lists.unlink()
        lists.write_bytes(content)
        after = store.index("ivf_sq8").search(vectors[:5], list("abcde"), 3)
        assert after.product_ids == before.product_ids


def test_a_store_made_of_something_else_is_none(tmp_path: Path) -> None:
    saved(tmp_path)
    assert Store.load(tmp_path, {**MADE_OF, "weights": "b"}) is None
    assert Store.load(tmp_path / "nowhere", MADE_OF) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"version": 1}', b"\xff"])
def test_a_store_whose_facts_are_not_there_is_none(content: bytes, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "made_of.json").write_bytes(content)
    assert Store.load(tmp_path, MADE_OF) is None


def test_a_strangers_picture_place_leads_nowhere_else(tmp_path: Path) -> None:
    for file in ("../secret.jpg", "/etc/hostname"):
        with pytest.raises(ValueError, match="a picture outside"):
            Shown("p", "", file).read(tmp_path / "shop")


def test_checksums_are_those_of_the_files(tmp_path: Path) -> None:
    saved(tmp_path)
    facts = json.loads((tmp_path / "made_of.json").read_text())
    facts["sha256"]["lines.npy"] = "0" * 64
    (tmp_path / "made_of.json").write_text(json.dumps(facts))
    assert Store.load(tmp_path, MADE_OF) is None
