"""Batches of shards at a URL are those of the folder, and their shards come ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch.utils.data import DataLoader

from beyond_text.config.settings import Data
from beyond_text.shards.batch import Sample
from beyond_text.shards.dataset import Products
from beyond_text.shards.manifest import ShardError, files_of, read_manifest
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store
from tests.shards.s3 import Bucket, s3_server
from tests.shards.web import serving

FIELDS = ["title", "description"]


@pytest.fixture(params=["web", "s3", "memory"])
def url(request: pytest.FixtureRequest, tiny_shards: Path) -> Iterator[str]:
    if request.param == "web":
        with serving(tiny_shards) as web:
            yield web.url
    elif request.param == "s3":
        with s3_server() as endpoint:
            yield Bucket(endpoint, "shop").put(tiny_shards, "shards")
    else:
        for path in tiny_shards.iterdir():
            fsspec.filesystem("memory").pipe_file(f"/ahead/{path.name}", path.read_bytes())
        yield "memory://ahead"


def batches(split: Split, workers: int) -> list[list[Sample]]:
    losses = [("query_product",)]
    loader = DataLoader(
        Products([split], 3, 32, losses, [2]),
        batch_sampler=BatchSampler(
            [split.sizes], [1.0], 5, 12, 3, queries_per_product=[2], told=[split.ahead]
        ),
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context=_start_method(split) if workers else None,
    )
    return list(loader)


def _start_method(split: Split) -> str:
    """Returns that of training; the stores of tests in memory are a process's own."""
    return "fork" if "memory:" in split.store.name else "spawn"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("room", [1.0, 0.6])
def test_batches_are_those_of_the_folder_with_any_number_of_workers(
    url: str, tiny_shards: Path, tmp_path: Path, room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker that has read all its batches is idle.
    monkeypatch.setattr("beyond_text.shards.cache.LEASE", 0.2)
    near = Split(tiny_shards, "train", FIELDS)
    expected = batches(near, 0)
    size = sum(entry["bytes"] for entry in near.products.entries)
    # What stays: indexes, queries and judgments.
    stays = files_of(read_manifest(tiny_shards)["splits"]["train"])
    small = sum(entry["bytes"] for entry in stays if not entry["file"].endswith(".tar"))
    for workers in (0, 2):
        # With less room than all shards, which are dropped and fetched again.
        data = Data(cache_dir=str(tmp_path / f"{workers}"), cache_gb=(room * size + small) / 1e9)
        assert same(batches(Split(Store.of(url, data), "train", FIELDS), workers), expected)
        files = list((tmp_path / f"{workers}").glob("[!.]*"))
        assert 0 < sum(path.stat().st_size for path in files) <= data.cache_gb * 1e9


def test_the_shards_of_a_window_and_of_the_next_come_before_they_are_read(
    tiny_shards: Path, tmp_path: Path
) -> None:
    with serving(tiny_shards) as web:
        split = Split(Store.of(web.url, Data(cache_dir=str(tmp_path))), "train", FIELDS)
        sampler = BatchSampler([split.sizes], [1.0], 5, 12, 3, told=[split.ahead])
        next(iter(sampler))
        until = time.monotonic() + 30
        while len(list(tmp_path.glob("*.tar"))) < len(split.sizes):
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_cache_without_room_for_a_window_stops_a_run_before_it_begins(
    tiny_shards: Path, tmp_path: Path
) -> None:
    with serving(tiny_shards) as web:
        data = Data(cache_dir=str(tmp_path), cache_gb=1e-6)
        split = Split(Store.of(web.url, data), "train", FIELDS)
        with pytest.raises(ShardError, match=rf"^{web.url}: data.cache_gb=1e-06: no room for the"):
            split.check_window(16)
