"""Plans the fetching of many pictures in slices, for several processes or machines.

The slices of a host share what it may be asked at a time: no more requests go to it than those of
one process. Each keeps a table of what became of its URLs, so what is stopped goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import Struct

from beyond_text.files import atomic_write
from beyond_text.tasks.plan import PLAN, Plan
from beyond_text.tasks.run import results
from data_prep.fetch.content import EXTENSIONS
from data_prep.fetch.fetcher import FetchSettings, fetch_all, file_stem, host_of
from data_prep.fetch.status import (
    FAILED,
    FETCHED,
    Outcome,
    add_outcome,
    read_outcomes,
    write_outcomes,
)

STATUS = "pictures.csv"
# The folder of plans, in that of the pictures.
PLANS = "fetching"
URLS = "urls.jsonl"
# URLs of a slice, where hosts have fewer: with many, a host has as many slices as requests.
SLICE = 1000


class Slice(Struct, frozen=True):
    """A task: fetches the URLs in bytes `start` to `end` of the plan's list, of that SHA-256."""

    start: int
    end: int
    urls: str
    settings: FetchSettings


def plan_slices(
    out: Path, urls: Sequence[str], settings: FetchSettings, asked: Sequence[object]
) -> Plan:
    """Plans to fetch URLs; where one was begun for the same at the same table, that one.

    Args:
        out: folder of the pictures; its table of outcomes stays as it is until all are fetched.
        urls: that are not fetched yet.
        settings: of the requests; `concurrency` is of each process.
        asked: what else decides the plan, whoever has fetched what by now.

    Raises:
        OSError: it cannot be written.
    """
    state = hashlib.sha256((out / STATUS).read_bytes())
    state.update(msgspec.json.encode([settings, asked], order="deterministic"))
    folder = out / PLANS / state.hexdigest()[:16]
    if not (folder / PLAN).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / URLS, binary=True) as file:
            for part, few in _slices(urls, settings.per_host):
                lines = [msgspec.json.encode(url) + b"\n" for url in part]
                file.write(msgspec.json.encode([few, sum(map(len, lines))]) + b"\n")
                file.writelines(lines)
    return Plan(folder, f"{__name__}:fetch_slice", list(_tasks(folder / URLS, settings)))


def _tasks(path: Path, settings: FetchSettings) -> Iterator[Slice]:
    """Yields a task for each slice of a list."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        while line := file.readline():
            few, size = msgspec.json.decode(line, type=tuple[int, int])
            start = file.tell()
            file.seek(size, 1)
            yield Slice(start, start + size, digest, replace(settings, per_host=few))


def _slices(urls: Iterable[str], per_host: int) -> Iterator[tuple[list[str], int]]:
    """Yields URLs, and how many of a host may be fetched at a time; small hosts go together."""
    hosts: dict[str, list[str]] = defaultdict(list)
    for url in urls:
        hosts[host_of(url)].append(url)
    together: list[str] = []
    for own in hosts.values():
        count = min(per_host, len(own) // SLICE)
        if count > 1:
            size = -(-len(own) // count)
            for first in range(0, len(own), size):
                yield own[first : first + size], per_host // count
            continue
        together += own
        if len(together) >= SLICE:
            yield together, per_host
            together = []
    if together:
        yield together, per_host


def fetch_slice(task: Slice, out: Path) -> dict[str, int]:
    """Fetches the pictures of a slice, and writes a table of what became of each.

    Raises:
        OSError: a file cannot be written.
    """
    folder = out.parent
    pictures = folder.parents[1]
    with (folder / URLS).open("rb") as file:
        file.seek(task.start)
        lines = file.read(task.end - task.start).splitlines()
    urls = [msgspec.json.decode(line, type=str) for line in lines]
    running = folder / f"{task.start:012}.running.csv"
    outcomes = read_outcomes(running)
    for url in urls:
        # Of a file that is there, the line may have been lost.
        if url not in outcomes and (found := outcome_on_disk(pictures, url)):
            outcomes[url] = found
    write_outcomes(running, outcomes.values())

    def done(outcome: Outcome) -> None:
        outcomes[outcome.url] = outcome
        add_outcome(running, outcome)

    pending = [url for url in urls if url not in outcomes]
    asyncio.run(fetch_all(pending, pictures, task.settings, done))
    table = [outcomes[url] for url in urls]
    write_outcomes(out / f"{task.start:012}.csv", table)
    states = [outcome.status for outcome in table]
    return {FETCHED: states.count(FETCHED), FAILED: states.count(FAILED)}


def outcome_on_disk(out: Path, url: str) -> Outcome | None:
    """Returns the outcome of a URL whose picture is there; None where it is not."""
    for extension in EXTENSIONS.values():
        file = file_stem(url) + extension
        # Files are written whole, and then the table.
        if (out / file).is_file():
            return Outcome(url, FETCHED, file, (out / file).stat().st_size, 1, "", "")
    return None


def outcomes_of(plan: Plan) -> dict[str, Outcome]:
    """Returns what became of all URLs of a plan.

    Raises:
        PlanError: a slice is not done.
    """
    names = [name for sidecar in results(plan) for name in sidecar.files]
    tables = (read_outcomes(plan.folder / name) for name in names)
    return {url: outcome for table in tables for url, outcome in table.items()}


def left_outcomes(out: Path) -> dict[str, Outcome]:
    """Returns what slices that were stopped have done, whatever plan they were of.

    Raises:
        ValueError: a table is none of outcomes.
    """
    found: dict[str, Outcome] = {}
    for path in sorted((out / PLANS).glob("*/*.csv")):
        # Plans of other settings have no order: what one has fetched is there.
        found |= {
            url: outcome
            for url, outcome in read_outcomes(path).items()
            if url not in found or found[url].status != FETCHED
        }
    return found


def remove_plans(out: Path) -> None:
    """Removes what the table of outcomes has taken up."""
    shutil.rmtree(out / PLANS, ignore_errors=True)
