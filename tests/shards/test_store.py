"""Shards at a URL: fetched once, compared with the manifest, through every fault of a store."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from beyond_text.config.settings import Data
from beyond_text.shards import fetch
from beyond_text.shards.cloud import CloudStore
from beyond_text.shards.fetch import Remote
from beyond_text.shards.manifest import ShardError, files_of, read_manifest
from beyond_text.shards.split import Split
from beyond_text.shards.store import Store
from tests.shards.web import Web, serving

FIELDS = ["title", "description"]


@pytest.fixture
def web(tiny_shards: Path) -> Iterator[Web]:
    with serving(tiny_shards) as web:
        yield web


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAITS", (0.0,) * 4)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(cache_dir=str(tmp_path / "cache"), cache_gb=1)


def shards_of(folder: Path) -> list[dict[str, Any]]:
    return [dict(shard) for shard in read_manifest(folder)["splits"]["train"]["shards"]]


def cached(data: Data) -> list[str]:
    return sorted(path.name for path in Path(data.cache_dir).glob("[!.]*"))


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_plain_folder_is_read_where_it_lies(tiny_shards: Path) -> None:
    for place in (tiny_shards, str(tiny_shards), tiny_shards.as_uri(), f"{tiny_shards}/"):
        store = Store.of(place)
        assert not store.is_remote
        entry = shards_of(tiny_shards)[0]
        assert store.local(entry) == tiny_shards / entry["file"]
        assert store.label == tiny_shards.name


def test_a_file_is_fetched_once_and_is_that_of_the_folder(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    entry = shards_of(tiny_shards)[0]
    for _ in range(2):
        # The second store finds what the first one left.
        store = Store.of(web.url, data)
        for _ in range(3):
            path = store.local(entry)
            assert path.read_bytes() == (tiny_shards / entry["file"]).read_bytes()
    assert path.is_relative_to(data.cache_dir)
    assert web.hits == {entry["file"]: 1}
    assert str(store) == store.name == web.url


def test_the_samples_of_a_url_are_those_of_the_folder(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    near, far = Split(tiny_shards, "train", FIELDS), Split(Store.of(web.url, data), "train", FIELDS)
    far = pickle.loads(pickle.dumps(far))
    assert far.sizes == near.sizes
    for sample in range(len(near)):
        fields, picture = near.read(sample, 32)
        other_fields, other = far.read(sample, 32)
        assert fields == other_fields
        assert (picture is None and other is None) or (picture == other).all()
    assert all(count == 1 for name, count in web.hits.items() if name != "manifest.json")


def test_any_store_of_fsspec_can_hold_shards(tiny_shards: Path, data: Data) -> None:
    memory = fsspec.filesystem("memory")
    for path in tiny_shards.iterdir():
        memory.pipe_file(f"/any/where/{path.name}", path.read_bytes())
    split = Split(Store.of("memory://any/where/", data), "dev", FIELDS)
    assert split.read(0, None) == Split(tiny_shards, "dev", FIELDS).read(0, None)
    assert len([name for name in cached(data) if name.endswith(".tar")]) == 1


@pytest.mark.parametrize(
    "faults", [[500, 503], [429], ["cut"], ["cut", 502, "cut"], ["short"], ["damaged"]]
)
def test_a_failure_of_the_moment_is_tried_again(
    web: Web, tiny_shards: Path, data: Data, faults: list[int | str]
) -> None:
    entry = shards_of(tiny_shards)[0]
    requests = len(faults) + 1
    web.faults[entry["file"]] = faults.copy()
    web.faults["manifest.json"] = [each for each in faults if each not in ("short", "damaged")]
    store = Store.of(web.url, data)
    assert read_manifest(store) == read_manifest(tiny_shards)
    assert store.local(entry).read_bytes() == (tiny_shards / entry["file"]).read_bytes()
    assert web.hits[entry["file"]] == requests
    assert cached(data) == [f"{entry['sha256']}-{entry['file']}"]


@pytest.mark.parametrize("fault", [500, "cut"])
def test_a_store_that_stays_broken_is_one_line_that_names_the_file(
    web: Web, tiny_shards: Path, data: Data, fault: int | str
) -> None:
    entry = shards_of(tiny_shards)[0]
    web.faults[entry["file"]] = [fault] * 99
    with pytest.raises(ShardError, match=r"not fetched in 5 attempts: \w+") as raised:
        Store.of(web.url, data).local(entry)
    assert str(raised.value).startswith(f"{web.url}/{entry['file']}: ")
    assert "\n" not in str(raised.value)
    assert web.hits[entry["file"]] == 5
    assert cached(data) == []


def test_a_host_that_does_not_answer_is_one_line(data: Data) -> None:
    with pytest.raises(ShardError, match=r"^http://127.0.0.1:1/x/manifest.json: not fetched in"):
        read_manifest(Store.of("http://127.0.0.1:1/x", data))


def test_a_changed_object_names_both_digests_and_says_what_to_do(
    tiny_shards: Path, data: Data, tmp_path: Path
) -> None:
    entry = shards_of(tiny_shards)[0]
    right = (tiny_shards / entry["file"]).read_bytes()
    folder = tmp_path / "other"
    folder.mkdir()
    with serving(folder) as web:
        for other in (b"\1" + right[1:], right[:-512], right + bytes(512), b""):
            (folder / entry["file"]).write_bytes(other)
            with pytest.raises(ShardError) as raised:
                Store.of(web.url, data).local(entry)
            line = str(raised.value)
            assert line.startswith(f"{web.url}/{entry['file']}: changed: {len(other)} bytes of")
            assert hashlib.sha256(other).hexdigest() in line
            assert f"{entry['bytes']} bytes of SHA-256 {entry['sha256']}" in line
            assert "upload the shards again" in line
            assert "\n" not in line
            assert cached(data) == []
        (folder / entry["file"]).write_bytes(right * 2 + bytes(2**21))
        with pytest.raises(ShardError, match=r"changed: more than .* bytes, the manifest says"):
            Store.of(web.url, data).local(entry)
        assert cached(data) == []


def test_a_missing_object_is_named_when_the_split_is_opened_or_it_is_fetched(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    entry = shards_of(tiny_shards)[0] | {"file": "train-000099.tar"}
    with pytest.raises(ShardError) as raised:
        Store.of(web.url, data).local(entry)
    assert str(raised.value) == (f"{web.url}/train-000099.tar: no such file, the manifest lists it")
    assert web.hits["train-000099.tar"] == 1
    memory = fsspec.filesystem("memory")
    for path in tiny_shards.iterdir():
        memory.pipe_file(f"/part/{path.name}", path.read_bytes())
    name = shards_of(tiny_shards)[1]["file"]
    memory.rm_file(f"/part/{name}")
    with pytest.raises(ShardError, match=rf"^memory://part/{name}: no such file, the man"):
        Split(Store.of("memory://part", data), "train", FIELDS)
    memory.pipe_file(f"/part/{name}", b"short")
    with pytest.raises(ShardError, match=rf"^memory://part/{name}: 5 bytes, the manifest"):
        Split(Store.of("memory://part", data), "train", FIELDS)


@pytest.mark.parametrize("url", ["http://{host}/nothing", "memory://nowhere"])
def test_a_place_without_a_manifest_is_named_as_the_user_wrote_it(
    web: Web, data: Data, url: str
) -> None:
    url = url.format(host=web.host)
    web.faults["manifest.json"] = [404]
    with pytest.raises(ShardError) as raised:
        read_manifest(Store.of(url, data))
    assert str(raised.value).startswith(f"{url}: no manifest.json: not a finished folder")


def test_a_redirect_is_followed(web: Web, tiny_shards: Path, data: Data) -> None:
    web.redirects = web.url
    store = Store.of(f"http://{web.host}/moved", data)
    assert read_manifest(store) == read_manifest(tiny_shards)
    entry = shards_of(tiny_shards)[0]
    assert store.local(entry).read_bytes() == (tiny_shards / entry["file"]).read_bytes()


def test_credentials_of_a_url_are_used_and_never_shown(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    web.password, web.token = "s3cret", "sig=t0ken"
    entry = shards_of(tiny_shards)[0]
    store = Store.of(f"http://me:s3cret@{web.host}/shards/?sig=t0ken", data)
    assert store.name == web.url
    assert read_manifest(store) == read_manifest(tiny_shards)
    assert store.local(entry).is_file()
    lines = []
    for user, query in (("me:wr0ng@", "?sig=t0ken"), ("me:s3cret@", "?sig=0ther"), ("t0p@", "")):
        with pytest.raises(ShardError, match="access refused") as raised:
            read_manifest(Store.of(f"http://{user}{web.host}/shards{query}", data))
        lines += traceback.format_exception(raised.value)
        assert str(raised.value).startswith(f"{web.url}/manifest.json: access refused")
    web.faults["manifest.json"] = [500] * 9
    with pytest.raises(ShardError) as raised:
        read_manifest(store)
    text = "\n".join([*lines, str(raised.value)])
    assert not re.search("s3cret|t0ken|wr0ng|0ther|t0p", text)
    with pytest.raises(ShardError, match=r"^s3://bucket/x: credentials are read from the env"):
        read_manifest(Store.of("s3://key:s3cret@bucket/x", data))


def test_a_missing_package_or_an_unknown_store_is_one_line(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, url in (("s3fs", "s3://b/x"), ("gcsfs", "gs://b/x"), ("aiohttp", "https://h/x")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
        known = sys.modules["fsspec.registry"]._registry  # type: ignore[attr-defined]
        monkeypatch.delitem(known, url.partition(":")[0], raising=False)
        with pytest.raises(ShardError) as raised:
            read_manifest(Store.of(url, data))
        scheme = url.partition(":")[0]
        assert str(raised.value) == (
            f"{url}: {scheme}:// needs a package that is not installed: "
            "`pip install 'beyond-text[cloud]'`"
        )
    with pytest.raises(ShardError, match=r"^nfs3://b/x: unknown kind of store 'nfs3': expected a"):
        read_manifest(Store.of("nfs3://b/x", data))


def test_what_is_announced_is_fetched_by_several_threads_before_it_is_asked_for(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    store = Store.of(web.url, data)
    entries = shards_of(tiny_shards)
    assert len(entries) >= 3
    web.free.clear()
    store.ahead(entries)
    # All at a time, though none has been answered.
    wait_until(lambda: web.most_together == len(entries))
    web.free.set()
    wait_until(lambda: len(cached(data)) == len(entries))
    wait_until(lambda: not any(name.endswith(".partial") for name in cached(data)))
    assert all(store.local(entry).is_file() for entry in entries)
    assert all(web.hits[entry["file"]] == 1 for entry in entries)


def test_whoever_needs_a_file_that_is_being_fetched_waits_for_it(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    entry = shards_of(tiny_shards)[0]
    web.free.clear()
    Store.of(web.url, data).ahead([entry])
    wait_until(lambda: web.together == 1)
    other = Store.of(web.url, data)
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(other.local(entry)))
    thread.start()
    web.free.set()
    thread.join(30)
    assert found[0].read_bytes() == (tiny_shards / entry["file"]).read_bytes()
    assert web.hits[entry["file"]] == 1


def test_a_fault_ahead_is_said_to_whoever_needs_the_file(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    entry = shards_of(tiny_shards)[0]
    web.faults[entry["file"]] = [404]
    store = Store.of(web.url, data)
    store.ahead([entry])
    wait_until(lambda: web.hits[entry["file"]] == 1 and not cached(data))
    assert store.local(entry).is_file()


CHILD = """
import sys
from beyond_text.config.settings import Data
from beyond_text.shards.manifest import read_manifest
from beyond_text.shards.store import Store

url, folder, cache = sys.argv[1:]
store = Store.of(url, Data(cache_dir=cache, cache_gb=1))
for entry in read_manifest(folder)["splits"]["train"]["shards"]:
    store.local(entry)
print("done", flush=True)
"""


def child(web: Web, folder: Path, data: Data) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", CHILD, web.url, str(folder), data.cache_dir]
    return subprocess.Popen(words, stdout=subprocess.PIPE)


def test_processes_share_what_is_fetched(web: Web, tiny_shards: Path, data: Data) -> None:
    children = [child(web, tiny_shards, data) for _ in range(3)]
    assert [each.communicate(timeout=60)[0] for each in children] == [b"done\n"] * 3
    assert all(web.hits[entry["file"]] == 1 for entry in shards_of(tiny_shards))


def test_a_killed_process_leaves_no_half_file_and_no_lock(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    first = shards_of(tiny_shards)[0]
    web.free.clear()
    killed = child(web, tiny_shards, data)
    wait_until(lambda: web.together == 1)
    assert any(name.endswith(".partial") for name in cached(data))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    web.free.set()
    store = Store.of(web.url, data)
    # Of another file, so that the first is only tidied away.
    store.local(shards_of(tiny_shards)[1])
    assert not any(name.endswith(".partial") for name in cached(data))
    assert store.local(first).read_bytes() == (tiny_shards / first["file"]).read_bytes()


def test_a_cache_without_room_for_a_window_is_refused_and_for_the_next_is_said_once(
    web: Web, tiny_shards: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = shards_of(tiny_shards)
    size = max(entry["bytes"] for entry in entries)
    limit = round(1.5 * size) / 1e9
    store = Store.of(web.url, Data(cache_dir=data.cache_dir, cache_gb=limit))
    with pytest.raises(ShardError, match=r": no room for the 2 shards that are read at a time, wh"):
        store.check_window(entries, 2)
    store.check_window(entries, 1)
    store.ahead(entries[:1])
    wait_until(lambda: cached(data) == [f"{entries[0]['sha256']}-{entries[0]['file']}"])
    store.ahead(entries[1:3])
    store.ahead(entries[1:3])
    line = capsys.readouterr().err
    assert line.startswith(f"{web.url}: data.cache_gb={limit:g}: no room for the shards")
    assert line.count("\n") == 1
    assert isinstance(store, CloudStore)
    wait_until(lambda: bool(list(Path(data.cache_dir).glob(f"{entries[1]['sha256']}-*.tar"))))
    # What is needed comes all the same, and the bound is kept.
    for entry in entries:
        assert store.local(entry).read_bytes() == (tiny_shards / entry["file"]).read_bytes()
        kept = list(Path(store.cache.folder).glob("[!.]*"))
        assert sum(path.stat().st_size for path in kept) <= store.cache.limit


def test_tables_of_a_manifest_stay_however_many_shards_are_read(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    manifest = read_manifest(tiny_shards)
    shards = shards_of(tiny_shards)
    tables = [entry for entry in files_of(manifest["splits"]["dev"]) if entry["file"][-3:] != "tar"]
    room = sum(table["bytes"] for table in tables) + 1.1 * max(entry["bytes"] for entry in shards)
    small = Data(cache_dir=data.cache_dir, cache_gb=room / 1e9)
    store = Store.of(web.url, small)
    paths = [store.local(table) for table in tables]
    assert paths
    for entry in shards:
        store.local(entry)
    for path, table in zip(paths, tables, strict=True):
        assert path.read_bytes() == (tiny_shards / table["file"]).read_bytes()
    assert len(cached(small)) == len(tables) + 1
    # Nobody uses them any more.
    del store
    only = Data(cache_dir=data.cache_dir, cache_gb=shards[0]["bytes"] / 1e9)
    Store.of(web.url, only).local(shards[0])
    assert not any(path.exists() for path in paths)


def test_a_store_is_used_in_a_process_that_was_forked(
    web: Web, tiny_shards: Path, data: Data
) -> None:
    entries = shards_of(tiny_shards)
    store = Store.of(web.url, data)
    store.local(entries[0])
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            store.ahead(entries)
            names = [str(store.local(entry).stat().st_size) for entry in entries]
            os.write(writing, json.dumps(names).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert json.loads(os.read(reading, 10_000)) == [str(entry["bytes"]) for entry in entries]
    assert isinstance(store, CloudStore)
    # The parent's shard is in use still.
    assert store.local(entries[0]).is_file()


def test_what_a_library_says_is_shown_without_credentials_as_written_or_decoded() -> None:
    remote = Remote("https://me:p%40ss%2Fw@host/x?sig=a%2Bb")
    said = remote._reason(OSError("no https://me:p@ss/w@host/x?sig=a+b, p%40ss%2Fw, a%2Bb"))
    assert not any(secret in said for secret in ("p@ss", "p%40ss", "a+b", "a%2Bb"))
