"""Fetches the pictures of a shop whose tables name them by URL.

    python -m data_prep.pictures TABLES OUT

OUT becomes a folder of tables in this project's own layout: `image` names files of OUT, so shards
can be made of it. OUT/pictures.csv says what became of each URL. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from beyond_text.config.urls import path_of
from beyond_text.tables.layouts import DEFAULT_LAYOUT, Layout, Reject, TableError
from beyond_text.tables.pictures import MAX_BYTES
from beyond_text.tables.read import with_grades
from beyond_text.tables.rejects import MAX_REJECTED, RejectError, Rejects
from beyond_text.tasks.lock import Lock, locked
from beyond_text.tasks.options import add_run_options
from beyond_text.tasks.plan import PlanError
from beyond_text.tasks.run import is_done, run_plan
from beyond_text.terminal import command_parser, one_line
from data_prep.adapters import add_layout_options, layout_of
from data_prep.fetch.earlier import LOCK, STATUS, counted, outcomes_before
from data_prep.fetch.fetcher import FetchSettings, fetch_all
from data_prep.fetch.shop import TABLES, Shop, copy_fields, read_shop, with_files, write_table
from data_prep.fetch.slices import outcomes_of, plan_slices, remove_plans
from data_prep.fetch.status import FAILED, FETCHED, Outcome, add_outcome, write_outcomes
from data_prep.rejects import BuildError, check_max_pixels

WAITS = (
    "this share is done: the job that finds all shares done writes the tables, or the same command "
    "without --array"
)


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
    workers: int | None = None,
    ray: str | None = None,
    array: tuple[int, int] | None = None,
) -> Fetched | None:
    """Fetches every URL of the columns `image` once, then writes the tables that name the files.

    Returns None from a job of an array while others are not done: the last writes the tables.

    Args:
        tables_path: folder of tables, or the file of products in it.
        out: folder to make, or one that this function made.
        layout: whose files and column names the tables have.
        settings: of the requests.
        retry_failed: tries again what failed before.
        max_rejected: share of any one file's rows, 0 to 1, that may be no rows.
        grades: columns of judgments that are grades; None for the layout's.
        workers: processes, or actors of Ray; None for one process, or one actor a core.
        ray: address of a Ray cluster that fetches; None for processes.
        array: (I, N) fetches the I-th of N shares, from 0; None all.

    Raises:
        BuildError: a setting is out of range, `out` is in use or not ours, or too many rows are no
            rows.
        TableError: the tables cannot be read.
        OSError: a file cannot be written.
    """
    _check_settings(settings := settings or FetchSettings())
    shop = read_shop(tables_path, with_grades(layout, grades), rejects := list[Reject]())
    urls = _urls(shop)
    with _locked(out, shop.folder, shared=array is not None) as lock:
        listed = _listed(shop, rejects, max_rejected, out)
        before = outcomes_before(out, urls, shared=array is not None)
        pending = _pending(urls, before, retry_failed)
        if ray is None and array is None and workers in (None, 1):
            found = _fetch(pending, out, settings, before)
        else:
            plan = plan_slices(out, pending, settings, [retry_failed, *urls])
            run_plan(plan, workers=workers, ray=ray, array=array, label="fetching")
            if array and not (is_done(plan) and lock.is_last() and is_done(plan)):
                return None
            found = _take(outcomes_of(plan), out, before)
        return _finish(shop, out, layout, listed, pending, before | found)


def _pending(urls: list[str], before: dict[str, Outcome], retry_failed: bool) -> list[str]:
    """Lists the URLs that are not settled."""
    settled = {FETCHED} if retry_failed else {FETCHED, FAILED}
    return [url for url in urls if url not in before or before[url].status not in settled]


def _listed(shop: Shop, rejects: list[Reject], max_rejected: float, out: Path) -> Rejects:
    """Returns the rejects of a shop's tables, which must not be too many."""
    (left := out.with_name(f"{out.name}.rejects.csv")).unlink(missing_ok=True)
    listed = Rejects(rejects, shop.files, max_rejected, left)
    listed.check()
    return listed


def _finish(
    shop: Shop,
    out: Path,
    layout: Layout,
    listed: Rejects,
    pending: list[str],
    outcomes: dict[str, Outcome],
) -> Fetched:
    """Writes the tables and rejects.csv, and counts what became of the URLs and the rows."""
    rows = _write_tables(shop, out, outcomes, layout, listed)
    listed.write(out / "rejects.csv")
    return _summary(_urls(shop), pending, outcomes, rows, listed)


def _urls(shop: Shop) -> list[str]:
    """Lists the distinct URLs of a shop's pictures."""
    return list(dict.fromkeys(url for table in shop.tables for url in table.urls()))


def _write_tables(
    shop: Shop, out: Path, outcomes: dict[str, Outcome], layout: Layout, listed: Rejects
) -> dict[str, tuple[int, int]]:
    """Writes the tables; returns how many rows of each have a picture, of how many."""
    rows = {}
    # What a shop no longer has would be read beside the rest.
    for name in {*TABLES} - {table.name for table in shop.tables}:
        (out / f"{name}.csv").unlink(missing_ok=True)
    copy_fields(shop.folder, out)
    for table in shop.tables:
        failures: list[Reject] = []
        places = shop.folder, out
        frame = with_files(table, outcomes, *places, layout.absent_pictures, failures)
        listed.add(*failures)
        write_table(out, table.name, frame)
        if "image" in frame:
            rows[table.file.name] = (int((frame["image"] != "").sum()), len(frame))
    return rows


def _check_settings(settings: FetchSettings) -> None:
    """Raises BuildError where a setting is out of range."""
    for name in ("concurrency", "per_host", "attempts", "max_bytes"):
        if getattr(settings, name) < 1:
            raise BuildError(f"{name}: expected at least 1, got {getattr(settings, name)}")
    check_max_pixels(settings.max_pixels)
    if not settings.timeout > 0 or not settings.backoff >= 0:
        raise BuildError("timeout and backoff: expected seconds, above 0 and at least 0")
    if settings.max_bytes > MAX_BYTES:
        raise BuildError(
            f"max_bytes: no picture above {MAX_BYTES} is used, got {settings.max_bytes}"
        )
    agent = settings.user_agent
    if not (agent and agent.isascii() and agent.isprintable() and agent == agent.strip()):
        raise BuildError(
            f"user_agent: expected printable ASCII without blanks at its ends, got {agent!r}"
        )


@contextmanager
def _locked(out: Path, tables_path: Path, shared: bool) -> Iterator[Lock]:
    """Makes `out` where it is not there, and holds it against a second run, or one of no array.

    Raises:
        BuildError: `out` is the tables' own folder, in use, or was not made by this command.
    """
    if out.resolve() == tables_path.resolve():
        raise BuildError(f"{out}: expected another folder than that of the tables")
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out}: expected a folder, got a file")
    out.mkdir(parents=True, exist_ok=True)
    ours = (LOCK, f".{STATUS}")
    if (
        any(not path.name.startswith(ours) for path in out.iterdir())
        and not (out / STATUS).is_file()
    ):
        raise BuildError(f"{out}: expected a new or empty folder or one with {STATUS}, got neither")
    try:
        with locked(out / LOCK, f"{out}: another run is fetching into it", shared) as lock:
            yield lock
    except BlockingIOError as error:
        raise BuildError(str(error)) from error


def _fetch(
    urls: list[str], out: Path, settings: FetchSettings, before: dict[str, Outcome]
) -> dict[str, Outcome]:
    """Fetches URLs and returns their outcomes; the table of outcomes is kept up to date."""
    outcomes: dict[str, Outcome] = {}
    with tqdm(total=len(urls), unit="picture", disable=None) as progress:

        def done(outcome: Outcome) -> None:
            outcomes[outcome.url] = counted(outcome, before)
            add_outcome(out / STATUS, outcomes[outcome.url])
            progress.update()

        asyncio.run(fetch_all(urls, out, settings, done))
    write_outcomes(out / STATUS, (before | outcomes).values())
    return outcomes


def _take(found: dict[str, Outcome], out: Path, before: dict[str, Outcome]) -> dict[str, Outcome]:
    """Takes what slices have done into the table of outcomes."""
    outcomes = {url: counted(outcome, before) for url, outcome in found.items()}
    write_outcomes(out / STATUS, (before | outcomes).values())
    remove_plans(out)
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
    parser = command_parser("data_prep.pictures", __doc__)
    parser.add_argument("tables", type=path_of, help="folder of tables, or an export's file")
    parser.add_argument("out", type=path_of, help="folder to make, or to go on with")
    add_layout_options(parser)
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    parser.add_argument(
        "--max-rejected", type=float, default=MAX_REJECTED, help="share of a file's rows"
    )
    add_run_options(parser, gpus=False, workers="one")
    words = {
        "concurrency": "most pictures at a time, of a process",
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
    except (PlanError, RuntimeError, ModuleNotFoundError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped; the same command goes on", file=sys.stderr)
        return 130
    if fetched is None:
        print(f"{out}: {WAITS}")
        return 0
    _print(fetched)
    has_pictures = any(pictured for pictured, _ in fetched.rows.values())
    if fetched.urls and not has_pictures:
        print(f"error: {out}: none of the {fetched.urls} pictures was fetched", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
