"""Pictures that have not changed are not read again, and those that have are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from beyond_text import files
from beyond_text.indexing import seen
from beyond_text.retrieval.described import Place
from tests.indexing.shop import build, copied_shop, rows_of, write_rows


@pytest.fixture
def shop(tiny_tables: Path, tmp_path: Path) -> Path:
    return copied_shop(tiny_tables, tmp_path / "shop")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on; every file counts as settled."""
    monkeypatch.setattr(files, "GRAIN", 0)
    names: list[str] = []
    whole = Place.read

    def noted(place: Place, folder: Path) -> bytes:
        names.append(place.file)
        return whole(place, folder)

    monkeypatch.setattr(Place, "read", noted)
    return names


def test_only_pictures_that_have_changed_are_read_again(
    shop: Path, tiny_run: Path, tmp_path: Path, read: list[str]
) -> None:
    index = tmp_path / "index"
    pictures = {row["image"] for row in rows_of(shop) if row["image"]}
    build(shop, index, tiny_run)
    assert set(read) == pictures
    read.clear()
    assert build(shop, index, tiny_run).encoded == 0
    assert read == []
    # Of the same size and with its old time of change: the disk still knows that it was written.
    rows = rows_of(shop)
    changed = shop / next(row["image"] for row in rows if row["image"])
    before = changed.stat()
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed.stat().st_mtime_ns == before.st_mtime_ns
    new = shop / "images" / "new.jpg"
    Image.new("RGB", (30, 30), "orange").save(new)
    write_rows(shop, [*rows, {**rows[2], "product_id": "new", "image": "images/new.jpg"}])
    build(shop, index, tiny_run)
    assert {str(changed.relative_to(shop)), "images/new.jpg"} <= set(read)
    # What is encoded is read by the model too.
    assert len(set(read)) <= 3
    # A copy of the shop is other files.
    read.clear()
    shop.rename(tmp_path / "elsewhere")
    copied = copied_shop(tmp_path / "elsewhere", shop)
    build(copied, index, tiny_run)
    assert len(set(read)) >= len(pictures)


def test_a_file_that_has_just_changed_or_a_damaged_list_is_read_again(
    shop: Path, tiny_run: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    build(shop, index, tiny_run)
    whole = set(read)
    for damage in (b"", b"ARROW1", (index / seen.FILE).read_bytes()[:-40]):
        read.clear()
        (index / seen.FILE).write_bytes(damage)
        assert build(shop, index, tiny_run).encoded == 0
        assert set(read) == whole
    (index / seen.FILE).unlink()
    monkeypatch.setattr(files, "GRAIN", 3600 * 10**9)
    for _ in range(2):
        read.clear()
        build(shop, index, tiny_run)
        assert set(read) == whole
