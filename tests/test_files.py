"""Tests that files are written completely or stay as they were, and that errors name them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from beyond_text.files import atomic_folder, errors_name, write_json, write_text
from tests.test_faults import room_for


def test_a_full_disk_leaves_the_file_as_it_was_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"all": 1})
    before = path.read_text()
    assert before == '{\n "all": 1\n}\n'
    with room_for(2), pytest.raises(OSError, match="File too large") as caught:
        write_text(path, "a longer text")
    assert caught.value.filename == str(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone") as caught, errors_name(tmp_path):
        (tmp_path / "gone").read_text()
    assert caught.value.filename == str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"^no encoder there$"), errors_name(tmp_path):
        raise FileNotFoundError("no encoder there")
    with pytest.raises(OSError, match="No space left") as caught, errors_name(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path)


def test_a_folder_that_is_a_link_stays_one_and_its_target_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, link = tmp_path / "disk" / "out", tmp_path / "out"
    disk.parent.mkdir()
    link.symlink_to(disk)

    def is_made(folder: Path) -> bool:
        return (folder / "made").is_file()

    # Of nothing yet, of an earlier build, and by the name `.`.
    for turn in range(3):
        monkeypatch.chdir(disk if turn == 2 else tmp_path)
        with atomic_folder(Path("." if turn == 2 else "out"), is_made) as folder:
            (folder / "made").write_text(str(turn))
        assert link.is_symlink()
        assert (disk / "made").read_text() == str(turn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]
    assert [path.name for path in disk.parent.iterdir()] == ["out"]
