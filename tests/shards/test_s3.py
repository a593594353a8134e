"""Shards in S3: a real client, and moto's server on the loopback."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from beyond_text.config.settings import Data
from beyond_text.shards import fetch
from beyond_text.shards.manifest import ShardError, read_manifest
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store
from tests.shards.s3 import Bucket, s3_server

FIELDS = ["title", "description"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Bucket:
    return Bucket(endpoint, "shop")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setattr(fetch, "WAITS", (0.0,))
    return Data(cache_dir=str(tmp_path / "cache"), cache_gb=1)


def test_the_samples_are_those_of_the_folder(bucket: Bucket, tiny_shards: Path, data: Data) -> None:
    url = bucket.put(tiny_shards, "deep/er/shards")
    for place in (url, f"{url}/"):
        near, far = (
            Split(store, "train", FIELDS) for store in (tiny_shards, Store.of(place, data))
        )
        assert far.store.name == url
        assert [far.read(n, None) for n in range(len(far))] == [
            near.read(n, None) for n in range(len(near))
        ]


def test_a_large_object_comes_in_parts(bucket: Bucket, data: Data, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(2**20) * 60
    (tmp_path / "big").mkdir()
    (tmp_path / "big/train-000000.tar").write_bytes(content)
    url = bucket.put(tmp_path / "big", "big")
    digest = hashlib.sha256(content).hexdigest()
    entry = {"file": "train-000000.tar", "bytes": len(content), "sha256": digest}
    assert Store.of(url, data).local(entry).read_bytes() == content
    with pytest.raises(ShardError, match="changed: more than 2000000 bytes, the manifest says"):
        Store.of(url, data).local(entry | {"bytes": 500_000, "sha256": "0" * 64})


def test_objects_that_are_missing_or_changed_are_named(
    bucket: Bucket, tiny_shards: Path, data: Data
) -> None:
    url = bucket.put(tiny_shards, "other")
    first, second = read_manifest(tiny_shards)["splits"]["train"]["shards"][:2]
    store = Store.of(url, data)
    split = Split(store, "train", FIELDS)
    right = (tiny_shards / first["file"]).read_bytes()
    changed = b"\1" + right[1:]
    bucket.client.put_object(Bucket="shop", Key=f"other/{first['file']}", Body=changed)
    with pytest.raises(ShardError, match=rf"^{url}/{first['file']}: changed: {len(right)} bytes"):
        split.read(0, None)
    bucket.client.delete_object(Bucket="shop", Key=f"other/{second['file']}")
    with pytest.raises(ShardError, match=rf"^{url}/{second['file']}: no such file, the manifest"):
        store.local(second)
    with pytest.raises(ShardError, match=rf"^{url}/{second['file']}: no such file, the manifest"):
        Split(Store.of(url, data), "train", FIELDS)


@pytest.mark.parametrize("url", ["s3://shop/nothing", "s3://nobodys/shards"])
def test_a_place_without_a_manifest_is_named(bucket: Bucket, data: Data, url: str) -> None:
    with pytest.raises(ShardError, match=rf"^{url}: no manifest.json: not a finished folder of"):
        read_manifest(Store.of(url, data))


def test_without_credentials_it_is_said_where_they_are_looked_for(
    endpoint: str, data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    with pytest.raises(ShardError, match=r"credentials are read from the environment") as raised:
        read_manifest(Store.of("s3://shop/other", data))
    S3FileSystem.clear_instance_cache()
    assert "\n" not in str(raised.value)
