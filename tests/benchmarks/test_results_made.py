"""The commands of the results' list do what they say, by a step or two on tiny shops."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import cycle
from pathlib import Path

import pytest

from tests import ROOT
from tests.benchmarks.results import in_order
from tests.benchmarks.results_list import RESULTS
from tests.conftest import COLOURS, write_tiny_tables

pytestmark = pytest.mark.slow

# The list's own numbers of labels, seeds, fusions and sizes of a grid are more of the same.
FEWER = {
    "--labels 0 12 37 100 400 1500 all": "--labels 0 3",
    "--seeds 0 1 2": "--seeds 0",
    "--seeds 0 1": "--seeds 0",
    "concat gated moe block mutan lmf attended": "gated attended",
    "budget=1 ": "",
    # Encoders of random weights are sure of nothing.
    "beyond_text.tag": "beyond_text.tag --confidence 0",
}
# Of three starts, one is enough for a grid.
GRID = " --grid recipes/ladder/fusion_grid.yaml"
WITHOUT_GRID = {"hm_frozen_untouched", "hm_frozen_stage3"}
# Measured by tests of their own, or the same commands as others with other shops or rows.
LEFT = {
    *("hybrid", "throughput", "quality", "search", "large_batch", "stages_test", "hm_attempts"),
    *(name for name in RESULTS if "_labels" in name and name != "hm_labels"),
}


def write_shops(folder: Path) -> Path:
    """Writes three shops, two of which have fields, and one no queries."""
    for shop in ("hm", "ikea", "myntra"):
        write_tiny_tables(folder / shop, designs=True)
    fields = ("product_type", "colour", "colour_family", "pattern", "audience", "usage", "season")
    for shop in ("hm", "myntra"):
        with open(folder / shop / "products.csv", newline="") as file:
            products = list(csv.DictReader(file))
        values = zip(cycle(COLOURS), cycle(("solid", "striped")), strict=False)
        rows = [
            (row["product_id"], row["title"], colour, colour, pattern, "men", "casual", "summer")
            for row, (colour, pattern) in zip(products, values, strict=False)
        ]
        with open(folder / shop / "attributes.csv", "w", newline="") as file:
            csv.writer(file).writerows([("product_id", *fields), *rows])
    for name in ("queries.csv", "qrels.csv"):
        (folder / "myntra" / name).unlink()
    return folder


class Typed:
    """Runs the commands of results, shortened, in this process."""

    def __init__(self, folder: Path, settings: list[str], patch: pytest.MonkeyPatch) -> None:
        self.out, self.tables, self.patch = folder / "out", write_shops(folder / "shops"), patch
        self.settings = [word for word in settings if not word.startswith(("data.s", "data.d"))]
        self.places = {
            "tables": str(self.tables),
            "runs": str(self.out / "runs"),
            "out": str(self.out),
            "python": "python",
        }

    def make(self, name: str) -> None:
        for command in RESULTS[name].commands:
            if name in WITHOUT_GRID:
                command = command.replace(GRID, "")
            for old, new in FEWER.items():
                command = command.replace(old, new)
            words = [word.format(**self.places) for word in shlex.split(command)]
            for each in self.of_make(words) if words[0] == "make" else [words[2:]]:
                self.run(each)
        for file in (*RESULTS[name].makes, *RESULTS[name].draws):
            assert Path(file.format(**self.places)).stat().st_size, file

    def of_make(self, words: list[str]) -> Iterator[list[str]]:
        """Yields the commands that the Makefile runs, on IKEA's tables where none are named."""
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        runs, tables = given["RUNS"], given.get("TABLES", str(self.tables / "ikea"))
        if not Path(runs, "shards").exists():
            yield ["data_prep.shards", tables, f"{runs}/shards", "--workers", "1"]
        start = ""
        for stage in (word for word in words[1:] if "=" not in word):
            recipes = [f"recipes/{name}.yaml" for name in ("base", stage)]
            places = [f"data.sources.tables.path={runs}/shards", f"data.dev={runs}/shards"]
            own = [f"run={runs}/{stage}", f"start={start}", *given.get("ARGS", "").split()]
            yield ["beyond_text.train", *recipes, *places, *own]
            start = f"{runs}/{stage}"

    def run(self, words: list[str]) -> None:
        """Runs `MODULE WORD ...`; trainings are of a few steps, by the tiny encoders."""
        if words[0] == "beyond_text.train":
            words = [*words, *self.settings, "steps=2"]
        if words[0] == "beyond_text.ablate":
            words = [word for word in words if not re.match(r"budget=", word)]
            long = {"steps=1000", "steps=2000"}.intersection(words)
            words.append("budget=0.001" if long else "budget=0.03")
        self.patch.setattr(sys, "argv", words)
        assert not import_module(words[0]).main(), shlex.join(words)


def test_the_commands_make_their_tables(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Recipes are named from here.
    monkeypatch.chdir(ROOT)
    typed = Typed(tmp_path, tiny_settings, monkeypatch)
    for name in in_order(RESULTS, []):
        if name not in LEFT:
            print(name)
            typed.make(name)
