"""Every command of the results' list is one that its program takes, with its settings and rows."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from beyond_text import ablate
from beyond_text.config.load import load_config, to_yaml
from beyond_text.evaluation.grid import points_of, read_grid, tried_rows
from beyond_text.evaluation.labels import Setup, fitting, numbers_of, plan_labels, read_labels
from beyond_text.evaluation.ladder import plan
from beyond_text.files import write_json
from beyond_text.metrics.results import METRICS
from beyond_text.terminal import split_settings
from tests import ROOT
from tests.benchmarks.results_list import OF_SHOPS, RESULTS


class Places:
    """Folders in which every run that a command trains has its settings."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.runs, self.settings = folder / "runs", settings
        self.folders = {
            "tables": str(folder / "shops"),
            "runs": str(self.runs),
            "out": str(folder / "out"),
            "python": "python",
        }
        for words in (words for name in RESULTS for words in self.commands(name)):
            if words[0] == "make":
                self.write_made(words)
            elif words[2] == "beyond_text.train":
                files, overrides = split_settings(words[3:])
                self.write(files, overrides)

    def commands(self, name: str) -> list[list[str]]:
        """Returns the words of each command of a result."""
        commands = RESULTS[name].commands
        return [[w.format(**self.folders) for w in shlex.split(command)] for command in commands]

    def write_made(self, words: list[str]) -> None:
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        for stage in (word for word in words[1:] if "=" not in word):
            recipes = ["recipes/base.yaml", f"recipes/{stage}.yaml"]
            self.write(recipes, [f"run={given['RUNS']}/{stage}", *given.get("ARGS", "").split()])

    def write(self, recipes: list[str], words: list[str]) -> None:
        """Writes a run as far as a ladder reads it; sources are as the words name them."""
        places = [word for word in self.settings if not word.startswith(("steps=", "budget="))]
        if any(word.startswith("data.sources") for word in words):
            places = [word for word in places if not word.startswith("data.")]
        config = load_config(list(map(Path, recipes)), [*places, *words])
        Path(config.run).mkdir(parents=True, exist_ok=True)
        (Path(config.run) / "config.yaml").write_text(to_yaml(config))
        write_json(Path(config.run) / METRICS, {})


@pytest.fixture(scope="module")
def places(
    tiny_settings: list[str], tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Places]:
    with pytest.MonkeyPatch.context() as patch:
        # Recipes are named from here.
        patch.chdir(ROOT)
        found = Places(tmp_path_factory.mktemp("results"), tiny_settings)
        # A ladder of labels counts the queries of its shops.
        for shop in OF_SHOPS.values():
            shards = Path(shop.format(**found.folders))
            shards.parent.mkdir(parents=True, exist_ok=True)
            shards.symlink_to(tiny_shards)
        yield found


@pytest.mark.parametrize("name", RESULTS)
def test_commands_are_understood(places: Places, name: str) -> None:
    for words in places.commands(name):
        if words[0] == "make":
            continue
        module, given = words[2], words[3:]
        assert find_spec(module), module
        if module == "beyond_text.ablate":
            check_ladder(ablate.parse(given))
        elif module.startswith("beyond_text.") and module != "beyond_text.train":
            import_module(module).parse(given)


def check_ladder(arguments: argparse.Namespace) -> None:
    """Plans the runs of a ladder's first seed, its grid's among them, and with all labels."""
    settings = arguments.start / "config.yaml"
    assert settings.is_file(), "no command trains the run that the ladder starts from"
    given = arguments.overrides, arguments.out
    if arguments.labels:
        rows, grid = read_labels(arguments.rows)
        rows = fitting(rows, arguments.only, arguments.overrides)
        setup = Setup(rows, arguments.seeds[:1], settings, *given)
        assert "all" in arguments.labels
        entries = grid if arguments.grid is not None else [{}]
        # Two of the rows need no labels, and stand at 0 alone.
        expected = (len(rows) - 2) * len(entries)
        assert len(plan_labels(setup, numbers_of(["all"], setup), entries)) == expected
        return
    ladders = [each._replace(seeds=each.seeds[:1]) for each in ablate.ladders_of(arguments)]
    if arguments.grid:
        grid = read_grid(arguments.grid)
        assert points_of(grid, "sum") == [()]
        ladders += [tried_rows(each, grid, settings, arguments.overrides)[0] for each in ladders]
        ladders = [each._replace(name=str(n)) for n, each in enumerate(ladders)]
    for ladder in ladders:
        cells = plan([ladder], settings, *given)
        assert len(cells) == len(ladder.rows)
        for chain in cells.values():
            for config in chain:
                named = config.data.sources.values()
                assert any(source.weight and source.path for source in named), config.run


def test_pages_show_what_commands_write(places: Places) -> None:
    for name, result in RESULTS.items():
        written = " ".join(result.commands)
        for file in (*result.makes, *result.draws):
            assert f"{Path(file).parent} " in f"{written} ", name


@pytest.mark.parametrize("shop", ["hm", "ikea"])
def test_uniecs_and_two_towers_are_trained_alike(places: Places, shop: str) -> None:
    own = places.runs / f"{shop}-0"
    two, uniecs = (load_config([own / n / "config.yaml"]) for n in ("stage3-pairs", "uniecs"))
    assert two.data.sources.keys() == {"tables", "pairs"}
    for config in (two, uniecs):
        assert config.start == str(own / "stage2")
        assert config.data.sources == two.data.sources
        assert config.data.modality_dropout == 0.3
        assert config.data.queries_per_product == 4
    assert uniecs.fusion == "uniecs"
    pairs = two.data.sources["pairs"]
    assert (pairs.path, pairs.namespace) == (str(places.runs / f"{shop}-pairs"), "tables")
    steps = [
        [word for word in words if word.startswith(("steps=", "budget="))]
        for words in places.commands(f"{shop}_systems")[1:]
    ]
    budget = ["budget=0.6"] if shop == "ikea" else []
    # Stage 3's own are 100.
    assert steps == [budget, ["steps=100", *budget]]
    for kind in ("scenarios", "missing", "queries"):
        (words,) = places.commands(f"{shop}_systems_{kind}")
        assert {str(own / "stage3-pairs"), str(own / "uniecs")} <= set(words)


def test_the_teacher_is_what_the_command_before_writes(places: Places) -> None:
    average, ladder = places.commands("hm_teacher")
    out = average[average.index("--out") + 1]
    assert f"teacher={out}" in ladder
    assert "--average" in average
    (pays,) = places.commands("hm_teacher_pays")
    one, other = map(Path, pays[3:5])
    assert (one.parent, other.parent) == (
        places.runs / "hm_negatives",
        Path(ladder[ladder.index("--out") + 1]),
    )
    # The same start, seeds and settings, without a teacher and with one.
    (untaught,) = (words for words in places.commands("hm_negatives") if "--seeds" in words)
    seeds = [
        words[words.index("--seeds") + 1 : words.index("--start")] for words in (untaught, ladder)
    ]
    assert seeds[0] == seeds[1]
    rows = [
        yaml.safe_load((ROOT / "recipes/ladder" / file).read_text())
        for file in ("negatives.yaml", "teacher.yaml")
    ]
    assert rows[0][one.name] == ["../stage3.yaml"]
    assert rows[1][other.name] == ["../stage3.yaml losses.teacher=1"]
