"""Tests that what was typed is printed as it is, and that faults are one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from beyond_text.config.load import load_config
from beyond_text.terminal import (
    check_writable,
    errors_in_one_line,
    plain,
    print_table,
    split_settings,
    table_row,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Mug [set of 4]", "Mug [set of 4]"),
        ("two\nlines\tand  more", "two lines and more"),
        ("\x1b[2Jgone\a", "\\x1b[2Jgone\\x07"),
        ("\u202etxet", "\\u202etxet"),
        ("half \ud800", "half \\ud800"),
        ("नमस्\u200dते ☕ 日本", "नमस्\u200dते ☕ 日本"),
    ],
)
def test_control_characters_are_shown_as_codes(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_table_holds_no_markup(capsys: pytest.CaptureFixture) -> None:
    print_table("[/red]", ["[b]", "n"], [[["[link=x]y[/link]", 1], [":smile:", "\x1b[31m"]]])
    said = capsys.readouterr().out
    for text in ("[/red]", "[b]", "[link=x]y[/link]", ":smile:", "\\x1b[31m"):
        assert text in said


@pytest.mark.parametrize(
    "error",
    [ValueError("a\nb [/x]"), OSError("a\n b [/x]"), MemoryError("a b [/x]"), KeyError],
)
def test_an_error_of_the_input_is_one_line(error: BaseException) -> None:
    if error is KeyError:
        with pytest.raises(KeyError), errors_in_one_line():
            raise error
        return
    with pytest.raises(SystemExit) as caught, errors_in_one_line():
        raise error
    assert caught.value.code == "error: a b [/x]"


def test_an_interrupt_is_one_line_too(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught, errors_in_one_line():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_the_last_line_of_a_workers_traceback_is_the_error() -> None:
    text = "Caught\nTraceback (most recent call last):\n  File x\nShardError: x.tar: damaged"
    with (
        pytest.raises(SystemExit, match=r"^error: ShardError: x\.tar: damaged$"),
        errors_in_one_line(),
    ):
        raise ValueError(text)


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file is no folder"):
        check_writable(tmp_path / "file" / "out")
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="is read-only"):
            check_writable(tmp_path / "locked" / "out")


def test_a_recipe_in_a_folder_with_an_equals_sign_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    (tmp_path / "a=b" / "mine.yaml").write_text("steps: 7\n")
    words = ["a=b/mine.yaml", "run=shop: first try", "data.sources.my-shop.path=a=b", "x/y=z.yaml"]
    paths, settings = split_settings(words)
    assert paths == ["a=b/mine.yaml", "x/y=z.yaml"]
    assert settings == ["run=shop: first try", "data.sources.my-shop.path=a=b"]
    config = load_config(paths[:1], settings)
    assert (config.steps, config.run) == (7, "shop: first try")
    assert config.data.sources["my-shop"].path == "a=b"
    assert load_config([], ["run=[x] {y}", "data.dev=10"]).run == "[x] {y}"


def test_a_bar_parts_no_cells_of_a_markdown_table() -> None:
    assert table_row(["a|b", "c"]) == "| a\\|b | c |"
