"""Fetches the pictures of a shop whose tables name them by URL.

    python -m data_prep.pictures TABLES OUT

OUT becomes a folder of tables in this project's own layout: `image` names files of OUT, so shards
can be made of it. OUT/pictures.csv says what became of each URL. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from beyond_text.tables.layouts import DEFAULT_LAYOUT, Layout, Reject, TableError
from beyond_text.tables.pictures import MAX_BYTES
from beyond_text.tables.read import with_grades
from beyond_text.tables.rejects import MAX_REJECTED, RejectError, Rejects
from data_prep.adapters import add_layout_options, layout_of
from data_prep.fetch.content import EXTENSIONS
from data_prep.fetch.fetcher import FetchSettings, fetch_all, file_stem
from data_prep.fetch.shop import read_shop, with_files, write_table
from data_prep.fetch.status import (
    FAILED,
    FETCHED,
    Outcome,
    add_outcome,
    read_outcomes,
    write_outcomes,
)
from data_prep.rejects import BuildError

STATUS = "pictures.csv"


class Fetched(NamedTuple):
    """Counts of distinct URLs, failures by reason and tables' rows with a picture, of how many."""

    urls: int
    fetched: int
    kept: int
    failed: dict[str, int]
    failed_before: int
    rows: dict[str, tuple[int, int]]
    rejects: dict[str, int]


def fetch_pictures(
    tables_path: Path,
    out: Path,
    layout: Layout = DEFAULT_LAYOUT,
    settings: FetchSettings | None = None,
    retry_failed: bool = False,
    max_rejected: float = MAX_REJECTED,
    grades: Sequence[str] | None = None,
) -> Fetched:
    """Fetches every URL of the columns `image` once, then writes the tables that name the files.

    Args:
        tables_path: folder of tables, or the file of products in it.
        out: folder to make, or one that this function made.
        layout: whose files and column names the tables have.
        settings: of the requests.
        retry_failed: tries again what failed before.
        max_rejected: share of any one file's rows, 0 to 1, that may be no rows.
        grades: columns of judgments that are grades; None for the layout's.

    Raises:
        BuildError: a setting is out of range, `out` is something else or in use, or too many rows
            are no rows.
        TableError: the tables cannot be read.
        OSError: a file cannot be written.
    """
    settings = settings or FetchSettings()
    _check_settings(settings)
    rejects: list[Reject] = []
    shop = read_shop(tables_path, with_grades(layout, grades), rejects)
    urls = list(dict.fromkeys(url for table in shop.tables for url in table.urls()))
    with _locked(out, shop.folder):
        (left_rejects := out.with_name(f"{out.name}.rejects.csv")).unlink(missing_ok=True)
        listed = Rejects(rejects, shop.files, max_rejected, left_rejects)
        listed.check()
        before = _outcomes_before(out, urls)
        settled = {FETCHED} if retry_failed else {FETCHED, FAILED}
        pending = [url for url in urls if url not in before or before[url].status not in settled]
        outcomes = before | _fetch(pending, out, settings, before)
        rows = {}
        for table in shop.tables:
            failures: list[Reject] = []
            places = shop.folder, out
            frame = with_files(table, outcomes, *places, layout.absent_pictures, failures)
            listed.add(*failures)
            write_table(out, table.name, frame)
            if "image" in frame:
                rows[table.file.name] = (int((frame["image"] != "").sum()), len(frame))
        listed.write(out / "rejects.csv")
    return _summary(urls, pending, outcomes, rows, listed)


def _check_settings(settings: FetchSettings) -> None:
    """Raises BuildError where a setting is out of range."""
    for name in ("concurrency", "per_host", "attempts", "max_bytes", "max_pixels"):
        if getattr(settings, name) < 1:
            raise BuildError(f"{name}: expected at least 1, got {getattr(settings, name)}")
    if not settings.timeout > 0 or not settings.backoff >= 0:
        raise BuildError("timeout and backoff: expected seconds, above 0 and at least 0")
    if settings.max_bytes > MAX_BYTES:
        raise BuildError(
            f"max_bytes: no picture above {MAX_BYTES} is used, got {settings.max_bytes}"
        )
    agent = settings.user_agent
    if not (agent.isascii() and agent.isprintable() and agent.strip()):
        raise BuildError(f"user_agent: expected printable ASCII, got {agent!r}")


@contextmanager
def _locked(out: Path, tables_path: Path) -> Iterator[None]:
    """Makes `out` where it is not there, and holds it against a second run.

    Raises:
        BuildError: `out` is the tables' own folder, in use, or was not made by this command.
    """
    if out.resolve() == tables_path.resolve():
        raise BuildError(f"{out}: expected another folder than that of the tables")
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out}: expected a folder, got a file")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / STATUS).is_file():
        raise BuildError(f"{out}: expected a new or empty folder or one with {STATUS}, got neither")
    # The kernel gives it up with the process, however that ends.
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BuildError(f"{out}: another run is fetching into it") from error
    finally:
        os.close(handle)


def _outcomes_before(out: Path, urls: list[str]) -> dict[str, Outcome]:
    """Returns what earlier runs did and is still there; removes what a killed one left half done.

    Raises:
        BuildError: the table of outcomes is not ours.
    """
    try:
        outcomes = read_outcomes(out / STATUS)
    except ValueError as error:
        raise BuildError(str(error)) from error
    for partial in out.glob("images/??/.*"):
        partial.unlink()
    for url in urls:
        outcome = outcomes.get(url)
        if outcome is None:
            # Files are written whole, and then the table.
            names = (file_stem(url) + extension for extension in EXTENSIONS.values())
            file = next((name for name in names if (out / name).is_file()), "")
            if file:
                size = (out / file).stat().st_size
                outcomes[url] = Outcome(url, FETCHED, file, size, 1, "", "")
        elif outcome.status == FETCHED and not _is_whole(out, outcome):
            outcomes[url] = outcome._replace(status="lost", file="", bytes=0)
    return outcomes


def _is_whole(out: Path, outcome: Outcome) -> bool:
    """Says whether a picture's file is there, with the bytes that were fetched."""
    path = out / outcome.file
    return path.is_file() and path.stat().st_size == outcome.bytes


def _fetch(
    urls: list[str], out: Path, settings: FetchSettings, before: dict[str, Outcome]
) -> dict[str, Outcome]:
    """Fetches URLs and returns their outcomes; the table of outcomes is kept up to date."""
    outcomes: dict[str, Outcome] = {}
    write_outcomes(out / STATUS, before.values())
    with tqdm(total=len(urls), unit="picture", disable=None) as progress:

        def done(outcome: Outcome) -> None:
            url = outcome.url
            earlier = before[url].attempts if url in before else 0
            outcomes[url] = outcome._replace(attempts=outcome.attempts + earlier)
            add_outcome(out / STATUS, outcomes[url])
            progress.update()

        asyncio.run(fetch_all(urls, out, settings, done))
    write_outcomes(out / STATUS, (before | outcomes).values())
    return outcomes


def _summary(
    urls: list[str],
    pending: list[str],
    outcomes: dict[str, Outcome],
    rows: dict[str, tuple[int, int]],
    rejects: Rejects,
) -> Fetched:
    """Counts what became of the URLs and the rows."""
    tried = set(pending)
    failed = [outcomes[url] for url in urls if outcomes[url].status == FAILED]
    new = sum(outcomes[url].status == FETCHED for url in tried)
    return Fetched(
        urls=len(urls),
        fetched=new,
        kept=len(urls) - len(failed) - new,
        failed=dict(Counter(outcome.reason for outcome in failed).most_common()),
        failed_before=sum(outcome.url not in tried for outcome in failed),
        rows=rows,
        rejects=rejects.by_reason(),
    )


def _print(fetched: Fetched) -> None:
    """Prints the counts."""
    failed = sum(fetched.failed.values())
    print(
        f"{fetched.urls} URLs: {fetched.fetched} fetched, {fetched.kept} kept from before, "
        f"{failed} failed"
    )
    if failed:
        print("failed: " + ", ".join(f"{n} {reason}" for reason, n in fetched.failed.items()))
    if fetched.failed_before:
        print(f"{fetched.failed_before} had failed before; --retry-failed tries them again")
    for file, (pictured, rows) in fetched.rows.items():
        print(f"{file}: {rows} rows, {pictured} with a picture")
    rejected = ", ".join(f"{count} {reason}" for reason, count in fetched.rejects.items())
    print(f"rejected: {rejected or 'nothing'}")


def _parser() -> argparse.ArgumentParser:
    """Makes the parser; every setting of the requests is an option."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tables", type=Path, help="folder of tables, or an export's file")
    parser.add_argument("out", type=Path, help="folder to make, or to go on with")
    add_layout_options(parser)
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    parser.add_argument(
        "--max-rejected", type=float, default=MAX_REJECTED, help="share of a file's rows"
    )
    words = {
        "concurrency": "most pictures at a time",
        "per_host": "most of one host",
        "timeout": "seconds a request may take",
        "attempts": "most requests for a picture",
        "backoff": "seconds before the second, doubled with each",
        "max_bytes": "of a picture's file",
        "max_pixels": "of a picture",
        "user_agent": "who the hosts are told asks",
    }
    for setting in fields(FetchSettings):
        flag = f"--{setting.name.replace('_', '-')}"
        if setting.name in words:
            parser.add_argument(
                flag,
                type=type(setting.default),
                default=setting.default,
                help=f"{words[setting.name]}, default: {setting.default}",
            )
    parser.add_argument(
        "--allow-private", action="store_true", help="connect to private addresses too"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Fetches from the command line; prints the counts, or prints the error and returns 1."""
    arguments = vars(_parser().parse_args(argv))
    names = [setting.name for setting in fields(FetchSettings)]
    settings = FetchSettings(**{name: arguments.pop(name) for name in names})
    layout = layout_of(arguments.pop("layout"))
    tables, out = arguments.pop("tables"), arguments.pop("out")
    try:
        fetched = fetch_pictures(tables, out, layout, settings, **arguments)
    except (BuildError, RejectError, TableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped; the same command goes on", file=sys.stderr)
        return 130
    _print(fetched)
    if fetched.urls and not fetched.fetched + fetched.kept:
        print(f"error: {out}: none of the {fetched.urls} pictures was fetched", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
