"""Files are compared with their checksums once, and again when anything about them has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from beyond_text import files
from beyond_text.files import user_cache
from beyond_text.shards import manifest
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.split import Split

FIELDS = ["title"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Lists the files that are read whole; those of a test may have changed just before."""
    names: list[str] = []
    of = manifest.sha256_of
    monkeypatch.setattr(manifest, "sha256_of", lambda path: names.append(path.name) or of(path))
    monkeypatch.setattr(files, "GRAIN", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return names


@pytest.fixture
def copied(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def test_a_file_is_read_once_by_all_processes_and_again_where_it_has_changed(
    copied: Path, read: list[str]
) -> None:
    Split(copied, "train", FIELDS).verify()
    assert len(read) == len(set(read)) == 10
    read.clear()
    Split(copied, "train", FIELDS).verify()
    assert read == []
    (copied / "train-00001.tar").touch()
    Split(copied, "train", FIELDS).verify()
    assert read == ["train-00001.tar"]


@pytest.mark.parametrize("hides", [False, True])
def test_a_flipped_bit_is_found_even_where_the_time_of_the_change_is_put_back(
    copied: Path, read: list[str], hides: bool
) -> None:
    Split(copied, "train", FIELDS).verify()
    path = copied / "train-00002.tar"
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    if hides:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(ShardError, match=r"train-00002\.tar: damaged: SHA-256"):
            Split(copied, "train", FIELDS).verify()


def test_another_folder_or_manifest_is_another_matter(
    copied: Path, read: list[str], tmp_path: Path
) -> None:
    split = Split(copied, "train", FIELDS)
    split.verify()
    moved = Path(shutil.copytree(copied, tmp_path / "moved"))
    read.clear()
    Split(moved, "train", FIELDS).verify()
    assert len(read) == 10
    entry: Any = split.counts["judged"]
    entry["sha256"] = "0" * 64
    with pytest.raises(ShardError, match=r"judged-train\.arrow: damaged"):
        split.verify()


def test_what_has_just_changed_is_not_remembered(
    copied: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "GRAIN", 10**18)
    for _ in range(2):
        read.clear()
        Split(copied, "train", FIELDS).verify()
        assert len(read) == 10


@pytest.mark.parametrize("damage", ["no JSON", "another JSON", "a folder"])
def test_a_memory_that_cannot_be_used_costs_time_and_nothing_else(
    copied: Path, read: list[str], damage: str
) -> None:
    Split(copied, "train", FIELDS).verify()
    [path] = (user_cache() / "verified").iterdir()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_text("{" if damage == "no JSON" else '{"train-00000.tar": [1]}')
    read.clear()
    Split(copied, "train", FIELDS).verify()
    assert len(read) == 10
