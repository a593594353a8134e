"""The folder of fetched files: bounded, the least recently used go, none that is in use."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from beyond_text.shards import cache as module
from beyond_text.shards.cache import Cache, give_back
from beyond_text.shards.manifest import ShardError


def name(letter: str, owner: str = "") -> str:
    digest = hashlib.sha256(letter.encode()).hexdigest()
    start = f"{hashlib.sha256(owner.encode()).hexdigest()[:16]}." if owner else ""
    return f"{start}{digest}-{letter}.tar"


def add(cache: Cache, letter: str, size: int = 10, **more: object) -> int | None:
    fill = more.pop("fill", lambda path: path.write_bytes(letter.encode() * size))
    return cache.add(name(letter), size, fill, **more)  # type: ignore[arg-type]


def letters(cache: Cache) -> str:
    return "".join(letter for letter in "abcdefgh" if (cache.folder / name(letter)).exists())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 30)


def test_the_least_recently_used_go_first(cache: Cache) -> None:
    for letter in "abc":
        handle = add(cache, letter)
        assert handle is not None
        assert os.pread(handle, 99, 0) == letter.encode() * 10
        give_back(handle)
    handle = cache.take(name("a"), 10)
    assert handle is not None
    give_back(handle)
    handle = add(cache, "d")
    assert handle is not None
    give_back(handle)
    assert letters(cache) == "acd"
    handle = add(cache, "e", 20)
    assert handle is not None
    assert letters(cache) == "de"


def test_none_that_is_in_use_goes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    held = [add(cache, "a"), add(cache, "b")]
    handle = add(cache, "c")
    assert handle is not None
    give_back(handle)
    assert add(cache, "d") is not None
    assert letters(cache) == "abd"
    # All are in use: ahead of its use nothing is fetched, and what is needed is one line.
    assert add(cache, "e") is None
    with pytest.raises(ShardError, match=r"no room for e.tar of 1e-08 GB: all of the cache is in"):
        add(cache, "e", spare=lambda: False)
    assert letters(cache) == "abd"
    assert not list(cache.folder.glob("*.partial"))

    def spare() -> bool:
        handle = held.pop(0)
        assert handle is not None
        give_back(handle)
        return True

    assert add(cache, "e", spare=spare) is not None
    assert letters(cache) == "bde"


def test_a_file_that_never_fits_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with pytest.raises(ShardError, match=r"which may hold 3e-08 GB \(data.cache_gb\)"):
        add(cache, "a", 31, spare=lambda: False)


def test_what_is_announced_makes_no_room_for_what_is_fetched_ahead(cache: Cache) -> None:
    for letter in "abc":
        handle = add(cache, letter)
        assert handle is not None
        give_back(handle)
    cache.announced["store"] = module.deque([{name("a"): 10, name("b"): 10}], 2)
    handle = add(cache, "d")
    assert handle is not None
    give_back(handle)
    assert letters(cache) == "abd"
    cache.announced["store"].append({name("d"): 10})
    assert add(cache, "e") is None
    assert letters(cache) == "abd"
    # What is needed now is another matter.
    assert add(cache, "e", spare=lambda: False) is not None
    assert letters(cache) == "bde"


def test_a_fill_that_fails_leaves_nothing(cache: Cache) -> None:
    def fill(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        add(cache, "a", fill=fill)
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]
    assert add(cache, "a") is not None


def test_what_a_killed_process_left_is_tidied_and_begun_again(cache: Cache) -> None:
    handle = add(cache, "a")
    assert handle is not None
    for letter in "bc":
        (cache.folder / f"{name(letter)}.10.partial").write_bytes(b"xxxxxxxxxxxxxxx")
    handle = add(cache, "b")
    assert handle is not None
    assert os.pread(handle, 99, 0) == b"b" * 10
    assert letters(cache) == "ab"
    assert not list(cache.folder.glob("*.partial"))


def test_a_file_of_another_size_is_fetched_again(cache: Cache) -> None:
    cache.folder.mkdir()
    (cache.folder / name("a")).write_bytes(b"old")
    handle = add(cache, "a")
    assert handle is not None
    assert (cache.folder / name("a")).read_bytes() == b"a" * 10


def test_files_of_others_in_the_folder_stay_and_do_not_count(cache: Cache) -> None:
    cache.folder.mkdir()
    mine = ["thesis.tar", "a.partial", f"{'0' * 64}", "x-train-000000.tar"]
    for file in mine:
        (cache.folder / file).write_bytes(bytes(100))
    (cache.folder / "folder").mkdir()
    for letter in "abcd":
        handle = add(cache, letter)
        assert handle is not None
        give_back(handle)
    assert letters(cache) == "bcd"
    assert all((cache.folder / file).stat().st_size == 100 for file in mine)


def test_a_disk_with_less_room_than_the_cache_may_take_is_not_filled(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    for letter in "ab":
        handle = add(cache, letter)
        assert handle is not None
        give_back(handle)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(0, 0, 5))
    handle = add(cache, "c")
    assert handle is not None
    assert letters(cache) == "bc"


HOLD = """
import sys
from pathlib import Path
from beyond_text.shards.cache import Cache

cache = Cache(Path(sys.argv[1]), 30)
handles = [cache.take(sys.argv[2], 10), cache.own("0123456789abcdef")]
print(handles[0] is not None, flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays_until_it_is_gone(cache: Cache) -> None:
    for letter in "abc":
        handle = add(cache, letter)
        assert handle is not None
        give_back(handle)
    words = [sys.executable, "-c", HOLD, str(cache.folder), name("a")]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    for letter in "def":
        handle = add(cache, letter)
        assert handle is not None
        give_back(handle)
    assert letters(cache) == "aef"
    other.kill()
    other.wait()
    for letter in "gh":
        handle = add(cache, letter)
        assert handle is not None
        give_back(handle)
    assert letters(cache) == "fgh"


def test_what_an_idle_process_holds_goes_where_room_is_needed_now(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE", 0.0)
    held = {letter: add(cache, letter) for letter in "abc"}
    assert held["a"] is not None
    # Not for what is only fetched ahead.
    assert add(cache, "d") is None
    assert add(cache, "d", spare=lambda: False) is not None
    assert letters(cache) == "bcd"
    # Whoever holds it reads on, and learns that it must be asked for again.
    assert os.pread(held["a"], 99, 0) == b"a" * 10
    assert not cache.keep(held["a"], name("a"))
    assert held["b"] is not None
    assert cache.keep(held["b"], name("b"))
    # It was used just now.
    assert add(cache, "e", spare=lambda: False) is not None
    assert letters(cache) == "bde"


def test_the_folder_is_the_users_own(cache: Cache) -> None:
    add(cache, "a")
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert (cache.folder / name("a")).stat().st_mode & 0o777 == 0o600
