"""Results are made once, go on where they were, stop in time, and say what they are of."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beyond_text.config.names import RECIPES
from tests import ROOT
from tests.benchmarks.results import FAILED, OUT_OF_TIME, Result, commit_of, in_order, main
from tests.benchmarks.results_list import RESULTS

# A command that notes that it ran, and prints a table.
NOTE = '{python} -c \'import sys; open(sys.argv[1], "a").write("x"); print("| a |")\' '


def note(name: str) -> str:
    return f"{NOTE} {{tables}}/{name}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    commit(folder, "one")
    return folder


def commit(folder: Path, text: str) -> str:
    (folder / "recipe").write_text(text)
    for words in (["add", "-A"], ["commit", "-qm", text, "--no-gpg-sign"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return commit_of(folder, False).name


class Shops:
    """A folder of shops, and how often each command ran."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.tables, self.out = repository, folder / "shops", folder / "out"
        self.tables.mkdir()

    def make(self, results: dict[str, Result], *words: str) -> int:
        """Returns the exit code."""
        given = ["--tables", str(self.tables), "--out", str(self.out)]
        try:
            main([*given, "--root", str(self.repository), *words], results)
        except SystemExit as error:
            if isinstance(error.code, int):
                return error.code
            raise
        return 0

    def ran(self, name: str) -> int:
        file = self.tables / name
        return len(file.read_text()) if file.exists() else 0

    def page(self, name: str) -> str:
        (file,) = self.out.glob(f"*/{name}.md")
        return file.read_text()


@pytest.fixture
def shops(repository: Path, tmp_path: Path) -> Shops:
    return Shops(repository, tmp_path)


def test_a_page_says_what_it_is_of_and_is_made_once(shops: Shops) -> None:
    results = {
        "runs": Result((note("one"),), page=False),
        "table": Result((note("two"),), after=("runs",), seeds="0, 1", pool="all of it"),
    }
    assert shops.make(results) == 0
    text = shops.page("table")
    name = commit_of(shops.repository, False).name
    assert f"Commit `{name}`, 20" in text
    for said in (" cores (", "Seeds: 0, 1.", "Searched: all of it.", "\n$ ", "\n| a |\n"):
        assert said in text, said
    assert not list(shops.out.glob("*/runs.md"))
    assert "- [table](table.md)" in shops.page("README")
    assert "Left: nothing." in shops.page("README")
    assert shops.make(results) == 0
    assert (shops.ran("one"), shops.ran("two")) == (1, 1)
    # Another commit makes all of it again, and leaves the first one's pages as they are.
    other = commit(shops.repository, "two")
    assert shops.make(results) == 0
    assert (shops.ran("one"), shops.ran("two")) == (2, 2)
    assert {path.name for path in shops.out.iterdir()} == {name, other}


def test_a_command_that_changed_and_those_behind_it_run_again(shops: Shops) -> None:
    assert shops.make({"table": Result((note("one"), note("two")))}) == 0
    assert shops.make({"table": Result((note("one"), note("three")))}) == 0
    assert [shops.ran(name) for name in ("one", "two", "three")] == [1, 1, 1]


def test_what_comes_after_a_result_that_is_made_anew_is_made_anew(shops: Shops) -> None:
    def results(first: str) -> dict[str, Result]:
        return {
            "runs": Result((note(first),), page=False),
            "table": Result((note("two"),), after=("runs",)),
            "later": Result((note("three"),), after=("table",)),
            "other": Result((note("four"),)),
        }

    names = ("one", "two", "three", "four")
    for _ in range(2):
        assert shops.make(results("one")) == 0
        assert [shops.ran(name) for name in names] == [1, 1, 1, 1]
    # As of other tables, which the command of the runs alone names.
    assert shops.make(results("five")) == 0
    assert [shops.ran(name) for name in (*names, "five")] == [1, 2, 2, 1, 1]


def test_a_failed_command_stops_what_needs_it_and_nothing_else(
    shops: Shops, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "{python} -c 'import sys; sys.exit(\"broken here\")'"
    results = {
        "runs": Result((note("one"), broken), page=False),
        "table": Result((note("two"),), after=("runs",)),
        "other": Result((note("three"),)),
    }
    assert shops.make(results) == FAILED
    assert [shops.ran(name) for name in ("one", "two", "three")] == [1, 0, 1]
    printed = capsys.readouterr().out
    assert "runs: failed with exit code 1" in printed
    assert "table: left out: runs failed" in printed
    assert "left: runs, table" in printed
    (log,) = shops.out.glob("*/logs/runs-2.err")
    assert "broken here" in log.read_text()
    results["runs"] = Result((note("one"), note("four")), page=False)
    assert shops.make(results) == 0
    assert [shops.ran(name) for name in ("one", "two", "three", "four")] == [1, 1, 1, 1]


def test_a_command_that_is_not_there_or_writes_nothing_has_failed_and_the_others_go_on(
    shops: Shops, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {
        "missing": Result(("no-such-command here",)),
        "silent": Result((note("one"),), makes=("{out}/nothing.md",)),
        "undrawn": Result((note("two"),), draws=("{out}/nothing.png",)),
        "last": Result((note("three"),)),
    }
    for _ in range(2):
        assert shops.make(results) == FAILED
        printed = capsys.readouterr().out
        assert "missing: failed with exit code 127" in printed
        for name, file in (("silent", "nothing.md"), ("undrawn", "nothing.png")):
            assert re.search(rf"{name}: its commands did not write .*/{file}", printed)
        assert "left: missing, silent, undrawn" in printed
        # What a command has done, it need not do again.
        assert [shops.ran(name) for name in ("one", "two", "three")] == [1, 1, 1]
    (log,) = shops.out.glob("*/logs/missing-1.err")
    assert "no-such-command" in log.read_text()


def test_the_minutes_stop_a_command_with_all_that_it_started(
    shops: Shops, capsys: pytest.CaptureFixture[str]
) -> None:
    child = "import time; time.sleep(60); open(sys.argv[1], 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''import sys; {child}''', sys.argv[1]])"  # noqa: E501
    slow = f'{{python}} -c "{parent}" {{tables}}/late'
    results = {"fast": Result((note("one"),)), "slow": Result((slow,)), "last": Result(("x",))}
    began = time.monotonic()
    assert shops.make(results, "--minutes", "0.05") == OUT_OF_TIME
    assert time.monotonic() - began < 30
    assert "left: slow, last" in capsys.readouterr().out
    assert "Left: slow, last." in shops.page("README")
    results = {"fast": Result((note("one"),)), "slow": Result((note("two"),))}
    assert shops.make(results) == 0
    assert (shops.ran("one"), shops.ran("two"), shops.ran("late")) == (1, 1, 0)


def test_what_is_not_committed_is_refused_or_marked(shops: Shops) -> None:
    results = {"table": Result((note("one"),))}
    (shops.repository / "new").write_text("a")
    with pytest.raises(SystemExit, match=r"error: .*: new differ from commit"):
        shops.make(results)
    assert shops.make(results, "--dirty") == 0
    assert "with changes that are not committed" in shops.page("table")
    (shops.repository / "new").write_text("b")
    assert shops.make(results, "--dirty") == 0
    assert shops.ran("one") == 2
    # Whatever its name, such as one that git would put in quotes.
    (shops.repository / "new").rename(shops.repository / "né w")
    for number, text in enumerate("cdd", start=3):
        (shops.repository / "né w").write_text(text)
        assert shops.make(results, "--dirty") == 0
        assert shops.ran("one") == min(number, 4)
    with pytest.raises(ValueError, match="expected a checkout with a commit"):
        commit_of(shops.tables, False)


def test_tables_results_and_links_in_the_checkout_are_no_changes(
    repository: Path, tmp_path: Path
) -> None:
    shops = Shops(repository, repository)
    (shops.tables / "hm").mkdir()
    results = {"table": Result((note("one"),)), "more": Result((note("two"),))}
    assert shops.make(results, "--only", "table") == 0
    assert (shops.out.parent, shops.make(results)) == (repository, 0)
    assert "not committed" not in shops.page("table")
    assert shops.ran("one") == 1


def test_a_file_that_changes_meanwhile_stops_what_would_be_of_another_commit(
    shops: Shops,
) -> None:
    change = f"sh -c 'echo changed >{shops.repository}/recipe'"
    results = {"table": Result((note("one"), change, note("two")))}
    with pytest.raises(SystemExit, match=r"error: .*files changed while results were made"):
        shops.make(results)
    assert (shops.ran("one"), shops.ran("two")) == (1, 0)
    assert not list(shops.out.glob("*/table.md"))


def test_a_stopped_command_stops_what_it_started_and_its_time_counts(
    shops: Shops, repository: Path
) -> None:
    """As by kill, timeout or a closed shell."""
    ends = repository.parent / "child"
    slow = f"sh -c 'echo $$ >{ends}; exec sleep 60'"
    script = (
        "import sys; from tests.benchmarks.results import Result, main; "
        f"main(sys.argv[1:], {{'slow': Result(({slow!r},))}})"
    )
    words = ["--tables", shops.tables, "--out", shops.out, "--root", repository]
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)], cwd=ROOT)
    while not (ends.exists() and ends.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    child = int(ends.read_text())
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    (spent,) = shops.out.glob("*/logs/slow-1.seconds")
    assert json.loads(spent.read_text())[0] > 0


def test_shops_that_are_not_there_are_said(
    shops: Shops, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {
        "hm": Result((note("one"),), needs=("hm",), page=False),
        "table": Result((note("two"),), after=("hm",)),
    }
    assert shops.make(results) == 0
    lacking = f"left out: no {shops.tables / 'hm'}"
    assert f"hm: {lacking}\ntable: {lacking}\n" in capsys.readouterr().out
    (shops.tables / "hm").mkdir()
    assert shops.make(results, "--list") == 0
    assert "hm: left\ntable: left\n" in capsys.readouterr().out
    assert shops.ran("one") == 0
    assert shops.make(results, "--only", "table") == 0
    assert shops.ran("one") == shops.ran("two") == 1
    with pytest.raises(SystemExit, match="no result 'no'"):
        shops.make(results, "--only", "no")
    # A file of a shop may be what lacks.
    fields = {"fields": Result((note("three"),), needs=("hm", "hm/attributes.csv"))}
    assert shops.make(fields) == 0
    said = capsys.readouterr().out
    assert f"fields: left out: no {shops.tables / 'hm' / 'attributes.csv'}\n" in said
    (shops.tables / "hm" / "attributes.csv").touch()
    assert shops.make(fields) == 0
    assert shops.ran("three") == 1


def test_files_that_commands_write_are_in_the_page(shops: Shops) -> None:
    write = '{python} -c \'import sys; open(sys.argv[1], "w").write("| made |")\' {out}/made.md'
    assert shops.make({"table": Result((write,), makes=("{out}/made.md",))}) == 0
    assert "| made |" in shops.page("table")
    # Pictures are copied beside the page, which shows them.
    draw = '{python} -c \'import sys; open(sys.argv[1], "w").write("drawn")\' {runs}/chart.png'
    made = Result(("mkdir -p {runs}", draw, write), ("{out}/made.md",), ("{runs}/chart.png",))
    assert shops.make({"chart": made}) == 0
    assert "| made |\n\n![chart](chart-chart.png)\n" in shops.page("chart")
    (picture,) = shops.out.glob("*/chart-chart.png")
    assert picture.read_text() == "drawn"
    # What is printed and is no table stands as it is.
    plain = "{python} -c 'print(\"speed  3\")'"
    assert shops.make({"speed": Result((plain,))}) == 0
    assert "```text\nspeed  3\n```" in shops.page("speed")


def test_tests_of_test_splits_are_last_and_follow_what_they_need() -> None:
    results = {
        "final": Result(("a",), after=("runs",), test=True),
        "table": Result(("b",)),
        "runs": Result(("c",)),
    }
    assert in_order(results, []) == ["runs", "table", "final"]
    assert in_order(results, ["final"]) == ["runs", "final"]


def test_the_list_is_whole() -> None:
    assert set(in_order(RESULTS, [])) == set(RESULTS)
    for name, result in RESULTS.items():
        assert result.commands, name
        is_test = any("--split test" in command for command in result.commands)
        assert is_test == result.test, name
    # What stands in the folder of results today has a command.
    known = {path.stem for path in (RECIPES / "results").glob("*.md")} - {"README", "hm_attempts"}
    assert known <= set(RESULTS)
    assert json.dumps(sorted(RESULTS))
