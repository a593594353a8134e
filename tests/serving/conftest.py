"""A shop, a tiny model, an index by it, and a service in a process of its own."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from beyond_text.config.load import load_config
from beyond_text.encoding.run_model import digest_of_run
from beyond_text.exporting.graphs import write_graphs
from beyond_text.exporting.preprocessing import write_preprocessing_of
from beyond_text.index import main as index
from beyond_text.models.checkpoint import load_model
from beyond_text.train import train
from tests import ROOT

# What a shop may write that a careless page would run, or a careless service would open.
MARKUP = "<img src=x onerror=document.title='run'> & <b>rug</b>"
ODD = ("a/b?c#d", "../../etc/passwd", "%2e%2e%2fx", 'q"uote|d', "<script>", "ü ☂")


def write_shop(folder: Path, tables: Path) -> Path:
    """Copies the tiny shop, with prices, brands and products of odd ids."""
    shutil.copytree(tables, folder)
    with (folder / "products.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["price"] = f"{5 + number}.5"
        row["brand"] = ("Norrby", "Maruko", 'Ode|"Co"')[number % 3]
        row["in_stock"] = "true" if number % 4 else "false"
    for place, (product_id, row) in enumerate(zip(ODD, list(rows), strict=False)):
        title = MARKUP if not place else f"odd {row['title']}"
        rows.append({**row, "product_id": product_id, "group_id": product_id, "title": title})
    write_products(folder, rows)
    return folder


def write_products(shop: Path, rows: list[dict[str, str]]) -> None:
    with (shop / "products.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def shop(tiny_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("serving") / "shop", tiny_tables)


@pytest.fixture(scope="session")
def model(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a tiny run."""
    folder = tmp_path_factory.mktemp("serving")
    settings = [*tiny_settings, f"run={folder / 'run'}", "steps=2", "losses.query_product=1"]
    train(load_config([], settings))
    trained, tokenizer = load_model(folder / "run")
    out = folder / "export"
    out.mkdir()
    write_preprocessing_of(trained, tokenizer, digest_of_run(folder / "run"), out)
    write_graphs(trained, out)
    return out


@pytest.fixture(scope="session")
def indexed(shop: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serving") / "index"
    index([str(shop), str(out), "--model", str(model), "--workers", "1", "--weight", "0.8"])
    return out


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """Runs the command in a process of its own; yields its address."""
    command = [sys.executable, "-m", "beyond_text.serve", *words, "--port", "0"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        for line in process.stdout:
            if line.startswith("ready at "):
                yield line.removeprefix("ready at ").strip()
                break
        else:
            pytest.fail(process.stderr.read())
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="session")
def address(indexed: Path) -> Iterator[str]:
    """The address of a service of one index under two names."""
    with serving(f"trained={indexed}", f"untouched={indexed}") as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client
