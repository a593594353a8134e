"""What make promises beyond the README's commands: order under -j, nothing done twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_names_every_public_target() -> None:
    said = make("help")
    for target in ("stage1", "stage2", "stage3", "uniecs", "test", "lint", "tensorboard", "help"):
        assert re.search(rf"^{target}\s", said, flags=re.MULTILINE), target


def test_stage3_alone_plans_all_that_comes_before_it_in_order(tmp_path: Path) -> None:
    planned = make("-n", "-j", "4", "stage3", f"RUNS={tmp_path}")
    places = [planned.index(f"run={tmp_path}/{stage} ") for stage in ("stage1", "stage2", "stage3")]
    assert planned.index("data_prep.shards") < places[0]
    assert places == sorted(places)
    assert f"start={tmp_path}/stage2" in planned


def test_tables_overlays_and_arguments_reach_the_command(tmp_path: Path) -> None:
    planned = make(
        "-n", "stage1", f"RUNS={tmp_path}", "TABLES=my shop", "DATA=fashion", "ARGS=seed=7 steps=3"
    )
    assert "data_prep.shards 'my shop'" in planned
    assert "recipes/data/fashion.yaml" in planned
    assert planned.rstrip().endswith("seed=7 steps=3")


def test_uniecs_plans_pairs_before_their_shards_and_trains_on_both_sources(tmp_path: Path) -> None:
    planned = make("-n", "-j", "4", "uniecs", f"RUNS={tmp_path}", "TABLES=my shop", "ARGS=seed=7")
    steps = (
        f"data_prep.mbeer 'my shop' {tmp_path}/pairs.jsonl",
        f"data_prep.shards {tmp_path}/pairs.jsonl {tmp_path}/pairs --pictures 'my shop'",
        f"recipes/base.yaml   recipes/uniecs.yaml run={tmp_path}/uniecs ",
    )
    places = [planned.index(step) for step in steps]
    assert places == sorted(places)
    assert planned.index(f"data_prep.shards 'my shop' {tmp_path}/shards") < places[-1]
    training = planned.rstrip().splitlines()[-1]
    assert f" data.sources.tables.path={tmp_path}/shards data.dev={tmp_path}/shards " in training
    pairs = f" data.sources.pairs.path={tmp_path}/pairs data.sources.pairs.weight=0.5 "
    assert pairs in training
    assert training.endswith(" seed=7")
    # From the untouched encoders.
    assert "start=" not in training


def test_stage_3_learns_from_pairs_where_it_is_asked_to(tmp_path: Path) -> None:
    pairs = f" start={tmp_path}/stage2 data.sources.pairs.path={tmp_path}/pairs data.sources.pairs."
    planned = make("-n", "stage3", f"RUNS={tmp_path}", "PAIRS=1", f"ARGS=run={tmp_path}/other")
    *before, training = planned.rstrip().splitlines()
    assert pairs in training
    assert training.endswith(f" run={tmp_path}/other")
    assert any("data_prep.mbeer" in line for line in before)
    assert not any("sources.pairs" in line for line in before)
    assert "sources.pairs" not in make("-n", "stage3", f"RUNS={tmp_path}")


def test_tables_that_changed_are_packed_again(tmp_path: Path) -> None:
    shop, manifest = tmp_path / "shop", tmp_path / "runs/shards/manifest.json"
    shop.mkdir()
    manifest.parent.mkdir(parents=True)
    for path in (shop / "products.csv", shop / "queries.csv", manifest):
        path.touch()
    asked = ("-n", "data", f"TABLES={shop}", f"RUNS={tmp_path / 'runs'}")
    assert "data_prep.shards" not in make(*asked)
    os.utime(shop / "queries.csv", (2**32, 2**32))
    assert "data_prep.shards" in make(*asked)


def test_pairs_are_made_again_only_where_they_are_not_finished(tmp_path: Path) -> None:
    def planned() -> list[str]:
        said = make("-n", "uniecs", f"RUNS={tmp_path}", "TABLES=shop")
        return [
            name for name in ("data_prep.mbeer", f"{tmp_path}/pairs --pictures") if name in said
        ]

    # A killed build of shards leaves its folder under another name.
    (tmp_path / "pairs.partial").mkdir()
    listed, shards = tmp_path / "pairs.jsonl", tmp_path / "pairs" / "manifest.json"
    assert planned() == ["data_prep.mbeer", f"{tmp_path}/pairs --pictures"]
    listed.touch()
    assert planned() == [f"{tmp_path}/pairs --pictures"]
    shards.parent.mkdir()
    shards.touch()
    os.utime(listed, (1, 1))
    assert planned() == []
    os.utime(shards, (0, 0))
    assert planned() == [f"{tmp_path}/pairs --pictures"]
