"""What make promises beyond the README's commands: order under -j, nothing done twice, any path.

A sham stands for Python in a clone of its own: it runs what asks for its version or its modules,
logs the arguments of everything else, and touches what the real command would make.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# As many tests at a time as there are cores.
TOGETHER = ["-n", "auto", "--dist", "worksteal"]

# By way of a shell, since the path of an interpreter after #! must have no space.
SHAM = """\
#!/bin/sh
''':'
exec "{python}" -IS "$0" "$@"
'''
import sys

LACKS = {lacks}
given = sys.argv[1:]
if given[:1] == ["-c"]:
    import importlib

    # The real module takes longer to import than all else.
    class metadata:
        def version(name):
            if name in LACKS:
                raise ModuleNotFoundError(f"No package metadata was found for {{name}}")
            return "1.0"

    importlib.metadata = sys.modules["importlib.metadata"] = metadata
    sys.version_info = {version}
    sys.modules.update(dict.fromkeys(LACKS))
    exec(given[1])
    sys.exit()
import json, os
from pathlib import Path

with open({log!r}, "a") as log:
    log.write(json.dumps([Path(sys.argv[0]).name, *given]) + "\\n")
if os.environ.get("FAILS") in given:
    sys.exit(1)
if given[:1] == ["-m"]:
    _, module, *rest = given
    if module in LACKS:
        sys.exit(f"No module named {{module}}")
    places = {{"data_prep.shards": (1, "manifest.json"), "data_prep.catalogue": (0, "qrels.csv"),
              "data_prep.encoders": (0, "encoder"), "data_prep.mbeer": (1, ""),
              "beyond_text.export": (1, "README.md"), "venv": (0, "bin/activate")}}
    if module in places:
        place, name = places[module]
        made = Path(rest[place], name)
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
    if module in ("venv", "ensurepip"):
        python = made.with_name("python") if module == "venv" else Path(sys.argv[0])
        python.write_text(Path({fit!r}).read_text())
        python.chmod(0o755)
"""
TRAIN = ["python", "-m", "beyond_text.train", "recipes/base.yaml"]
PACK = ["python", "-m", "data_prep.shards"]
PAIR = ["python", "-m", "data_prep.mbeer"]
ENCODERS = ["python", "-m", "data_prep.encoders", "data/encoders"]
CATALOGUE = ["python", "-m", "data_prep.catalogue", "data/catalogue"]
VENV = ["python3", "-m", "venv", ".venv"]
INSTALL = [
    ["python", "-m", "pip", "install", "--quiet", "--upgrade", "pip"],
    ["python", "-m", "pip", "install", "--quiet", "-e", ".[encoders,test]"],
]
AWKWARD = (
    "my shop",
    'it\'s (50%) "more" & $HOME $(x) `y`; #1',
    "a=b: c, {d} *?[e]~ <f> | !g \\",
    "é\tü",
)


class Clone(NamedTuple):
    """A folder that make runs in, and what the shams of its PATH log."""

    folder: Path

    @property
    def tools(self) -> Path:
        return self.folder.with_name("tools")

    def sham(
        self, path: Path, version: tuple[int, int] = (3, 11), lacks: tuple[str, ...] = ()
    ) -> Path:
        """A Python of this version that has not got these modules."""
        path.parent.mkdir(parents=True, exist_ok=True)
        places = {name: str(self.tools / name) for name in ("log", "fit")}
        text = SHAM.format(python=sys.executable, version=version, lacks=lacks, **places)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """What make says; a make around this one hands it nothing."""
        search = os.pathsep.join((str(self.tools), os.environ["PATH"]))
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.folder,
            env={"PATH": search, "LC_ALL": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, *arguments: str, **environment: str) -> str:
        """What a make that succeeds prints."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ran(self) -> list[list[str]]:
        """Programs that were run since this was last asked, with their arguments."""
        log = self.tools / "log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


@pytest.fixture
def bare(tmp_path: Path) -> Clone:
    """A fresh clone, in a folder of an awkward name; `python3` can make its environment."""
    clone = Clone(tmp_path / "it's a (clone) & $more")
    clone.folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "data_prep", "recipes"):
        (clone.folder / name).symlink_to(ROOT / name)
    clone.sham(clone.tools / "fit")
    clone.sham(clone.tools / "python3")
    return clone


@pytest.fixture
def clone(bare: Clone) -> Clone:
    """A clone whose environment is there, as are its encoders."""
    for name in ("python", "ruff", "mypy", "lint-imports", "tensorboard"):
        bare.sham(bare.folder / ".venv/bin" / name)
    for name in (".venv/installed", "data/encoders/ready"):
        (bare.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (bare.folder / name).touch()
    return bare


def trained(runs: str, stage: str, *more: str) -> list[str]:
    """The command that trains a stage."""
    shards = (f"data.sources.tables.path={runs}/shards", f"data.dev={runs}/shards")
    return [*TRAIN, f"recipes/{stage}.yaml", f"run={runs}/{stage}", *shards, *more]


def with_pairs(runs: str) -> tuple[str, ...]:
    key = "data.sources.pairs"
    return (
        f"{key}.path={runs}/pairs",
        f"{key}.weight=0.5",
        f"{key}.queries_per_product=1",
        f"{key}.namespace=tables",
    )


def write_shop(clone: Clone, name: str) -> Path:
    """A folder of tables, older than anything else."""
    shop = clone.folder / name
    for file in ("products.csv", "queries.parquet", "pairs.jsonl", "notes.txt", "deep/more.csv"):
        (shop / file).parent.mkdir(parents=True, exist_ok=True)
        (shop / file).touch()
        os.utime(shop / file, (0, 0))
    return shop


def change(path: Path) -> None:
    os.utime(path, (2**32, 2**32))


# Targets, and their order.


def test_help_names_every_public_target_and_needs_no_environment(bare: Clone) -> None:
    said = bare.make("help")
    public = "help install data stage1 stage2 stage3 uniecs test quick lint tensorboard clean"
    for target in public.split():
        assert re.search(rf"^{target:<14}\w", said, flags=re.MULTILINE), target
    assert not (bare.folder / ".venv").exists()
    assert bare.make() == said


def test_stage3_alone_plans_all_that_comes_before_it_in_order(bare: Clone) -> None:
    planned = bare.make("-n", "-j", "4", "stage3", "PAIRS=1")
    steps = ("-m venv", "pip install", "data_prep.catalogue", "data_prep.shards 'data/catalogue'")
    stages = tuple(f"recipes/stage{n}.yaml" for n in (1, 2, 3))
    places = [planned.index(step) for step in (*steps, *stages)]
    assert places == sorted(places)
    pairs = [planned.index(step) for step in ("data_prep.mbeer", " --pictures ", stages[-1])]
    assert pairs == sorted(pairs)
    assert bare.ran() == []


def test_a_fresh_clone_is_taken_to_stage_3_under_j_in_order_and_once(bare: Clone) -> None:
    bare.make("-j", "4", "stage1", "stage2", "stage3")
    ran = bare.ran()
    assert ran[:3] == [VENV, *INSTALL]
    packed = [*PACK, "data/catalogue", "runs/shards"]
    assert sorted(ran[3:6]) == sorted([ENCODERS, CATALOGUE, packed])
    assert ran.index(CATALOGUE) < ran.index(packed)
    stages = [
        trained("runs", "stage1"),
        trained("runs", "stage2", "start=runs/stage1"),
        trained("runs", "stage3", "start=runs/stage2"),
    ]
    assert ran[6:] == stages
    # The command itself sees that a run is finished.
    bare.make("-j", "4", "stage1", "stage2", "stage3")
    assert bare.ran() == stages


def test_nothing_starts_under_j_before_the_environment_is_whole(bare: Clone) -> None:
    write_shop(bare, "shop")
    bare.make("-j", "4", "uniecs", "TABLES=shop")
    ran = bare.ran()
    assert ran[:3] == [VENV, *INSTALL]
    assert len(ran) == 8
    assert ran[-1] == trained("runs", "uniecs", *with_pairs("runs"))


def test_what_fails_stops_make_and_is_where_the_next_one_goes_on(clone: Clone) -> None:
    write_shop(clone, "shop")
    assert clone.run("stage3", "TABLES=shop", FAILS="data_prep.shards").returncode
    assert clone.ran() == [[*PACK, "shop", "runs/shards"]]
    assert clone.run("stage3", "TABLES=shop", FAILS="recipes/stage2.yaml").returncode
    first = trained("runs", "stage1")
    second = trained("runs", "stage2", "start=runs/stage1")
    assert clone.ran() == [[*PACK, "shop", "runs/shards"], first, second]
    clone.make("stage3", "TABLES=shop")
    assert clone.ran() == [first, second, trained("runs", "stage3", "start=runs/stage2")]


def test_a_target_that_counts_as_old_is_left_out(clone: Clone) -> None:
    (clone.folder / ".venv/installed").unlink()
    clone.make("-o", "install", "-o", "stage2", "stage3", "TABLES=shop")
    assert clone.ran() == [trained("runs", "stage3", "start=runs/stage2")]


def test_tests_and_linters_run_as_named(clone: Clone) -> None:
    clone.make("quick", "test", "lint")
    assert clone.ran() == [
        ["python", "-m", "pytest", "tests", "-m", "not slow", *TOGETHER],
        ["python", "-m", "pytest", "tests", *TOGETHER],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "beyond_text", "data_prep"],
        ["lint-imports"],
    ]


# Values of variables.


@pytest.mark.parametrize("name", AWKWARD)
def test_any_folder_of_tables_and_of_runs_reaches_every_command_as_one_word(
    clone: Clone, name: str
) -> None:
    shop, runs = f"tables {name}", f"runs {name}"
    asked = (f"TABLES={shop}", f"RUNS={runs}")
    write_shop(clone, shop)
    packed = [*PACK, shop, f"{runs}/shards"]
    paired = [
        [*PAIR, shop, f"{runs}/pairs.jsonl"],
        [*PACK, f"{runs}/pairs.jsonl", f"{runs}/pairs", "--pictures", shop],
    ]
    stages = [
        trained(runs, "stage1"),
        trained(runs, "stage2", f"start={runs}/stage1"),
        trained(runs, "stage3", f"start={runs}/stage2", *with_pairs(runs)),
        # From the untouched encoders.
        trained(runs, "uniecs", *with_pairs(runs)),
    ]
    targets = ("stage3", "uniecs", "tensorboard", "PAIRS=1", *asked)
    shown = [["tensorboard", "--logdir", runs]]
    clone.make(*targets)
    assert clone.ran() == [packed, *stages[:2], *paired, *stages[2:], *shown]
    clone.make(*targets)
    assert clone.ran() == [*stages, *shown]
    change(clone.folder / shop / "products.csv")
    clone.make(*targets)
    assert clone.ran() == [packed, *stages[:2], *paired, *stages[2:], *shown]


def test_demo_serves_both_indexes_and_exports_only_what_has_changed(clone: Clone) -> None:
    write_shop(clone, "shop")
    runs = "my $runs"
    python = ["python", "-m"]
    stages = [
        trained(runs, "stage1"),
        trained(runs, "stage2", f"start={runs}/stage1"),
        trained(runs, "stage3", f"start={runs}/stage2"),
        trained(runs, "untouched"),
    ]
    exports, indexes = (
        {run: f"{runs}/{what}/{run}" for run in ("untouched", "stage3")}
        for what in ("exports", "indexes")
    )
    exported = {
        run: [*python, "beyond_text.export", f"{runs}/{run}", exports[run]] for run in exports
    }
    indexed = {
        run: [*python, "beyond_text.index", f"{runs}/shards", indexes[run], "--model", exports[run]]
        for run in exports
    }
    named = [f"trained={indexes['stage3']}", f"untouched={indexes['untouched']}"]
    served = [*python, "beyond_text.serve", *named, "--port", "8080"]
    asked = ("demo", "TABLES=shop", f"RUNS={runs}", "SERVE=--port 8080")
    clone.make(*asked)
    [packed, *ran] = clone.ran()
    assert packed[:3] == PACK
    every = [command for run in exports for command in (exported[run], indexed[run])]
    assert ran == [*stages, *every, served]
    clone.make(*asked)
    assert clone.ran() == [*stages, *indexed.values(), served]
    weights = clone.folder / runs / "stage3/model/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    change(weights)
    clone.make(*asked)
    assert clone.ran() == [
        *stages,
        indexed["untouched"],
        exported["stage3"],
        indexed["stage3"],
        served,
    ]


def test_variables_of_the_environment_are_taken_as_they_are(clone: Clone) -> None:
    write_shop(clone, "a $b")
    clone.make("stage1", TABLES="a $b", RUNS="c $(d)", ARGS="seed=7")
    assert clone.ran() == [
        [*PACK, "a $b", "c $(d)/shards"],
        trained("c $(d)", "stage1", "seed=7"),
    ]


def test_overlays_and_quoted_words_of_arguments_reach_the_command(clone: Clone) -> None:
    write_shop(clone, "shop")
    clone.make(
        *("stage1", "TABLES=shop", "BACKBONE=clip-vit-b32", "DATA=fashion"),
        "ARGS=budget=3 seed=1 run='my runs/$x' \"cache=$HOME/a b\"",
        HOME="/home/me",
    )
    plain = trained("runs", "stage1", "budget=3", "seed=1", "run=my runs/$x", "cache=/home/me/a b")
    overlays = ["recipes/backbone/clip-vit-b32.yaml", "recipes/data/fashion.yaml"]
    assert clone.ran()[1:] == [[*TRAIN, *overlays, *plain[len(TRAIN) :]]]


def test_arguments_come_last_and_so_win(clone: Clone) -> None:
    write_shop(clone, "shop")
    clone.make("stage3", "uniecs", "PAIRS=1", "TABLES=shop", "ARGS=start=mine run=yours")
    training = [command for command in clone.ran() if command[:4] == TRAIN]
    assert [command[-2:] for command in training] == [["start=mine", "run=yours"]] * 4


def test_stage_3_learns_from_pairs_only_where_it_is_asked_to(clone: Clone) -> None:
    write_shop(clone, "shop")
    clone.make("stage3", "TABLES=shop")
    assert not any(PAIR[-1] in command for command in clone.ran())
    clone.make("stage3", "TABLES=shop", "PAIRS=1", "ARGS=run=other")
    *before, training = clone.ran()
    assert training == trained(
        "runs", "stage3", "start=runs/stage2", *with_pairs("runs"), *["run=other"]
    )
    assert PAIR[-1] in {command[2] for command in before}
    assert not any("sources.pairs" in word for command in before for word in command)


def test_clean_removes_the_default_folders_whole_and_no_other(clone: Clone) -> None:
    for name in ("runs/stage1", "data/catalogue", "my runs/stage1", "my", "shop"):
        (clone.folder / name).mkdir(parents=True, exist_ok=True)
    before = {path.name for path in clone.folder.iterdir()}
    clone.make("clean", "RUNS=my runs", "TABLES=shop")
    assert {path.name for path in clone.folder.iterdir()} == before - {"runs", "data"}


# What is done again.


@pytest.mark.parametrize("table", ["products.csv", "queries.parquet", "pairs.jsonl"])
def test_tables_that_changed_are_packed_again(clone: Clone, table: str) -> None:
    shop = write_shop(clone, "my shop")
    packed = [*PACK, "my shop", "runs/shards"]
    for ran in ([packed], []):
        clone.make("data", "TABLES=my shop")
        assert clone.ran() == ran
    # Neither is a table of this folder.
    for name in ("notes.txt", "deep/more.csv"):
        change(shop / name)
    clone.make("data", "TABLES=my shop")
    assert clone.ran() == []
    change(shop / table)
    clone.make("data", "TABLES=my shop")
    assert clone.ran() == [packed]


@pytest.mark.parametrize("tables", ["link", "link/products.csv"])
def test_tables_behind_a_link_and_a_single_file_are_packed_again(clone: Clone, tables: str) -> None:
    shop = write_shop(clone, "my shop")
    (clone.folder / "link").symlink_to(shop)
    packed = [*PACK, tables, "runs/shards"]
    for ran in ([packed], []):
        clone.make("data", f"TABLES={tables}")
        assert clone.ran() == ran
    change(shop / "products.csv")
    clone.make("data", f"TABLES={tables}")
    assert clone.ran() == [packed]


def test_an_export_is_packed_and_paired_by_its_layout_and_again_when_it_changed(
    clone: Clone,
) -> None:
    shop = write_shop(clone, "my shop")
    asked = ("shards", "pairs", "TABLES=my shop", "LAYOUT=beir")
    packed = [*PACK, "my shop", "runs/shards", "--layout", "beir"]
    paired = [
        [*PAIR, "my shop", "runs/pairs.jsonl", "--layout", "beir"],
        [*PACK, "runs/pairs.jsonl", "runs/pairs", "--pictures", "my shop"],
    ]
    clone.make(*asked)
    assert clone.ran() == [packed, *paired]
    clone.make(*asked)
    assert clone.ran() == []
    for name in ("feed.TXT", "feed.xml", "qrels/dev.tsv"):
        (shop / name).parent.mkdir(exist_ok=True)
        (shop / name).touch()
        change(shop / name)
        clone.make(*asked)
        assert clone.ran() == [packed, *paired]
        (shop / name).unlink()
    for kind in ("esci", ""):
        again = (*asked[:3], f"LAYOUT={kind}")
        clone.make(*again)
        named = ["--layout", kind] if kind else []
        packed, paired[0] = [*packed[:5], *named], [*paired[0][:5], *named]
        assert clone.ran() == [packed, *paired]
        clone.make(*again)
        assert clone.ran() == []


def test_other_tables_are_packed_anew_into_the_same_runs(clone: Clone) -> None:
    """Whatever their age: else a stage would train on another shop's shards."""
    for name in ("one", "other"):
        write_shop(clone, name)
    for name in ("one", "other", "one"):
        for ran in ([[*PACK, name, "runs/shards"]], []):
            clone.make("shards", f"TABLES={name}")
            assert clone.ran() == ran
    # Shards that a command has made are left as they are.
    (clone.folder / "runs" / "shards.made").unlink()
    clone.make("shards", "TABLES=one")
    assert clone.ran() == []


@pytest.mark.parametrize("name", ["products.csv.gz", "clicks/2.csv", "clicks/3.parquet"])
def test_packed_files_and_parts_of_tables_count_too(clone: Clone, name: str) -> None:
    shop = write_shop(clone, "shop")
    clone.make("shards", "TABLES=shop")
    clone.ran()
    (shop / name).parent.mkdir(exist_ok=True)
    (shop / name).touch()
    change(shop / name)
    clone.make("shards", "TABLES=shop")
    assert clone.ran() == [[*PACK, "shop", "runs/shards"]]


def test_shards_outlive_their_tables(clone: Clone) -> None:
    shop = write_shop(clone, "my shop")
    clone.make("data", "TABLES=my shop")
    shutil.rmtree(shop)
    clone.ran()
    done = clone.run("data", "TABLES=my shop")
    assert (done.returncode, done.stderr, clone.ran()) == (0, "", [])


def test_only_the_default_catalogue_is_drawn(clone: Clone) -> None:
    write_shop(clone, "data/catalogue too")
    clone.make("data", "TABLES=data/catalogue too")
    assert CATALOGUE not in clone.ran()
    paired = [
        [*PAIR, "data/catalogue", "runs/pairs.jsonl"],
        [*PACK, "runs/pairs.jsonl", "runs/pairs", "--pictures", "data/catalogue"],
    ]
    clone.make("pairs")
    assert clone.ran() == [CATALOGUE, *paired]
    clone.make("data", "RUNS=other")
    assert clone.ran() == [[*PACK, "data/catalogue", "other/shards"]]


def test_pairs_are_made_again_only_where_they_are_not_finished(clone: Clone) -> None:
    def ran() -> list[list[str]]:
        clone.make("uniecs", "TABLES=shop")
        return [command for command in clone.ran() if command in (listing, packing)]

    listing = [*PAIR, "shop", "runs/pairs.jsonl"]
    packing = [*PACK, "runs/pairs.jsonl", "runs/pairs", "--pictures", "shop"]
    runs = clone.folder / "runs"
    listed, shards = runs / "pairs.jsonl", runs / "pairs" / "manifest.json"
    # A killed build of shards leaves its folder under another name.
    (runs / ".pairs.partial").mkdir(parents=True)
    write_shop(clone, "shop")
    assert ran() == [listing, packing]
    assert ran() == []
    shards.unlink()
    assert ran() == [packing]
    os.utime(listed, (1, 1))
    assert ran() == []
    os.utime(shards, (0, 0))
    assert ran() == [packing]
    change(clone.folder / "shop" / "products.csv")
    assert ran() == [listing, packing]


# The environment.


def sentences(said: str) -> list[str]:
    """Lines that are neither make's own, nor commands that it shows."""
    return [line for line in said.splitlines() if not line.startswith(("+ ", "make: "))]


def keepsake(clone: Clone) -> Path:
    """A file of the user's in the environment."""
    path = clone.folder / ".venv" / "keepsake"
    path.touch()
    return path


def test_an_environment_is_made_once(bare: Clone) -> None:
    done = bare.run("install")
    assert (done.returncode, sentences(done.stderr)) == (0, [])
    assert bare.ran() == [VENV, *INSTALL]
    kept = keepsake(bare)
    assert bare.make("install", "PYTHON=no such program") == ""
    assert bare.ran() == []
    assert kept.exists()


@pytest.mark.parametrize("step", [0, 1])
def test_an_installation_that_fails_is_begun_again(bare: Clone, step: int) -> None:
    done = bare.run("install", FAILS=INSTALL[step][-1])
    assert done.returncode
    assert bare.ran() == [VENV, *INSTALL[: step + 1]]
    bare.make("install")
    assert bare.ran() == INSTALL


def test_a_sound_environment_is_installed_into_where_a_package_may_be_new(clone: Clone) -> None:
    kept = keepsake(clone)
    os.utime(clone.folder / ".venv/installed", (0, 0))
    clone.make("install")
    assert clone.ran() == INSTALL
    clone.make("install")
    assert clone.ran() == []
    (clone.folder / ".venv/installed").unlink()
    clone.make("install")
    assert clone.ran() == INSTALL
    assert kept.exists()


def old(clone: Clone) -> None:
    clone.sham(clone.folder / ".venv/bin/python", version=(3, 10))


def old_without_pip(clone: Clone) -> None:
    clone.sham(clone.folder / ".venv/bin/python", version=(3, 10), lacks=("pip",))
    (clone.folder / ".venv/bin/activate").touch()


def gone(clone: Clone) -> None:
    python = clone.folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")


def half_made(clone: Clone) -> None:
    clone.sham(clone.folder / ".venv/bin/python", lacks=("pip",))


def beyond_repair(clone: Clone) -> None:
    clone.sham(clone.folder / ".venv/bin/python", lacks=("pip", "ensurepip"))
    (clone.folder / ".venv/bin/activate").touch()


def hardly_begun(clone: Clone) -> None:
    shutil.rmtree(clone.folder / ".venv/bin")


def dangling(clone: Clone) -> None:
    shutil.rmtree(clone.folder / ".venv")
    (clone.folder / ".venv").symlink_to("/nowhere")


BROKEN = {
    old: "Python 3.10",
    old_without_pip: "Python 3.10",
    gone: "No such file or directory",
    half_made: "No package metadata was found for pip",
    beyond_repair: "No module named ensurepip",
    hardly_begun: "No such file or directory",
    dangling: "No such file or directory",
}


@pytest.mark.parametrize(("spoil", "got"), BROKEN.items())
def test_a_broken_environment_is_made_again_with_a_sentence_that_says_so(
    clone: Clone, spoil: Callable[[Clone], None], got: str
) -> None:
    kept = keepsake(clone)
    spoil(clone)
    done = clone.run("quick")
    assert done.returncode == 0, done.stderr
    (sentence,) = sentences(done.stderr)
    assert sentence.startswith(".venv is made again: expected Python 3.11 or newer with pip, got ")
    assert sentence.endswith(f'{got}"')
    assert not kept.exists()
    quick = ["python", "-m", "pytest", "tests", "-m", "not slow", *TOGETHER]
    tried = [["python", "-m", "ensurepip"]] if spoil is beyond_repair else []
    assert clone.ran() == [*tried, VENV, *INSTALL, quick]
    assert sentences(clone.run("quick").stderr) == []
    assert clone.ran() == [quick]


def test_a_finished_environment_without_pip_gets_pip(clone: Clone) -> None:
    half_made(clone)
    (clone.folder / ".venv/bin/activate").touch()
    kept = keepsake(clone)
    clone.make("install")
    assert clone.ran() == [["python", "-m", "ensurepip"], *INSTALL]
    assert kept.exists()


def test_of_a_link_to_an_unfit_environment_only_the_link_goes(clone: Clone) -> None:
    old(clone)
    kept = keepsake(clone)
    elsewhere = clone.folder.with_name("elsewhere")
    (clone.folder / ".venv").rename(elsewhere)
    (clone.folder / ".venv").symlink_to(elsewhere)
    clone.make("install")
    assert clone.ran() == [VENV, *INSTALL]
    assert not (clone.folder / ".venv").is_symlink()
    assert (elsewhere / kept.name).exists()


@pytest.mark.parametrize(
    ("version", "lacks", "got"),
    [
        ((2, 7), (), "Python 2.7"),
        ((3, 10), (), "Python 3.10"),
        ((3, 12), ("ensurepip",), "ensurepip"),
        ((3, 12), ("venv",), "venv"),
        (None, (), "No such file or directory"),
    ],
)
def test_a_python_that_cannot_make_an_environment_stops_make_at_once(
    clone: Clone, version: tuple[int, int] | None, lacks: tuple[str, ...], got: str
) -> None:
    python = clone.tools / "the python"
    if version:
        clone.sham(python, version, lacks)
    gone(clone)
    kept = keepsake(clone)
    done = clone.run("-j", "4", "stage1", f"PYTHON={python}")
    assert done.returncode
    (sentence,) = sentences(done.stderr)
    expected = "Python 3.11 or newer with venv and ensurepip"
    assert sentence.startswith(f'{python} cannot make .venv: expected {expected}, got "')
    advice = "try `make PYTHON=python3.11 ...`, or on Debian `apt install python3-venv`"
    assert re.search(rf'got ".*{re.escape(got)}.*"; {re.escape(advice)}$', sentence), sentence
    assert clone.ran() == []
    # Nothing is removed that cannot be made again.
    assert kept.exists()
    shutil.rmtree(clone.folder / ".venv")
    assert sentences(clone.run("install", f"PYTHON={python}").stderr) == [sentence]
    clone.make("install", f"PYTHON={clone.sham(python)}")
    assert clone.ran() == [["the python", *VENV[1:]], *INSTALL]


def test_a_real_environment_is_known_by_its_pip(bare: Clone) -> None:
    venv = bare.folder / ".venv"
    making = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(making, check=True, capture_output=True)
    (venv / "bin/activate").unlink()
    (packages,) = venv.glob("lib/python*/site-packages")
    pip = packages / "pip-1.0.dist-info" / "METADATA"
    pip.parent.mkdir()
    pip.write_text("Metadata-Version: 2.1\nName: pip\nVersion: 1.0\n", encoding="utf-8")
    (venv / "installed").touch()
    kept = keepsake(bare)
    assert bare.make("install") == ""
    assert kept.exists()
    # As it is while pip is being unpacked.
    pip.unlink()
    bare.make("install")
    assert bare.ran() == [VENV, *INSTALL]
    assert not kept.exists()
