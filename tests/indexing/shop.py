"""Makes a shop whose products have prices and the like, and indexes of it by a tiny model."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from beyond_text.indexing.build import Built, Options, build_index
from beyond_text.indexing.models import model_facts


def copied_shop(tables: Path, folder: Path) -> Path:
    """Copies the products of the tiny tables, without queries, with further columns."""
    shutil.copytree(tables / "images", folder / "images")
    shutil.copy(tables / "products.csv", folder)
    rows = rows_of(folder)
    for number, row in enumerate(rows):
        row |= {"price": f"{number}.5", "in_stock": "true" if number % 3 else "false"}
        row |= {"brand": ("Norrby", "Maruko")[number % 2], "gtin": f"{4006381333000 + number}"}
    return write_rows(folder, rows)


def rows_of(shop: Path) -> list[dict[str, str]]:
    with (shop / "products.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(shop: Path, rows: list[dict[str, str]]) -> Path:
    with (shop / "products.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return shop


def build(folder: Path, index: Path, run: Path, **how: object) -> Built:
    return build_index(folder, index, model_facts(run), Options(**how))  # type: ignore[arg-type]
