"""Makes the tables of the results from one commit; what is finished is not made again.

    python -m tests.benchmarks.results --tables SHOPS --out runs/results
    python -m tests.benchmarks.results --list
    python -m tests.benchmarks.results --only stages fusion --minutes 60

`results_list.py` names the tables and the commands that make each. They are written to OUT/COMMIT,
a page a table, with its commands, commit, date, machine, seeds and pool; runs lie in
OUT/COMMIT/runs. SHOPS is a folder of folders of tables (hm, ikea ...): results of tables that are
not there are left out, and said. Tables of test splits are made last, and once.

Exit code: 0 all made, 1 a command failed, 3 the minutes are spent (the same command goes on).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from beyond_text.files import write_json, write_text
from beyond_text.terminal import errors_in_one_line, plain
from tests import ROOT

FAILED, OUT_OF_TIME = 1, 3
# Ends the name of a file of the seconds that each run of a command took.
SPENT = ".seconds"
# The shell's exit code of a command that is not there.
NO_COMMAND = 127
# Files that a message names.
MOST_NAMED = 3
# A command that is told to stop has so long to write its checkpoint.
PATIENCE = 60
# Variables of make's own, and of the Makefile, that a make hands down.
OF_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "TABLES", "LAYOUT", "RUNS",
           "BACKBONE", "DATA", "ARGS", "SERVE", "PAIRS"}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A table, or what several tables need: the commands that make it, in their order.

    In commands, {tables}, {runs}, {out} and {python} stand for folders and the interpreter.

    Attributes:
        commands: finished ones are not run again; those of runs go on where they were.
        makes: the Markdown files that they write; none where the last command prints the table.
        draws: the pictures that they write, which the page shows.
        needs: the shops that have to be there, or files of them.
        after: the results whose runs are used.
        seeds, pool: as they stand in the page.
        test: whether a test split is measured.
        page: whether there is a table, not only runs.
    """

    commands: tuple[str, ...]
    makes: tuple[str, ...] = ()
    draws: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seeds: str = "0"
    pool: str = "all products of the split"
    test: bool = False
    page: bool = True


class Commit(NamedTuple):
    """What is measured: the commit, and a digest of what is not committed ("" for nothing)."""

    name: str
    changes: str

    @property
    def folder(self) -> str:
        """The folder of its results."""
        return f"{self.name}-dirty-{self.changes}" if self.changes else self.name

    @property
    def in_words(self) -> str:
        """As it stands in the pages."""
        return f"`{self.name}`" + (", with changes that are not committed" if self.changes else "")


def commit_of(root: Path, dirty: bool, apart: Sequence[Path] = ()) -> Commit:
    """Returns the commit that is checked out in a folder; changes in folders `apart` do not count.

    Raises:
        ValueError: no commit there; or changes that are not committed, unless `dirty`.
    """
    inside = [each.resolve() for each in apart if each.resolve().is_relative_to(root.resolve())]
    places = [each.relative_to(root.resolve()) for each in inside]
    # The paths are as they are, whatever stands in them.
    counted = [".", *(f":(top,literal,exclude){each}" for each in places if each.parts)]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise ValueError(f"{root}: expected a checkout with a commit: {reason}")
        return done.stdout.decode(errors="replace")

    name = git("rev-parse", "--short=12", "HEAD").strip()
    # Parted by zeros, as names of files are then as they are.
    changes = git("status", "--porcelain", "--untracked-files=all", "-z", "--", *counted)
    lines = list(filter(None, changes.split("\0")))
    if not lines:
        return Commit(name, "")
    if not dirty:
        named = ", ".join(line[3:] for line in lines[:MOST_NAMED])
        more = f" and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
        raise ValueError(
            f"{root}: {named}{more} differ from commit {name}: commit them, or say --dirty"
        )
    digest = hashlib.sha256((changes + git("diff", "HEAD", "--", *counted)).encode())
    # Of files that git does not know, their contents count too.
    for line in sorted(lines):
        if line.startswith("?? ") and (root / line[3:]).is_file():
            digest.update((root / line[3:]).read_bytes())
    return Commit(name, digest.hexdigest()[:8])


@dataclass
class Making:
    """Makes results in a folder until a moment; `failed` are those whose command failed."""

    results: Mapping[str, Result]
    commit: Commit
    out: Path
    tables: Path
    ends: float = float("inf")
    root: Path = ROOT
    failed: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the commit's results."""
        return self.out.absolute() / self.commit.folder

    def check_commit(self) -> None:
        """Raises ValueError where what is checked out is no more what the results are of."""
        now = commit_of(self.root, dirty=True, apart=(self.out, self.tables))
        if now != self.commit:
            raise ValueError(
                f"{self.root}: was {self.commit.in_words} and is {now.in_words} now: files changed "
                "while results were made; the same command makes those of what stands there"
            )

    def lacks(self, result: Result) -> list[str]:
        """Returns the tables that a result, or one before it, needs and that are not there."""
        before = (need for name in result.after for need in self.lacks(self.results[name]))
        own = (need for need in result.needs if not (self.tables / need).exists())
        return list(dict.fromkeys([*before, *own]))

    def is_done(self, name: str) -> bool:
        """Returns whether all commands of a result have ended well, and its page is there."""
        result = self.results[name]
        made = not result.page or (self.folder / f"{name}.md").is_file()
        return made and len(self._ended(name)) == len(result.commands)

    def make(self, names: Sequence[str]) -> bool:
        """Makes results in their order; returns False where the time was over before the last."""
        for name in names:
            result = self.results[name]
            if self.is_done(name):
                continue
            if lacking := [each for each in result.after if not self.is_done(each)]:
                print(plain(f"{name}: left out: {', '.join(lacking)} failed"))
                self.failed.append(name)
                continue
            if not self._run(name, result):
                return False
        return True

    def _words(self, command: str) -> list[str]:
        places = {
            "tables": str(self.tables.absolute()),
            "runs": str(self.folder / "runs"),
            "out": str(self.folder),
            "python": sys.executable,
        }
        return [word.format(**places) for word in shlex.split(command)]

    def _ended(self, name: str) -> list[dict[str, Any]]:
        """Returns what is known of a result's first commands, as far as they are as they were.

        One that ran before what it comes after was made anew is no more what it was.
        """
        file = self.folder / "state" / f"{name}.json"
        if not file.is_file():
            return []
        ended = []
        commands, before = self.results[name].commands, self._before(name)
        for command, known in zip(commands, json.loads(file.read_text("utf-8")), strict=False):
            if (known["words"], known.get("before")) != (self._words(command), before):
                break
            ended.append(known)
        return ended

    def _before(self, name: str) -> str:
        """Returns a digest of what is known of the results that one comes after."""
        known = [self._ended(each) for each in self.results[name].after]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def _run(self, name: str, result: Result) -> bool:
        """Runs what is left of a result; returns False where the time is over."""
        ended, before = self._ended(name), self._before(name)
        for number in range(len(ended), len(result.commands)):
            words = self._words(result.commands[number])
            log = self.folder / "logs" / f"{name}-{number + 1}"
            print(plain(f"{name} ({number + 1} of {len(result.commands)}): {shlex.join(words)}"))
            self.check_commit()
            code = self._call(words, log)
            if code is None:
                return False
            if code:
                print(plain(f"{name}: failed with exit code {code}; see {log}.err"))
                self.failed.append(name)
                return True
            spent = log.with_suffix(SPENT)
            seconds = sum(json.loads(spent.read_text("utf-8")))
            # Made anew, it begins from nothing.
            spent.unlink()
            ended.append({"words": words, "before": before, "seconds": seconds})
            write_json(self.folder / "state" / f"{name}.json", ended)
        if result.page:
            self.check_commit()
            try:
                write_text(self.folder / f"{name}.md", self._page(name, result, ended))
            except FileNotFoundError as error:
                print(plain(f"{name}: its commands did not write {error.filename}"))
                self.failed.append(name)
        return True

    def _call(self, words: Sequence[str], log: Path) -> int | None:
        """Runs a command; returns its exit code, or None where it was stopped at the end."""
        left = self.ends - time.monotonic()
        if left <= 0:
            return None
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            return self._process(words, log, left)
        finally:
            # A command that goes on where it was has taken the seconds before, too.
            spent = log.with_suffix(SPENT)
            earlier = json.loads(spent.read_text("utf-8")) if spent.is_file() else []
            write_json(spent, [*earlier, time.monotonic() - began])

    def _process(self, words: Sequence[str], log: Path, left: float) -> int | None:
        """Runs a command for so many seconds at most, as `_call` does."""
        # A make that is started here takes nothing from one that has started this.
        environment = {k: v for k, v in os.environ.items() if k not in OF_MAKE}
        with open(f"{log}.out", "wb") as out, open(f"{log}.err", "ab") as errors:
            try:
                process = subprocess.Popen(
                    words, cwd=self.root, env=environment, stdout=out, stderr=errors,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                errors.write(f"{error}\n".encode())
                return NO_COMMAND
            try:
                return process.wait(timeout=None if left == float("inf") else left)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:
                    _stop(process)

    def _page(self, name: str, result: Result, ended: Sequence[Mapping[str, Any]]) -> str:
        """Returns the page of a result: what it is of, its commands and its tables."""
        minutes = sum(each["seconds"] for each in ended) / 60
        date = datetime.now(UTC).date().isoformat()
        shown = [shlex.join(self._words(command)) for command in result.commands]
        shown = [line.replace(f"{self.root}/", "") for line in shown]
        facts = (
            f"Commit {self.commit.in_words}, {date}. {machine()} {minutes:.0f} minutes. "
            f"Seeds: {result.seeds}. Searched: {result.pool}. "
            f"{'Test split, measured once.' if result.test else 'Dev splits or none.'}"
        )
        if result.makes:
            files = [self._place(file) for file in result.makes]
            tables = [file.read_text(encoding="utf-8").strip() for file in files]
        else:
            log = self.folder / "logs" / f"{name}-{len(ended)}.out"
            printed = log.read_text(encoding="utf-8", errors="replace").strip()
            is_table = any(line.startswith("|") for line in printed.splitlines())
            tables = [printed if is_table else f"```text\n{printed}\n```"]
        commands = "\n".join(f"$ {line}" for line in shown)
        head = [f"# {name}", facts, f"```console\n{commands}\n```"]
        return "\n\n".join([*head, *tables, *self._pictures(name, result), ""])

    def _place(self, file: str) -> Path:
        """Returns the path of a file that a command writes."""
        return Path(self._words(shlex.quote(file))[0])

    def _pictures(self, name: str, result: Result) -> list[str]:
        """Copies a result's pictures beside its page; returns the lines that show them."""
        lines = []
        for file in map(self._place, result.draws):
            own = f"{name}-{file.name}"
            shutil.copyfile(file, self.folder / own)
            lines.append(f"![{file.stem}]({own})")
        return lines


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a command and all that it started, which lead a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=PATIENCE)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
            return


def machine() -> str:
    """Says what the results are measured on."""
    from tests.benchmarks.measure import surroundings

    known = surroundings()["machine"]
    return f"{known['cores']} cores ({known['processor']}), device {known['device']}."


def in_order(results: Mapping[str, Result], only: Sequence[str]) -> list[str]:
    """Returns the wanted results (none: all) and those they come after; tests of test splits last.

    Raises:
        ValueError: an unknown name, here or in a result's `after`.
    """
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in results:
            raise ValueError(f"no result {name!r}: expected some of {', '.join(results)}")
        for before in results[name].after:
            add(before)
        found.setdefault(name)

    for name in only or results:
        add(name)
    return sorted(found, key=lambda name: results[name].test)


def overview(making: Making) -> str:
    """Returns the page that names all tables, what is left, and what lacks tables of a shop."""
    lines = [f"# Results of {making.commit.in_words}", ""]
    done = [name for name in making.results if making.is_done(name)]
    lines += [f"- [{name}]({name}.md)" for name in done if making.results[name].page]
    lacking = {name: making.lacks(making.results[name]) for name in making.results}
    left = [name for name in lacking if name not in done and not lacking[name]]
    lines += ["", f"Left: {', '.join(left) or 'nothing'}."]
    without = ((name, why) for name, why in lacking.items() if why and name not in done)
    if out := [f"{name} (no {', '.join(why)})" for name, why in without]:
        lines += ["", f"Left out: {', '.join(out)}."]
    return "\n".join([*lines, ""])


def _minutes(text: str) -> float:
    """Reads how long may be worked.

    Raises:
        ArgumentTypeError: it is no number, or one below 0.
    """
    with suppress(ValueError):
        if (minutes := float(text)) >= 0:
            return minutes
    raise argparse.ArgumentTypeError(f"expected minutes, 0 or more, got {text!r}")


def _stopped(number: int, _: object) -> None:
    """Ends this program as what it started is ended: `Making` stops its command on the way out."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None, results: Mapping[str, Result] | None = None) -> None:
    """Runs the command.

    Raises:
        SystemExit: with an exit code, where not all was made.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # fmt: off
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--tables", type=Path, default=Path("data"),
                        help="folder of the shops' folders (default: data)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help="these alone, and what they come after")
    parser.add_argument("--list", action="store_true", help="say what there is, and make nothing")
    parser.add_argument("--minutes", type=_minutes, default=float("inf"),
                        help="stop after so long; the same command goes on")
    parser.add_argument("--dirty", action="store_true",
                        help="with changes that are not committed, which every page then says")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    # fmt: on
    arguments = parser.parse_args(argv)
    if results is None:
        from tests.benchmarks.results_list import RESULTS

        results = RESULTS
    with errors_in_one_line():
        names = in_order(results, arguments.only)
        apart = arguments.out, arguments.tables
        commit = commit_of(arguments.root, arguments.dirty or arguments.list, apart)
        ends = time.monotonic() + 60 * arguments.minutes
        making = Making(results, commit, arguments.out, arguments.tables, ends, arguments.root)
        lacking = {name: making.lacks(results[name]) for name in names}
        there = [name for name in names if not lacking[name]]
        for name in names:
            why = ", ".join(str(making.tables / need) for need in lacking[name])
            state = "done" if making.is_done(name) else "left"
            if arguments.list or why:
                print(plain(f"{name}: {f'left out: no {why}' if why else state}"))
        if arguments.list:
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stopped)
        in_time = making.make(there)
        making.folder.mkdir(parents=True, exist_ok=True)
        write_text(making.folder / "README.md", overview(making))
    left = [name for name in there if not making.is_done(name)]
    out = [name for name in names if lacking[name]]
    print(plain(f"{making.folder}: left: {', '.join(left) or 'nothing'}"
                f"{'; left out: ' * bool(out)}{', '.join(out)}"))  # fmt: skip
    if not in_time:
        sys.exit(OUT_OF_TIME)
    if making.failed:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
