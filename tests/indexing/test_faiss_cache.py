"""What FAISS builds is kept for the user alone, and read only where nobody else can write."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from beyond_text.config.names import INDEX_KINDS, IndexKind
from beyond_text.indexing.index import Index
from beyond_text.retrieval import nearest
from tests.indexing.test_index import random_vectors, write_index

pytestmark = pytest.mark.skipif(
    not hasattr(nearest, "_trained"), reason="no kind of index but exact"
)
LISTED = [kind for kind in INDEX_KINDS if kind != "exact"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(nearest, "FEWEST_ROWS", 500)
    return tmp_path / "cache" / "beyond-text"


def found(index: Index) -> list[list[str]]:
    hits = index.search_vectors(random_vectors(9, seed=1))
    return [[hit.product_id for hit in row] for row in hits]


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_recall_is_measured_at_build_and_kept(kind: IndexKind, cache: Path, tmp_path: Path) -> None:
    index = Index.open(write_index(tmp_path / "index", random_vectors(2000), kind=kind))
    assert index.kind == kind
    assert index.facts.recall_at_10 == 1.0 if kind == "exact" else index.facts.recall_at_10 > 0.6
    assert len(list(cache.glob("*.faiss"))) == (kind != "exact")
    assert not list((tmp_path / "index").rglob("*.faiss"))


@pytest.mark.parametrize("kind", LISTED)
def test_a_moved_index_makes_its_own_cache(kind: IndexKind, cache: Path, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", random_vectors(2000), kind=kind)
    expected = found(Index.open(index))
    shutil.rmtree(cache)
    moved = Path(shutil.move(index, tmp_path / "moved"))
    assert found(Index.open(moved)) == expected
    assert len(list(cache.glob("*.faiss"))) == 1
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", ["bytes", "checksum", "no checksum", "file", "folder", "link"])
def test_a_file_that_may_be_somebody_elses_is_never_parsed(
    harm: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_index(tmp_path / "index", random_vectors(2000), kind="ivf_sq8")
    expected = found(Index.open(index))
    (file,) = cache.glob("*.faiss")
    check = file.with_suffix(".sha256")
    if harm == "bytes":
        file.write_bytes(b"IxSp" + file.read_bytes()[4:])
    elif harm == "checksum":
        check.write_text(hashlib.sha256(b"").hexdigest())
    elif harm == "no checksum":
        check.unlink()
    elif harm == "file":
        file.chmod(0o666)
    elif harm == "folder":
        cache.chmod(0o777)
    else:
        other = Path(shutil.move(file, tmp_path / "other"))
        os.symlink(other, file)
    parsed: list[object] = []
    read = nearest.faiss.read_index
    monkeypatch.setattr(
        nearest.faiss, "read_index", lambda *given: parsed.append(given) or read(*given)
    )
    assert found(Index.open(index)) == expected
    assert not parsed
    if harm != "folder":
        # It has written its own again.
        Index.open(index)
        assert len(parsed) == 1


@pytest.mark.parametrize("kind", LISTED)
def test_an_update_keeps_what_was_learned(
    kind: IndexKind, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beyond_text.indexing.generation import Generation

    vectors = random_vectors(2000)
    index = write_index(tmp_path / "index", vectors, kind=kind)
    trained: list[object] = []
    train = nearest._trained
    monkeypatch.setattr(nearest, "_trained", lambda *given: trained.append(1) or train(*given))
    old = Generation.open(index)
    changed = np.concatenate([vectors[100:], random_vectors(50, seed=3)])
    write_index(index, changed, kind=kind, generation=2, old=old)
    assert not trained
    assert Index.open(index).facts.recall_at_10 > 0.6
    assert not trained
    assert len(list(cache.glob("*.faiss"))) == 1
