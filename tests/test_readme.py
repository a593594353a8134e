"""Every command of the README runs as it stands there, at toy size and in its order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.catalogue import build_catalogue
from data_prep.encoders import ENCODERS
from tests import ROOT
from tests.conftest import write_tiny_tables

# These run the tests, or do not end: make only says what it would do.
DRY = ("make test", "make lint", "make tensorboard", "make clean")
TINY = (
    "steps=2 batch_size=8 dim=16 fusion_rank=8 text_encoder.max_length=16 "
    "image_encoder.image_size=32 data.workers=0 precision=32-true"
)


def commands() -> list[str]:
    """Lines of the README's bash blocks, continued ones joined, comments left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def test_every_test_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+)…?)?`", text)
    assert named
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, test)


@pytest.fixture(scope="module")
def clone(
    tiny_text_encoder: Path, tiny_image_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder that looks like a fresh clone, but with tiny encoders and catalogues in it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "pyproject.toml", "recipes", "beyond_text", "data_prep", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    encoders = folder / "data" / "encoders"
    for name in ENCODERS:
        shutil.copytree(
            tiny_text_encoder if name == "minilm-l6" else tiny_image_encoder, encoders / name
        )
    build_catalogue(folder / "data" / "catalogue", products=150, size=48, workers=1)
    for name in ("shop", "hm", "myntra", "ikea", "crowdflower", "homedepot"):
        write_tiny_tables(folder / name)
    return folder


def test_readme_has_commands() -> None:
    found = commands()
    assert "make stage1 stage2 stage3" in found
    assert "make test" in found


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_every_command_of_the_readme_runs(clone: Path) -> None:
    environment = os.environ | {
        "ARGS": TINY,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MAKEFLAGS": "",
    }
    for command in commands():
        if command.startswith(("git clone", "cd ", "source ")):
            continue
        if command in DRY:
            command = command.replace("make", "make -n", 1)
        if command.startswith("make"):
            # The environment is there already: the stamp counts as old, whatever its date.
            command += " -o install -o .venv/installed"
        command = command.replace('ARGS="', f'ARGS="{TINY} ')
        if "beyond_text.ablate" in command:
            command += " budget=0.05"
        done = subprocess.run(
            command,
            shell=True,
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (clone / "runs" / "stage3" / "metrics.json").is_file()
