r"""Prints what users typed and shops wrote as it is, and turns an error into one line.

Nothing that is printed here is markup, whatever brackets or colons stand in it, and a character
that a terminal would obey rather than show is shown as its code, such as `\x1b`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# Controls, formats (which turn the direction of writing), halves of characters, line separators.
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Of the formats, those that scripts and emoji need to be read.
JOINERS = "\u200c\u200d"
TABLE_WIDTH = 100
PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]*@")
# Errors of the input and of the machine.
EXPECTED: tuple[type[BaseException], ...] = (
    ValueError,
    OSError,
    MemoryError,
    ModuleNotFoundError,
)


def plain(text: object) -> str:
    """Returns a text on one line, with its control characters as codes."""
    words = " ".join(str(text).split())
    return "".join(map(_shown, words))


def say(line: str) -> None:
    """Prints a line beside the output of a run, on one line whatever stands in it."""
    print(plain(line), file=sys.stderr, flush=True)


def _shown(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in OBEYED:
        return character
    return character.encode("unicode_escape").decode("ascii")


def table_row(cells: Iterable[str]) -> str:
    """Returns a row of a Markdown table, in which a `|` of a cell parts nothing."""
    kept = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(kept)} |"


def print_table(
    title: object,
    headings: Sequence[str],
    sections: Sequence[Sequence[Sequence[object]]],
    numbers: Sequence[str] = (),
    width: int = TABLE_WIDTH,
) -> None:
    """Prints rows of cells under headings, with a line after each section.

    `numbers` are the headings whose columns are aligned to the right. The table may be `width`
    characters wide, also where the terminal is narrower.
    """
    # Imported here, so that an error or --help does not wait for it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(plain(title)), title_justify="left")
    for heading in headings:
        table.add_column(Text(plain(heading)), justify="right" if heading in numbers else "left")
    for rows in sections:
        for cells in rows:
            table.add_row(*(Text(plain(cell)) for cell in cells))
        table.add_section()
    _show_any_character()
    Console(width=max(width, Console().width)).print(table)


@contextmanager
def errors_in_one_line(*further: type[BaseException]) -> Iterator[None]:
    """Ends the program with `error: ...` on one line where its input or the machine is at fault.

    `further` are errors beside ValueError and OSError, such as those of a stopped training. Of a
    program that was interrupted (Ctrl-C) the line says so, and the exit status is 130.

    Raises:
        SystemExit: instead of the error.
    """
    _show_any_character()
    try:
        yield
    except EXPECTED + further as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        say("error: interrupted")
        sys.exit(130)


def one_line(error: BaseException) -> str:
    """Returns what an error says, on one line."""
    text = str(error).strip() or type(error).__name__
    if "Traceback (most recent call last)" in text:
        # A loader's worker sends its traceback along, whose last line is the error.
        text = text.splitlines()[-1]
    # Whoever raised it may not have known that a text is a URL with a password.
    return plain(PASSWORD.sub("://", text))


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or the name of one that says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the words after `python -m module`; --help shows the text as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def at_least(least: int) -> Callable[[str], int]:
    """Returns a reader of a count on the command line, which is `least` or more."""

    def count(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text!r}")
        return int(text)

    return count


def check_writable(path: Path) -> None:
    """Checks that a file or folder can be written at a path; its parents need not exist yet.

    Raises:
        OSError: it cannot: names the part of the path that is in the way.
    """
    for place in (path, *path.absolute().parents):
        if not place.exists():
            continue
        if place != path and not place.is_dir():
            raise NotADirectoryError(f"{path}: not written: {place} is no folder")
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{path}: not written: {place} is read-only")
        return


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits words of a command line into paths and `key=value` settings.

    A word is a setting where a name stands before its first `=`, and it is no existing path. So
    `a=b/stage1.yaml` is a path where it exists, and `run=runs/x` is a setting.
    """
    paths = [word for word in words if not _is_setting(word)]
    return paths, [word for word in words if _is_setting(word)]


def _is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    named = all(part.isidentifier() for part in key.replace("-", "_").split("."))
    return bool(equals) and named and not (key.startswith("-") or os.path.exists(word))


def _show_any_character() -> None:
    """Lets a terminal of any encoding show every text: what it lacks is shown as its code."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that was replaced, or cannot be changed any more, shows what it can.
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
