"""What make promises beyond the README's commands: order under -j, nothing done twice."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_names_every_public_target() -> None:
    said = make("help")
    for target in ("stage1", "stage2", "stage3", "test", "lint", "tensorboard", "help"):
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
