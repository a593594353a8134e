"""The pages say what is so: their commands run, and what they link to and name is there.

Commands are those of the bash blocks of `RUN`, as they stand there, at toy size and in their order.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
import yaml

from beyond_text.config.settings import Config, Source
from data_prep.catalogue import build_catalogue
from data_prep.encoders import ENCODERS
from tests import ROOT
from tests.conftest import write_tiny_tables
from tests.warm import warm_python

RUN = ("README.md", "recipes/README.md")
RESULTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/results/*.md"))
PAGES = (
    *RUN,
    "recipes/serving.md",
    "recipes/many_machines.md",
    "recipes/data/hm.md",
    "tests/README.md",
    *RESULTS,
)
# The front page is read at one sitting.
MOST_BYTES = 12_288
# These run the tests, or do not end: make only says what it would do.
DRY = ("make demo", "make test", "make quick", "make lint", "make tensorboard", "make clean")
MODULES = ("beyond_text.train", "beyond_text.evaluate", "beyond_text.ablate", "beyond_text.search")
TINY = (
    "steps=2 batch_size=8 dim=16 fusion_rank=8 text_encoder.max_length=16 "
    "image_encoder.image_size=32 data.workers=0 precision=32-true"
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Lines of a page's bash blocks, continued ones joined, comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", read(page), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings; a heading that comes again has a number behind it."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", without_code(text), flags=re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures that are not on another host."""
    prose = re.sub(r"`[^`\n]*`", "code", without_code(text))
    targets = re.findall(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", prose)
    targets += re.findall(r"^\[[^\]]+\]: +(\S+)", prose, flags=re.MULTILINE)
    targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:", target)]


def broken(page: str) -> list[str]:
    """The links of a page that lead to no file of this repository, or to no heading of a page."""
    found = []
    for target in links(read(page)):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / unquote(name) if name else ROOT / page
        there = path.exists() and path.resolve().is_relative_to(ROOT.resolve())
        if there and anchor:
            there = anchor in anchors(path.read_text(encoding="utf-8"))
        if not there:
            found.append(target)
    return found


def defaults(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Each setting's default, by its dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= defaults(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("# Which fusion?", "which-fusion"),
        ("## H&M: text, picture or both", "hm-text-picture-or-both"),
        ("### `beyond_text/search.py` (a command)", "beyond_textsearchpy-a-command"),
        ("## 95 % of [it](there.md)", "95--of-it"),
    ],
)
def test_a_heading_has_githubs_anchor(heading: str, anchor: str) -> None:
    assert anchors(heading) == {anchor}


def test_headings_of_one_name_are_numbered_and_code_has_none() -> None:
    assert anchors("# Run\n```bash\n# no heading\n```\n## Run\n") == {"run", "run-1"}


def test_links_are_those_of_prose_to_this_repository() -> None:
    text = "[a](b.md#c) ![d](e.png) `[no](link)` [f](https://g.org)\n```\n[h](i)\n```\n"
    assert links(text) == ["b.md#c", "e.png"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_or_a_heading(page: str) -> None:
    assert broken(page) == []


def test_every_test_that_a_page_names_is_there() -> None:
    named = [
        found
        for page in PAGES
        for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", read(page))
    ]
    assert any(test for _, test in named)
    for file, test in named:
        content = (ROOT / file).read_text(encoding="utf-8")
        assert not test or re.search(rf"^def {test}\(", content, flags=re.MULTILINE), (file, test)


def test_the_manual_has_every_setting_with_its_default() -> None:
    section = read("recipes/README.md").partition("\n## All settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", section, flags=re.MULTILINE)
    sources = defaults(asdict(Source()), "data.sources.NAME.")
    assert len(rows) == len(dict(rows))
    assert {name: yaml.safe_load(value) for name, value in rows} == (
        defaults(asdict(Config())) | sources
    )


def test_the_front_page_is_short() -> None:
    assert len(read("README.md").encode()) <= MOST_BYTES


@pytest.fixture(scope="module")
def clone(
    tiny_text_encoder: Path, tiny_image_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder that looks like a fresh clone, but with tiny encoders and catalogues in it.

    Its interpreter has imported what the commands need.
    """
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "pyproject.toml", "recipes", "beyond_text", "data_prep", "tests"):
        (folder / name).symlink_to(ROOT / name)
    encoders = folder / "data" / "encoders"
    for name in ENCODERS:
        shutil.copytree(
            tiny_text_encoder if name == "minilm-l6" else tiny_image_encoder, encoders / name
        )
    build_catalogue(folder / "data" / "catalogue", products=150, size=48, workers=1)
    for name in ("shop", "hm", "myntra", "ikea", "crowdflower", "homedepot"):
        write_tiny_tables(folder / name)
    products = folder / "shop" / "products.csv"
    fields = {"colour": "Red", "pattern": "Dot", "product_type": "Cushion", "audience": "Women"}
    shop = pd.read_csv(products, dtype=str).assign(price="20", **fields)
    shop.to_csv(products, index=False)
    (folder / ".venv" / "bin").mkdir(parents=True)
    with warm_python(folder / ".venv" / "bin", MODULES):
        yield folder


def test_readme_has_commands() -> None:
    found = commands("README.md")
    assert "make stage1 stage2 stage3" in found
    assert "make test" in found
    assert all(commands(page) for page in RUN)


def as_run(command: str) -> str:
    """A command of a page at toy size."""
    if command in DRY:
        command = command.replace("make", "make -n", 1)
    if command.startswith("make"):
        # The environment is there already: the stamp counts as old, whatever its date.
        command += " -o install -o .venv/installed"
    command = command.replace('ARGS="', f'ARGS="{TINY} ')
    if "beyond_text.train" in command:
        command += f" {TINY}"
    if "beyond_text.ablate" in command:
        # Frozen encoders take many steps, of each fusion and entry of the grid.
        command += " budget=0.002" if "steps=2000" in command else " budget=0.05"
    return command


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_every_command_of_the_pages_runs(clone: Path) -> None:
    environment = os.environ | {
        "ARGS": TINY,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MAKEFLAGS": "",
    }
    for command in (command for page in RUN for command in commands(page)):
        if command.startswith(("git clone", "cd ", "source ")):
            continue
        done = subprocess.run(
            as_run(command),
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
